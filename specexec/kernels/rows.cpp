// What is done to one token's row at a time, in one order whatever is beside it: norms, SiLU, RoPE, rounding of activations.
#include <algorithm>
#include <memory>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kGroup = 64;
constexpr int64_t kRowsWorthWaking = 8;
constexpr float kDrowned = 77;  // linear.py's DROWNED

struct Row {  // one thread's, its end filled with zeros up to whole groups
  std::vector<float> values;
  float *take(int64_t columns, int64_t padded) {
    values.resize(size_t(padded));
    std::fill(values.begin() + columns, values.end(), 0.f);
    return values.data();
  }
};
static thread_local Row row_a, row_b;

// One group's codes, four bytes of them every `unit` bytes: as linear.cpp's tiles of tokens want them.
INLINE void spread(const int8_t *codes, uint8_t *to, int64_t unit) {
  for (int i = 0; i < kGroup / 4; i++) std::memcpy(to + i * unit, codes + 4 * i, 4);
}
INLINE void spread(const int16_t *codes, uint8_t *to, int64_t unit) {
  for (int i = 0; i < kGroup; i += 4) {
    const int16_t even[2] = {codes[i], codes[i + 2]}, odd[2] = {codes[i + 1], codes[i + 3]};
    std::memcpy(to + i / 2 * unit, even, 4), std::memcpy(to + (i / 2 + 1) * unit, odd, 4);
  }
}
INLINE void store_codes(int8_t *p, I q) { store8(p, q); }
INLINE void store_codes(int16_t *p, I q) { store16(p, q); }

// Where one token's codes of one group go.
struct Place {
  uint8_t *q, *low;  // low: null where there is none
  int64_t unit, width;  // unit: bytes from four columns to the next four; width: from one half's sum to the other's
  float *scale;
  int32_t *sum, *low_sum;
  uint8_t *fine;
  Place(const SpecexecActivations &to, int64_t token, int64_t g) {
    const int64_t start = token / kTokens * kTokens, lane = token - start;
    width = std::min<int64_t>(kTokens, to.n - start);
    const int64_t at = start * to.groups + g * width + lane, group = kGroup * to.bits / 8, all = to.n * to.groups;
    q = (uint8_t *)to.q + (start * to.groups + g * width) * group + lane * 4, low = to.bits == 8 ? q + all * kGroup : nullptr;
    unit = 4 * width, scale = to.scale + at, fine = to.fine + at;
    sum = to.sum + 2 * (start * to.groups + g * width) + lane, low_sum = sum + 2 * all;
  }
};

// Whether the largest value takes so much of eight bits that too little is left for the others but zeros: squares of whole
// numbers, so that their sum has no order.
INLINE bool drowned(const F *exact, const F *codes) {
  F squares = zero(), others = zero();
  for (int i = 0; i < 4; i++) {
    squares = fma(codes[i], codes[i], squares);
    others = add(others, where_above(abs(exact[i]), zero(), set(1.f)));
  }
  const float count = sum(others) - 1.f;
  return count > 0 && sum(squares) < 127.f * 127.f + kDrowned * count;
}

template <class T> INLINE void put(const F *codes, uint8_t *q, int32_t *sum, const Place &to) {
  T out[kGroup];
  for (int half = 0; half < 2; half++) {
    const I code[2] = {whole(codes[2 * half]), whole(codes[2 * half + 1])};
    store_codes(out + 32 * half, code[0]), store_codes(out + 32 * half + 16, code[1]);
    sum[half * to.width] = isum(iadd(code[0], code[1]));
  }
  spread(out, q, to.unit);
}

// 256 times what rounding took away; no more than a byte has
INLINE void put_low(const F *exact, const F *codes, const Place &to) {
  F low[4];
  *to.fine = drowned(exact, codes);
  const F factor = set(*to.fine ? 256.f : 0.f), most = set(127.f);
  for (int i = 0; i < 4; i++) low[i] = max(min(mul(sub(exact[i], codes[i]), factor), most), sub(zero(), most));
  put<int8_t>(low, to.low, to.low_sum, to);
}

