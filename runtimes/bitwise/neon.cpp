// NEON of 64-bit ARM: two outputs to a register, bits counted per byte.
#include <arm_neon.h>

#include "layer.h"

namespace bitwise {
namespace neon {

static constexpr int FLOATS = 4, LANES = 2, VECTORS = 4, PIXELS = 4;
static constexpr int64_t LONGEST = 31;  // words whose counts fit in bytes

template <Product product>
static inline uint64x2_t combined(uint64x2_t x, const uint64x2_t* w) {
  if (product == Product::And) return vandq_u64(x, w[0]);
  uint64x2_t differ = veorq_u64(x, w[0]);
  return product == Product::Xor ? differ : vandq_u64(differ, w[1]);
}

template <int V, Product product>
static inline void tile(const uint64_t* const* x, const Runs& runs, const uint64_t* w, int32_t* counts, bool more) {
  constexpr int PARTS = product == Product::XorAnd ? 2 : 1;
  // All words are counted in turn; a run that ends goes on with the next one, and bytes that are full are emptied.
  int64_t left = runs.count * runs.words, run = 0, k = 0;
  for (bool first = true; left > 0; first = false) {
    int64_t bound = left < LONGEST ? left : LONGEST;
    left -= bound;
    uint8x16_t bytes[PIXELS][V];
    for (int p = 0; p < PIXELS; ++p)
      for (int v = 0; v < V; ++v) bytes[p][v] = vdupq_n_u8(0);
    for (; bound > 0; --bound, w += V * PARTS * LANES) {
      uint64x2_t weights[V * PARTS];
      for (int i = 0; i < V * PARTS; ++i) weights[i] = vld1q_u64(w + i * LANES);
      for (int p = 0; p < PIXELS; ++p) {
        uint64x2_t word = vld1q_dup_u64(x[p] + k);
        for (int v = 0; v < V; ++v)
          bytes[p][v] = vaddq_u8(
              bytes[p][v], vcntq_u8(vreinterpretq_u8_u64(combined<product>(word, weights + v * PARTS))));
      }
      if (++k == run * runs.stride + runs.words) k = ++run * runs.stride;
    }
    for (int p = 0; p < PIXELS; ++p) {
      for (int v = 0; v < V; ++v) {
        int32_t* to = counts + (p * V + v) * LANES;
        int32x2_t found = vreinterpret_s32_u32(vmovn_u64(vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(bytes[p][v])))));
        if (!first) found = vadd_s32(found, vld1_s32(to));
        else if (more) found = vadd_s32(found, vshl_n_s32(vld1_s32(to), 1));
        vst1_s32(to, found);
      }
    }
  }
}

#include "run.inl"

static bool here() { return true; }

}  // namespace neon

const Kernels neon_kernels = {"neon", neon::here, neon::LANES, neon::VECTORS, neon::run_layer};

}  // namespace bitwise
