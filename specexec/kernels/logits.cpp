// Rows of logits over a whole vocabulary, each read once: its best entries, knowing the noise, and its log-sum-exp.
//
// And rows of a draft's, of which nothing is wanted but the likeliest picks: one call, where ten operators would read and copy them.
//
// The k-th largest of the maxima of its blocks is no more than the k-th best entry: only blocks that reach it are looked at.
#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kBlock = 64;
constexpr int64_t kMany = 256;  // entries for each of the best, of which the largest of 64 tell enough: else those of 16
constexpr int64_t kPart = 2048;  // entries that are still in the nearest cache when they are summed
constexpr int64_t kWorthWaking = 1 << 16;  // entries of all rows
constexpr float kNone = -std::numeric_limits<float>::infinity(), kLowest = std::numeric_limits<float>::lowest();

struct One {
  float value;
  int64_t id;
};
static bool better(const One &a, const One &b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

// A row in blocks, the last one filled up.
struct Blocks {
  const float *row;
  int64_t columns;
  float last[kBlock];
  Blocks(const float *row, int64_t columns, float fill) : row(row), columns(columns) {
    const int64_t rest = columns % kBlock;
    std::fill(last, last + kBlock, fill);
    if (rest) std::copy_n(row + columns - rest, rest, last);
  }
  const float *at(int64_t i) const { return columns - i < kBlock ? last : row + i; }
};

// The sum of e^x under the largest x so far.   Online softmax: Milakov and Gimelshein 2018
struct Sum {
  float top = kNone, total = 0;
  void add_part(const Blocks &x, int64_t start, int64_t end, float peak) {
    if (peak == kNone) return;
    if (peak > top) total *= std::exp(top - peak), top = peak;
    F parts[4] = {zero(), zero(), zero(), zero()};
    const F under = set(top);
    for (int64_t i = start; i < end; i += kBlock) {
      const float *block = x.at(i);
      repeat<4>(EACH(j) { parts[j] = add(parts[j], exp(sub(load(block + 16 * j), under))); });
    }
    total += sum(add(add(parts[0], parts[1]), add(parts[2], parts[3])));
  }
  float logarithm() const { return top == kNone ? kNone : top + std::log(total); }
};

// What is ranked, rounded once where a and b are 1.
template <bool noisy> struct Ranked {
  Blocks x, noise;
  F a, b;
  Ranked(const SpecexecLogits &l, const float *row, const float *beside)
      : x(row, l.columns, kNone), noise(noisy ? beside : row, l.columns, 0.f), a(set(l.a)), b(set(l.b)) {}
  INLINE_METHOD F of(F v, int64_t i, int64_t j) const {
    if constexpr (noisy) return fma(a, v, mul(b, load(noise.at(i) + j)));
    else return v;
  }
  INLINE_METHOD F at(int64_t i, int64_t j) const { return of(load(x.at(i) + j), i, j); }
};

// One thread's: the largest of every `each` entries of a row, and the entries that may be among its best.
struct Found {
  std::vector<float> largest, ranked;
  std::vector<One> held;
};

// Fills `largest`; the log-sum-exp where that is wanted.
template <bool noisy> static float survey(const Ranked<noisy> &z, int64_t columns, int64_t each, bool summed, Found &found) {
  Sum sum;
  found.largest.clear();
  for (int64_t start = 0; start < columns; start += kPart) {
    const int64_t end = std::min(start + kPart, columns);
    F peak = set(kNone);
    for (int64_t i = start; i < end; i += kBlock) {
      F v[4];
      repeat<4>(EACH(j) { v[j] = load(z.x.at(i) + 16 * j), peak = max(v[j], peak), v[j] = z.of(v[j], i, 16 * j); });
      if (each == kBlock) found.largest.push_back(largest(max(max(v[0], v[1]), max(v[2], v[3]))));
      else repeat<4>(EACH(j) { found.largest.push_back(largest(v[j])); });
    }
    if (summed) sum.add_part(z.x, start, end, largest(peak));
  }
  return sum.logarithm();
}

// No more than the k-th best entry: k of the largest are at least that.
static float bound(int64_t k, Found &found) {
  for (float &one : found.largest) one = one == one ? one : -kNone;  // NaN says nothing of the others
  if (int64_t(found.largest.size()) < k) return kNone;
  found.ranked = found.largest;
  std::nth_element(found.ranked.begin(), found.ranked.begin() + k - 1, found.ranked.end(), std::greater<float>());
  return found.ranked[size_t(k) - 1];
}

template <bool noisy> static void collect(const Ranked<noisy> &z, int64_t columns, int64_t each, float least, Found &found) {
  found.held.clear();
  for (size_t at = 0; at < found.largest.size(); at++) {
    if (found.largest[at] < least) continue;
    for (int64_t i = int64_t(at) * each; i < std::min(int64_t(at + 1) * each, columns); i += 16) {
      float values[16];
      store(values, z.at(i / kBlock * kBlock, i % kBlock));
      for (int64_t j = 0; j < std::min<int64_t>(16, columns - i); j++)
        if (values[j] >= least) found.held.push_back({values[j], i + j});
        else if (least == kNone) found.held.push_back({kNone, i + j});  // NaN
    }
  }
}

template <bool noisy> static void read_row(const SpecexecLogits &l, int64_t row, Found &found) {
  const Ranked<noisy> z(l, l.x + row * l.stride, noisy ? l.noise[row] : nullptr);
  const int64_t each = l.columns < kMany * l.k ? 16 : kBlock, k = l.k;
  const float total = survey(z, l.columns, each, l.log_sum_exp, found);
  if (l.log_sum_exp) l.log_sum_exp[row] = total;
  collect(z, l.columns, each, bound(k, found), found);
  if (int64_t(found.held.size()) < k) collect(z, l.columns, each, kNone, found);  // some of the largest were NaN
  std::vector<One> &held = found.held;
  std::nth_element(held.begin(), held.begin() + k - 1, held.end(), better);
  std::sort(held.begin(), held.begin() + k, better);
  for (int64_t i = 0; i < k; i++) l.ids[row * k + i] = held[size_t(i)].id, l.values[row * k + i] = held[size_t(i)].value;
}

static void read_one(const SpecexecLogits &of, int64_t row, Found &found) {
  if (of.noise) read_row<true>(of, row, found);
  else read_row<false>(of, row, found);
}

static void read(const SpecexecLogits *of) {
#pragma omp parallel for num_threads(of->threads) if (of->threads > 1 && of->n > 1 && of->n * of->columns >= kWorthWaking)
  for (int64_t row = 0; row < of->n; row++) {
    static thread_local Found found;
    read_one(*of, row, found);
  }
}

static float log_sum_exp(const float *row, int64_t columns, Found &found) {
  SpecexecLogits of{};
  of.columns = columns;
  return survey(Ranked<false>(of, row, nullptr), columns, kBlock, true, found);
}

static void score(const SpecexecGuesses &g, int64_t row) {
  const double *log_q = g.log_q + row * g.k, *noise = g.g + row * g.k, a = g.a, b = g.b;
  double *to = g.score + row * g.k, left = 1, total = 0;
  for (int64_t i = 0; i < g.k; i++) left -= std::exp(log_q[i]);
  const double others = a * std::log(std::max(g.least, left)) + b * g.loud;
  double top = others;
  for (int64_t i = 0; i < g.k; i++) to[i] = log_q[i] < kLowest ? kNone : a * log_q[i] + b * noise[i], top = std::max(top, to[i]);
  for (int64_t i = 0; i < g.k; i++) total += std::exp(to[i] - top);
  const double whole = top + std::log(total + std::exp(others - top));
  for (int64_t i = 0; i < g.k; i++) to[i] -= whole;
}

// `z` has room for a row; `before` is what stood there until what is off was added.
static void guess_row(const SpecexecGuesses &g, int64_t row, float *z, std::vector<float> &before, std::vector<float> &ranked, Found &found) {
  const float *x = g.x + row * g.stride;
  for (int64_t i = 0; i < g.columns; i++) z[i] = x[i] / g.temperature;
  const int64_t start = g.starts[row], end = g.starts[row + 1];
  if (end > start) g.own[row] = log_sum_exp(z, g.columns, found);
  before.clear();
  for (int64_t i = start; i < end; i++) before.push_back(z[g.at[i]]), z[g.at[i]] += float(g.off[i]);
  ranked.resize(size_t(g.k));
  float total;
  int64_t *ids = g.ids + row * g.k;
  const SpecexecLogits l{z, g.noise ? g.noise + row : nullptr, ids, ranked.data(), &total, 1, g.columns, g.columns, g.k, g.a, g.b, 1};
  read_one(l, 0, found);
  if (end == start) g.own[row] = total;
  for (int64_t i = 0; i < g.k; i++) g.log_q[row * g.k + i] = double(z[ids[i]]) - double(total);
  for (int64_t i = 0; i < g.k; i++) g.g[row * g.k + i] = g.noise ? double(g.noise[row][ids[i]]) : 0.;
  score(g, row);
  for (int64_t i = end - start; i-- > 0;) z[g.at[start + i]] = before[size_t(i)];
}

static void guess(const SpecexecGuesses *of) {
#pragma omp parallel for num_threads(of->threads) if (of->threads > 1 && of->n > 1 && of->n * of->columns >= kWorthWaking)
  for (int64_t row = 0; row < of->n; row++) {
    static thread_local Found found;
    static thread_local std::vector<float> room, before, ranked;
    if (row >= of->keeps) room.resize(size_t(of->columns));
    guess_row(*of, row, row < of->keeps ? of->kept + row * of->columns : room.data(), before, ranked, found);
  }
}

void fill_logits(Kernels &k) { k.read = read, k.guess = guess; }

}  // namespace specexec::SPECEXEC_ISA
