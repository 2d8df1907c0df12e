// Sixteen lanes at a time, the same operations in the same order on every instruction set.
//
// F: 16 fp32. I: 16 int32. B: 64 bytes of weights, ready for dot8 or dot16. Compiled once per instruction set: SPECEXEC_ISA
// names the namespace, the compiler's own macros choose the instructions.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace specexec::SPECEXEC_ISA {

#define EACH(i) [&](auto i) __attribute__((always_inline))
#define INLINE_METHOD inline __attribute__((always_inline))
#define INLINE static INLINE_METHOD

template <class Body, int... I> INLINE void repeat(Body body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>{}), ...);
}
// body(0), ... body(N - 1), written out: arrays of vectors in a loop that is unrolled later stay in memory
template <int N, class Body> INLINE void repeat(Body body) { repeat(body, std::make_integer_sequence<int, N>{}); }

INLINE int32_t word(const void *p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

INLINE float from_bf16(uint16_t x) {
  uint32_t u = uint32_t(x) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

INLINE uint16_t to_bf16(float f) {  // to the nearest, ties to even
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return uint16_t(u >> 16) | 64;
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#if defined(__AVX512VNNI__)

// Of a linear: blocks of 16 rows, and tokens, of one tile, which the registers hold; up to how many tokens weights are unpacked
// as they are used, and not first into a panel.
constexpr int kTileRows = 2, kTokens = 12, kDirectTokens = 72;
constexpr int kAttendRows = 12;
constexpr int kOffset = 128;  // dot8 wants unsigned weights: they are stored 128 larger
constexpr bool kFused = true;

struct F { __m512 v; };
struct I { __m512i v; };
struct B { __m512i v; };

INLINE F zero() { return {_mm512_setzero_ps()}; }
INLINE F set(float x) { return {_mm512_set1_ps(x)}; }
INLINE F load(const float *p) { return {_mm512_loadu_ps(p)}; }
INLINE void store(float *p, F a) { _mm512_storeu_ps(p, a.v); }
INLINE F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
INLINE F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
INLINE F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
INLINE F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
INLINE F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
INLINE F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
INLINE F abs(F a) { return {_mm512_abs_ps(a.v)}; }
INLINE float sum(F a) { return _mm512_reduce_add_ps(a.v); }
INLINE float largest(F a) { return _mm512_reduce_max_ps(a.v); }
INLINE F where_above(F a, F limit, F b) {  // b where a > limit, else 0
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, limit.v, _CMP_GT_OQ), b.v)};
}
INLINE F nearest(F a) { return {_mm512_roundscale_ps(a.v, 0)}; }
INLINE F scale2(F a, F n) { return {_mm512_scalef_ps(a.v, n.v)}; }  // a * 2^n
INLINE F halves(const uint16_t *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))}; }
// 32 bf16 words: the even ones to `a`, the odd ones to `b`
INLINE void pairs(const uint16_t *p, F &a, F &b) {
  __m512i w = _mm512_loadu_si512(p);
  a.v = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  b.v = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(int(0xffff0000))));
}
// the same of 16 words at p and 16 at q
INLINE void pairs(const uint16_t *p, const uint16_t *q, F &a, F &b) {
  const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
  const __m512i w = _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)q), 1);
  a.v = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  b.v = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(int(0xffff0000))));
}
INLINE I izero() { return {_mm512_setzero_si512()}; }
INLINE I iset(int x) { return {_mm512_set1_epi32(x)}; }
INLINE I iadd(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
INLINE I times256(I a) { return {_mm512_slli_epi32(a.v, 8)}; }
INLINE F real(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
INLINE I whole(F a) { return {_mm512_cvtps_epi32(a.v)}; }
INLINE int isum(I a) { return _mm512_reduce_add_epi32(a.v); }
INLINE void store8(int8_t *p, I a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a.v)); }
INLINE void store16(int16_t *p, I a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a.v)); }
INLINE B bytes(const void *p) { return {_mm512_loadu_si512(p)}; }
INLINE void keep(void *p, B a) { _mm512_storeu_si512(p, a.v); }
// acc[lane] += sum of 4 (w + kOffset) * x, w int8
// (in assembly: of its intrinsic, GCC 12 makes two moves and a store a product)
INLINE I dot8(I acc, B w, int32_t x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(_mm512_set1_epi32(x)));
  return acc;
}
// acc[lane] += sum of 2 w * x, w int16
INLINE I dot16(I acc, B w, int32_t x) {
  asm("vpdpwssd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(_mm512_set1_epi32(x)));
  return acc;
}
INLINE B offset(B w) { return {_mm512_xor_si512(w.v, _mm512_set1_epi8(char(128)))}; }
INLINE B even16(B w) { return {_mm512_srai_epi16(_mm512_slli_epi16(w.v, 8), 8)}; }
INLINE B odd16(B w) { return {_mm512_srai_epi16(w.v, 8)}; }
INLINE void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
// nibbles as bytes, and codes 16 u + l of 8 bits; these as dot8 wants whole numbers that are 128 less
INLINE B low_nibbles(B u) { return {_mm512_and_si512(u.v, _mm512_set1_epi8(15))}; }
INLINE B high_nibbles(B u) { return {_mm512_and_si512(_mm512_srli_epi16(u.v, 4), _mm512_set1_epi8(15))}; }
INLINE B low_codes(B u, B l) {  // the bits of l where the mask has ones, else those of u
  return {_mm512_ternarylogic_epi32(_mm512_set1_epi8(15), l.v, _mm512_slli_epi16(u.v, 4), 0xca)};
}
INLINE B high_codes(B u, B l) { return {_mm512_ternarylogic_epi32(_mm512_set1_epi8(15), _mm512_srli_epi16(l.v, 4), u.v, 0xca)}; }

// A table of 16 bytes (offset where dot8 wants it) or of 16 int16, looked up by nibbles.
struct Table8 {
  __m512i t;
  explicit Table8(const int8_t *values) : t(offset({_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)values))}).v) {}
  void look(B p, B *out) const {
    const __m512i m = _mm512_set1_epi8(15);
    out[0].v = _mm512_shuffle_epi8(t, _mm512_and_si512(p.v, m));
    out[1].v = _mm512_shuffle_epi8(t, _mm512_and_si512(_mm512_srli_epi16(p.v, 4), m));
  }
};
struct Table16 {
  __m512i t;
  explicit Table16(const int16_t *values) : t(_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)values))) {}
  // nibbles 0, 2, 1, 3 of each 16-bit word: columns (0,2), (1,3), (4,6), (5,7) of eight
  void look(B p, B *out) const {
    out[0].v = _mm512_permutexvar_epi16(p.v, t);
    out[1].v = _mm512_permutexvar_epi16(_mm512_srli_epi16(p.v, 8), t);
    out[2].v = _mm512_permutexvar_epi16(_mm512_srli_epi16(p.v, 4), t);
    out[3].v = _mm512_permutexvar_epi16(_mm512_srli_epi16(p.v, 12), t);
  }
};

