// A program that holds the kernels of every instruction set that runs here against plain C++, on random layers.
#include <cstdio>

#include "layer.h"

namespace {

using namespace bitwise;

uint64_t state = 88172645463325252u;

// Marsaglia, "Xorshift RNGs", 2003.
uint64_t random_bits() {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

int64_t between(int64_t low, int64_t high) { return low + int64_t(random_bits() % uint64_t(high - low + 1)); }

void in_turn(const Parallel&, std::size_t count, void (*task)(void*, std::size_t), void* data) {
  for (std::size_t i = 0; i < count; ++i) task(data, i);
}

Layer random_layer(bool convolution) {
  Layer layer;
  layer.convolution = convolution;
  layer.weight_bits = between(1, 2);
  layer.sign = between(0, 1) == 1;
  layer.activation_bits = layer.sign ? 1 : between(1, 8);
  layer.channels = between(1, 90);
  layer.group = convolution ? between(1, 3) : 1;
  layer.outputs = layer.group * between(1, 45);
  for (int axis = 0; convolution && axis < 2; ++axis) {
    layer.kernel[axis] = between(1, 5);
    layer.stride[axis] = between(1, 2);
    layer.dilation[axis] = between(1, 2);
    layer.pad[axis] = between(0, layer.kernel[axis]);
    layer.pad[axis + 2] = between(0, layer.kernel[axis]);
  }
  return layer;
}

std::vector<float> outputs_of(const Layer& layer, const Kernels& kernels, const std::vector<uint8_t>& weights,
                              const std::vector<float>& values, const std::vector<float>& x, int64_t count,
                              int64_t height, int64_t width) {
  Prepared prepared;
  std::string wrong = prepare(prepared, layer, kernels, weights.data(), {layer.outputs, layer.row_bytes()},
                              values.data(), values.data(), layer.sign ? layer.channels * layer.group : 1,
                              values.data(), layer.outputs);
  if (!wrong.empty()) std::printf("%s\n", wrong.c_str());
  int64_t size = layer.convolution ? output_size(layer, 0, height) * output_size(layer, 1, width) : 1;
  std::vector<float> y(count * layer.outputs * size);
  if (wrong.empty()) kernels.run(prepared, x.data(), count, height, width, y.data(), {in_turn, nullptr});
  return y;
}

bool agree(const Kernels& kernels, bool convolution) {
  Layer layer = random_layer(convolution);
  int64_t count = between(1, 3), height = convolution ? between(5, 14) : 1, width = convolution ? between(5, 14) : 1;
  std::vector<uint8_t> weights(layer.outputs * layer.row_bytes());
  for (uint8_t& byte : weights) byte = uint8_t(random_bits());
  std::vector<float> values(512), x(count * layer.group * layer.channels * height * width);
  for (float& value : values) value = float(between(-8, 8)) / 4;
  values[0] = 1.5f;
  for (float& value : x) value = float(between(-400, 400)) / 8;
  return outputs_of(layer, kernels, weights, values, x, count, height, width) ==
         outputs_of(layer, scalar_kernels, weights, values, x, count, height, width);
}

}  // namespace

int main() {
  constexpr int LAYERS = 60;
  int failures = 0;
  for (const Kernels* const* each = all_kernels(); *each != &scalar_kernels; ++each) {
    if (!(*each)->here()) continue;
    int agreeing = 0;
    for (int i = 0; i < LAYERS; ++i) agreeing += agree(**each, i % 5 != 0);
    std::printf("%s: %d layers agree with plain C++, %d do not\n", (*each)->name, agreeing, LAYERS - agreeing);
    failures += LAYERS - agreeing;
  }
  return failures != 0;
}
