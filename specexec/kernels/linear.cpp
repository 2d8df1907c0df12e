// Products of 4-bit and 8-bit matrices with quantised activations. Sums within a group of 64 columns are whole numbers, groups
// are added in order: a row of the result depends on its own activations alone, whatever is computed beside it.
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "kernels.h"
#include "simd.h"

namespace specexec::SPECEXEC_ISA {

// NF4's levels as whole numbers. Of the units below 128, and below 1024, those that round them
// best; 64 products of 10 and 14 bits fit an int32.
constexpr float kNf4Unit8 = 112.f, kNf4Unit16 = 914.f;
constexpr double kNf4[16] = {-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                             -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                             0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                             0.7229568362236023, 1.0};

constexpr size_t kAhead = 4096;  // bytes: left to itself, the CPU reads weights at 0.8 of memory's rate
constexpr double kWorthWaking = 5e5;  // products: below, one thread is done before a second wakes
constexpr int64_t kShares = 8;  // a thread: more begin anew more often, fewer leave a slow thread alone at the end

template <class T> struct Levels {
  T t[16];
  explicit Levels(double unit) {
    for (int i = 0; i < 16; i++) t[i] = T(std::lrint(kNf4[i] * unit));
  }
};

// Where a tile's weights come from: units of 64 bytes, of which kUnits come out of 64 bytes in memory. kFactor: one code's worth.
struct Nf4x8 {
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = 8, kUnits = 2, kKind = 0;
  static constexpr float kFactor = 1 / kNf4Unit8;
  Table8 table{Levels<int8_t>(kNf4Unit8).t};
  INLINE_METHOD void get(const uint8_t *p, B *out) const { table.look(bytes(p), out); }
};
struct Nf4x16 {
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = 16, kUnits = 4, kKind = 0;
  static constexpr float kFactor = 1 / kNf4Unit16;
  Table16 table{Levels<int16_t>(kNf4Unit16).t};
  INLINE_METHOD void get(const uint8_t *p, B *out) const { table.look(bytes(p), out); }
};
struct Int8x8 {
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = 8, kUnits = 1, kKind = 1;
  static constexpr float kFactor = 1 / 127.f;
  INLINE_METHOD void get(const uint8_t *p, B *out) const { out[0] = offset(bytes(p)); }
};
struct Int8x16 {
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = 16, kUnits = 2, kKind = 1;
  static constexpr float kFactor = 1 / 127.f;
  INLINE_METHOD void get(const uint8_t *p, B *out) const {
    B w = bytes(p);
    out[0] = even16(w), out[1] = odd16(w);
  }
};
template <int BITS> struct Panel {  // unpacked before
  static constexpr bool kFromMemory = false;
  static constexpr int kBits = BITS, kUnits = 1;
  INLINE_METHOD void get(const uint8_t *p, B *out) const { out[0] = bytes(p); }
};

template <int BITS> INLINE I dot(I acc, B w, int32_t x) {
  if constexpr (BITS == 8) return dot8(acc, w, x);
  else return dot16(acc, w, x);
}

// A run of groups of some row blocks.
struct Weights {
  const uint8_t *codes;
  const uint16_t *scales;
  size_t block, scale_block;  // bytes, and scales, from one block of 16 rows to the next
};

// A tile of tokens (kernels.h), from one of them on.
struct Tokens {
  const uint8_t *planes[2];  // q, and low of 8 bits
  const int32_t *sums[2];
  const uint8_t *fine;
  const float *scale;
  size_t width, unit;  // unit: bytes from four bytes of one token to its next four
  Tokens(const SpecexecActivations &x, size_t start, size_t group) {
    width = std::min<size_t>(kTokens, size_t(x.n) - start), unit = 4 * width;
    const size_t byte = start * size_t(x.groups) * 8 * size_t(x.bits) + group * 2 * size_t(x.bits) * unit;
    const size_t at = start * size_t(x.groups) + group * width;
    const size_t all = size_t(x.n) * size_t(x.groups);
    for (size_t i = 0; i < 2; i++) planes[i] = (const uint8_t *)x.q + byte + i * all * 64, sums[i] = x.sum + at + i * all;
    fine = x.fine + at, scale = x.scale + at;
  }
  Tokens from(size_t t) const {
    Tokens next = *this;
    for (int i = 0; i < 2; i++) next.planes[i] += 4 * t, next.sums[i] += t;
    next.fine += t, next.scale += t;
    return next;
  }
  template <int T> INLINE_METHOD bool any_fine(size_t g) const {  // of the first T tokens
    const uint8_t *p = fine + g * width;
    int32_t found = 0;
    for (int t = 0; t + 4 <= T; t += 4) found |= word(p + t);
    for (int t = T / 4 * 4; t < T; t++) found |= p[t];
    return found != 0;
  }
};

// From `at` in a block to the bytes that are read kAhead bytes later: after this block R - 1 others are done already.
template <int R> INLINE size_t ahead_of(size_t at, size_t block) { return at + kAhead < block ? kAhead : kAhead + (R - 1) * block; }

// whole[r][t] += the products of one group's codes with one plane of activations.
template <class S, int R, int T>
INLINE void group(const S &s, const Weights &w, size_t g, const uint8_t *q, size_t unit, I (&whole)[R][T]) {
  constexpr int kSteps = S::kBits * 2 / S::kUnits;  // of 64 bytes
  const size_t ahead = ahead_of<R>(g * kSteps * 64, w.block);
  for (int step = 0; step < kSteps; step++) {
    B u[R][S::kUnits];
    repeat<R>(EACH(r) {
      const uint8_t *p = w.codes + r * w.block + (g * kSteps + step) * 64;
      if constexpr (S::kFromMemory) prefetch(p + ahead);
      s.get(p, u[r]);
    });
    repeat<S::kUnits>(EACH(k) {
      repeat<T>(EACH(t) {
        const int32_t x4 = word(q + t * 4);
        repeat<R>(EACH(r) { whole[r][t] = dot<S::kBits>(whole[r][t], u[r][k], x4); });
      });
      q += unit;
    });
  }
}

// part[T][R * 16] += whole * unit * the scales of a group.
template <int R, int T>
INLINE void scaled(const Weights &w, const Tokens &x, size_t g, float unit, const I (&whole)[R][T], float *part) {
  repeat<R>(EACH(r) {
    const F scale = halves(w.scales + r * w.scale_block + g * 16);
    repeat<T>(EACH(t) {
      float *sum = part + (t * R + r) * 16;  // in memory: the registers are needed for whole numbers
      const F product = unit == 1.f ? real(whole[r][t]) : mul(real(whole[r][t]), set(unit));
      store(sum, fma(product, mul(scale, set(x.scale[g * x.width + t])), load(sum)));
    });
  });
}

// part[T][R * 16] += the products of R blocks of 16 rows with T tokens over `groups` groups. Where one of the tokens is fine, all
// take the second plane: 256 times a whole number and 1/256 of its fp32 are exact, so that the others' zeros change nothing.
template <class S, int R, int T> static void tile(const S &s, Weights w, const Tokens &x, size_t groups, float *part) {
  constexpr size_t kBytes = 2 * S::kBits;  // of a token's group, by unit
  for (size_t g = 0; g < groups; g++) {
    I whole[R][T];
    const auto start = [&](int plane, size_t t) __attribute__((always_inline)) {  // what offset weights bring too much
      return S::kBits == 8 && kOffset ? iset(-kOffset * x.sums[plane][g * x.width + t]) : izero();
    };
    repeat<T>(EACH(t) {
      const I first = start(0, t);
      repeat<R>(EACH(r) { whole[r][t] = first; });
    });
    group<S, R, T>(s, w, g, x.planes[0] + g * kBytes * x.unit, x.unit, whole);
    if (S::kBits == 16 || !x.template any_fine<T>(g)) {
      scaled<R, T>(w, x, g, 1.f, whole, part);
      continue;
    }
    repeat<T>(EACH(t) {
      const I second = start(1, t);
      repeat<R>(EACH(r) { whole[r][t] = iadd(times256(whole[r][t]), second); });
    });
    group<S, R, T>(s, w, g, x.planes[1] + g * kBytes * x.unit, x.unit, whole);
    scaled<R, T>(w, x, g, 1.f / 256, whole, part);
  }
}

// A whole tile of tokens, T at a time, the last ones in narrower tiles.
template <class S, int R, int T> static void one_tile(const S &s, Weights w, const Tokens &x, size_t from, size_t groups, float *part) {
  for (; from + T <= x.width; from += T) tile<S, R, T>(s, w, x.from(from), groups, part + from * R * 16);
  if constexpr (T > 1) {
    constexpr int kNext = T > 8 ? 8 : T > 4 ? 4 : T - 1;
    if (from < x.width) one_tile<S, R, kNext>(s, w, x, from, groups, part);
  }
}

template <class S, int R, int T>
static void all_tokens(const S &s, Weights w, const SpecexecActivations &x, size_t first, size_t groups, float *part) {
  for (size_t start = 0; start < size_t(x.n); start += kTokens)
    one_tile<S, R, T>(s, w, Tokens(x, start, first), 0, groups, part + start * R * 16);
}

constexpr size_t kPanelBytes = 1 << 17;  // of unpacked weights, reused by every token from the second-level cache

struct Scratch {  // one thread's
  std::unique_ptr<uint8_t[], decltype(&std::free)> panel{(uint8_t *)std::aligned_alloc(64, kPanelBytes), &std::free};
  std::unique_ptr<float[]> part;
  size_t size = 0;
  float *parts(size_t wanted) {
    if (wanted > size) part.reset(new float[wanted]), size = wanted;
    std::fill_n(part.get(), wanted, 0.f);
    return part.get();
  }
};

template <class S, int R>
static void unpack(const S &s, const Weights &w, size_t first, size_t groups, uint8_t *panel) {
  constexpr int kSteps = S::kBits * 2 / S::kUnits;
  const size_t steps = groups * kSteps, row = steps * S::kUnits * 64;
  for (int r = 0; r < R; r++)
    for (size_t i = 0; i < steps; i++) {
      B u[S::kUnits];
      const uint8_t *p = w.codes + r * w.block + (first * kSteps + i) * 64;
      prefetch(p + kAhead);
      s.get(p, u);
      repeat<S::kUnits>(EACH(k) { keep(panel + r * row + (i * S::kUnits + k) * 64, u[k]); });
    }
}

template <class S, int R>
static void block(const S &s, const Weights &w, const SpecexecActivations &x, Scratch &scratch, float *part) {
  const size_t all = size_t(x.groups);
  if (x.n <= kDirectTokens) return all_tokens<S, R, kTokens>(s, w, x, 0, all, part);
  constexpr size_t kUnpacked = 128 * S::kBits;  // bytes of a group of 16 rows
  const size_t most = kPanelBytes / (R * kUnpacked);
  for (size_t first = 0; first < all; first += most) {
    const size_t groups = std::min(most, all - first);
    unpack<S, R>(s, w, first, groups, scratch.panel.get());
    const Weights p{scratch.panel.get(), w.scales + first * 16, groups * kUnpacked, w.scale_block};
    all_tokens<Panel<S::kBits>, R, kTokens>({}, p, x, first, groups, part);
  }
}

template <class S, int R>
static void finish(const SpecexecMatrix &m, int64_t row, int64_t n, const float *part) {
  const int64_t width = std::min<int64_t>(R * 16, m.rows - row);
  for (int64_t t = 0; t < n; t++) {
    float *out = m.out + t * m.stride + row;
    const float *from = part + t * R * 16;
    for (int64_t i = 0; i < width; i++) {
      float y = from[i] * S::kFactor;
      if (m.bias) y += m.bias[row + i];
      out[i] = m.adds ? out[i] + y : y;
    }
  }
}

template <class S, int R>
static void blocks(const SpecexecMatrix &m, int64_t b, const SpecexecActivations &x, Scratch &scratch) {
  static const S source;
  const size_t bytes = size_t(x.groups) * 64 * (m.kind == 0 ? 8 : 16), scales = size_t(x.groups) * 16;
  float *part = scratch.parts(size_t(x.n) * R * 16);
  block<S, R>(source, {m.codes + b * bytes, m.scales + b * scales, bytes, scales}, x, scratch, part);
  finish<S, R>(m, b * 16, x.n, part);
}

template <class S> static void rows(const SpecexecMatrix &m, int64_t b, const SpecexecActivations &x, Scratch &scratch) {
  const int64_t count = (m.rows + 15) / 16;
  if (b + kTileRows <= count) return blocks<S, kTileRows>(m, b, x, scratch);
  blocks<S, 1>(m, b, x, scratch);
}

static void one(const SpecexecMatrix &m, int64_t b, const SpecexecActivations &x, Scratch &scratch) {
  if (x.bits == 8) m.kind == 0 ? rows<Nf4x8>(m, b, x, scratch) : rows<Int8x8>(m, b, x, scratch);
  else m.kind == 0 ? rows<Nf4x16>(m, b, x, scratch) : rows<Int8x16>(m, b, x, scratch);
}

static void linear(const SpecexecMatrix *matrices, int64_t count, const SpecexecActivations *x) {
  int64_t ends[16], total = 0;  // tasks of kTileRows blocks, matrix after matrix
  for (int64_t i = 0; i < count; i++) ends[i] = total += ((matrices[i].rows + 15) / 16 + kTileRows - 1) / kTileRows;
  const double work = double(total) * kTileRows * 1024 * double(x->groups) * double(x->n);
  const int64_t share = std::max<int64_t>(1, total / (kShares * x->threads));
  (void)work, (void)share;
#pragma omp parallel for schedule(dynamic, share) num_threads(x->threads) if (x->threads > 1 && work > kWorthWaking)
  for (int64_t task = 0; task < total; task++) {
    static thread_local Scratch scratch;
    const int64_t i = std::upper_bound(ends, ends + count, task) - ends;
    one(matrices[i], (task - (i ? ends[i - 1] : 0)) * kTileRows, *x, scratch);
  }
}

void fill_linear(Kernels &k) { k.linear = linear, k.tokens = kTokens; }

}  // namespace specexec::SPECEXEC_ISA