// 64 values to whole numbers
template <class T> INLINE void quantise_group(const float *x, const Place &to) {
  constexpr float kMost = sizeof(T) == 1 ? 127.f : 16383.f;
  const F v[4] = {load(x), load(x + 16), load(x + 32), load(x + 48)};
  const float top = largest(max(max(abs(v[0]), abs(v[1])), max(abs(v[2]), abs(v[3]))));
  const F inverse = set(top > 0 ? kMost / top : 0.f);
  F exact[4], codes[4];
  for (int i = 0; i < 4; i++) exact[i] = mul(v[i], inverse), codes[i] = nearest(exact[i]);
  *to.scale = top / kMost;
  put<T>(codes, to.q, to.sum, to);
  if constexpr (sizeof(T) == 1) put_low(exact, codes, to);
}

static void quantise_row(const float *x, const SpecexecActivations &to, int64_t token) {
  for (int64_t g = 0; g < to.groups; g++) {
    const Place place(to, token, g);
    if (to.bits == 8) quantise_group<int8_t>(x + g * kGroup, place);
    else quantise_group<int16_t>(x + g * kGroup, place);
  }
}

// columns up to a whole group, so that sums take the same way however long the row is
static float inverse_rms(const float *x, int64_t padded, int64_t columns, float eps) {
  F squares[4] = {zero(), zero(), zero(), zero()};
  for (int64_t i = 0; i < padded; i += kGroup)
    for (int j = 0; j < 4; j++) {
      const F v = load(x + i + 16 * j);
      squares[j] = fma(v, v, squares[j]);
    }
  const float total = sum(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
  return 1.f / std::sqrt(total / float(columns) + eps);
}

static const float *padded_row(const float *x, int64_t columns, int64_t padded, Row &row) {
  if (columns == padded) return x;
  float *copy = row.take(columns, padded);
  std::copy(x, x + columns, copy);
  return copy;
}

static void norm_row(const float *x, const float *weight, int64_t columns, int64_t padded, float eps, float *out) {
  const float *in = padded_row(x, columns, padded, row_a);
  const float r = inverse_rms(in, padded, columns, eps);
  for (int64_t i = 0; i < columns; i++) out[i] = in[i] * r * weight[i];
}

static int64_t whole_groups(int64_t columns) { return (columns + kGroup - 1) / kGroup * kGroup; }

static void norm(const float *x, const float *weight, int64_t n, int64_t columns, float eps, float *out, int32_t threads) {
  (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1 && n >= kRowsWorthWaking)
  for (int64_t t = 0; t < n; t++) norm_row(x + t * columns, weight, columns, whole_groups(columns), eps, out + t * columns);
}

static void quantise(const float *x, int64_t columns, const SpecexecActivations *to) {
#pragma omp parallel for num_threads(to->threads) if (to->threads > 1 && to->n >= kRowsWorthWaking)
  for (int64_t t = 0; t < to->n; t++)
    quantise_row(padded_row(x + t * columns, columns, to->groups * kGroup, row_a), *to, t);
}

static void norm_quantise(const float *x, const float *weight, int64_t columns, float eps, const SpecexecActivations *to) {
#pragma omp parallel for num_threads(to->threads) if (to->threads > 1 && to->n >= kRowsWorthWaking)
  for (int64_t t = 0; t < to->n; t++) {
    float *out = row_b.take(columns, to->groups * kGroup);
    norm_row(x + t * columns, weight, columns, to->groups * kGroup, eps, out);
    quantise_row(out, *to, t);
  }
}

// gate * sigmoid(gate) * up
INLINE F silu(F gate, F up) {
  const F e = exp(sub(zero(), abs(gate))), above = where_above(gate, zero(), set(1.f));
  const F top = add(above, mul(sub(set(1.f), above), e));
  return mul(mul(gate, div(top, add(set(1.f), e))), up);
}

static void silu_quantise(const float *gate_up, int64_t columns, const SpecexecActivations *to) {
  const int64_t padded = to->groups * kGroup;
#pragma omp parallel for num_threads(to->threads) if (to->threads > 1 && to->n >= kRowsWorthWaking)
  for (int64_t t = 0; t < to->n; t++) {
    const float *gate = padded_row(gate_up + 2 * t * columns, columns, padded, row_a);
    const float *up = padded_row(gate_up + (2 * t + 1) * columns, columns, padded, row_b);
    static thread_local std::vector<float> out;
    out.resize(size_t(padded));
    for (int64_t i = 0; i < padded; i += 16) store(out.data() + i, silu(load(gate + i), load(up + i)));
    quantise_row(out.data(), *to, t);
  }
}

// x[head_dim] normed where there is a weight, then turned; out may be x
static void turn(const float *x, const float *weight, const SpecexecRope &r, const float *angles, float scaling, float *out) {
  const int64_t half = r.head_dim / 2;
  float normed[1024];
  if (weight) {
    norm_row(x, weight, r.head_dim, whole_groups(r.head_dim), r.eps, normed);
    x = normed;
  }
  const float *c = angles, *s = angles + half;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    out[i] = (a * c[i] - b * s[i]) * scaling, out[i + half] = (b * c[i] + a * s[i]) * scaling;
  }
}