// A table of 8 whole numbers, looked up by lower bits that lie from bit 2 * (K % 4) on and upper ones in bit K.
struct Octet {
  __m512i t;
  Octet(const int *values, int more) {
    alignas(64) int8_t all[64];
    for (int i = 0; i < 64; i++) all[i] = int8_t(values[i % 8] + more);
    t = _mm512_load_si512(all);
  }
  template <int K> INLINE_METHOD B look(B lower, B upper) const {
    const __m512i low = _mm512_srli_epi16(lower.v, 2 * (K % 4));
    const __m512i high = K < 2 ? _mm512_slli_epi16(upper.v, (2 - K) & 15) : _mm512_srli_epi16(upper.v, (K - 2) & 15);
    return {_mm512_permutexvar_epi8(_mm512_ternarylogic_epi32(_mm512_set1_epi8(3), low, high, 0xca), t)};  // of 64 places alike
  }
};

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kTileRows = 1, kTokens = 4, kDirectTokens = 24;
constexpr int kAttendRows = 4;
#if defined(__AVXVNNI__)
constexpr int kOffset = 128;
#if !defined(VNNI)
#define VNNI "%{vex%} "  // the encoding of CPUs without AVX-512
#endif
#else
constexpr int kOffset = 0;
#endif
constexpr bool kFused = true;

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct B { __m256i a, b; };

