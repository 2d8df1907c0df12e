// Attention over quantised groups without ever making numbers of their codes: scales go into the queries and the weights, which
// become whole numbers, so that sums have no rounding order.
//
// One byte a number where the upper nibbles alone are read, 14 bits and a sign in two where both are: both err less than the
// codes themselves. Sums of such numbers are exact below 2^24, so that limbs and words give the same product.
#pragma once
#include <type_traits>

#include "group.h"
#include "narrow.h"
#include "softmax.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kWidest = 1024;  // of a head
constexpr float kLimb = 254.f;     // x = 254 high + low, each within a byte's 127

#if defined(SPECEXEC_NARROW)
template <int Bits> constexpr bool kWords = Bits == 8;  // whole numbers of two bytes are multiplied at once
#else
template <int Bits> constexpr bool kWords = false;
#endif
template <int Bits> constexpr int kLimbs = Bits == 8 && !kWords<Bits> ? 2 : 1;
template <int Bits> constexpr int kCentre = Bits == 4 ? 8 : kWords<Bits> ? 128 : kOffset;  // sums are of codes this much larger
template <int Bits> constexpr float kMiddle = Bits == 8 ? 7.5f : 8.f;  // the meant code 0, in scales above the zero
template <int Bits> constexpr float kStep = Bits == 8 ? 0.0625f : 1.f;  // of a meant code, in scales

// A group's, of channels or of positions. middle: what the meant code 0 stands for.
template <int Bits> struct Scales {
  alignas(64) float scale[kWidest], middle[kWidest];
  Scales(const uint16_t *scales, const uint16_t *zeros, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
      const F of = halves(scales + i);
      store(scale + i, of), store(middle + i, fma(of, set(kMiddle<Bits>), halves(zeros + i)));
    }
  }
};

INLINE void keep_numbers(int8_t *p, I v) { store8(p, v); }
INLINE void keep_numbers(int16_t *p, I v) {
  store16(p, v);
  for (int i = 0; i < 16; i += 4) std::swap(p[i + 1], p[i + 2]);
}

// R rows' numbers: x[limb][row][count]; words are 0, 2, 1, 3 of every four. What they stand for: scale * x; sum: of each limb.
// offset: added to every product.
template <int R, int Bits> struct Asked {
  using Number = std::conditional_t<kWords<Bits>, int16_t, int8_t>;
  alignas(64) Number x[size_t(kLimbs<Bits>) * R * kWidest];
  int32_t sum[kLimbs<Bits>][R];
  float scale[R], offset[R];
  int64_t count;

  INLINE_METHOD const Number *at(int limb, int r) const { return x + (limb * R + r) * count; }
  INLINE_METHOD void put(int r, const float *from, const Scales<Bits> &by) {
    F top = zero(), all = zero();
    for (int64_t i = 0; i < count; i += 16) {
      const F v = load(from + i);
      top = max(top, abs(mul(v, load(by.scale + i))));
      all = fma(v, load(by.middle + i), all);
    }
    const float most = largest(top), whole_most = Bits == 8 ? 16383.f : 127.f;
    const F inverse = set(most > 0 ? whole_most / most : 0.f);
    I sums[2] = {izero(), izero()};
    for (int64_t i = 0; i < count; i += 16) {
      const F v = mul(mul(load(from + i), load(by.scale + i)), inverse);
      if constexpr (kLimbs<Bits> == 1) {
        keep_limb(0, r, i, whole(v), sums[0]);
      } else {
        const F near = nearest(v), high = nearest(mul(near, set(1 / kLimb)));
        keep_limb(0, r, i, whole(high), sums[0]), keep_limb(1, r, i, whole(sub(near, mul(high, set(kLimb)))), sums[1]);
      }
    }
    for (int l = 0; l < kLimbs<Bits>; l++) sum[l][r] = -kCentre<Bits> * isum(sums[l]);
    scale[r] = most / whole_most * kStep<Bits>, offset[r] = specexec::SPECEXEC_ISA::sum(all);
  }
  INLINE_METHOD void keep_limb(int limb, int r, int64_t i, I v, I &sums) {
    keep_numbers(x + (limb * R + r) * count + i, v);
    sums = iadd(sums, v);
  }
};

