// The plain C interface of the kernels, and the table that each instruction set fills. ABI changes with any struct or signature.
#pragma once
#include <cstddef>
#include <cstdint>

#define SPECEXEC_ABI 10

extern "C" {

// A quantised matrix in layout tile16 (formats.py) and where its products go.
struct SpecexecMatrix {
  const uint8_t *codes;     // nf4, q4_0: [rows/16][columns/8][16][4] bytes; int8, q8_0: [rows/16][columns/4][16][4];
                            // 3bit: [rows/16][columns/32][3][16][4]
  const uint16_t *scales;   // fp16 [rows/16][groups][16]; q4_0, q8_0: [rows/16][2 * groups][16]
  const float *bias;        // fp32 [rows], or null
  float *out;               // fp32 [n][stride]
  int64_t rows, stride;     // rows: those that exist; the codes are padded to 16
  int32_t kind, adds;       // kind: 0 nf4, 1 int8, 2 q4_0, 3 q8_0, 4 3bit. adds: out += product, instead of out = product
};

// Quantised activations: x = scale * q, per token and group of 64 columns, or scale * (q + low / 256) where `fine`. Tokens lie in
// tiles of `Kernels::tokens`, the last tile as wide as there are tokens left; within a tile of width w:
struct SpecexecActivations {
  void *q;                  // bits 8: int8 [columns/4][w][4]; bits 16: int16 [columns/2][w][2], of every 4 columns 0, 2, 1, 3
  float *scale;             // fp32 [groups][w]
  int32_t *sum;             // int32 [2 * groups][w], sums of q over 32 columns
  uint8_t *fine;            // [groups][w]. bits 8: behind all of q lies all of low, zeros where not fine, and behind sum its sums
  int64_t n, groups;
  int32_t bits, threads;
};

// Rows of another cache, of as many heads of the same dim, that queries see before those of their own: at positions their rows
// say, which come before the own cache's first.
struct SpecexecGathered {
  const uint16_t *keys, *values;  // the other cache's
  const int32_t *eights;    // [kv_heads][blocks][8], rows / 8 in order of position; -1 fills up
  int64_t capacity, blocks;
  int64_t position;         // of the other cache's first row
};

// Groups of 128 positions from 0 on (group.h), before all other rows.
struct SpecexecQuantised {
  uint8_t *upper, *lower;   // [128 * dim] of a head's group, of two codes a byte; lower: null where there is none
  uint16_t *scales;         // fp16 [2 * dim + 256] of it
  int64_t head, record;     // bytes of upper and of lower from a head to the next one, and from a group
  int64_t scales_head, scales_record;  // numbers of scales
  int64_t first, groups, head_dim;  // first: the group that lies first; groups: those that are there, from 0 on
  int32_t bits, follows;    // bits: that are read, 4 or 8. follows: a query sees all whole groups before its own as quantised,
                            // made on the way of those that are not there; else those that are there
  const int32_t *tiles;     // null, or with follows 0: [kv_heads][chosen], the only rows that are seen, / 16, in order of position;
  int64_t chosen;           // -1 fills up
};

// One layer's rows of keys and values: the committed ones, then the tree's. dim is padded to 32 with zeros.
struct SpecexecCache {
  uint16_t *keys;           // bf16 [kv_heads][capacity/16][dim/2][16][2]
  uint16_t *values;         // bf16 [kv_heads][capacity][dim], within every 32: 0, 16, 1, 17, ...
  int64_t capacity, kv_heads, dim;
  int64_t position;         // of its first row
  const SpecexecGathered *gathered;  // or null
  const SpecexecQuantised *quantised;  // or null
};

// What every layer of one pass knows about its n queries, the last n of the tree's t rows.
struct SpecexecPass {
  const int32_t *parents;   // [t], row of the parent in the tree, or -1; t = 0: queries see the committed rows alone
  const int32_t *first;     // [n], the first position each query sees
  int64_t committed, t, n;
  int32_t threads;
};

struct SpecexecAttention {
  const float *q;           // fp32 [n][heads][dim], roped and scaled
  float *out;               // fp32 [n][heads][out_dim]
  float *log_sum_exp;       // fp32 [n][heads], or null
  int64_t heads, out_dim;
};

// Splits one token's joined projections into roped queries, and keys and values in their place.
struct SpecexecRope {
  const float *qkv;         // fp32 [n][(heads + 2 * kv_heads) * head_dim]
  const float *angles;      // fp32 [n][2][head_dim/2]: cosines, sines
  const float *q_norm, *k_norm;  // fp32 [head_dim], or null
  float *q;                 // fp32 [n][heads][dim]
  int64_t n, heads, head_dim, row;  // row: in the cache, of the first token
  float eps, scaling;
  int32_t threads;
};

// Rows of logits, of which the k best are wanted, largest first, of equal ones the lower id; at most `columns`, and NaN is last.
struct SpecexecLogits {
  const float *x;             // fp32 [n][stride]
  const float *const *noise;  // of each row fp32 [columns]: a x + b noise is ranked; or null: x is
  int64_t *ids;               // [n][k]
  float *values;              // fp32 [n][k], what was ranked
  float *log_sum_exp;         // fp32 [n], of x; or null
  int64_t n, columns, stride, k;
  float a, b;
  int32_t threads;
};

// Rows of a draft's logits, of which the k likeliest picks are wanted: those with the largest a z + b noise, where z is x over the
// temperature and what is known to be off.
struct SpecexecGuesses {
  const float *x;             // fp32 [n][stride]
  const float *const *noise;  // of each row fp32 [columns], or null
  const int64_t *starts;      // [n + 1]: what is off in row i is off[starts[i]] to off[starts[i + 1] - 1], at the columns `at`;
  const int64_t *at;          // a column may come more than once
  const double *off;
  float *kept;                // fp32 [keeps][columns], of the first rows: x over the temperature
  int64_t *ids;               // [n][k]
  double *log_q, *g;          // [n][k]: z less its row's log-sum-exp, and the noise there
  double *score;              // [n][k]: log softmax of a log_q + b g among these and all others, which weigh as one
  double *own;                // [n], the log-sum-exp of x over the temperature
  int64_t n, columns, stride, k, keeps;
  double least, loud;         // what all others have at the least of q, and their noise
  float a, b, temperature;
  int32_t threads;
};

// A row of Gumbel noise, of what it depends on (specexec/noise.py).
struct SpecexecNoise {
  uint64_t seed, answer, index;
  float *out;               // fp32 [n]
  int64_t n;
  int32_t threads;
};

// A decoder layer and the buffers of a pass through it: x += attention of x, then x += feed-forward of x.
struct SpecexecLayer {
  float *x;                 // fp32 [n][width]
  const float *input_norm, *post_norm;  // fp32 [width]
  const SpecexecMatrix *qkv, *o, *gate_up, *down;  // 3, 1, 2 and 1 of them; o and down add to x
  const SpecexecRope *rope;             // from where qkv's products go
  const SpecexecAttention *attention;   // of what rope leaves
  const SpecexecActivations *wide, *mixed, *fed;  // what is multiplied: qkv and gate_up with wide, o with mixed, down with fed
  int64_t width, ffn;
  float eps;
};
}