INLINE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void store(float *p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
INLINE F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INLINE F abs(F x) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
INLINE float sum(F x) {
  __m256 s = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float largest(F x) {
  __m256 s = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE F where_above(F x, F limit, F y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ), y.a), _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ), y.b)};
}
INLINE F nearest(F x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
INLINE __m256 scale2(__m256 x, __m256 n) {
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
INLINE F scale2(F x, F n) { return {scale2(x.a, n.a), scale2(x.b, n.b)}; }
INLINE F halves(const uint16_t *p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
INLINE void pairs(const uint16_t *p, const uint16_t *q, F &x, F &y) {
  const __m256i m = _mm256_set1_epi32(int(0xffff0000));
  __m256i u = _mm256_loadu_si256((const __m256i *)p), w = _mm256_loadu_si256((const __m256i *)q);
  x = {_mm256_castsi256_ps(_mm256_slli_epi32(u, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w, 16))};
  y = {_mm256_castsi256_ps(_mm256_and_si256(u, m)), _mm256_castsi256_ps(_mm256_and_si256(w, m))};
}
INLINE void pairs(const uint16_t *p, F &x, F &y) { pairs(p, p + 16, x, y); }
INLINE I izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE I iset(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE I iadd(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
INLINE I times256(I x) { return {_mm256_slli_epi32(x.a, 8), _mm256_slli_epi32(x.b, 8)}; }
INLINE F real(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE I whole(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
INLINE int isum(I x) {
  alignas(32) int32_t l[8];
  _mm256_store_si256((__m256i *)l, _mm256_add_epi32(x.a, x.b));
  return l[0] + l[1] + l[2] + l[3] + l[4] + l[5] + l[6] + l[7];
}
INLINE void store16(int16_t *p, I x) {
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8));
}
INLINE void store8(int8_t *p, I x) {
  __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
INLINE B bytes(const void *p) { return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)}; }
INLINE void keep(void *p, B x) { _mm256_storeu_si256((__m256i *)p, x.a), _mm256_storeu_si256((__m256i *)p + 1, x.b); }
#if defined(__AVXVNNI__)
INLINE __m256i dot8(__m256i acc, __m256i w, __m256i x) {
  asm(VNNI "vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x));
  return acc;
}
INLINE __m256i dot16(__m256i acc, __m256i w, __m256i x) {
  asm(VNNI "vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x));
  return acc;
}
INLINE B offset(B w) {
  const __m256i m = _mm256_set1_epi8(char(128));
  return {_mm256_xor_si256(w.a, m), _mm256_xor_si256(w.b, m)};
}
#else
// The sum is in a register after each step: left to itself, GCC 12 keeps it in memory meanwhile, or adds products first.
INLINE __m256i added(__m256i acc, __m256i x) {
  acc = _mm256_add_epi32(acc, x);
  asm("" : "+x"(acc));
  return acc;
}
INLINE __m256i dot8(__m256i acc, __m256i w, __m256i x) {  // |w|, |x| <= 127: pairs of products fit int16
  __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return added(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
INLINE __m256i dot16(__m256i acc, __m256i w, __m256i x) { return added(acc, _mm256_madd_epi16(w, x)); }
INLINE B offset(B w) { return w; }
#define SPECEXEC_NARROW  // a dot8 is five instructions: narrow.h
#endif
INLINE I dot8(I acc, B w, int32_t x) {
  __m256i v = _mm256_set1_epi32(x);
  return {dot8(acc.a, w.a, v), dot8(acc.b, w.b, v)};
}
INLINE I dot16(I acc, B w, int32_t x) {
  __m256i v = _mm256_set1_epi32(x);
  return {dot16(acc.a, w.a, v), dot16(acc.b, w.b, v)};
}
INLINE __m256i even16(__m256i w) { return _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8); }
INLINE B even16(B w) { return {even16(w.a), even16(w.b)}; }
INLINE B odd16(B w) { return {_mm256_srai_epi16(w.a, 8), _mm256_srai_epi16(w.b, 8)}; }
INLINE void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
INLINE __m256i picked(__m256i u, __m256i l) {  // the low nibbles of l, the high ones of u
  const __m256i m = _mm256_set1_epi8(15);
  return _mm256_or_si256(_mm256_and_si256(m, l), _mm256_andnot_si256(m, u));
}
INLINE B low_nibbles(B u) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(u.a, m), _mm256_and_si256(u.b, m)};
}
INLINE B high_nibbles(B u) { return low_nibbles({_mm256_srli_epi16(u.a, 4), _mm256_srli_epi16(u.b, 4)}); }
INLINE B low_codes(B u, B l) { return {picked(_mm256_slli_epi16(u.a, 4), l.a), picked(_mm256_slli_epi16(u.b, 4), l.b)}; }
INLINE B high_codes(B u, B l) { return {picked(u.a, _mm256_srli_epi16(l.a, 4)), picked(u.b, _mm256_srli_epi16(l.b, 4))}; }

struct Table8 {
  __m256i t;
  explicit Table8(const int8_t *values) {
    const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)values));
    t = offset({v, v}).a;
  }
  __m256i low(__m256i p) const { return _mm256_shuffle_epi8(t, _mm256_and_si256(p, _mm256_set1_epi8(15))); }
  void look(B p, B *out) const {
    out[0] = {low(p.a), low(p.b)};
    out[1] = {low(_mm256_srli_epi16(p.a, 4)), low(_mm256_srli_epi16(p.b, 4))};
  }
};
struct Table16 {
  __m256i lows, highs;  // the bytes of 16 int16, apart: one shuffle each
  explicit Table16(const int16_t *values) {
    alignas(16) uint8_t l[16], h[16];
    for (int i = 0; i < 16; i++) l[i] = uint8_t(values[i]), h[i] = uint8_t(uint16_t(values[i]) >> 8);
    lows = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)l));
    highs = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)h));
  }
  // words of 16 bits, from the nibbles of the even or of the odd bytes
  void words(__m256i nibbles, __m256i &even, __m256i &odd) const {
    const __m256i m = _mm256_set1_epi16(255);
    __m256i l = _mm256_shuffle_epi8(lows, nibbles), h = _mm256_shuffle_epi8(highs, nibbles);
    even = _mm256_or_si256(_mm256_and_si256(l, m), _mm256_slli_epi16(h, 8));
    odd = _mm256_or_si256(_mm256_srli_epi16(l, 8), _mm256_andnot_si256(m, h));
  }
  void look(B p, B *out) const {
    const __m256i m = _mm256_set1_epi8(15);
    words(_mm256_and_si256(p.a, m), out[0].a, out[1].a);
    words(_mm256_and_si256(p.b, m), out[0].b, out[1].b);
    words(_mm256_and_si256(_mm256_srli_epi16(p.a, 4), m), out[2].a, out[3].a);
    words(_mm256_and_si256(_mm256_srli_epi16(p.b, 4), m), out[2].b, out[3].b);
  }
};

