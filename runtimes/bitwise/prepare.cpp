// Weights of a file, laid out for the kernels of an instruction set.
#include "layer.h"

namespace bitwise {
namespace {

// 1, 0, -1 or -2 at position `index` of a packed row.
int weight_at(const Layer& layer, const uint8_t* row, int64_t index) {
  if (layer.weight_bits == 1) return (row[index / 8] >> (index % 8) & 1) ? 1 : -1;
  int code = row[index / 4] >> (index % 4 * 2) & 3;
  return code >= 2 ? code - 4 : code;
}

// Where the 64-bit word of `output` lies in a group, of part 0; parts are `lanes` words apart.
int64_t word_place(const Layer& layer, const Kernels& kernels, int parts, int64_t output, int64_t word) {
  int64_t lanes = kernels.lanes, vectors = kernels.vectors, words = layer.words();
  int64_t vector = output / lanes, all = (layer.outputs_of_group() + lanes - 1) / lanes;
  int64_t wide = all / vectors * vectors;  // vectors in whole blocks; those behind stand alone
  int64_t block = vector < wide ? vector / vectors * vectors : vector;
  int64_t width = vector < wide ? vectors : 1;
  return (block * words + word * width + (vector - block)) * parts * lanes + output % lanes;
}

int64_t group_words(const Layer& layer, const Kernels& kernels, int parts) {
  int64_t lanes = kernels.lanes;
  return (layer.outputs_of_group() + lanes - 1) / lanes * lanes * layer.words() * parts;
}

void fill(Pass& pass, const Prepared& all, const uint8_t* packed, bool second, bool two_scales) {
  const Layer& layer = all.layer;
  int parts = pass.product == Product::XorAnd ? 2 : 1;
  int64_t size = group_words(layer, *all.kernels, parts), lanes = all.kernels->lanes;
  std::memset(pass.weights.reserve(size * layer.group), 0, size * layer.group * 8);
  pass.base.assign(layer.outputs, 0);
  if (layer.sign) pass.taps.assign(layer.taps() * layer.outputs, 0);
  int32_t highest = layer.sign ? 1 : (1 << layer.activation_bits) - 1;
  for (int64_t m = 0; m < layer.outputs; ++m) {
    const uint8_t* row = packed + m * layer.row_bytes();
    uint64_t* to = pass.weights.data() + m / layer.outputs_of_group() * size;
    int32_t positive = 0, total = 0;
    for (int64_t c = 0; c < layer.channels; ++c) {
      for (int64_t tap = 0; tap < layer.taps(); ++tap) {
        int weight = weight_at(layer, row, c * layer.taps() + tap);
        // The second pass counts what is not zero, or what the first one leaves of -2.
        if (second) weight = two_scales ? weight != 0 : weight == -2;
        if (weight < -1) weight = -1;
        int64_t bit = tap * layer.unit() * 8 + c;
        int64_t place = word_place(layer, *all.kernels, parts, m % layer.outputs_of_group(), bit / 64);
        uint64_t one = uint64_t{1} << (bit % 64);
        if (weight > 0) to[place] |= one;
        if (parts == 2 && weight != 0) to[place + lanes] |= one;
        positive += weight > 0;
        total += weight;
        if (layer.sign) pass.taps[tap * layer.outputs + m] += weight;
      }
    }
    bool counts = pass.product == Product::And;
    pass.base[m] = (counts ? 0 : (layer.sign ? 2 : highest) * positive) - (layer.sign ? total : 0);
  }
  pass.factor = (pass.product == Product::And ? 1 : -1) * (layer.sign ? 2 : 1);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

}  // namespace

int64_t output_size(const Layer& layer, int axis, int64_t size) {
  int64_t padded = size + layer.pad[axis] + layer.pad[axis + 2];
  int64_t window = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1;
  return padded < window ? 0 : (padded - window) / layer.stride[axis] + 1;
}

std::string prepare(Prepared& to, const Layer& layer, const Kernels& kernels, const uint8_t* weights,
                    const std::vector<int64_t>& weight_shape, const float* scales, const float* thresholds,
                    int64_t threshold_count, const float* bias, int64_t bias_count) {
  to.layer = layer;
  to.kernels = &kernels;
  if (weight_shape != std::vector<int64_t>{layer.outputs, layer.row_bytes()})
    return "W: expected uint8 (" + std::to_string(layer.outputs) + ", " + std::to_string(layer.row_bytes()) +
           "), got " + shape_text(weight_shape);
  bool minus_two = false;
  if (layer.weight_bits == 2)
    for (int64_t m = 0; m < layer.outputs && !minus_two; ++m)
      for (int64_t i = 0; i < layer.channels * layer.taps() && !minus_two; ++i)
        minus_two = weight_at(layer, weights + m * layer.row_bytes(), i) == -2;
  if (layer.two_scales && (minus_two || layer.weight_bits == 1))
    return "S: two scales need weights of -1, 0 and 1 in 2 bits";
  to.scale.assign(scales, scales + layer.outputs);
  if (layer.two_scales) to.negative_scale.assign(scales + layer.outputs, scales + 2 * layer.outputs);
  to.bias.assign(layer.outputs, 0.0f);
  if (bias != nullptr) {
    if (bias_count != layer.outputs)
      return "B: expected (" + std::to_string(layer.outputs) + ",), got (" + std::to_string(bias_count) + ",)";
    to.bias.assign(bias, bias + bias_count);
  }
  int64_t inputs = layer.channels * layer.group;
  if (threshold_count != 1 && !(layer.sign && threshold_count == inputs))
    return "A: expected (1,)" + (layer.sign ? " or (" + std::to_string(inputs) + ",)" : std::string()) + ", got (" +
           std::to_string(threshold_count) + ",)";
  to.threshold.assign(inputs, thresholds[0]);
  if (threshold_count == inputs) to.threshold.assign(thresholds, thresholds + inputs);
  to.first.product = layer.weight_bits == 1 ? Product::Xor : Product::XorAnd;
  fill(to.first, to, weights, false, layer.two_scales);
  to.has_second = layer.two_scales || minus_two;
  if (to.has_second) {
    to.second.product = Product::And;
    fill(to.second, to, weights, true, layer.two_scales);
  }
  return "";
}

const Kernels* const* all_kernels() {
  static const Kernels* const all[] = {
#if defined(__x86_64__)
      &avx512_kernels, &avx2_kernels,
#elif defined(__aarch64__)
      &neon_kernels,
#endif
      &scalar_kernels, nullptr};
  return all;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Kernels* const* each = all_kernels(); *each != nullptr; ++each)
    if ((*each)->here() && (name.empty() || name == (*each)->name)) return *each;
  return nullptr;
}

}  // namespace bitwise
