// A row of Gumbel noise from a counter: the same bits on every instruction set, and as specexec/noise.py makes them without us.
//
// Nothing here is rounded but by +, -, * and / of float64, in one order: a logarithm of the C library, or of numpy, depends on
// the machine.   Philox: Salmon et al. 2011
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kPart = 512;  // values that are still in the nearest cache when their logarithms are taken
constexpr int64_t kWorthWaking = 1 << 14;  // values
constexpr uint64_t kMantissa = (uint64_t(1) << 52) - 1, kHalf = uint64_t(0x3fe) << 52, kWhole = uint64_t(0x433) << 52;
constexpr uint64_t kRootHalf = 0x6a09e667f3bcd;  // the mantissa of sqrt(1/2)
constexpr double k52 = 0x1p52;
constexpr double kLn2 = 0x1.62e42fee00000p-1, kLn2Rest = 0x1.a39ef35793c76p-33;  // the first has few bits: k times it is exact

template <class To, class From> static inline To bits(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from), "the same bits");
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Of 0 < x < inf, normal: 2 artanh((m - 1) / (m + 1)) of the mantissa m in sqrt(1/2) .. sqrt(2). No branch: it is vectorised.
static inline double logarithm(double x) {
  const uint64_t u = bits<uint64_t>(x), mantissa = u & kMantissa, low = (mantissa - kRootHalf) >> 63;
  const double m = bits<double>(mantissa | (kHalf + (low << 52))), k = bits<double>(((u >> 52) - low) | kWhole) - (k52 + 1022);
  const double s = (m - 1) / (m + 1), z = s * s;
  double p = 2. / 21;
  p = p * z + 2. / 19, p = p * z + 2. / 17, p = p * z + 2. / 15, p = p * z + 2. / 13, p = p * z + 2. / 11;
  p = p * z + 2. / 9, p = p * z + 2. / 7, p = p * z + 2. / 5, p = p * z + 2. / 3;
  return k * kLn2 + ((s + s) + (s * (z * p) + k * kLn2Rest));
}

// Four words of the counter (block + 1, 0, index, answer), as numpy's Philox counts.
static void philox(const SpecexecNoise &of, int64_t block, uint64_t *out) {
  uint64_t c[4] = {uint64_t(block) + 1, 0, of.index, of.answer}, key[2] = {of.seed, 0};
  for (int round = 0; round < 10; round++) {
    const unsigned __int128 a = (unsigned __int128)0xd2e7470ee14c6c93 * c[0], b = (unsigned __int128)0xca5a826395121157 * c[2];
    const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ key[0], uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ key[1], uint64_t(a)};
    std::copy_n(next, 4, c);
    key[0] += 0x9e3779b97f4a7c15, key[1] += 0xbb67ae8584caa73b;
  }
  std::copy_n(c, 4, out);
}

// -log(-log u) of the uniform that 53 bits of a word stand for, in (0, 1).
static inline float gumbel(uint64_t word) {
  const uint64_t v = (word >> 11) - (((word >> 11) + 1) >> 53);  // the last one would be rounded to 1
  const double high = bits<double>((v >> 32) | kWhole) - k52, low = bits<double>((v & 0xffffffff) | kWhole) - k52;
  return float(-logarithm(-logarithm((high * 0x1p32 + low + 0.5) * 0x1p-53)));
}

static void noise(const SpecexecNoise *of) {
  const int64_t parts = (of->n + kPart - 1) / kPart;
#pragma omp parallel for num_threads(of->threads) if (of->threads > 1 && of->n >= kWorthWaking)
  for (int64_t part = 0; part < parts; part++) {
    uint64_t words[kPart];
    float values[kPart];
    const int64_t start = part * kPart, count = std::min(kPart, of->n - start);
    for (int64_t i = 0; i < count; i += 4) philox(*of, (start + i) / 4, words + i);
    for (int64_t i = 0; i < count; i++) values[i] = gumbel(words[i]);
    std::copy_n(values, count, of->out + start);
  }
}

void fill_noise(Kernels &k) { k.noise = noise; }

}  // namespace specexec::SPECEXEC_ISA
