// AVX2: four outputs to a register; bits are counted by a table of nibbles (Mula, Kurz, Lemire, "Faster population
// counts using AVX2 instructions", 2018, section 3).
#include <immintrin.h>

#include "layer.h"

namespace bitwise {
namespace avx2 {

static constexpr int FLOATS = 8, LANES = 4, VECTORS = 2, PIXELS = 4;
static constexpr int64_t LONGEST = 31;  // words whose counts fit in bytes

template <Product product>
static inline __m256i combined(__m256i x, const __m256i* w) {
  if (product == Product::And) return _mm256_and_si256(x, w[0]);
  __m256i differ = _mm256_xor_si256(x, w[0]);
  return product == Product::Xor ? differ : _mm256_and_si256(differ, w[1]);
}

static inline __m256i counted(__m256i bits) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                         2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, nibble));
  __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble));
  return _mm256_add_epi8(low, high);
}

template <int V, Product product>
static inline void tile(const uint64_t* const* x, const Runs& runs, const uint64_t* w, int32_t* counts, bool more) {
  constexpr int PARTS = product == Product::XorAnd ? 2 : 1;
  // All words are counted in turn; a run that ends goes on with the next one, and bytes that are full are emptied.
  int64_t left = runs.count * runs.words, run = 0, k = 0;
  for (bool first = true; left > 0; first = false) {
    int64_t bound = left < LONGEST ? left : LONGEST;
    left -= bound;
    __m256i bytes[PIXELS][V];
    for (int p = 0; p < PIXELS; ++p)
      for (int v = 0; v < V; ++v) bytes[p][v] = _mm256_setzero_si256();
    for (; bound > 0; --bound, w += V * PARTS * LANES) {
      __m256i weights[V * PARTS];
      for (int i = 0; i < V * PARTS; ++i)
        weights[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + i * LANES));
      for (int p = 0; p < PIXELS; ++p) {
        __m256i word = _mm256_set1_epi64x(int64_t(x[p][k]));
        for (int v = 0; v < V; ++v)
          bytes[p][v] = _mm256_add_epi8(bytes[p][v], counted(combined<product>(word, weights + v * PARTS)));
      }
      if (++k == run * runs.stride + runs.words) k = ++run * runs.stride;
    }
    for (int p = 0; p < PIXELS; ++p) {
      for (int v = 0; v < V; ++v) {
        __m128i* to = reinterpret_cast<__m128i*>(counts + (p * V + v) * LANES);
        __m256i sums = _mm256_sad_epu8(bytes[p][v], _mm256_setzero_si256());
        // The lower halves of the four lanes, side by side.
        __m128i found = _mm256_castsi256_si128(
            _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)));
        if (!first) found = _mm_add_epi32(found, _mm_load_si128(to));
        else if (more) found = _mm_add_epi32(found, _mm_slli_epi32(_mm_load_si128(to), 1));
        _mm_store_si128(to, found);
      }
    }
  }
}

#include "run.inl"

static bool here() { return __builtin_cpu_supports("avx2"); }

}  // namespace avx2

const Kernels avx2_kernels = {"avx2", avx2::here, avx2::LANES, avx2::VECTORS, avx2::run_layer};

}  // namespace bitwise