static void place_key(const float *k, const SpecexecRope &r, const SpecexecCache &to, int64_t head, int64_t row) {
  uint16_t *tile = to.keys + (head * to.capacity + row / 16 * 16) * to.dim + row % 16 * 2;
  for (int64_t d = 0; d < to.dim; d++) tile[d / 2 * 32 + d % 2] = d < r.head_dim ? to_bf16(k[d]) : 0;
}

static void place_value(const float *v, const SpecexecRope &r, const SpecexecCache &to, int64_t head, int64_t row) {
  uint16_t *out = to.values + (head * to.capacity + row) * to.dim;
  for (int64_t d = 0; d < to.dim; d++) out[d / 32 * 32 + d % 16 * 2 + d % 32 / 16] = d < r.head_dim ? to_bf16(v[d]) : 0;
}

static void rope_token(const SpecexecRope &r, const SpecexecCache &to, int64_t t) {
  const float *x = r.qkv + t * (r.heads + 2 * to.kv_heads) * r.head_dim, *angles = r.angles + t * r.head_dim;
  float *q = r.q + t * r.heads * to.dim;
  for (int64_t h = 0; h < r.heads; h++, x += r.head_dim) {
    turn(x, r.q_norm, r, angles, r.scaling, q + h * to.dim);
    std::fill(q + h * to.dim + r.head_dim, q + (h + 1) * to.dim, 0.f);
  }
  float k[1024];
  for (int64_t h = 0; h < to.kv_heads; h++, x += r.head_dim) {
    turn(x, r.k_norm, r, angles, 1.f, k);
    place_key(k, r, to, h, r.row + t);
  }
  for (int64_t h = 0; h < to.kv_heads; h++, x += r.head_dim) place_value(x, r, to, h, r.row + t);
}

static void rope(const SpecexecRope *what, const SpecexecCache *to) {
#pragma omp parallel for num_threads(what->threads) if (what->threads > 1 && what->n >= kRowsWorthWaking)
  for (int64_t t = 0; t < what->n; t++) rope_token(*what, *to, t);
}

static void move_head(const SpecexecCache &c, int64_t head, int64_t to, const int64_t *from, int64_t count, uint16_t *kept) {
  uint16_t *keys = c.keys + head * c.capacity * c.dim, *values = c.values + head * c.capacity * c.dim;
  const auto key = [&](int64_t row, int64_t pair) { return keys + row / 16 * 16 * c.dim + pair * 32 + row % 16 * 2; };
  for (int64_t i = 0; i < count; i++) {
    uint16_t *k = kept + 2 * i * c.dim;
    for (int64_t p = 0; p < c.dim / 2; p++) std::copy_n(key(from[i], p), 2, k + 2 * p);
    std::copy_n(values + from[i] * c.dim, c.dim, k + c.dim);
  }
  for (int64_t i = 0; i < count; i++) {
    const uint16_t *k = kept + 2 * i * c.dim;
    for (int64_t p = 0; p < c.dim / 2; p++) std::copy_n(k + 2 * p, 2, key(to + i, p));
    std::copy_n(k + c.dim, c.dim, values + (to + i) * c.dim);
  }
}

// rows from[0..count) of every layer to to.., which may overlap
static void move(const SpecexecCache *layers, int64_t count_layers, int64_t to, const int64_t *from, int64_t count) {
  std::vector<uint16_t> kept;
  for (const SpecexecCache *c = layers; c < layers + count_layers; c++) {
    kept.resize(size_t(2 * count * c->dim));
    for (int64_t h = 0; h < c->kv_heads; h++) move_head(*c, h, to, from, count, kept.data());
  }
}

void fill_rows(Kernels &k) {
  k.quantise = quantise, k.norm = norm, k.norm_quantise = norm_quantise, k.silu_quantise = silu_quantise;
  k.rope = rope, k.move = move;
}

}  // namespace specexec::SPECEXEC_ISA
