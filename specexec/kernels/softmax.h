// What a query knows of the keys it has seen so far.   Online softmax: Milakov and Gimelshein 2018
#pragma once
#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kBlock = 64;    // keys
constexpr float kNever = -1e30f;  // below any score; e^(kNever - x) is 0

// What some rows (a query and a head each) know so far: the running maximum, the sum and the mix of values under it.
struct State {
  float *most, *total, *mix;
  int64_t dim;
  State at(int64_t row) const { return {most + row, total + row, mix + row * dim, dim}; }
  static int64_t floats(int64_t rows, int64_t dim) { return rows * (dim + 2); }
  static State over(float *p, int64_t rows, int64_t dim) { return {p, p + rows, p + 2 * rows, dim}; }
  void clear(int64_t rows) const {
    std::fill_n(most, rows, kNever), std::fill_n(total, rows, 0.f), std::fill_n(mix, rows * dim, 0.f);
  }
};

// Scores of one block become weights under the new maximum; the state so far shrinks to it. Masked scores weigh nothing.
static void soften(float *scores, const State &s) {
  F v[4], w[4];
  for (int i = 0; i < 4; i++) v[i] = load(scores + 16 * i);
  const float most = std::max(*s.most, largest(max(max(v[0], v[1]), max(v[2], v[3]))));
  const F peak = set(most);
  for (int i = 0; i < 4; i++) {
    w[i] = exp(sub(v[i], peak));
    store(scores + 16 * i, w[i]);
  }
  if (most != *s.most) {
    const F shrink = exp(set(*s.most - most));
    float one[16];
    store(one, shrink);
    *s.total *= one[0], *s.most = most;
    for (int64_t d = 0; d < s.dim; d += 16) store(s.mix + d, mul(load(s.mix + d), shrink));
  }
  *s.total += sum(add(add(w[0], w[1]), add(w[2], w[3])));
}

}  // namespace specexec::SPECEXEC_ISA
