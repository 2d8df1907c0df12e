// Random calls of one instruction set's kernels on heap buffers of exactly the documented sizes, against simple loops.
//
// Built with the address and undefined-behaviour sanitizers (tests/fuzz/__main__.py): a read or write beyond a buffer ends it.
// usage: fuzz SECONDS SEED. A failure names the case; `fuzz 0 CASE` runs that one alone.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels.h"

extern "C" void __sanitizer_set_death_callback(void (*)());

namespace specexec::SPECEXEC_ISA {
void fill_linear(Kernels &);
void fill_attention(Kernels &);
void fill_rows(Kernels &);
void fill_hierarchical(Kernels &);
void fill_logits(Kernels &);
void fill_noise(Kernels &);
}

using specexec::Kernels;

namespace {

Kernels kernels;
unsigned long current;
const char *what = "";
std::mt19937_64 source;
constexpr double kUlp = 1.0 / (1 << 24);

void say() { std::fprintf(stderr, "fuzz: case %lu, %s\n", current, what); }

void check(bool good, const char *which) {
  if (good) return;
  std::fprintf(stderr, "fuzz: %s differs\n", which);
  say(), std::abort();
}

int64_t number(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(source); }
bool chance(double p) { return std::uniform_real_distribution<>()(source) < p; }
float normal() { return std::normal_distribution<float>()(source); }

// Exactly so many, ending where the allocation ends, and starting at any multiple of their size.
template <class T> class Buffer {
 public:
  explicit Buffer(int64_t size) : skip_(number(0, 16)), size_(size), held_(new T[size_t(skip_ + size)]) {}
  Buffer(int64_t size, T value) : Buffer(size) { std::fill_n(get(), size, value); }
  T *get() { return held_.get() + skip_; }
  T &operator[](int64_t i) { return get()[i]; }
  int64_t size() const { return size_; }

 private:
  int64_t skip_, size_;
  std::unique_ptr<T[]> held_;
};
template <class T> T *maybe(Buffer<T> &b, bool wanted) { return wanted ? b.get() : nullptr; }

Buffer<float> normals(int64_t size, float scale = 1) {
  Buffer<float> made(size);
  for (int64_t i = 0; i < size; i++) made[i] = normal() * scale;
  return made;
}

float from_half(uint16_t h) {
  const int e = h >> 10 & 31, m = h & 1023;
  const float f = e ? std::ldexp(float(1024 + m), e - 25) : std::ldexp(float(m), -24);
  return h & 0x8000 ? -f : f;
}
float from_bf16(uint16_t x) {
  const uint32_t u = uint32_t(x) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
uint16_t to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// ---- activations ---------------------------------------------------------------------------------------------------

struct Tokens {  // buffers of SpecexecActivations, and what kernels.h says of their order
  int64_t n, columns, groups;
  int32_t bits;
  Buffer<uint8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sum;
  Buffer<uint8_t> fine;
  Tokens(int64_t count, int64_t wide, int32_t b)
      : n(count), columns(wide), groups((wide + 63) / 64), bits(b), q(n * groups * 128, 0xaa), scale(n * groups, -1.f),
        sum(n * groups * (bits == 8 ? 4 : 2), -1), fine(n * groups, 0xaa) {}
  SpecexecActivations call() {
    return {q.get(), scale.get(), sum.get(), fine.get(), n, groups, bits, int32_t(number(1, 2))};
  }
  int64_t start(int64_t t) const { return t / kernels.tokens * kernels.tokens; }
  int64_t width(int64_t t) const { return std::min(kernels.tokens, n - start(t)); }
  int64_t place(int64_t t, int64_t g) const { return start(t) * groups + g * width(t) + t - start(t); }
  int low(int64_t t, int64_t column) {  // of the second plane of 8 bits
    const int64_t from = (n + start(t)) * groups * 64;
    return bits == 8 ? int8_t(q[from + (column / 4 * width(t) + t - start(t)) * 4 + column % 4]) : 0;
  }
  int code(int64_t t, int64_t column) {
    const int64_t lane = t - start(t), w = width(t), from = start(t) * groups * 8 * bits;
    if (bits == 8) return int8_t(q[from + (column / 4 * w + lane) * 4 + column % 4]);
    const int64_t pair = column / 4 * 2 + column % 2, half = column % 4 / 2;  // of every 4 columns 0, 2, 1, 3
    int16_t code;
    std::memcpy(&code, q.get() + from + (pair * w + lane) * 4 + half * 2, 2);
    return code;
  }
  double value(int64_t t, int64_t column) {
    return (code(t, column) + low(t, column) / 256.) * double(scale[place(t, column / 64)]);
  }
  float most() const { return bits == 8 ? 127.f : 16383.f; }
  void check_sums() {
    for (int64_t t = 0; t < n; t++)
      for (int64_t g = 0; g < groups; g++) {
        int32_t total[2] = {}, low_total[2] = {};
        for (int64_t c = g * 64; c < g * 64 + 64; c++) {
          total[c % 64 / 32] += code(t, c), low_total[c % 64 / 32] += low(t, c);
          check(std::abs(code(t, c)) <= int(most()) && (c < columns || !code(t, c)), "a code");
        }
        for (int64_t half = 0; half < 2; half++) {
          const int64_t at = 2 * start(t) * groups + (2 * g + half) * width(t) + t - start(t);
          check(total[half] == sum[at], "a sum");
          if (bits == 8) check(low_total[half] == sum[2 * n * groups + at], "a sum of the second plane");
        }
        for (int64_t c = g * 64; c < g * 64 + 64 && bits == 8 && !fine[place(t, g)]; c++) check(!low(t, c), "a low code");
      }
  }
  void check_equal(Tokens &o) {
    check(!std::memcmp(q.get(), o.q.get(), size_t(q.size())) &&
          (bits == 16 || !std::memcmp(fine.get(), o.fine.get(), size_t(fine.size()))) &&
          !std::memcmp(scale.get(), o.scale.get(), size_t(scale.size()) * 4) &&
          !std::memcmp(sum.get(), o.sum.get(), size_t(sum.size()) * 4), "activations");
  }
};

int32_t some_bits() { return chance(0.5) ? 8 : 16; }
int64_t some_tokens() { return chance(0.1) ? number(41, 300) : number(1, 40); }
int64_t some_columns() { return chance(0.05) ? number(2000, 8400) : chance(0.3) ? 64 * number(1, 6) : number(1, 400); }
float some_scale() { return std::pow(10.f, float(number(-25, 25))); }

Tokens quantised(Buffer<float> &x, int64_t n, int64_t columns, int32_t bits) {
  Tokens made(n, columns, bits);
  const auto to = made.call();
  kernels.quantise(x.get(), columns, &to);
  return made;
}

void fuzz_quantise() {
  const int64_t n = some_tokens(), columns = number(1, 300);
  Buffer<float> x = normals(n * columns, some_scale());
  for (int64_t i = 0; i < x.size(); i++) x[i] *= chance(0.02) ? 1000 : chance(0.02) ? 0 : 1;
  if (chance(0.3)) std::fill_n(x.get() + number(0, n - 1) * columns, columns, 0.f);
  Tokens made = quantised(x, n, columns, some_bits());
  made.check_sums();
  for (int64_t t = 0; t < n; t++)
    for (int64_t g = 0; g < made.groups; g++) {
      float top = 0;
      const int64_t from = t * columns + g * 64, to = t * columns + std::min(columns, g * 64 + 64);
      for (int64_t i = from; i < to; i++) top = std::max(top, std::fabs(x[i]));
      check(made.scale[made.place(t, g)] == top / made.most(), "a scale");
      const float inverse = top > 0 ? made.most() / top : 0;
      int64_t squares = 0, others = -1;
      for (int64_t i = from; i < to; i++) {
        const int64_t code = made.code(t, i - t * columns);
        squares += code * code, others += x[i] * inverse != 0;
      }
      if (made.bits == 8) check(made.fine[made.place(t, g)] == (others > 0 && squares < 16129 + 77 * others), "a group that is fine");
      for (int64_t i = from; i < to; i++) {
        const float exact = x[i] * inverse, code = std::nearbyint(exact), low = std::nearbyint((exact - code) * 256);
        check(made.code(t, i - t * columns) == int(code), "a rounded value");
        if (made.bits == 8 && made.fine[made.place(t, g)])
          check(made.low(t, i - t * columns) == int(std::clamp(low, -127.f, 127.f)), "what rounding took away");
      }
    }
}

void fuzz_norm() {
  const int64_t n = some_tokens(), columns = number(1, 300);
  const float eps = 1e-5f;
  Buffer<float> x = normals(n * columns, some_scale()), weight = normals(columns), out(n * columns, NAN);
  kernels.norm(x.get(), weight.get(), n, columns, eps, out.get(), int32_t(number(1, 2)));
  for (int64_t t = 0; t < n; t++) {
    double squares = 0;
    for (int64_t i = 0; i < columns; i++) squares += double(x[t * columns + i]) * x[t * columns + i];
    if (squares > 1e37 || squares < 1e-30) continue;  // beyond fp32
    for (int64_t i = 0; i < columns; i++) {
      const double wanted = x[t * columns + i] / std::sqrt(squares / double(columns) + eps) * weight[i];
      check(std::fabs(out[t * columns + i] - wanted) <= (20 + double(columns) / 16) * kUlp * std::fabs(wanted) + 1e-37, "a norm");
    }
  }
  Tokens both(n, columns, some_bits());
  const auto to = both.call();
  kernels.norm_quantise(x.get(), weight.get(), columns, eps, &to);
  Tokens apart = quantised(out, n, columns, both.bits);
  both.check_equal(apart);
}

// A longer row begins with a shorter one; each value has the distribution's own range.
void fuzz_noise() {
  const int64_t n = chance(0.1) ? number(16000, 40000) : number(1, 3000), more = number(0, 700);
  const uint64_t seed = source(), answer = source() >> number(0, 63), index = uint64_t(number(0, 1 << 20));
  Buffer<float> out(n, NAN), longer(n + more, NAN);
  const auto fill = [&](Buffer<float> &to) {
    const SpecexecNoise of{seed, answer, index, to.get(), to.size(), int32_t(number(1, 2))};
    kernels.noise(&of);
  };
  fill(out), fill(longer);
  for (int64_t i = 0; i < n; i++) check(out[i] == longer[i] && out[i] > -3.7f && out[i] < 36.8f, "noise");
}

// What its parts make one after another: a division, additions, and `read`.
void fuzz_guess() {
  const int64_t n = number(1, 4), columns = chance(0.3) ? number(1, 70) : number(1, 9000), stride = columns + number(0, 3);
  const int64_t k = number(1, std::min<int64_t>(columns, 140)), keeps = number(0, n);
  const float a = normal(), b = normal(), temperature = chance(0.5) ? 1.f : 0.1f + std::fabs(normal());
  Buffer<float> x = normals(stride * (n - 1) + columns, 3.f), kept(keeps * columns, NAN), z(n * columns), values(n * k), sums(n);
  Buffer<int64_t> starts(n + 1, 0), ids(n * k, -1), same(n * k, -1);
  Buffer<double> log_q(n * k, NAN), g(n * k, NAN), score(n * k, NAN), own(n, NAN);
  const double least = 1e-6, loud = 0.5;
  for (int64_t row = 1; row <= n; row++) starts[row] = starts[row - 1] + (chance(0.3) ? 0 : number(0, 60));
  Buffer<int64_t> at(starts[n]);
  Buffer<double> off(starts[n]);
  for (int64_t i = 0; i < starts[n]; i++) at[i] = number(0, columns - 1), off[i] = normal();
  Buffer<float> beside = normals(columns, 1.f);
  const std::vector<const float *> noise(size_t(n), beside.get());
  const bool noisy = chance(0.5);
  const SpecexecGuesses of{x.get(), noisy ? noise.data() : nullptr, starts.get(), at.get(), off.get(), kept.get(), ids.get(),
                           log_q.get(), g.get(), score.get(), own.get(), n, columns, stride, k, keeps, least, loud, a, b, temperature,
                           int32_t(number(1, 2))};
  kernels.guess(&of);
  for (int64_t row = 0; row < n; row++) {
    double whole = 0;
    for (int64_t i = 0; i < columns; i++) {
      z[row * columns + i] = x[row * stride + i] / temperature, whole += std::exp(double(z[row * columns + i]));
      check(row >= keeps || kept[row * columns + i] == z[row * columns + i], "a row that is kept");
    }
    check(std::fabs(own[row] - std::log(whole)) <= 1e-5 + 1e-6 * std::fabs(std::log(whole)), "a row's own log-sum-exp");
    for (int64_t i = starts[row]; i < starts[row + 1]; i++) z[row * columns + at[i]] += float(off[i]);
  }
  const SpecexecLogits plain{z.get(), of.noise, same.get(), values.get(), sums.get(), n, columns, columns, k, a, b, 1};
  kernels.read(&plain);
  for (int64_t i = 0; i < n * k; i++) {
    check(ids[i] == same[i], "a guess");
    check(log_q[i] == double(z[i / k * columns + ids[i]]) - double(sums[i / k]), "log q");
    check(g[i] == (noisy ? beside[ids[i]] : 0), "a guess's noise");
  }
  for (int64_t row = 0; row < n; row++) {
    double left = 1, whole = 0;
    for (int64_t i = row * k; i < (row + 1) * k; i++) left -= std::exp(log_q[i]), whole += std::exp(a * log_q[i] + b * g[i]);
    whole += std::exp(a * std::log(std::max(least, left)) + b * loud);
    for (int64_t i = row * k; i < (row + 1) * k; i++)
      check(std::fabs(score[i] - (a * log_q[i] + b * g[i] - std::log(whole))) < 1e-6, "a score");
  }
}

// Few values, so that many are alike; some are -inf.
void fuzz_read() {
  const int64_t n = number(1, 4), columns = chance(0.3) ? number(1, 70) : number(1, 9000), stride = columns + number(0, 3);
  const int64_t k = number(1, std::min<int64_t>(columns, 140));
  const float coarse = chance(0.5) ? 4 : 1e6f, a = chance(0.5) ? 1.f : normal() * normal(), b = chance(0.5) ? 1.f : normal();
  const double none = chance(0.3) ? 0.9 : 0.01;
  const auto value = [&] { return chance(none) ? -INFINITY : std::round(coarse * 3 * normal()) / coarse; };
  Buffer<float> x(stride * (n - 1) + columns), values(n * k, NAN), sums(n, NAN);
  Buffer<int64_t> ids(n * k, -1);
  for (int64_t i = 0; i < x.size(); i++) x[i] = value();
  std::vector<std::unique_ptr<Buffer<float>>> beside;
  std::vector<const float *> noise;
  for (int64_t row = 0; row < n; row++) {
    beside.push_back(std::make_unique<Buffer<float>>(columns));
    for (int64_t i = 0; i < columns; i++) (*beside.back())[i] = normal();
    noise.push_back(beside.back()->get());
  }
  const bool noisy = chance(0.5), sum = chance(0.7);
  const SpecexecLogits of{x.get(), noisy ? noise.data() : nullptr, ids.get(), values.get(), sum ? sums.get() : nullptr,
                          n, columns, stride, k, a, b, int32_t(number(1, 2))};
  kernels.read(&of);
  for (int64_t row = 0; row < n; row++) {
    const float *in = x.get() + row * stride;
    const auto ranked = [&](int64_t i) { return noisy ? double(a) * in[i] + double(b * noise[size_t(row)][i]) : double(in[i]); };
    std::vector<bool> held(size_t(columns), false);
    double total = 0, worst = INFINITY;
    for (int64_t i = 0; i < columns; i++) total += std::exp(double(in[i]));
    for (int64_t j = row * k; j < (row + 1) * k; j++) {
      check(ids[j] >= 0 && ids[j] < columns && !held[size_t(ids[j])], "a best entry's id");
      held[size_t(ids[j])] = true;
      const double wanted = ranked(ids[j]);
      check(std::fabs(values[j] - wanted) <= 4 * kUlp * (std::fabs(a * in[ids[j]]) + std::fabs(wanted)) || values[j] == wanted ||
            (std::isnan(wanted) && values[j] == -INFINITY), "a best entry");
      const bool first = j == row * k;
      check(first || values[j] < values[j - 1] || (values[j] == values[j - 1] && ids[j] > ids[j - 1]), "the order of best entries");
      worst = values[j];
    }
    for (int64_t i = 0; i < columns; i++)
      check(held[size_t(i)] || !(ranked(i) > worst + 4 * kUlp * (std::fabs(double(a) * in[i]) + std::fabs(worst))), "the best entries");
    const double wanted = std::log(total);
    if (sum) check(std::fabs(sums[row] - wanted) <= 1e-5 + 1e-6 * std::fabs(wanted) || sums[row] == wanted, "a log-sum-exp");
  }
}

void fuzz_silu() {
  const int64_t n = some_tokens(), columns = number(1, 300);
  Buffer<float> gate_up = normals(2 * n * columns, float(std::pow(10.0, double(number(-3, 2)))));
  Tokens made(n, columns, some_bits());
  const auto to = made.call();
  kernels.silu_quantise(gate_up.get(), columns, &to);
  made.check_sums();
  for (int64_t t = 0; t < n; t++)
    for (int64_t i = 0; i < columns; i++) {
      const double gate = gate_up[2 * t * columns + i], up = gate_up[(2 * t + 1) * columns + i];
      const double step = made.scale[made.place(t, i / 64)], wanted = gate / (1 + std::exp(-gate)) * up;
      check(std::fabs(made.value(t, i) - wanted) <= step * (0.5 + made.most() * 16 * kUlp) + 1e-34, "a silu");
    }
}

// ---- products ------------------------------------------------------------------------------------------------------

constexpr double kNf4[16] = {-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                             -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                             0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                             0.7229568362236023, 1.0};

constexpr int kThreeBit[8] = {-90, -53, -25, 0, 23, 48, 79, 127};

struct Matrix {
  int32_t kind, adds;  // kind: kernels.h
  bool bytes, spans, threes;  // eight bits a weight; two scales a group; three bits a weight
  int64_t rows, groups, tiles, stride;
  bool biased;
  Buffer<uint8_t> codes;
  Buffer<uint16_t> scales;
  Buffer<float> bias, out, before;
  Matrix(int64_t n, int64_t g)
      : kind(int32_t(number(0, 4))), adds(int32_t(number(0, 1))), bytes(kind % 2), spans(kind == 2 || kind == 3),
        threes(kind == 4), rows(number(1, 100)),
        groups(g), tiles((rows + 15) / 16), stride(rows + number(0, 5)), biased(chance(0.5)),
        codes(tiles * groups * (bytes ? 1024 : threes ? 384 : 512)),
        scales(tiles * groups * (spans ? 32 : 16)), bias(normals(rows)), out(normals((n - 1) * stride + rows)), before(out.size()) {
    for (int64_t i = 0; i < codes.size(); i++) {
      codes[i] = uint8_t(number(0, 255));
      if (bytes && codes[i] == 128) codes[i] = 129;  // eight bits end at -127
    }
    for (int64_t i = 0; i < scales.size(); i++) scales[i] = chance(0.03) ? 0 : uint16_t(number(1, 0x7bff));
    std::copy_n(out.get(), out.size(), before.get());
  }
  SpecexecMatrix call() { return {codes.get(), scales.get(), maybe(bias, biased), out.get(), rows, stride, kind, adds}; }
  int level(int64_t row, int64_t k) {  // of 3bit
    const auto byte = [&](int64_t line) { return codes[((row / 16 * groups * 2 + k / 32) * 3 + line) * 64 + row % 16 * 4 + k % 4]; };
    const int64_t run = k % 32 / 4;
    return kThreeBit[(byte(run / 4) >> 2 * (run % 4) & 3) | (byte(2) >> run & 1) << 2];
  }
  double weight(int64_t row, int64_t k, int32_t bits) {
    const int64_t span = spans ? 2 : 1;
    const double scale = from_half(scales[(row / 16 * groups * span + k / (64 / span)) * 16 + row % 16]);
    if (threes) return level(row, k) * scale / 127;
    const int64_t tile = row / 16 * groups * (bytes ? 16 : 8) + k / (bytes ? 4 : 8);
    const uint8_t byte = codes[(tile * 16 + row % 16) * 4 + k % 4];
    if (bytes) return int8_t(byte) * scale / (spans ? 1 : 127);
    const int32_t code = k % 8 < 4 ? byte & 15 : byte >> 4;
    if (spans) return (code - 8) * scale;
    const double unit = bits == 8 ? 112 : 914;
    return std::nearbyint(kNf4[code] * unit) / unit * scale;
  }
  void check_at(Tokens &x, int64_t t, int64_t row) {
    double wanted = 0, size = 0;
    for (int64_t k = 0; k < x.columns; k++) {
      const double term = weight(row, k, x.bits) * x.value(t, k);
      wanted += term, size += std::fabs(term);
    }
    for (const double other : {biased ? double(bias[row]) : 0, adds ? double(before[t * stride + row]) : 0})
      wanted += other, size += std::fabs(other);
    check(std::fabs(out[t * stride + row] - wanted) <= double(groups * (spans ? 2 : 1) + 6) * kUlp * size + 1e-43, "a product");
  }
};

void fuzz_linear() {
  const int64_t columns = some_columns(), n = columns > 1000 ? number(1, chance(0.3) ? 100 : 20) : some_tokens();
  Buffer<float> x = normals(n * columns, float(std::pow(10.0, double(number(-10, 10)))));
  const double spiky = chance(0.5) ? 0.01 : 0;
  for (int64_t i = 0; i < x.size(); i++) x[i] *= chance(spiky) ? 50 : 1;
  Tokens tokens = quantised(x, n, columns, some_bits());
  std::vector<Matrix> matrices;
  std::vector<SpecexecMatrix> calls;
  for (int64_t i = number(1, 4); i > 0; i--) matrices.emplace_back(n, tokens.groups);
  for (Matrix &m : matrices) calls.push_back(m.call());
  const auto from = tokens.call();
  kernels.linear(calls.data(), int64_t(calls.size()), &from);
  for (Matrix &m : matrices) {
    for (int i = 0; i < 12; i++) m.check_at(tokens, number(0, n - 1), number(0, m.rows - 1));
    m.check_at(tokens, n - 1, m.rows - 1);
    for (int64_t i = 0; i < m.out.size(); i++)
      check(i % m.stride < m.rows || m.out[i] == m.before[i], "what lies between the rows of a result");
  }
  // a token alone
  const int64_t t = number(0, n - 1);
  Matrix &m = matrices[0];
  Buffer<float> row(columns), out(m.rows);
  std::copy_n(x.get() + t * columns, columns, row.get()), std::copy_n(m.before.get() + t * m.stride, m.rows, out.get());
  Tokens one = quantised(row, 1, columns, tokens.bits);
  SpecexecMatrix call = m.call();
  call.out = out.get();
  const auto alone = one.call();
  kernels.linear(&call, 1, &alone);
  check(!std::memcmp(out.get(), m.out.get() + t * m.stride, size_t(m.rows) * 4), "a token alone");
}

// ---- the cache -----------------------------------------------------------------------------------------------------

struct Cache {
  int64_t kv_heads, dim, capacity;
  Buffer<uint16_t> keys, values;
  Cache(int64_t h, int64_t d, int64_t rows, uint16_t fill)
      : kv_heads(h), dim(d), capacity((rows + 63) / 64 * 64), keys(h * capacity * d, fill), values(h * capacity * d, fill) {}
  SpecexecCache call() { return {keys.get(), values.get(), capacity, kv_heads, dim, 0, nullptr, nullptr}; }
  uint16_t &key(int64_t h, int64_t row, int64_t d) {
    return keys[h * capacity * dim + row / 16 * 16 * dim + d / 2 * 32 + row % 16 * 2 + d % 2];
  }
  uint16_t &value(int64_t h, int64_t row, int64_t d) {
    return values[(h * capacity + row) * dim + d / 32 * 32 + d % 16 * 2 + d % 32 / 16];
  }
  void fill_row(int64_t row, int64_t head_dim) {
    for (int64_t h = 0; h < kv_heads; h++)
      for (int64_t d = 0; d < dim; d++) {
        key(h, row, d) = d < head_dim ? to_bf16(normal()) : 0;
        value(h, row, d) = d < head_dim ? to_bf16(normal()) : 0;
      }
  }
  void copy_row(Cache &from, int64_t old, int64_t row) {
    for (int64_t h = 0; h < kv_heads; h++)
      for (int64_t d = 0; d < dim; d++) key(h, row, d) = from.key(h, old, d), value(h, row, d) = from.value(h, old, d);
  }
};

int64_t whole32(int64_t head_dim) { return (head_dim + 31) / 32 * 32; }

void fuzz_rope() {
  const int64_t kv_heads = number(1, 3), heads = kv_heads * number(1, 4), head_dim = 2 * number(1, chance(0.1) ? 128 : 48);
  const int64_t n = number(1, 20), row = number(0, 100), dim = whole32(head_dim), wide = (heads + 2 * kv_heads) * head_dim;
  const bool normed = chance(0.5);
  Cache cache(kv_heads, dim, row + n, 0x1234);
  Buffer<float> qkv = normals(n * wide), angles = normals(n * head_dim), q_norm = normals(head_dim), k_norm = normals(head_dim);
  Buffer<float> q(n * heads * dim, NAN);
  const SpecexecRope call{qkv.get(), angles.get(), maybe(q_norm, normed), maybe(k_norm, normed), q.get(), n, heads, head_dim,
                          row, 1e-5f, 0.5f, int32_t(number(1, 2))};
  const auto to = cache.call();
  kernels.rope(&call, &to);
  const auto turned = [&](int64_t t, int64_t at, int64_t d, Buffer<float> &weight) {
    const float *x = qkv.get() + t * wide + at * head_dim, *a = angles.get() + t * head_dim;
    double squares = 0;
    for (int64_t i = 0; i < head_dim; i++) squares += double(x[i]) * x[i];
    const double r = normed ? 1 / std::sqrt(squares / double(head_dim) + 1e-5) : 1;
    const auto in = [&](int64_t i) { return x[i] * r * (normed ? weight[i] : 1); };
    const int64_t half = head_dim / 2, i = d % half;
    return d < half ? in(i) * a[i] - in(i + half) * a[half + i] : in(i + half) * a[i] + in(i) * a[half + i];
  };
  for (int64_t t = 0; t < n; t++) {
    for (int64_t h = 0; h < heads; h++)
      for (int64_t d = 0; d < dim; d++) {
        const double wanted = d < head_dim ? turned(t, h, d, q_norm) * 0.5 : 0;
        check(std::fabs(q[(t * heads + h) * dim + d] - wanted) <= (d < head_dim) * 1e-4, "a query");
      }
    for (int64_t h = 0; h < kv_heads; h++)
      for (int64_t d = 0; d < dim; d++) {
        const double k = d < head_dim ? turned(t, heads + h, d, k_norm) : 0;
        const float v = d < head_dim ? qkv[t * wide + (heads + kv_heads + h) * head_dim + d] : 0;
        check(std::fabs(from_bf16(cache.key(h, row + t, d)) - k) <= (d < head_dim) * (std::fabs(k) / 256 + 1e-4), "a key");
        check(cache.value(h, row + t, d) == to_bf16(v), "a value");
      }
  }
  for (int64_t r = 0; r < cache.capacity; r++)
    if (r < row || r >= row + n) check(cache.key(0, r, 0) == 0x1234 && cache.value(0, r, dim - 1) == 0x1234, "another row");
}

void fuzz_move() {
  const int64_t rows = number(1, 200), to = number(0, rows - 1), count = number(1, rows - to), layers = number(1, 2);
  std::vector<Cache> caches, before;
  std::vector<SpecexecCache> calls;
  Buffer<int64_t> from(count);
  for (int64_t i = 0; i < count; i++) from[i] = number(0, rows - 1);
  const int64_t kv_heads = number(1, 3), dim = 32 * number(1, 3);
  for (int64_t layer = 0; layer < layers; layer++) {
    caches.emplace_back(kv_heads, dim, rows, 0), before.emplace_back(kv_heads, dim, rows, 0);
    for (int64_t row = 0; row < rows; row++) caches[size_t(layer)].fill_row(row, dim), before[size_t(layer)].copy_row(caches[size_t(layer)], row, row);
  }
  for (Cache &c : caches) calls.push_back(c.call());
  kernels.move(calls.data(), layers, to, from.get(), count);
  for (int64_t layer = 0; layer < layers; layer++)
    for (int64_t row = 0; row < rows; row++)
      for (int64_t h = 0; h < kv_heads; h++)
        for (int64_t d = 0; d < dim; d++) {
          const int64_t was = row >= to && row < to + count ? from[row - to] : row;
          Cache &a = caches[size_t(layer)], &b = before[size_t(layer)];
          check(a.key(h, row, d) == b.key(h, was, d) && a.value(h, row, d) == b.value(h, was, d), "a moved row");
        }
}

struct Asked {  // one attention, its n queries the last of the tree's t rows (t = 0: of no row)
  int64_t heads, head_dim, committed, t, n;
  Buffer<int32_t> parents, first;
  Buffer<float> q, out, sums;
  Asked(int64_t h, int64_t d, int64_t c, int64_t tree, int64_t count)
      : heads(h), head_dim(d), committed(c), t(tree), n(count), parents(tree), first(count), q(n * h * whole32(d)),
        out(n * h * d, NAN), sums(n * h, NAN) {}
  void run(Cache &cache, int32_t threads, bool sum) { run(cache.call(), threads, sum); }
  void run(const SpecexecCache &over, int32_t threads, bool sum) {
    const SpecexecAttention call{q.get(), out.get(), maybe(sums, sum), heads, head_dim};
    const SpecexecPass pass{parents.get(), first.get(), committed, t, n, threads};
    kernels.attend(&call, &over, &pass);
  }
  void grow(int64_t start) {  // queries, a tree, and a window or none; start: position of the first row
    const int64_t dim = whole32(head_dim), reach = chance(0.3) ? 1 : number(1, t + 1);
    const int64_t window = chance(0.4) ? number(1, start + committed + 20) : 0;
    for (int64_t i = 0; i < q.size(); i++) q[i] = i % dim < head_dim ? 2 * normal() / std::sqrt(float(head_dim)) : 0;
    std::vector<int64_t> depth(static_cast<size_t>(t));
    for (int64_t r = 0; r < t; r++) {
      parents[r] = int32_t(std::max<int64_t>(-1, r - number(1, reach)));
      depth[size_t(r)] = parents[r] < 0 ? 0 : depth[size_t(parents[r])] + 1;
    }
    for (int64_t i = 0; i < n; i++) {
      const int64_t position = start + committed + (t ? depth[size_t(t - n + i)] : number(0, 60));
      first[i] = window ? int32_t(std::max<int64_t>(0, position + 1 - window)) : 0;
    }
  }
  std::vector<int64_t> rows(int64_t i) {  // what query i sees, in order of position
    std::vector<int64_t> path;
    for (int64_t r = t ? t - n + i : -1; r >= 0; r = parents[r]) path.push_back(committed + r);
    for (int64_t r = committed - 1; r >= 0; r--) path.push_back(r);
    std::reverse(path.begin(), path.end());
    return path;
  }
};

struct Row {  // of one head
  std::vector<double> key, value;
};

Row row_of(Cache &cache, int64_t kv, int64_t row) {
  Row made;
  for (int64_t d = 0; d < cache.dim; d++)
    made.key.push_back(from_bf16(cache.key(kv, row, d))), made.value.push_back(from_bf16(cache.value(kv, row, d)));
  return made;
}

// between: what may be lost of a score, and of a value of the largest size
void check_rows(Asked &a, const std::vector<Row> &seen, bool sum, int64_t i, int64_t h, double between) {
  if (seen.empty()) return;  // of which kernels.h says nothing
  const int64_t dim = whole32(a.head_dim);
  std::vector<double> scores, mix(size_t(a.head_dim), 0.0);
  double size = 0;
  for (const Row &row : seen) {
    double s = 0;
    for (int64_t d = 0; d < dim; d++) s += double(a.q[(i * a.heads + h) * dim + d]) * row.key[size_t(d)];
    for (int64_t d = 0; d < a.head_dim; d++) size = std::max(size, std::fabs(row.value[size_t(d)]));
    scores.push_back(s);
  }
  const double most = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (size_t k = 0; k < seen.size(); k++) {
    const double w = std::exp(scores[k] - most);
    total += w;
    for (int64_t d = 0; d < a.head_dim; d++) mix[size_t(d)] += w * seen[k].value[size_t(d)];
  }
  for (int64_t d = 0; d < a.head_dim; d++)
    check(std::fabs(a.out[(i * a.heads + h) * a.head_dim + d] - mix[size_t(d)] / total) <= 3e-5 + between * size, "an attention");
  if (sum)
    check(std::fabs(a.sums[i * a.heads + h] - most - std::log(total)) <= 3e-5 * (1 + std::fabs(most)) + between, "a log sum exp");
}

void check_attention(Asked &a, Cache &cache, bool sum, int64_t i, int64_t h) {
  std::vector<Row> seen;
  const std::vector<int64_t> rows = a.rows(i);
  for (size_t at = size_t(a.first[i]); at < rows.size(); at++) seen.push_back(row_of(cache, h / (a.heads / cache.kv_heads), rows[at]));
  check_rows(a, seen, sum, i, h, 0);
}

void check_alone(Asked &a, Cache &cache, bool sum, int64_t i) {  // its path committed, but for itself
  std::vector<int64_t> path = a.rows(i);
  Cache plain(cache.kv_heads, cache.dim, int64_t(path.size()), 0x7fff);
  for (size_t r = 0; r < path.size(); r++) plain.copy_row(cache, path[r], int64_t(r));
  Asked one(a.heads, a.head_dim, int64_t(path.size()) - 1, 1, 1);
  one.parents[0] = -1, one.first[0] = a.first[i];
  const int64_t width = a.heads * cache.dim;
  std::copy_n(a.q.get() + i * width, width, one.q.get());
  one.run(plain, 1, true);
  const int64_t out = a.heads * a.head_dim;
  check(!std::memcmp(one.out.get(), a.out.get() + i * out, size_t(out) * 4), "a query alone");
  if (sum) check(!std::memcmp(one.sums.get(), a.sums.get() + i * a.heads, size_t(a.heads) * 4), "its log sum exp");
}

void fuzz_attend() {
  static const int64_t kGroups[] = {1, 1, 2, 3, 4, 7, 8, 12};
  const int64_t kv_heads = number(1, 2), heads = kv_heads * kGroups[number(0, 7)], head_dim = chance(0.2) ? number(1, 128) : 32 * number(1, 4);
  const int64_t committed = chance(0.03) ? number(4000, 9000) : chance(0.3) ? 64 * number(0, 5) + number(0, 2) : number(0, 200);
  const int64_t t = committed && chance(0.1) ? 0 : chance(0.1) ? number(60, 256) : number(1, 40), n = t ? number(1, t) : number(1, 5);
  Cache cache(kv_heads, whole32(head_dim), committed + t, 0x7fff);  // NaN where no row is
  for (int64_t row = 0; row < committed + t; row++) cache.fill_row(row, head_dim);
  Asked asked(heads, head_dim, committed, t, n);
  asked.grow(0);
  const bool sum = chance(0.5);
  asked.run(cache, int32_t(number(1, 2)), sum);
  for (int i = 0; i < 4; i++) check_attention(asked, cache, sum, number(0, n - 1), number(0, heads - 1));
  if (t) check_alone(asked, cache, sum, number(0, n - 1));
}

// ---- what is seen before a cache's own rows --------------------------------------------------------------------------

// the largest fp16 number that is no more than x
uint16_t half_below(float x) {
  uint16_t low = 0, high = 0x7bff;  // of |x|: none below it is wanted where x < 0
  while (low < high) {
    const uint16_t middle = uint16_t((low + high + (x >= 0)) / 2);
    if (x >= 0) from_half(middle) <= x ? low = middle : high = uint16_t(middle - 1);
    else from_half(middle) >= -x ? high = middle : low = uint16_t(middle + 1);
  }
  return uint16_t(low | (x < 0 ? 0x8000 : 0));
}

struct Coded {
  float scale, zero;
  std::vector<int> upper, lower;
  explicit Coded(const std::vector<float> &x, size_t ranged) {
    zero = from_half(half_below(*std::min_element(x.begin(), x.begin() + int64_t(ranged))));
    const float step = (*std::max_element(x.begin(), x.begin() + int64_t(ranged)) - zero) / 15.f;
    scale = -from_half(half_below(-step));
    for (float one : x) {
      const float s = scale > 0 ? scale : 1, u = scale > 0 ? std::min(std::max(std::nearbyint((one - zero) / s), 0.f), 15.f) : 0;
      const float l = std::nearbyint((one - (scale * u + zero)) * 16.f / s) + 8.f;
      upper.push_back(int(u)), lower.push_back(scale > 0 ? int(std::min(std::max(l, 0.f), 15.f)) : 8);
    }
  }
};

struct Groups {  // of 128 positions, as group.h lays them, from `first` on
  int64_t kv_heads, dim, head_dim, first, capacity, record;
  bool whole;  // with lower nibbles
  Buffer<uint16_t> records;
  Groups(int64_t h, int64_t d, int64_t size, bool both, int64_t from = 0)
      : kv_heads(h), dim(whole32(d)), head_dim(d), first(from), capacity(size), whole(both),
        records(size * (record = h * ((both ? 256 : 128) * dim + 4 * dim + 512) + 2 * number(0, 5)) / 2, 0xaaaa) {}
  uint8_t *codes(bool low, int64_t h, int64_t g) {
    return (uint8_t *)records.get() + (g - first) * record + (low ? kv_heads + h : h) * 128 * dim;
  }
  uint16_t *scales(int64_t h, int64_t g) { return (uint16_t *)codes(whole, 0, g) + kv_heads * 64 * dim + h * (2 * dim + 256); }
  SpecexecQuantised call(int64_t groups, int32_t bits, bool follows) {
    return {codes(false, 0, first), whole ? codes(true, 0, first) : nullptr, scales(0, first), 128 * dim, record, 2 * dim + 256,
            record / 2, first, groups, head_dim, bits, follows, nullptr, 0};
  }
  int64_t key_at(int64_t r, int64_t d) const { return r / 64 * dim * 64 + r % 64 / 16 * dim * 8 + d / 8 * 64 + r % 16 * 4 + d % 4; }
  int64_t value_at(int64_t r, int64_t d) const {
    return r / 64 * dim * 64 + dim * 32 + d / 16 * 512 + r % 64 / 8 * 64 + d % 16 * 4 + r % 4;
  }
  int nibble(uint8_t code, bool high) { return high ? code >> 4 : code & 15; }
  int key(bool low, int64_t h, int64_t g, int64_t r, int64_t d) { return nibble(codes(low, h, g)[key_at(r, d)], d % 8 >= 4); }
  int value(bool low, int64_t h, int64_t g, int64_t r, int64_t d) { return nibble(codes(low, h, g)[value_at(r, d)], r % 8 >= 4); }
  float scale(int64_t h, int64_t g, int64_t at) { return from_half(scales(h, g)[at]); }
  Row row(int64_t h, int64_t g, int64_t r, int32_t bits) {
    Row made;
    for (int64_t d = 0; d < dim; d++) {
      const double k = key(false, h, g, r, d) + (bits == 8 ? (key(true, h, g, r, d) - 8) / 16.0 : 0);
      const double v = value(false, h, g, r, d) + (bits == 8 ? (value(true, h, g, r, d) - 8) / 16.0 : 0);
      made.key.push_back(scale(h, g, d) * k + scale(h, g, dim + d));
      made.value.push_back(scale(h, g, 2 * dim + r) * v + scale(h, g, 2 * dim + 128 + r));
    }
    return made;
  }
  void take(Groups &from, int64_t count, int64_t to) {  // its first groups
    for (int64_t g = 0; g < count; g++)
      std::copy_n(from.codes(false, 0, g), std::min(record, from.record), codes(false, 0, to + g));
  }
  void check_keys(Cache &from, int64_t start, int64_t h, int64_t g, int64_t d) {
    std::vector<float> x;
    for (int64_t r = 0; r < 128; r++) x.push_back(from_bf16(from.key(h, g * 128 - start + r, d)));
    const Coded wanted(x, x.size());
    check(scale(h, g, d) == wanted.scale && scale(h, g, dim + d) == wanted.zero, "a channel's scale");
    for (int64_t r = 0; r < 128; r++)
      check(key(false, h, g, r, d) == wanted.upper[size_t(r)] && (!whole || key(true, h, g, r, d) == wanted.lower[size_t(r)]), "a key's code");
  }
  void check_values(Cache &from, int64_t start, int64_t h, int64_t g, int64_t r) {
    std::vector<float> x;
    for (int64_t d = 0; d < dim; d++) x.push_back(from_bf16(from.value(h, g * 128 - start + r, d)));
    const Coded wanted(x, size_t(head_dim));
    check(scale(h, g, 2 * dim + r) == wanted.scale && scale(h, g, 2 * dim + 128 + r) == wanted.zero, "a token's scale");
    for (int64_t d = 0; d < head_dim; d++)
      check(value(false, h, g, r, d) == wanted.upper[size_t(d)] && (!whole || value(true, h, g, r, d) == wanted.lower[size_t(d)]), "a value's code");
  }
};

int64_t some_dim() { return chance(0.2) ? number(1, 128) : 32 * number(1, 4); }

void fuzz_compress() {
  const int64_t kv_heads = number(1, 3), head_dim = some_dim(), layers = number(1, 2), start = 128 * number(0, 2);
  const int64_t held = number(1, 3), first = start / 128 + number(0, held - 1), last = number(first, start / 128 + held);
  const int64_t lying = number(0, first);
  const bool both = chance(0.5);
  std::vector<Cache> caches;
  std::vector<Groups> groups;
  for (int64_t layer = 0; layer < layers; layer++) {
    caches.emplace_back(kv_heads, whole32(head_dim), 128 * held, 0), groups.emplace_back(kv_heads, head_dim, last - lying + number(0, 1), both, lying);
    const double size = std::pow(10.0, double(number(-8, 2))), middle = chance(0.5) ? 20 * size * normal() : 0;
    for (int64_t r = 0; r < 128 * held; r++)
      for (int64_t h = 0; h < kv_heads; h++)
        for (int64_t d = 0; d < head_dim; d++) {
          caches.back().key(h, r, d) = d % 7 == 3 ? to_bf16(float(middle)) : to_bf16(float(size * normal() + middle));
          caches.back().value(h, r, d) = r % 7 == 3 ? to_bf16(float(middle)) : to_bf16(float(size * normal() + middle));
        }
  }
  std::vector<SpecexecQuantised> told;
  std::vector<SpecexecCache> calls;
  for (Groups &of : groups) told.push_back(of.call(first, both ? 8 : 4, true));
  for (size_t layer = 0; layer < caches.size(); layer++) {
    calls.push_back(caches[layer].call());
    calls.back().position = start, calls.back().quantised = &told[layer];
  }
  kernels.compress(calls.data(), layers, first, last, int32_t(number(1, 2)));
  for (size_t layer = 0; layer < caches.size(); layer++)
    for (int64_t h = 0; h < kv_heads; h++)
      for (int64_t g = lying; g < lying + groups[layer].capacity; g++) {
        Groups &of = groups[layer];
        if (g >= first && g < last) {
          for (int64_t d = 0; d < head_dim; d++) of.check_keys(caches[layer], start, h, g, d);
          for (int64_t r = 0; r < 128; r++) of.check_values(caches[layer], start, h, g, r);
          continue;
        }
        const uint8_t *record = of.codes(false, 0, g);
        check(std::all_of(record, record + of.record, [](uint8_t c) { return c == 0xaa; }), "another group");
      }
}

// Whole groups of these rows of a cache.
Groups grouped(Cache &from, const int64_t *rows, int64_t count, int64_t head_dim, bool both) {
  Cache copy(from.kv_heads, from.dim, 128 * count, 0);
  for (int64_t r = 0; r < 128 * count; r++) copy.copy_row(from, rows[r], r);
  Groups made(from.kv_heads, head_dim, count, both);
  const SpecexecQuantised told = made.call(0, both ? 8 : 4, true);
  SpecexecCache call = copy.call();
  call.quantised = &told;
  if (count) kernels.compress(&call, 1, 0, count, 1);
  return made;
}

struct Before {  // groups from 0 on, and rows gathered behind them, or none of either; then a cache's own from `position` on
  int64_t groups, gathered, position;  // gathered: rows of that other cache
  int32_t bits;
  bool follows;
  Groups stored;
  Cache base;
  Buffer<int32_t> eights, tiles;
  int64_t blocks = 0, chosen = 0;  // chosen: tiles of groups, where not all of them are seen

  Before(Cache &own, int64_t g, int64_t rows, int64_t at, int32_t b, bool f, int64_t head_dim)
      : groups(g), gathered(rows), position(at), bits(b), follows(f), stored(own.kv_heads, head_dim, g + number(0, 2), b == 8 || chance(0.5)),
        base(own.kv_heads, own.dim, rows, 0x7fff), eights(0), tiles(0) {
    std::vector<int64_t> all;
    Cache first(own.kv_heads, own.dim, 128 * groups, 0);
    for (int64_t r = 0; r < 128 * groups; r++) first.fill_row(r, head_dim), all.push_back(r);
    Groups made = grouped(first, all.data(), groups, head_dim, stored.whole);
    stored.take(made, groups, 0);
    for (int64_t r = 0; r < gathered; r++) base.fill_row(r, head_dim);
    if (gathered) eights = choose((gathered + 7) / 8, 8, blocks);
    if (groups && !follows && chance(0.6)) tiles = choose(8 * groups, 1, chosen);
  }
  // Of each head some of 0..count - 1, in order, the lists made as long as the longest or longer, by whole `step`s.
  Buffer<int32_t> choose(int64_t count, int64_t step, int64_t &steps) {
    std::vector<std::vector<int32_t>> found(static_cast<size_t>(base.kv_heads));
    const double share = chance(0.3) ? 1 : chance(0.5) ? 0.4 : 0.05;
    size_t most = 0;
    for (auto &of : found) {
      for (int64_t e = 0; e < count; e++)
        if (chance(share)) of.push_back(int32_t(e));
      most = std::max(most, of.size());
    }
    steps = (int64_t(most) + step - 1) / step + number(0, 1);
    Buffer<int32_t> made(base.kv_heads * steps * step, -1);
    for (size_t h = 0; h < found.size(); h++) std::copy(found[h].begin(), found[h].end(), made.get() + int64_t(h) * steps * step);
    return made;
  }
  bool sees(int64_t kv, int64_t tile) {
    const int32_t *of = tiles.get() + kv * chosen;
    return !tiles.size() || std::find(of, of + chosen, int32_t(tile)) != of + chosen;
  }
  void run(Asked &asked, Cache &own, int32_t threads, bool sum) { run(asked, own, stored, groups, position, threads, sum); }
  void run(Asked &asked, Cache &own, Groups &of, int64_t count, int64_t at, int32_t threads, bool sum) {
    SpecexecQuantised told = of.call(count, bits, follows);
    if (tiles.size()) told.tiles = tiles.get(), told.chosen = chosen;
    const SpecexecGathered from{base.keys.get(), base.values.get(), eights.get(), base.capacity, blocks, 128 * groups};
    SpecexecCache over = own.call();
    over.position = at, over.quantised = count || follows ? &told : nullptr, over.gathered = gathered ? &from : nullptr;
    asked.run(over, threads, sum);
  }
  int64_t groups_of(Asked &a, int64_t i) {  // that query i sees
    return follows && a.t ? (position + int64_t(a.rows(i).size()) - 1) / 128 : groups;
  }
  std::vector<Row> rows(Asked &a, Cache &own, int64_t i, int64_t kv) {
    std::vector<Row> seen;
    const auto see = [&](int64_t at, const auto &row) { if (at >= a.first[i]) seen.push_back(row()); };
    const std::vector<int64_t> path = a.rows(i);
    const int64_t from = 128 * groups - position, to = 128 * groups_of(a, i) - position;
    for (int64_t r = 0; r < 128 * groups; r++)
      if (sees(kv, r / 16)) see(r, [&] { return stored.row(kv, r / 128, r % 128, bits); });
    for (int64_t e = 0; e < 8 * blocks; e++)
      for (int64_t r = 8 * eights[kv * 8 * blocks + e], end = r + 8; r >= 0 && r < std::min(end, gathered); r++)
        see(128 * groups + r, [&] { return row_of(base, kv, r); });
    Groups made = grouped(own, path.data() + std::max<int64_t>(0, from), groups_of(a, i) - groups, a.head_dim, true);
    for (int64_t r = std::max<int64_t>(0, from); r < int64_t(path.size()); r++)
      see(position + r, [&] { return r < to ? made.row(kv, (r - from) / 128, r % 128, bits) : row_of(own, kv, path[size_t(r)]); });
    return seen;
  }
};

// Its path committed, but for itself, and any of the whole groups of it stored.
void check_alone(Asked &a, Cache &cache, Before &before, bool sum, int64_t i) {
  std::vector<int64_t> path = a.rows(i);
  const int64_t more = number(0, before.groups_of(a, i) - before.groups), gone = 128 * (before.groups + more) - before.position;
  Groups made = grouped(cache, path.data() + std::max<int64_t>(0, gone - 128 * more), more, a.head_dim, before.stored.whole);
  Groups stored(cache.kv_heads, a.head_dim, before.groups + more, before.stored.whole);
  stored.take(before.stored, before.groups, 0), stored.take(made, more, before.groups);
  const int64_t cut = std::max<int64_t>(0, gone - 128 * number(0, 1));
  path.erase(path.begin(), path.begin() + cut);
  Cache plain(cache.kv_heads, cache.dim, int64_t(path.size()), 0x7fff);
  for (size_t r = 0; r < path.size(); r++) plain.copy_row(cache, path[r], int64_t(r));
  Asked one(a.heads, a.head_dim, int64_t(path.size()) - 1, 1, 1);
  one.parents[0] = -1, one.first[0] = a.first[i];
  std::copy_n(a.q.get() + i * a.heads * cache.dim, a.heads * cache.dim, one.q.get());
  before.run(one, plain, stored, before.groups + more, before.position + cut, 1, true);
  const int64_t out = a.heads * a.head_dim;
  check(!std::memcmp(one.out.get(), a.out.get() + i * out, size_t(out) * 4), "a query alone");
  if (sum) check(!std::memcmp(one.sums.get(), a.sums.get() + i * a.heads, size_t(a.heads) * 4), "its log sum exp");
}

constexpr double kBetween[] = {4 / 127.0, 4 / 16383.0};  // of four bits, of eight

// A cache's own rows behind quantised groups that follow the query, or behind those of another cache and rows gathered from it.
void fuzz_seen() {
  const int64_t kv_heads = number(1, 2), heads = kv_heads * number(1, 6), head_dim = some_dim();
  const bool follows = chance(0.5);
  const int64_t groups = chance(0.03) ? number(30, 34) : number(0, 3), gathered = follows || chance(0.2) ? 0 : number(1, 700);
  const int64_t behind = follows && groups ? number(0, 1) : 0;  // groups whose rows are in the buffer too
  const int64_t committed = 128 * behind + (chance(0.5) ? std::max<int64_t>(0, 128 * number(0, 2) + number(-3, 3)) : number(0, 200));
  const int64_t t = committed > 128 * behind && chance(0.1) ? 0 : chance(0.15) ? number(60, 256) : number(1, 40), n = t ? number(1, t) : number(1, 5);
  Cache own(kv_heads, whole32(head_dim), committed + t, 0x7fff);
  for (int64_t row = 0; row < committed + t; row++) own.fill_row(row, head_dim);
  const int64_t position = follows ? 128 * (groups - behind) : 128 * groups + gathered;
  Before before(own, groups, gathered, position, chance(0.5) ? 8 : 4, follows, head_dim);
  Asked asked(heads, head_dim, committed, t, n);
  asked.grow(position);
  const bool sum = chance(0.5);
  before.run(asked, own, int32_t(number(1, 2)), sum);
  int64_t border = number(0, n - 1);  // a query that is the last of a group, or the first behind one
  for (int64_t i = 0; t && i < n; i++)
    if ((position + int64_t(asked.rows(i).size())) % 128 <= 1) border = i;
  for (int k = 0; k < 4; k++) {
    const int64_t i = k ? number(0, n - 1) : border, h = number(0, heads - 1);
    check_rows(asked, before.rows(asked, own, i, h / (heads / kv_heads)), sum, i, h,
               before.groups_of(asked, i) ? kBetween[before.bits == 8] : 0);
  }
  if (t) check_alone(asked, own, before, sum, number(0, n - 1));
}

// --------------------------------------------------------------------------------------------------------------------

struct Kind {
  const char *name;
  void (*run)();
};
constexpr Kind kKinds[] = {{"quantise", fuzz_quantise}, {"norm", fuzz_norm},     {"silu", fuzz_silu},         {"read", fuzz_read}, {"noise", fuzz_noise},
                           {"guess", fuzz_guess},
                           {"linear", fuzz_linear},     {"linear", fuzz_linear}, {"rope", fuzz_rope},         {"move", fuzz_move}, {"attend", fuzz_attend},
                           {"attend", fuzz_attend},     {"compress", fuzz_compress}, {"seen", fuzz_seen},     {"seen", fuzz_seen}};

void one_case() {
  source.seed(current);
  const Kind &kind = kKinds[size_t(number(0, std::size(kKinds) - 1))];
  what = kind.name;
  kind.run();
}

}  // namespace

int main(int, char **arguments) {
  using clock = std::chrono::steady_clock;
  specexec::SPECEXEC_ISA::fill_linear(kernels);
  specexec::SPECEXEC_ISA::fill_attention(kernels);
  specexec::SPECEXEC_ISA::fill_rows(kernels);
  specexec::SPECEXEC_ISA::fill_hierarchical(kernels);
  specexec::SPECEXEC_ISA::fill_logits(kernels);
  specexec::SPECEXEC_ISA::fill_noise(kernels);
  __sanitizer_set_death_callback(say);
  const auto end = clock::now() + std::chrono::duration<double>(std::atof(arguments[1]));
  const unsigned long seed = std::strtoul(arguments[2], nullptr, 10);
  current = seed;
  do one_case(), current++;
  while (clock::now() < end);
  std::printf("%lu cases\n", current - seed);
}
