// Nibbles and codes of a tile times whole numbers where a dot8 is five instructions: AVX2 without VNNI. Products of nibbles are
// added in 16 bits as long as they fit; codes of 8 bits go by words, which need no limbs.
#pragma once
#include <algorithm>

#include "simd.h"

namespace specexec::SPECEXEC_ISA {

#if defined(SPECEXEC_NARROW)

constexpr int64_t kSumUnits = 4;  // of eight codes, whose products by 127 fit 16 bits

INLINE __m256i half(const uint8_t *unit, int side) { return _mm256_loadu_si256((const __m256i *)(unit + side * 32)); }
INLINE __m256i everywhere(const void *p) { return _mm256_set1_epi32(word(p)); }

INLINE void add_product(__m256i &sum, __m256i nibbles, const int8_t *x) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(nibbles, everywhere(x)));
  asm("" : "+x"(sum));  // in a register, as in `added`
}
INLINE void add_product(__m256i &sum, __m256i words, const int16_t *x) { sum = dot16(sum, words, everywhere(x)); }
template <int R, class Number>
INLINE void add_products(__m256i *p, __m256i *q, __m256i v, __m256i w, const Number *x, int64_t row) {
  repeat<R>(EACH(r) { add_product(p[r], v, x + r * row), add_product(q[r], w, x + r * row); });
}

// sums[r] += `units` times eight nibbles, not more than kSumUnits. A function of its own: within another GCC 12 runs out of registers.
template <int R>
__attribute__((noinline)) static void short_sums(const uint8_t *tile, const int8_t *x, int64_t row, int64_t units, int64_t ahead,
                                                 I *sums) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256i p[R], q[R];
  repeat<R>(EACH(r) { p[r] = q[r] = _mm256_setzero_si256(); });
#pragma GCC unroll 1
  for (const uint8_t *end = tile + units * 64; tile != end; tile += 64, x += 8) {
    prefetch(tile + ahead);
    const __m256i v = half(tile, 0), w = half(tile, 1);
    add_products<R>(p, q, _mm256_and_si256(v, low), _mm256_and_si256(w, low), x, row);
    add_products<R>(p, q, _mm256_and_si256(_mm256_srli_epi16(v, 4), low), _mm256_and_si256(_mm256_srli_epi16(w, 4), low), x + 4, row);
  }
  repeat<R>(EACH(r) { sums[r] = iadd(sums[r], {_mm256_madd_epi16(p[r], ones), _mm256_madd_epi16(q[r], ones)}); });
}

// sums[r] = first[r] + the numbers of row r, bytes at x + r * row, . the nibbles of a tile
template <int R> INLINE void tile_sums(const uint8_t *upper, const uint8_t *, const int8_t *x, const int32_t *first, int64_t row,
                                       int64_t units, int64_t ahead, I *sums) {
  repeat<R>(EACH(r) { sums[r] = iset(first[r]); });
  for (int64_t u = 0; u < units; u += kSumUnits) short_sums<R>(upper + u * 64, x + 8 * u, row, std::min(units - u, kSumUnits), ahead, sums);
}

// The same of codes 16 u + l, and of words at x, of every four 0, 2, 1, 3.
template <int R> __attribute__((noinline)) static void tile_sums(const uint8_t *upper, const uint8_t *lower, const int16_t *x,
                                                                 const int32_t *first, int64_t row, int64_t units, int64_t ahead, I *sums) {
  const __m256i byte = _mm256_set1_epi16(255);
  __m256i p[R], q[R];
  repeat<R>(EACH(r) { p[r] = q[r] = _mm256_set1_epi32(first[r]); });
#pragma GCC unroll 1
  for (const uint8_t *end = upper + units * 64; upper != end; upper += 64, lower += 64, x += 8) {
    prefetch(upper + ahead), prefetch(lower + ahead);
    repeat<2>(EACH(high) {
      __m256i codes[2];
      repeat<2>(EACH(side) {
        const __m256i u = half(upper, side), l = half(lower, side);
        codes[side] = high ? picked(u, _mm256_srli_epi16(l, 4)) : picked(_mm256_slli_epi16(u, 4), l);
      });
      add_products<R>(p, q, _mm256_and_si256(codes[0], byte), _mm256_and_si256(codes[1], byte), x + 4 * high, row);
      add_products<R>(p, q, _mm256_srli_epi16(codes[0], 8), _mm256_srli_epi16(codes[1], 8), x + 4 * high + 2, row);
    });
  }
  repeat<R>(EACH(r) { sums[r] = {p[r], q[r]}; });
}

#endif

}  // namespace specexec::SPECEXEC_ISA
