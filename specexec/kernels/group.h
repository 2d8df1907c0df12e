// Quantised keys and values of 128 consecutive positions of one head: an upper nibble, rounded, and a lower one, the error of the
// first.   QuantSpec, Tiwari et al. 2025
//
// Keys have a scale and a zero per channel, values per token: x = scale (u + (l - 8) / 16) + zero; without the lower nibble
// x = scale u + zero. Codes lie as the kernels take them: for each block of 64 positions first keys, then values; keys in tiles of
// 16 rows by 8 channels, values in tiles of 16 channels by 8 rows, of which the last four are the bytes' high nibbles.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kGroupRows = 128, kGroupBlocks = 2, kSeenRows = 16, kGroupSeen = kGroupRows / kSeenRows;

struct Group {
  const uint8_t *upper, *lower;  // [2][2][dim * 32]; lower: null where there is none
  const uint16_t *scales;        // fp16: scale[dim] and zero[dim] of keys, scale[128] and zero[128] of values
  int64_t next;                  // bytes from its codes to those that are read after them
  static int64_t bytes(int64_t dim) { return kGroupRows * dim; }
  static int64_t numbers(int64_t dim) { return 2 * dim + 2 * kGroupRows; }
  // of a tile of 16 rows: where its keys begin, and the first of its values, which come by 16 channels
  static int64_t keys_of(int64_t tile, int64_t dim) { return tile / 4 * dim * 64 + tile % 4 * dim * 8; }
  static int64_t values_of(int64_t tile, int64_t dim) { return tile / 4 * dim * 64 + dim * 32 + tile % 4 * 128; }
};

INLINE float from_half(uint16_t h) {
  const int e = (h >> 10) & 31, m = h & 1023;
  const float f = e ? std::ldexp(float(1024 + m), e - 25) : std::ldexp(float(m), -24);
  return h & 0x8000 ? -f : f;
}

constexpr float kLargestHalf = 65504.f;

// the largest fp16 number that is no more than x
static uint16_t half_below(float x) {
  x = std::min(std::max(x, -kLargestHalf), kLargestHalf);
  const float size = std::fabs(x);
  int e = 0;
  std::frexp(size, &e);
  const float unit = std::ldexp(1.f, std::max(e - 11, -24)), steps = x < 0 ? std::ceil(size / unit) : std::floor(size / unit);
  if (size == 0) return 0;
  uint16_t h = uint16_t(steps);  // of a subnormal number; of others the eleventh bit counts up the exponent
  if (e - 11 > -24) h = uint16_t(((e + 13) << 10) + int(steps));
  return x < 0 ? uint16_t(h | 0x8000) : h;
}
static uint16_t half_above(float x) { return half_below(-x) ^ 0x8000; }

// Sixteen numbers' nibbles: (x - zero) / scale, rounded, and the rest in sixteenths. 0 where the scale is.
INLINE void nibbles(F x, F scale, F inverse_ok, F zero_point, int8_t *upper, int8_t *lower) {
  const F most = set(15.f), u = mul(min(max(nearest(div(sub(x, zero_point), scale)), zero()), most), inverse_ok);
  const F error = sub(x, add(mul(scale, u), zero_point));
  const F l = add(nearest(div(mul(error, set(16.f)), scale)), set(8.f));
  store8(upper, whole(u)), store8(lower, whole(min(max(l, zero()), most)));
}

struct Range {
  uint16_t scale, zero;
  Range(float low, float high) : zero(half_below(low)) {
    scale = half_above((high - from_half(zero)) / 15.f) & 0x7fff;
  }
  // of 16 numbers at x; a group of equal numbers has scale 0
  void code(const float *x, int8_t *upper, int8_t *lower) const {
    const float s = from_half(scale);
    nibbles(load(x), set(s > 0 ? s : 1.f), set(s > 0 ? 1.f : 0.f), set(from_half(zero)), upper, lower);
    if (s == 0) std::fill_n(lower, 16, int8_t(8));
  }
};

// Room for one group while it is made.
struct Making {
  std::vector<float> x;
  std::vector<int8_t> codes;
  int8_t *upper, *lower;
  void room(int64_t dim) {
    x.resize(size_t(kGroupRows * dim)), codes.resize(size_t(2 * kGroupRows * dim));
    upper = codes.data(), lower = upper + kGroupRows * dim;
  }
};