template <int Bits> INLINE void codes(const uint8_t *upper, const uint8_t *lower, B &even, B &odd) {
  const B u = bytes(upper);
  if constexpr (Bits == 8) {
    const B l = bytes(lower);
    even = low_codes(u, l), odd = high_codes(u, l);
  } else {
    even = low_nibbles(u), odd = high_nibbles(u);
  }
}

// acc[limb][t][r] = x.sum + the numbers of row r . the codes of tile t, `units` times eight; a tile has room for `room` units
template <int R, int T, int Bits> INLINE void sums(const Asked<R, Bits> &x, const uint8_t *upper, const uint8_t *lower, int64_t units,
                                                   int64_t room, int64_t ahead, I (&acc)[kLimbs<Bits>][T][R]) {
#if defined(SPECEXEC_NARROW)
  for (int t = 0; t < T; t++)
    tile_sums<R>(upper + t * room * 64, lower + t * room * 64, x.at(0, 0), x.sum[0], x.count, units, ahead, acc[0][t]);
#else
  constexpr int L = kLimbs<Bits>;
  for (int l = 0; l < L; l++)
    for (int t = 0; t < T; t++)
      for (int r = 0; r < R; r++) acc[l][t][r] = iset(x.sum[l][r]);
  for (int64_t u = 0; u < units; u++) {
    B even[T], odd[T];
    for (int t = 0; t < T; t++) {
      const int64_t at = (t * room + u) * 64;
      codes<Bits>(upper + at, lower + at, even[t], odd[t]);
      prefetch(upper + at + ahead);
      if constexpr (Bits == 8) prefetch(lower + at + ahead);
    }
    for (int l = 0; l < L; l++)
      for (int r = 0; r < R; r++) {
        const int8_t *of = x.at(l, r) + 8 * u;
        const int32_t a = word(of), b = word(of + 4);
        for (int t = 0; t < T; t++) acc[l][t][r] = dot8(acc[l][t][r], even[t], a);
        for (int t = 0; t < T; t++) acc[l][t][r] = dot8(acc[l][t][r], odd[t], b);
      }
  }
#endif
}

// take(t, r, product) for T tiles of 16 lanes each, `units` times 8 codes a lane; a tile has room for `room` units
template <int R, int T, int Bits, class Take>
INLINE void products(const Asked<R, Bits> &x, const uint8_t *upper, const uint8_t *lower, int64_t units, int64_t room, int64_t ahead,
                     Take take) {
  constexpr int L = kLimbs<Bits>;
  I acc[L][T][R];
  sums<R, T, Bits>(x, upper, lower, units, room, ahead, acc);
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) {
      F sum = real(acc[0][t][r]);
      if constexpr (L == 2) sum = fma(sum, set(kLimb), real(acc[1][t][r]));
      take(t, r, sum);
    }
}

template <int R, int Bits> constexpr int kGroupTiles =
    kAttendRows < 12 || R * kLimbs<Bits> > 12 ? 1 : R * kLimbs<Bits> > 4 ? 2 : 4;

// Queries under the group's key scales; their products with its zeros are the same for every key.
template <int R, int Bits>
static void ask_keys(const Group &g, const float *const *q, int64_t dim, Asked<R, Bits> &x) {
  const Scales<Bits> by(g.scales, g.scales + dim, dim);
  x.count = dim;
  for (int r = 0; r < R; r++) x.put(r, q[r], by);
}

// The weights of `count` keys, the group's from `from` on, under its values' scales.
template <int R, int Bits>
static void ask_values(const Group &g, int64_t from, int64_t count, int64_t dim, const float *weights, Asked<R, Bits> &x) {
  const uint16_t *scales = g.scales + 2 * dim + from;
  const Scales<Bits> by(scales, scales + kGroupRows, count);
  x.count = count;
  for (int r = 0; r < R; r++) x.put(r, weights + r * count, by);
}