struct Octet {
  __m256i t;
  Octet(const int *values, int more) {
    alignas(16) int8_t all[16];
    for (int i = 0; i < 16; i++) all[i] = int8_t(values[i % 8] + more);
    t = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)all));
  }
  template <int K> INLINE_METHOD __m256i look(__m256i lower, __m256i upper) const {
    const __m256i low = _mm256_and_si256(_mm256_srli_epi16(lower, 2 * (K % 4)), _mm256_set1_epi8(3));
    const __m256i high = K < 2 ? _mm256_slli_epi16(upper, (2 - K) & 15) : _mm256_srli_epi16(upper, (K - 2) & 15);
    return _mm256_shuffle_epi8(t, _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(4))));
  }
  template <int K> INLINE_METHOD B look(B lower, B upper) const {
    return {look<K>(lower.a, upper.a), look<K>(lower.b, upper.b)};
  }
};

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int kTileRows = 1, kTokens = 4, kDirectTokens = 24;
constexpr int kAttendRows = 4;
constexpr int kOffset = 0;

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct B { int8x16_t v[4]; };

#define QUARTERS(T, x) T r; repeat<4>(EACH(i) { r.v[i] = x; }); return r;
INLINE F zero() { QUARTERS(F, vdupq_n_f32(0)) }
INLINE F set(float x) { QUARTERS(F, vdupq_n_f32(x)) }
INLINE F load(const float *p) { QUARTERS(F, vld1q_f32(p + 4 * i)) }
INLINE void store(float *p, F a) { repeat<4>(EACH(i) { vst1q_f32(p + 4 * i, a.v[i]); }); }
INLINE F add(F a, F b) { QUARTERS(F, vaddq_f32(a.v[i], b.v[i])) }
INLINE F sub(F a, F b) { QUARTERS(F, vsubq_f32(a.v[i], b.v[i])) }
INLINE F mul(F a, F b) { QUARTERS(F, vmulq_f32(a.v[i], b.v[i])) }
INLINE F div(F a, F b) { QUARTERS(F, vdivq_f32(a.v[i], b.v[i])) }
INLINE F fma(F a, F b, F c) { QUARTERS(F, vfmaq_f32(c.v[i], a.v[i], b.v[i])) }
INLINE F max(F a, F b) { QUARTERS(F, vmaxq_f32(a.v[i], b.v[i])) }
INLINE F abs(F a) { QUARTERS(F, vabsq_f32(a.v[i])) }
INLINE float sum(F a) { return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3]))); }
INLINE float largest(F a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3]))); }
INLINE F where_above(F a, F limit, F b) {
  QUARTERS(F, vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a.v[i], limit.v[i]), vreinterpretq_u32_f32(b.v[i]))))
}
INLINE F nearest(F a) { QUARTERS(F, vrndnq_f32(a.v[i])) }
INLINE F scale2(F a, F n) {
  QUARTERS(F, vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23))))
}
INLINE F halves(const uint16_t *p) { QUARTERS(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))) }
INLINE void pairs(const uint16_t *p, const uint16_t *q, F &a, F &b) {
  repeat<4>(EACH(i) {
    const uint32x4_t w = vreinterpretq_u32_u16(vld1q_u16((i < 2 ? p : q - 16) + 8 * i));
    a.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
    b.v[i] = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xffff0000)));
  });
}
INLINE void pairs(const uint16_t *p, F &a, F &b) { pairs(p, p + 16, a, b); }
INLINE I izero() { QUARTERS(I, vdupq_n_s32(0)) }
INLINE I iset(int x) { QUARTERS(I, vdupq_n_s32(x)) }
INLINE I iadd(I a, I b) { QUARTERS(I, vaddq_s32(a.v[i], b.v[i])) }
INLINE I times256(I a) { QUARTERS(I, vshlq_n_s32(a.v[i], 8)) }
INLINE F real(I a) { QUARTERS(F, vcvtq_f32_s32(a.v[i])) }
INLINE I whole(F a) { QUARTERS(I, vcvtnq_s32_f32(a.v[i])) }
INLINE int isum(I a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }
INLINE void store16(int16_t *p, I a) { repeat<4>(EACH(i) { vst1_s16(p + 4 * i, vmovn_s32(a.v[i])); }); }
INLINE void store8(int8_t *p, I a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1])), high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
INLINE B bytes(const void *p) { QUARTERS(B, vld1q_s8((const int8_t *)p + 16 * i)) }
INLINE void keep(void *p, B a) { repeat<4>(EACH(i) { vst1q_s8((int8_t *)p + 16 * i, a.v[i]); }); }
INLINE I dot8(I acc, B w, int32_t x) { QUARTERS(I, vdotq_s32(acc.v[i], w.v[i], vreinterpretq_s8_s32(vdupq_n_s32(x)))) }
INLINE I dot16(I acc, B w, int32_t x) {
  const int16x8_t v = vreinterpretq_s16_s32(vdupq_n_s32(x));
  QUARTERS(I, vaddq_s32(acc.v[i], vpaddq_s32(vmull_s16(vget_low_s16(vreinterpretq_s16_s8(w.v[i])), vget_low_s16(v)),
                                             vmull_high_s16(vreinterpretq_s16_s8(w.v[i]), v))))
}
INLINE B offset(B w) { return w; }
INLINE B even16(B w) { QUARTERS(B, vreinterpretq_s8_s16(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_s8(w.v[i]), 8), 8))) }
INLINE B odd16(B w) { QUARTERS(B, vreinterpretq_s8_s16(vshrq_n_s16(vreinterpretq_s16_s8(w.v[i]), 8))) }
INLINE void prefetch(const void *p) { __builtin_prefetch(p); }
INLINE uint8x16_t unsign(int8x16_t x) { return vreinterpretq_u8_s8(x); }
INLINE int8x16_t picked(uint8x16_t u, uint8x16_t l) {  // the low nibbles of l, the high ones of u; 128 less
  return vreinterpretq_s8_u8(veorq_u8(vbslq_u8(vdupq_n_u8(15), l, u), vdupq_n_u8(128)));
}
INLINE B low_nibbles(B u) { QUARTERS(B, vandq_s8(u.v[i], vdupq_n_s8(15))) }
INLINE B high_nibbles(B u) { QUARTERS(B, vreinterpretq_s8_u8(vshrq_n_u8(unsign(u.v[i]), 4))) }
INLINE B low_codes(B u, B l) { QUARTERS(B, picked(vshlq_n_u8(unsign(u.v[i]), 4), unsign(l.v[i]))) }
INLINE B high_codes(B u, B l) { QUARTERS(B, picked(unsign(u.v[i]), vshrq_n_u8(unsign(l.v[i]), 4))) }