// `lines` of codes, four of each eight of them in the low nibbles: tile and unit as Group has them. at(line, lane) is a code.
template <class At> static void pack(const At &at, int64_t unit, int64_t lane, uint8_t *out) {
  for (int64_t i = 0; i < 16; i++)
    for (int64_t j = 0; j < 4; j++) out[4 * i + j] = uint8_t(at(8 * unit + j, lane + i) | at(8 * unit + 4 + j, lane + i) << 4);
}

struct MadeGroup {
  uint8_t *upper, *lower;
  uint16_t *scales;
};

// A head's group in its place.
INLINE MadeGroup lying(const SpecexecQuantised &q, int64_t head, int64_t group) {
  const int64_t at = group - q.first, codes = head * q.head + at * q.record;
  return {q.upper + codes, q.lower ? q.lower + codes : nullptr, q.scales + head * q.scales_head + at * q.scales_record};
}

// rows[128] of one head of a cache, whose layout is kernels.h's
static void make_keys(const uint16_t *keys, const int64_t *rows, int64_t dim, Making &m, const MadeGroup &to) {
  for (int64_t r = 0; r < kGroupRows; r++) {
    const uint16_t *tile = keys + rows[r] / 16 * 16 * dim + rows[r] % 16 * 2;
    for (int64_t d = 0; d < dim; d++) m.x[size_t(d * kGroupRows + r)] = from_bf16(tile[d / 2 * 32 + d % 2]);
  }
  for (int64_t d = 0; d < dim; d++) {
    const float *x = m.x.data() + d * kGroupRows;
    F low = load(x), high = low;
    for (int64_t r = 16; r < kGroupRows; r += 16) low = min(low, load(x + r)), high = max(high, load(x + r));
    const Range range(least(low), largest(high));
    to.scales[d] = range.scale, to.scales[dim + d] = range.zero;
    for (int64_t r = 0; r < kGroupRows; r += 16) range.code(x + r, m.upper + d * kGroupRows + r, m.lower + d * kGroupRows + r);
  }
  for (int64_t t = 0; t < kGroupRows / 16; t++)
    for (int64_t u = 0; u < dim / 8; u++) {
      const int64_t at = t / 4 * dim * 64 + t % 4 * dim * 8 + u * 64;
      const auto of = [&](const int8_t *codes) { return [=](int64_t d, int64_t r) { return codes[d * kGroupRows + r]; }; };
      pack(of(m.upper), u, t * 16, to.upper + at);
      if (to.lower) pack(of(m.lower), u, t * 16, to.lower + at);
    }
}

static void make_values(const uint16_t *values, const int64_t *rows, int64_t dim, int64_t head_dim, Making &m, const MadeGroup &to) {
  uint16_t *scales = to.scales + 2 * dim;
  for (int64_t r = 0; r < kGroupRows; r++) {
    float *x = m.x.data() + r * dim;
    for (int64_t d = 0; d < dim; d += 32) {
      F a, b;
      pairs(values + rows[r] * dim + d, a, b);
      store(x + d, a), store(x + d + 16, b);
    }
    const auto [low, high] = std::minmax_element(x, x + head_dim);
    const Range range(*low, *high);
    scales[r] = range.scale, scales[kGroupRows + r] = range.zero;
    for (int64_t d = 0; d < dim; d += 16) range.code(x + d, m.upper + r * dim + d, m.lower + r * dim + d);
  }
  for (int64_t b = 0; b < kGroupBlocks; b++)
    for (int64_t t = 0; t < dim / 16; t++)
      for (int64_t u = 0; u < 8; u++) {
        const int64_t at = b * dim * 64 + dim * 32 + t * 512 + u * 64;
        const auto of = [&](const int8_t *codes) { return [=](int64_t r, int64_t d) { return codes[r * dim + d]; }; };
        pack(of(m.upper), 8 * b + u, t * 16, to.upper + at);
        if (to.lower) pack(of(m.lower), 8 * b + u, t * 16, to.lower + at);
      }
}

static void make_group(const uint16_t *keys, const uint16_t *values, const int64_t *rows, int64_t dim, int64_t head_dim,
                       Making &m, const MadeGroup &to) {
  m.room(dim);
  make_keys(keys, rows, dim, m, to), make_values(values, rows, dim, head_dim, m, to);
}

}  // namespace specexec::SPECEXEC_ISA