// A group that begins at position `start`, for R rows. first[r]: the first position row r sees.
template <int R, int Bits>
static void group_rows(const Group &g, int64_t start, int64_t dim, const float *const *q, const int64_t *first, const State &s) {
  constexpr int T = kGroupTiles<R, Bits>, kValueTiles = T < 2 ? T : 2;
  const int64_t part = dim * 32;  // bytes of a block's keys, and of its values
  Asked<R, Bits> keys, values;
  ask_keys<R, Bits>(g, q, dim, keys);
  for (int64_t b = 0; b < kGroupBlocks; b++, start += kBlock) {
    if (*std::min_element(first, first + R) >= start + kBlock) continue;
    const uint8_t *upper = g.upper + 2 * b * part, *lower = g.lower + 2 * b * part;
    const int64_t ahead = b + 1 < kGroupBlocks ? part : g.next - (2 * kGroupBlocks - 1) * part;
    float scores[R * kBlock];
    for (int64_t t = 0; t < 4; t += T)
      products<R, T, Bits>(keys, upper + t * dim * 8, lower + t * dim * 8, dim / 8, dim / 8, part, [&](int i, int r, F sum) {
        store(scores + r * kBlock + (t + i) * 16, fma(sum, set(keys.scale[r]), set(keys.offset[r])));
      });
    for (int r = 0; r < R; r++) {
      for (int64_t k = 0; k < std::min(first[r] - start, kBlock); k++) scores[r * kBlock + k] = 2 * kNever;
      soften(scores + r * kBlock, s.at(r));
    }
    ask_values<R, Bits>(g, b * kBlock, kBlock, dim, scores, values);
    upper += part, lower += part;
    for (int64_t t = 0; t < dim / 16; t += kValueTiles)
      products<R, kValueTiles, Bits>(values, upper + t * 512, lower + t * 512, 8, 8, ahead, [&](int i, int r, F sum) {
        float *to = s.mix + r * s.dim + (t + i) * 16;
        store(to, fma(sum, set(values.scale[r]), add(load(to), set(values.offset[r]))));
      });
  }
}

// Tiles of 16 rows, of any groups, four of which make a block.
struct Tiled {
  const Group *groups;  // that of each
  const int64_t *tiles;  // rows / 16, of all
  int64_t count;
  int64_t in_group(int64_t i) const { return tiles[i] % kGroupSeen; }
  // bytes from the codes of tile i to those of the next one
  int64_t ahead(int64_t i, int64_t dim) const {
    if (i + 1 >= count) return 0;
    return groups[i + 1].upper - groups[i].upper + Group::keys_of(in_group(i + 1), dim) - Group::keys_of(in_group(i), dim);
  }
};

template <int R, int Bits>
static void tiled_rows(const Tiled &all, int64_t dim, const float *const *q, const int64_t *first, const State &s) {
  if (*std::min_element(first, first + R) >= (all.tiles[all.count - 1] + 1) * kSeenRows) return;
  float scores[R * kBlock];
  std::fill_n(scores, R * kBlock, 2 * kNever);
  Asked<R, Bits> keys, values;
  for (int64_t i = 0; i < all.count; i++) {
    const Group &g = all.groups[i];
    if (!i || g.upper != all.groups[i - 1].upper) ask_keys<R, Bits>(g, q, dim, keys);
    const int64_t at = Group::keys_of(all.in_group(i), dim);
    products<R, 1, Bits>(keys, g.upper + at, g.lower + at, dim / 8, dim / 8, all.ahead(i, dim), [&](int, int r, F sum) {
      store(scores + r * kBlock + i * kSeenRows, fma(sum, set(keys.scale[r]), set(keys.offset[r])));
    });
    const int64_t start = all.tiles[i] * kSeenRows;
    for (int r = 0; r < R; r++)
      for (int64_t k = 0; k < std::min(first[r] - start, kSeenRows); k++) scores[r * kBlock + i * kSeenRows + k] = 2 * kNever;
  }
  for (int r = 0; r < R; r++) soften(scores + r * kBlock, s.at(r));
  for (int64_t i = 0; i < all.count; i++) {
    const Group &g = all.groups[i];
    const int64_t tile = all.in_group(i), at = Group::values_of(tile, dim);
    float weights[R * kSeenRows];
    for (int r = 0; r < R; r++) std::copy_n(scores + r * kBlock + i * kSeenRows, kSeenRows, weights + r * kSeenRows);
    ask_values<R, Bits>(g, tile * kSeenRows, kSeenRows, dim, weights, values);
    for (int64_t t = 0; t < dim / 16; t++)
      products<R, 1, Bits>(values, g.upper + at + t * 512, g.lower + at + t * 512, 2, 8, all.ahead(i, dim), [&](int, int r, F sum) {
        float *to = s.mix + r * s.dim + t * 16;
        store(to, fma(sum, set(values.scale[r]), add(load(to), set(values.offset[r]))));
      });
  }
}

}  // namespace specexec::SPECEXEC_ISA
