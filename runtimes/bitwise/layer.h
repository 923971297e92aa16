// A layer of 1- or 2-bit weights, prepared once, and the table of kernels that one instruction set fills.
//
// An output is a sum of weight * activation over the taps of a window. With activations as bit planes x_j and weights
// as the sets P (+1) and N (-1), the sum over a plane is |P| - popcount((x_j ^ P) & (P | N)): one logical operation and
// one popcount per 64 products (Rastegari et al., "XNOR-Net", 2016; Zhou et al., "DoReFa-Net", 2016, equation 3). A
// sign is 2 * x - 1 of its bit, and a tap in the padding holds the bit 0, which stands for -1 and is taken out again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace bitwise {

enum class Product { Xor, XorAnd, And };

// Inlined, as the linker keeps one copy of what is not: that of any source, with its instructions.
#define BITWISE_INLINE __attribute__((always_inline)) inline

// Memory on a cache line; grows, never shrinks, and does not keep what it held when it grows.
template <typename T>
class Buffer {
 public:
  BITWISE_INLINE Buffer() {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  BITWISE_INLINE ~Buffer() { std::free(data_); }

  BITWISE_INLINE T* reserve(std::size_t count) {
    if (count > size_) {
      std::free(data_);
      data_ = nullptr;
      size_ = 0;
      std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
      data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = count;
    }
    return data_;
  }
  BITWISE_INLINE T* data() { return data_; }
  BITWISE_INLINE const T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

struct Layer {
  bool convolution = true;
  int64_t outputs = 0;   // M
  int64_t channels = 0;  // of a group; K of a linear layer
  int64_t group = 1;
  int64_t kernel[2] = {1, 1};
  int64_t stride[2] = {1, 1};
  int64_t pad[4] = {0, 0, 0, 0};  // top, left, bottom, right
  int64_t dilation[2] = {1, 1};
  int64_t weight_bits = 1;
  int64_t activation_bits = 1;
  bool sign = true;
  bool two_scales = false;

  BITWISE_INLINE int64_t taps() const { return kernel[0] * kernel[1]; }
  BITWISE_INLINE int64_t unit() const { return (channels + 7) / 8; }               // bytes of a tap
  BITWISE_INLINE int64_t words() const { return (taps() * unit() + 7) / 8; }       // of 64 bits, of a window
  BITWISE_INLINE int64_t outputs_of_group() const { return outputs / group; }
  BITWISE_INLINE int64_t row_bytes() const { return (channels * taps() * weight_bits + 7) / 8; }
};

// The words of a window: `count` runs of `words`, each `stride` words behind the one before.
struct Runs {
  int64_t count, stride, words;
};

// One pass over the weights: outputs are base + factor * count, and the sums of the taps that are in the padding.
struct Pass {
  Product product = Product::Xor;
  int32_t factor = 1;
  Buffer<uint64_t> weights;    // [group][block of vectors][word][vector][part][lane]
  std::vector<int32_t> base;   // [output]
  std::vector<int32_t> taps;   // [tap][output], of signs only
};

struct Kernels;

struct Prepared {
  Layer layer;
  const Kernels* kernels = nullptr;
  Pass first, second;
  bool has_second = false;
  std::vector<float> scale, negative_scale, bias, threshold;
};

// How the outputs [0, count) are shared out between threads; `data` is the caller's.
struct Parallel {
  void (*run)(const Parallel& self, std::size_t count, void (*task)(void* data, std::size_t index), void* data);
  void* context;
};

struct Kernels {
  const char* name;
  bool (*here)();
  int lanes;    // outputs in a vector
  int vectors;  // of a block
  // x (count, C, H, W) or (count, K) -> y (count, M, H', W') or (count, M).
  void (*run)(const Prepared& layer, const float* x, int64_t count, int64_t height, int64_t width, float* y,
              const Parallel& parallel);
};

extern const Kernels scalar_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels neon_kernels;

// All that this library was built with, the fastest first; ends in a null pointer.
const Kernels* const* all_kernels();
// Those of that name, or the fastest ones that run here for "". Null where there are none.
const Kernels* find_kernels(const std::string& name);

int64_t output_size(const Layer& layer, int axis, int64_t size);

// Fills `to` from the file's tensors; returns what is wrong with them, or "".
std::string prepare(Prepared& to, const Layer& layer, const Kernels& kernels, const uint8_t* weights,
                    const std::vector<int64_t>& weight_shape, const float* scales, const float* thresholds,
                    int64_t threshold_count, const float* bias, int64_t bias_count);

}  // namespace bitwise