namespace specexec {

struct Kernels {
  int64_t tokens;
  void (*quantise)(const float *x, int64_t columns, const SpecexecActivations *to);
  void (*linear)(const SpecexecMatrix *matrices, int64_t count, const SpecexecActivations *x);
  void (*norm)(const float *x, const float *weight, int64_t n, int64_t columns, float eps, float *out, int32_t threads);
  void (*norm_quantise)(const float *x, const float *weight, int64_t columns, float eps, const SpecexecActivations *to);
  void (*silu_quantise)(const float *gate_up, int64_t columns, const SpecexecActivations *to);
  void (*rope)(const SpecexecRope *what, const SpecexecCache *to);
  void (*attend)(const SpecexecAttention *what, const SpecexecCache *over, const SpecexecPass *pass);
  void (*move)(const SpecexecCache *cache, int64_t layers, int64_t to, const int64_t *from, int64_t count);
  void (*compress)(const SpecexecCache *cache, int64_t layers, int64_t from, int64_t to, int32_t threads);
  void (*layer)(const SpecexecLayer *of, const SpecexecCache *cache, const SpecexecPass *pass);
  void (*read)(const SpecexecLogits *of);
  void (*noise)(const SpecexecNoise *of);
  void (*guess)(const SpecexecGuesses *of);
};

}  // namespace specexec