struct Table8 {
  int8x16_t t;
  explicit Table8(const int8_t *values) : t(vld1q_s8(values)) {}
  void look(B p, B *out) const {
    repeat<4>(EACH(i) {
      const uint8x16_t x = vreinterpretq_u8_s8(p.v[i]);
      out[0].v[i] = vqtbl1q_s8(t, vandq_u8(x, vdupq_n_u8(15))), out[1].v[i] = vqtbl1q_s8(t, vshrq_n_u8(x, 4));
    });
  }
};
struct Table16 {
  int8x16_t lows, highs;  // the bytes of 16 int16, apart
  explicit Table16(const int16_t *values) {
    const int8x16x2_t parts = vld2q_s8((const int8_t *)values);
    lows = parts.val[0], highs = parts.val[1];
  }
  // words of 16 bits, from the nibbles of the even or of the odd bytes
  void words(uint8x16_t nibbles, int8x16_t &even, int8x16_t &odd) const {
    const int8x16_t l = vqtbl1q_s8(lows, nibbles), h = vqtbl1q_s8(highs, nibbles);
    even = vtrn1q_s8(l, h), odd = vtrn2q_s8(l, h);
  }
  void look(B p, B *out) const {
    repeat<4>(EACH(i) {
      const uint8x16_t x = vreinterpretq_u8_s8(p.v[i]);
      words(vandq_u8(x, vdupq_n_u8(15)), out[0].v[i], out[1].v[i]);
      words(vshrq_n_u8(x, 4), out[2].v[i], out[3].v[i]);
    });
  }
};
struct Octet {
  int8x16_t t;
  Octet(const int *values, int more) {
    int8_t all[16];
    for (int i = 0; i < 16; i++) all[i] = int8_t(values[i % 8] + more);
    t = vld1q_s8(all);
  }
  template <int K> INLINE_METHOD B look(B lower, B upper) const {
    QUARTERS(B, one<K>(unsign(lower.v[i]), unsign(upper.v[i])))
  }
  template <int K> INLINE_METHOD int8x16_t one(uint8x16_t lower, uint8x16_t upper) const {
    const uint8x16_t low = vandq_u8(vshlq_u8(lower, vdupq_n_s8(-2 * (K % 4))), vdupq_n_u8(3));
    return vqtbl1q_s8(t, vorrq_u8(low, vandq_u8(vshlq_u8(upper, vdupq_n_s8(2 - K)), vdupq_n_u8(4))));
  }
};
#undef QUARTERS

