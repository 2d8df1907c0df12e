// Committed rows become quantised groups, once each.
#include "group.h"

namespace specexec::SPECEXEC_ISA {

static void compress_head(const SpecexecCache &c, int64_t head, int64_t group, Making &room) {
  const SpecexecQuantised &q = *c.quantised;
  const int64_t start = head * c.capacity * c.dim;
  int64_t rows[kGroupRows];
  for (int64_t r = 0; r < kGroupRows; r++) rows[r] = group * kGroupRows - c.position + r;
  make_group(c.keys + start, c.values + start, rows, c.dim, q.head_dim, room, lying(q, head, group));
}

// groups from..to - 1 of every layer, whose rows all lie in the cache
static void compress(const SpecexecCache *layers, int64_t count, int64_t from, int64_t to, int32_t threads) {
  (void)threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t layer = 0; layer < count; layer++) {
    Making room;
    for (int64_t head = 0; head < layers[layer].kv_heads; head++)
      for (int64_t group = from; group < to; group++) compress_head(layers[layer], head, group, room);
  }
}

void fill_hierarchical(Kernels &k) { k.compress = compress; }

}  // namespace specexec::SPECEXEC_ISA
