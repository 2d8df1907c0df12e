// Products of 3-bit, 4-bit and 8-bit matrices with quantised activations. Sums within a group of 64 columns are whole numbers, groups
// are added in order: a row of the result depends on its own activations alone, whatever is computed beside it.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <type_traits>

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

// 3bit's levels (three_bit.py), of which 127 is 1: whole numbers as they are.
constexpr int kThreeBit[8] = {-90, -53, -25, 0, 23, 48, 79, 127};

constexpr size_t kAhead = 4096;  // bytes: left to itself, the CPU reads weights at 0.8 of memory's rate
constexpr double kWorthWaking = 5e5;  // products: below, one thread is done before a second wakes
constexpr int64_t kShares = 8;  // a thread: more begin anew more often, fewer leave a slow thread alone at the end

template <class T> struct Levels {
  T t[16];
  explicit Levels(double unit) {
    for (int i = 0; i < 16; i++) t[i] = unit ? T(std::lrint(kNf4[i] * unit)) : T(i - 8);
  }
};

constexpr float kNf4Unit(int bits) { return bits == 8 ? kNf4Unit8 : kNf4Unit16; }

// Where a tile's weights come from: units of 64 bytes, of which kParts times kUnits come out of kBytes in memory; `get` makes
// those of one part. kFactor: one code's worth. kSpans: scales in a group of 64 columns.
template <int BITS, int SPANS> struct Fours {  // nf4, and q4_0 whose levels are -8 to 7
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = BITS, kUnits = BITS / 4, kSpans = SPANS, kParts = 1, kBytes = 64;
  static constexpr float kFactor = SPANS == 1 ? 1 / kNf4Unit(BITS) : 1.f;
  std::conditional_t<BITS == 8, Table8, Table16> table{
      Levels<std::conditional_t<BITS == 8, int8_t, int16_t>>(SPANS == 1 ? kNf4Unit(BITS) : 0).t};
  template <int PART> INLINE_METHOD void get(const uint8_t *p, B *out) const { table.look(bytes(p), out); }
};
template <int BITS, int SPANS> struct Eights {  // int8, and q8_0
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = BITS, kUnits = BITS / 8, kSpans = SPANS, kParts = 1, kBytes = 64;
  static constexpr float kFactor = SPANS == 1 ? 1 / 127.f : 1.f;
  template <int PART> INLINE_METHOD void get(const uint8_t *p, B *out) const {
    const B w = bytes(p);
    if constexpr (BITS == 8) out[0] = offset(w);
    else out[0] = even16(w), out[1] = odd16(w);
  }
};
template <int BITS> struct Threes {  // 3bit: two lines of lower bits, and one of upper ones
  static constexpr bool kFromMemory = true;
  static constexpr int kBits = BITS, kUnits = BITS / 4, kSpans = 1, kParts = 4, kBytes = 192;
  static constexpr float kFactor = 1 / 127.f;
  Octet table{kThreeBit, BITS == 8 ? kOffset : 0};
  template <int PART> INLINE_METHOD void get(const uint8_t *p, B *out) const {
    const B lower = bytes(p + PART / 2 * 64), upper = bytes(p + 128);
    const B first = table.template look<2 * PART>(lower, upper), second = table.template look<2 * PART + 1>(lower, upper);
    if constexpr (BITS == 8) out[0] = first, out[1] = second;
    else out[0] = even16(first), out[1] = odd16(first), out[2] = even16(second), out[3] = odd16(second);
  }
};
template <int BITS, int SPANS> struct Panel {  // unpacked before
  static constexpr bool kFromMemory = false;
  static constexpr int kBits = BITS, kUnits = 1, kSpans = SPANS, kParts = 1, kBytes = 64;
  template <int PART> INLINE_METHOD void get(const uint8_t *p, B *out) const { out[0] = bytes(p); }
};

