// Plain C++: one output to a word, bits counted in parallel within it (Warren, "Hacker's Delight", 2012, section 5-1).
#include "layer.h"

namespace bitwise {
namespace scalar {

static constexpr int FLOATS = 4, LANES = 1, VECTORS = 4, PIXELS = 4;

static inline uint64_t counted(uint64_t bits) {
  bits -= bits >> 1 & 0x5555555555555555u;
  bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
  bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
  return bits * 0x0101010101010101u >> 56;
}

template <int V, Product product>
static inline void tile(const uint64_t* const* x, const Runs& runs, const uint64_t* w, int32_t* counts, bool more) {
  constexpr int PARTS = product == Product::XorAnd ? 2 : 1;
  for (int p = 0; p < PIXELS; ++p) {
    for (int v = 0; v < V; ++v) {
      uint64_t sum = 0;
      const uint64_t* weight = w + v * PARTS;
      for (int64_t run = 0; run < runs.count; ++run) {
        const uint64_t* word = x[p] + run * runs.stride;
        for (int64_t k = 0; k < runs.words; ++k, weight += V * PARTS) {
          uint64_t bits = product == Product::And ? word[k] & weight[0] : word[k] ^ weight[0];
          sum += counted(PARTS == 2 ? bits & weight[PARTS - 1] : bits);
        }
      }
      int32_t* to = counts + p * V + v;
      *to = int32_t(sum) + (more ? 2 * *to : 0);
    }
  }
}

#include "run.inl"

static bool here() { return true; }

}  // namespace scalar

const Kernels scalar_kernels = {"scalar", scalar::here, scalar::LANES, scalar::VECTORS, scalar::run_layer};

}  // namespace bitwise