#else  // plain loops

constexpr int kTileRows = 1, kTokens = 4, kDirectTokens = 4;
constexpr int kAttendRows = 4;
constexpr int kOffset = 0;
#if defined(__FP_FAST_FMAF)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

struct F { float v[16]; };
struct I { int32_t v[16]; };
struct B { int8_t v[64]; };

#define LANES for (int i = 0; i < 16; i++)
INLINE F zero() { return {}; }
INLINE F set(float x) { F r; LANES r.v[i] = x; return r; }
INLINE F load(const float *p) { F r; std::memcpy(r.v, p, 64); return r; }
INLINE void store(float *p, const F &a) { std::memcpy(p, a.v, 64); }
INLINE F add(const F &a, const F &b) { F r; LANES r.v[i] = a.v[i] + b.v[i]; return r; }
INLINE F sub(const F &a, const F &b) { F r; LANES r.v[i] = a.v[i] - b.v[i]; return r; }
INLINE F mul(const F &a, const F &b) { F r; LANES r.v[i] = a.v[i] * b.v[i]; return r; }
INLINE F div(const F &a, const F &b) { F r; LANES r.v[i] = a.v[i] / b.v[i]; return r; }
INLINE float one_fma(float a, float b, float c) { return kFused ? std::fma(a, b, c) : a * b + c; }
INLINE F fma(const F &a, const F &b, const F &c) { F r; LANES r.v[i] = one_fma(a.v[i], b.v[i], c.v[i]); return r; }
INLINE F max(const F &a, const F &b) { F r; LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
INLINE F abs(const F &a) { F r; LANES r.v[i] = std::fabs(a.v[i]); return r; }
INLINE float sum(F a) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) a.v[i] += a.v[i + w];
  return a.v[0];
}
INLINE float largest(const F &a) { float m = a.v[0]; LANES m = a.v[i] > m ? a.v[i] : m; return m; }
INLINE F where_above(const F &a, const F &limit, const F &b) { F r; LANES r.v[i] = a.v[i] > limit.v[i] ? b.v[i] : 0.f; return r; }
INLINE F nearest(const F &a) { F r; LANES r.v[i] = std::nearbyintf(a.v[i]); return r; }
INLINE F scale2(const F &a, const F &n) {
  F r;
  LANES {
    uint32_t u = uint32_t(int32_t(n.v[i]) + 127) << 23;
    float f;
    std::memcpy(&f, &u, 4);
    r.v[i] = a.v[i] * f;
  }
  return r;
}
INLINE float half(uint16_t h) {
  int e = (h >> 10) & 31, m = h & 1023;
  float f = e ? std::ldexp(float(1024 + m), e - 25) : std::ldexp(float(m), -24);
  return h & 0x8000 ? -f : f;
}
INLINE F halves(const uint16_t *p) { F r; LANES r.v[i] = half(p[i]); return r; }
INLINE void pairs(const uint16_t *p, const uint16_t *q, F &a, F &b) {
  LANES {
    const uint16_t *at = (i < 8 ? p : q - 16) + 2 * i;
    a.v[i] = from_bf16(at[0]), b.v[i] = from_bf16(at[1]);
  }
}
INLINE void pairs(const uint16_t *p, F &a, F &b) { pairs(p, p + 16, a, b); }
INLINE I izero() { return {}; }
INLINE I iset(int x) { I r; LANES r.v[i] = x; return r; }
INLINE I iadd(const I &a, const I &b) { I r; LANES r.v[i] = a.v[i] + b.v[i]; return r; }
INLINE I times256(const I &a) { I r; LANES r.v[i] = a.v[i] * 256; return r; }
INLINE F real(const I &a) { F r; LANES r.v[i] = float(a.v[i]); return r; }
INLINE I whole(const F &a) { I r; LANES r.v[i] = int32_t(std::nearbyintf(a.v[i])); return r; }
INLINE int isum(const I &a) { int s = 0; LANES s += a.v[i]; return s; }
INLINE void store8(int8_t *p, const I &a) { LANES p[i] = int8_t(a.v[i]); }
INLINE void store16(int16_t *p, const I &a) { LANES p[i] = int16_t(a.v[i]); }
INLINE B bytes(const void *p) { B r; std::memcpy(r.v, p, 64); return r; }
INLINE void keep(void *p, const B &a) { std::memcpy(p, a.v, 64); }
INLINE I dot16(const I &acc, const B &w, int32_t x) {
  int16_t a[2], b[32];
  std::memcpy(a, &x, 4), std::memcpy(b, w.v, 64);
  I r;
  LANES r.v[i] = acc.v[i] + int32_t(b[2 * i]) * a[0] + int32_t(b[2 * i + 1]) * a[1];
  return r;
}
INLINE I dot8(const I &acc, const B &w, int32_t x) {
  int8_t a[4];
  std::memcpy(a, &x, 4);
  I r;
  LANES r.v[i] = acc.v[i] + w.v[4 * i] * a[0] + w.v[4 * i + 1] * a[1] + w.v[4 * i + 2] * a[2] + w.v[4 * i + 3] * a[3];
  return r;
}
INLINE B offset(const B &w) { return w; }
INLINE B even16(const B &w) {
  B r;
  for (int i = 0; i < 32; i++) { int16_t x = w.v[2 * i]; std::memcpy(r.v + 2 * i, &x, 2); }
  return r;
}
INLINE B odd16(const B &w) {
  B r;
  for (int i = 0; i < 32; i++) { int16_t x = w.v[2 * i + 1]; std::memcpy(r.v + 2 * i, &x, 2); }
  return r;
}
INLINE void prefetch(const void *p) { __builtin_prefetch(p); }
INLINE B low_nibbles(const B &u) { B r; for (int i = 0; i < 64; i++) r.v[i] = u.v[i] & 15; return r; }
INLINE B high_nibbles(const B &u) { B r; for (int i = 0; i < 64; i++) r.v[i] = (u.v[i] >> 4) & 15; return r; }
INLINE B low_codes(const B &u, const B &l) {
  B r;
  for (int i = 0; i < 64; i++) r.v[i] = int8_t((((u.v[i] & 15) << 4) | (l.v[i] & 15)) - 128);
  return r;
}
INLINE B high_codes(const B &u, const B &l) {
  B r;
  for (int i = 0; i < 64; i++) r.v[i] = int8_t(((u.v[i] & 240) | ((l.v[i] >> 4) & 15)) - 128);
  return r;
}