template <class S> constexpr int kSteps = S::kBits * 2 / (S::kUnits * S::kParts);  // of kBytes, in a group of 16 rows

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
    for (size_t i = 0; i < 2; i++) planes[i] = (const uint8_t *)x.q + byte + i * all * 64, sums[i] = x.sum + 2 * (at + i * all);
    fine = x.fine + at, scale = x.scale + at;
  }
  Tokens from(size_t t) const {
    Tokens next = *this;
    for (int i = 0; i < 2; i++) next.planes[i] += 4 * t, next.sums[i] += t;
    next.fine += t, next.scale += t;
    return next;
  }
  // Sum of one plane's codes in span `s`, of which a group has SPANS.
  template <int SPANS> INLINE_METHOD int32_t total(int plane, size_t s, size_t t) const {
    const int32_t *p = sums[plane] + 2 / SPANS * s * width + t;
    return SPANS == 2 ? *p : p[0] + p[width];
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

// whole[r][t] += the products of one span's codes, those that share a scale, with one plane of activations.
template <class S, int R, int T>
INLINE void span(const S &s, const Weights &w, size_t i, const uint8_t *q, size_t unit, I (&whole)[R][T]) {
  constexpr int steps = kSteps<S> / S::kSpans;
  const uint8_t *from = w.codes + i * steps * S::kBytes;
  const size_t ahead = ahead_of<R>(i * steps * S::kBytes, w.block);
  for (int step = 0; step < steps; step++, from += S::kBytes) {
    repeat<S::kParts>(EACH(part) {
      B u[R][S::kUnits];
      repeat<R>(EACH(r) {
        const uint8_t *p = from + r * w.block;
        if constexpr (S::kFromMemory && part * 64 < S::kBytes) prefetch(p + part * 64 + ahead);
        s.template get<part>(p, u[r]);
      });
      repeat<S::kUnits>(EACH(k) {
        repeat<T>(EACH(t) {
          const int32_t x4 = word(q + t * 4);
          repeat<R>(EACH(r) { whole[r][t] = dot<S::kBits>(whole[r][t], u[r][k], x4); });
        });
        q += unit;
      });
    });
  }
}

// part[T][R * 16] += whole * unit * the scales of span `i`, and of the group it is in.
template <int SPANS, int R, int T>
INLINE void scaled(const Weights &w, const Tokens &x, size_t i, float unit, const I (&whole)[R][T], float *part) {
  repeat<R>(EACH(r) {
    const F scale = halves(w.scales + r * w.scale_block + i * 16);
    repeat<T>(EACH(t) {
      float *sum = part + (t * R + r) * 16;  // in memory: the registers are needed for whole numbers
      const F product = unit == 1.f ? real(whole[r][t]) : mul(real(whole[r][t]), set(unit));
      store(sum, fma(product, mul(scale, set(x.scale[i / SPANS * x.width + t])), load(sum)));
    });
  });
}

// part[T][R * 16] += the products of R blocks of 16 rows with T tokens over `groups` groups. Where one of the tokens is fine, all
// take the second plane: 256 times a whole number and 1/256 of its fp32 are exact, so that the others' zeros change nothing.
template <class S, int R, int T> static void tile(const S &s, Weights w, const Tokens &x, size_t groups, float *part) {
  constexpr size_t kBytes = 2 * S::kBits / S::kSpans;  // of a token's span, by unit
  for (size_t i = 0; i < groups * S::kSpans; i++) {
    I whole[R][T];
    const auto start = [&](int plane, size_t t) __attribute__((always_inline)) {  // what offset weights bring too much
      return S::kBits == 8 && kOffset ? iset(-kOffset * x.template total<S::kSpans>(plane, i, t)) : izero();
    };
    repeat<T>(EACH(t) {
      const I first = start(0, t);
      repeat<R>(EACH(r) { whole[r][t] = first; });
    });
    span<S, R, T>(s, w, i, x.planes[0] + i * kBytes * x.unit, x.unit, whole);
    if (S::kBits == 16 || !x.template any_fine<T>(i / S::kSpans)) {
      scaled<S::kSpans, R, T>(w, x, i, 1.f, whole, part);
      continue;
    }
    repeat<T>(EACH(t) {
      const I second = start(1, t);
      repeat<R>(EACH(r) { whole[r][t] = iadd(times256(whole[r][t]), second); });
    });
    span<S, R, T>(s, w, i, x.planes[1] + i * kBytes * x.unit, x.unit, whole);
    scaled<S::kSpans, R, T>(w, x, i, 1.f / 256, whole, part);
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
  for (int r = 0; r < R; r++)
    for (size_t i = 0; i < groups * kSteps<S>; i++)
      repeat<S::kParts>(EACH(part) {
        B u[S::kUnits];
        const uint8_t *p = w.codes + r * w.block + (first * kSteps<S> + i) * S::kBytes;
        if constexpr (part * 64 < S::kBytes) prefetch(p + part * 64 + kAhead);
        s.template get<part>(p, u);
        repeat<S::kUnits>(EACH(k) { keep(panel + k * 64, u[k]); });
        panel += S::kUnits * 64;
      });
}

template <class S, int R>
static void block(const S &s, const Weights &w, const SpecexecActivations &x, Scratch &scratch, float *part) {
  const size_t all = size_t(x.groups);
  constexpr int kWidest = R < kTileRows ? 4 : kTokens;  // a matrix's odd last block is not worth compiling wide tiles for
  if (x.n <= kDirectTokens) return all_tokens<S, R, kWidest>(s, w, x, 0, all, part);
  constexpr size_t kUnpacked = 128 * S::kBits;  // bytes of a group of 16 rows
  const size_t most = kPanelBytes / (R * kUnpacked);
  for (size_t first = 0; first < all; first += most) {
    const size_t groups = std::min(most, all - first);
    unpack<S, R>(s, w, first, groups, scratch.panel.get());
    const Weights p{scratch.panel.get(), w.scales + first * S::kSpans * 16, groups * kUnpacked, w.scale_block};
    all_tokens<Panel<S::kBits, S::kSpans>, R, kWidest>({}, p, x, first, groups, part);
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
  const size_t bytes = size_t(x.groups) * kSteps<S> * S::kBytes, scales = size_t(x.groups) * S::kSpans * 16;
  float *part = scratch.parts(size_t(x.n) * R * 16);
  block<S, R>(source, {m.codes + b * bytes, m.scales + b * scales, bytes, scales}, x, scratch, part);
  finish<S, R>(m, b * 16, x.n, part);
}

template <class S> static void rows(const SpecexecMatrix &m, int64_t b, const SpecexecActivations &x, Scratch &scratch) {
  const int64_t count = (m.rows + 15) / 16;
  if (b + kTileRows <= count) return blocks<S, kTileRows>(m, b, x, scratch);
  blocks<S, 1>(m, b, x, scratch);
}

template <int BITS> static void one(const SpecexecMatrix &m, int64_t b, const SpecexecActivations &x, Scratch &scratch) {
  switch (m.kind) {
    case 0: return rows<Fours<BITS, 1>>(m, b, x, scratch);
    case 1: return rows<Eights<BITS, 1>>(m, b, x, scratch);
    case 2: return rows<Fours<BITS, 2>>(m, b, x, scratch);
    case 3: return rows<Eights<BITS, 2>>(m, b, x, scratch);
    default: return rows<Threes<BITS>>(m, b, x, scratch);
  }
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
    const int64_t first = (task - (i ? ends[i - 1] : 0)) * kTileRows;
    x->bits == 8 ? one<8>(matrices[i], first, *x, scratch) : one<16>(matrices[i], first, *x, scratch);
  }
}

void fill_linear(Kernels &k) { k.linear = linear, k.tokens = kTokens; }

}  // namespace specexec::SPECEXEC_ISA
