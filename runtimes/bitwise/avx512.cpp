// AVX-512 with VPOPCNTDQ: eight outputs to a register, and one instruction for the logic of three operands.
#include <immintrin.h>

#include "layer.h"

namespace bitwise {
namespace avx512 {

static constexpr int FLOATS = 16, LANES = 8, VECTORS = 4, PIXELS = 4;

template <Product product>
static inline __m512i combined(__m512i x, const __m512i* w) {
  if (product == Product::Xor) return _mm512_xor_si512(x, w[0]);
  if (product == Product::And) return _mm512_and_si512(x, w[0]);
  return _mm512_ternarylogic_epi64(x, w[0], w[1], 0x28);  // (x ^ w0) & w1
}

template <int V, Product product>
static inline void tile(const uint64_t* const* x, const Runs& runs, const uint64_t* w, int32_t* counts, bool more) {
  constexpr int PARTS = product == Product::XorAnd ? 2 : 1;
  __m512i sums[PIXELS][V];
  for (int p = 0; p < PIXELS; ++p)
    for (int v = 0; v < V; ++v) sums[p][v] = _mm512_setzero_si512();
  for (int64_t run = 0; run < runs.count; ++run) {
    for (int64_t k = run * runs.stride; k < run * runs.stride + runs.words; ++k, w += V * PARTS * LANES) {
      __m512i weights[V * PARTS];
      for (int i = 0; i < V * PARTS; ++i) weights[i] = _mm512_load_si512(w + i * LANES);
      for (int p = 0; p < PIXELS; ++p) {
        __m512i word = _mm512_set1_epi64(int64_t(x[p][k]));
        for (int v = 0; v < V; ++v)
          sums[p][v] =
              _mm512_add_epi64(sums[p][v], _mm512_popcnt_epi64(combined<product>(word, weights + v * PARTS)));
      }
    }
  }
  for (int p = 0; p < PIXELS; ++p) {
    for (int v = 0; v < V; ++v) {
      __m256i* to = reinterpret_cast<__m256i*>(counts + (p * V + v) * LANES);
      __m256i found = _mm512_cvtepi64_epi32(sums[p][v]);
      if (more) found = _mm256_add_epi32(found, _mm256_slli_epi32(_mm256_load_si256(to), 1));
      _mm256_store_si256(to, found);
    }
  }
}

#include "run.inl"

static bool here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}

}  // namespace avx512

const Kernels avx512_kernels = {"avx512", avx512::here, avx512::LANES, avx512::VECTORS, avx512::run_layer};

}  // namespace bitwise