struct Table8 {
  int8_t t[16];
  explicit Table8(const int8_t *values) { std::memcpy(t, values, 16); }
  void look(const B &p, B *out) const {
    for (int i = 0; i < 64; i++) {
      uint8_t x = uint8_t(p.v[i]);
      out[0].v[i] = t[x & 15], out[1].v[i] = t[x >> 4];
    }
  }
};
struct Table16 {
  int16_t t[16];
  explicit Table16(const int16_t *values) { std::memcpy(t, values, 32); }
  void look(const B &p, B *out) const {
    for (int i = 0; i < 64; i++) {
      uint8_t x = uint8_t(p.v[i]);
      std::memcpy(out[i & 1].v + (i & ~1), t + (x & 15), 2), std::memcpy(out[2 + (i & 1)].v + (i & ~1), t + (x >> 4), 2);
    }
  }
};
struct Octet {
  int8_t t[8];
  Octet(const int *values, int more) {
    for (int i = 0; i < 8; i++) t[i] = int8_t(values[i] + more);
  }
  template <int K> B look(const B &lower, const B &upper) const {
    B r;
    for (int i = 0; i < 64; i++) r.v[i] = t[(uint8_t(lower.v[i]) >> 2 * (K % 4) & 3) | (uint8_t(upper.v[i]) >> K & 1) << 2];
    return r;
  }
};
#undef LANES
#endif

INLINE F min(F a, F b) { return sub(zero(), max(sub(zero(), a), sub(zero(), b))); }
INLINE float least(F a) { return -largest(sub(zero(), a)); }

// e^x for x <= 0, 0 below -87: within 2 units in the last place of fp32.   Cephes, expf
INLINE F exp(F x) {
  const F lowest = set(-87.f), given = x;
  x = max(x, lowest);
  F n = nearest(mul(x, set(1.44269504088896341f)));
  F r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = fma(p, r, set(c));
  p = add(fma(mul(p, r), r, r), set(1.f));
  return where_above(given, lowest, scale2(p, n));
}

}  // namespace specexec::SPECEXEC_ISA
