// Attention of the queries of a tree over bf16 keys and values, by blocks of 64 absolute positions.
//
// A query takes its blocks in order of position, and the keys of a block in order, each sum fused step by step; a chunk of 64
// blocks begins anew, and chunks merge in order. So a query's result does not depend on which of its keys are committed, on
// the tree around it, or on threads. Blocks that all queries of a task see whole are done together; the others one query at
// a time, through the rows of its own path. Rows gathered from another cache come first, in blocks of eight times eight, read
// where they lie.   Online softmax: Milakov and Gimelshein 2018; tasks by chunk: Flash-Decoding, Dao 2023
#include <algorithm>
#include <atomic>
#include <vector>

#include "group_attention.h"
#include "kernels.h"
#include "simd.h"
#include "softmax.h"

namespace specexec::SPECEXEC_ISA {

constexpr int64_t kChunk = 64 * kBlock;
constexpr int64_t kTaskRows = 48;
constexpr double kAttendWorthWaking = 3e5;

struct Query {
  int64_t groups;             // that it sees quantised
  int64_t contiguous;         // rows it sees that lie in order of position: committed ones and the trunk of the tree
  int64_t first;              // first row it sees
  const int64_t *path;        // rows of the rest of its path
  int64_t depth;              // how many
  int64_t end() const { return contiguous + depth; }
  int64_t row(int64_t i) const { return i < contiguous ? i : path[i - contiguous]; }
};

struct Queries {
  std::vector<Query> each;
  std::vector<int64_t> rows;

  Queries(const SpecexecPass &p, const SpecexecCache &c) {
    const int64_t position = c.position;
    int64_t trunk = 0;
    while (trunk < p.t && p.parents[trunk] == trunk - 1) trunk++;
    std::vector<int64_t> starts;
    for (int64_t i = 0; i < p.n; i++) {
      const int64_t first = std::max<int64_t>(0, p.first[i] - position);
      if (!p.t) {
        each.push_back({0, p.committed, first, nullptr, 0}), starts.push_back(0);
        continue;
      }
      const size_t start = rows.size();
      int64_t r = p.t - p.n + i;
      for (; r >= trunk; r = p.parents[r]) rows.push_back(p.committed + r);
      std::reverse(rows.begin() + int64_t(start), rows.end());
      starts.push_back(int64_t(start));
      each.push_back({0, p.committed + r + 1, first, nullptr, int64_t(rows.size() - start)});
    }
    for (size_t i = 0; i < each.size(); i++) each[i].path = rows.data() + starts[i];
    if (c.quantised)
      for (Query &query : each) quantised(query, *c.quantised, position, p.t > 0);
  }

  // A function of the query's position alone, where it is a tree's.
  static void quantised(Query &query, const SpecexecQuantised &by, int64_t position, bool of_tree) {
    query.groups = by.follows && of_tree ? (position + query.end() - 1) / kGroupRows : by.groups;
    query.first = std::max(query.first, query.groups * kGroupRows - position);
  }
};

template <int T> struct Tiles {  // whole ones
  const uint16_t *tile[T];
  INLINE_METHOD void load(int t, int64_t d, int64_t dim, F &even, F &odd) const {
    pairs(tile[t] + d * 16, even, odd);
    prefetch(tile[t] + d * 16 + kBlock * dim);  // the next block: tiles are pages, which the CPU's own prefetch ends at
  }
};

template <int T> struct Halves {  // eight keys here, eight there
  const uint16_t *half[2 * T], *next[2 * T];
  INLINE_METHOD void load(int t, int64_t d, int64_t, F &even, F &odd) const {
    pairs(half[2 * t] + d * 16, half[2 * t + 1] + d * 16, even, odd);
    prefetch(next[2 * t] + d * 16), prefetch(next[2 * t + 1] + d * 16);
  }
};

// scores[r][t * 16 ..] = q[r] . the 16 keys of tile t
template <int R, int T, class Keys> static void score(const float *const *q, const Keys &tiles, int64_t dim, float *scores) {
  F acc[T][R];
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) acc[t][r] = zero();
  for (int64_t d = 0; d < dim; d += 2) {
    F even[T], odd[T];
    for (int t = 0; t < T; t++) tiles.load(t, d, dim, even[t], odd[t]);
    for (int r = 0; r < R; r++) {
      const F a = set(q[r][d]);
      for (int t = 0; t < T; t++) acc[t][r] = fma(even[t], a, acc[t][r]);
    }
    for (int r = 0; r < R; r++) {
      const F b = set(q[r][d + 1]);
      for (int t = 0; t < T; t++) acc[t][r] = fma(odd[t], b, acc[t][r]);
    }
  }
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) store(scores + r * kBlock + t * 16, acc[t][r]);
}

struct Straight {  // the rows of a block in order of position
  int64_t start;
  INLINE_METHOD int64_t operator()(int64_t k) const { return start + k; }
  INLINE_METHOD int64_t next(int64_t k) const { return start + k + kBlock; }
};

struct Listed {
  const int64_t *rows;
  INLINE_METHOD int64_t operator()(int64_t k) const { return rows[k]; }
  INLINE_METHOD int64_t next(int64_t k) const { return rows[k] + kBlock; }
};

struct Eights {  // eights[i] is of rows 8 * eights[i].., or -1; those from `end` on are none
  const int32_t *now, *then;  // then: the next block's
  int64_t end;
  INLINE_METHOD int64_t row(const int32_t *eights, int64_t k) const { return int64_t(eights[k / 8]) * 8 + k % 8; }
  INLINE_METHOD int64_t operator()(int64_t k) const { return row(now, k) < end ? row(now, k) : -1; }
  INLINE_METHOD int64_t next(int64_t k) const { return std::max<int64_t>(0, row(then, k)); }
};

// mix[r] += weights[r][k] * the value at `at(k)`, k in order; at(k) < 0: none there
template <int R, int S, class At>
static void mix_slabs(const float *weights, const uint16_t *values, const At &at, int64_t dim, int64_t from, float *mix) {
  F acc[R][2 * S];
  for (int r = 0; r < R; r++)
    for (int s = 0; s < 2 * S; s++) acc[r][s] = load(mix + r * dim + from + s * 16);
  for (int64_t k = 0; k < kBlock; k++) {
    const int64_t row = at(k);
    if (row < 0) continue;
    F v[2 * S];
    for (int s = 0; s < S; s++) {
      const uint16_t *p = values + row * dim + from + s * 32;
      pairs(p, v[2 * s], v[2 * s + 1]);
      prefetch(values + at.next(k) * dim + from + s * 32);
    }
    for (int r = 0; r < R; r++) {
      const F w = set(weights[r * kBlock + k]);
      for (int s = 0; s < 2 * S; s++) acc[r][s] = fma(w, v[s], acc[r][s]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int s = 0; s < 2 * S; s++) store(mix + r * dim + from + s * 16, acc[r][s]);
}

template <int R, class At>
static void mix(const float *weights, const uint16_t *values, const At &at, int64_t dim, float *to) {
  constexpr int kSlabs = R * 4 <= kAttendRows * 2 ? 2 : 1;
  int64_t d = 0;
  for (; d + 32 * kSlabs <= dim; d += 32 * kSlabs) mix_slabs<R, kSlabs>(weights, values, at, dim, d, to);
  for (; d < dim; d += 32) mix_slabs<R, 1>(weights, values, at, dim, d, to);
}

struct Head {  // one KV head's rows
  const uint16_t *keys, *values;
  int64_t dim;
  const uint16_t *tile(int64_t row) const { return keys + row / 16 * 16 * dim; }
  const uint16_t *half(int64_t eight) const { return eight < 0 ? keys : keys + eight / 2 * 16 * dim + eight % 2 * 16; }
};

// A whole block for R rows at once. first[r]: the first position row r sees.
template <int R>
static void whole_block(const Head &h, int64_t start, const float *const *q, const int64_t *first, const State &s) {
  constexpr int kTiles = R * 4 <= kAttendRows * 2 ? 4 : kAttendRows >= 12 ? 2 : 1;
  float scores[R * kBlock];
  for (int64_t t = 0; t < 4; t += kTiles) {
    Tiles<kTiles> tiles;
    for (int i = 0; i < kTiles; i++) tiles.tile[i] = h.tile(start + (t + i) * 16);
    score<R, kTiles>(q, tiles, h.dim, scores + t * 16);
  }
  for (int r = 0; r < R; r++) {
    for (int64_t k = 0; k < std::min(first[r] - start, kBlock); k++) scores[r * kBlock + k] = 2 * kNever;
    soften(scores + r * kBlock, s.at(r));
  }
  mix<R>(scores, h.values, Straight{start}, h.dim, s.mix);
}

// The same of rows gathered from elsewhere, whose positions are their rows'.
template <int R>
static void gathered_block(const Head &h, const Eights &at, const float *const *q, const int64_t *first, const State &s) {
  constexpr int kTiles = R * 4 <= kAttendRows * 2 ? 4 : kAttendRows >= 12 ? 2 : 1;
  float scores[R * kBlock];
  for (int64_t t = 0; t < 4; t += kTiles) {
    Halves<kTiles> tiles;
    for (int i = 0; i < 2 * kTiles; i++) tiles.half[i] = h.half(at.now[2 * t + i]), tiles.next[i] = h.half(at.then[2 * t + i]);
    score<R, kTiles>(q, tiles, h.dim, scores + t * 16);
  }
  for (int r = 0; r < R; r++) {
    for (int64_t k = 0; k < kBlock; k++)
      if (at(k) < first[r]) scores[r * kBlock + k] = 2 * kNever;
    soften(scores + r * kBlock, s.at(r));
  }
  mix<R>(scores, h.values, at, h.dim, s.mix);
}

template <int R>
static void block(const Head &h, int64_t start, const float *const *q, const int64_t *first, const State &s) {
  whole_block<R>(h, start, q, first, s);
}
template <int R>
static void block(const Head &h, const Eights &at, const float *const *q, const int64_t *first, const State &s) {
  gathered_block<R>(h, at, q, first, s);
}

template <int R, class Place>
static void whole_blocks(const Head &h, Place at, int64_t rows, const float *const *q, const int64_t *first, const State &s) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) block<R>(h, at, q + r, first + r, s.at(r));
  if constexpr (R > 1) {
    if (r < rows) whole_blocks<(R > 8 ? 8 : R / 2)>(h, at, rows - r, q + r, first + r, s.at(r));
  }
}

// The block at `start` for the heads of one query, through its own rows.
template <int R>
static void own_block(const Head &h, int64_t start, const float *const *q, const Query &query, const State &s) {
  int64_t rows[kBlock], tiles[kBlock], count = 0;
  for (int64_t k = 0; k < kBlock; k++) {
    const int64_t p = start + k;
    rows[k] = p < query.first || p >= query.end() ? -1 : p < query.contiguous ? p : query.path[p - query.contiguous];
    if (rows[k] >= 0 && (!count || tiles[count - 1] != rows[k] / 16)) tiles[count++] = rows[k] / 16;
  }
  float all[kBlock / 4][R * kBlock], scores[R * kBlock];  // four tiles each
  for (int64_t c = 0; c < count; c += 4) {
    Tiles<4> four;
    for (int64_t i = 0; i < 4; i++) four.tile[i] = h.tile(tiles[std::min(c + i, count - 1)] * 16);
    score<R, 4>(q, four, h.dim, all[c / 4]);
  }
  std::fill_n(scores, R * kBlock, 2 * kNever);
  int64_t c = 0;
  for (int64_t k = 0; k < kBlock; k++) {
    if (rows[k] < 0) continue;
    while (tiles[c] != rows[k] / 16) c++;
    for (int r = 0; r < R; r++) scores[r * kBlock + k] = all[c / 4][r * kBlock + c % 4 * 16 + rows[k] % 16];
  }
  for (int r = 0; r < R; r++) soften(scores + r * kBlock, s.at(r));
  mix<R>(scores, h.values, Listed{rows}, h.dim, s.mix);
}

template <int R>
static void own_blocks(const Head &h, int64_t start, int64_t heads, const float *const *q, const Query &query, const State &s) {
  int64_t r = 0;
  for (; r + R <= heads; r += R) own_block<R>(h, start, q + r, query, s.at(r));
  if constexpr (R > 1) {
    if (r < heads) own_blocks<R / 2>(h, start, heads - r, q + r, query, s.at(r));
  }
}

// total += part, chunk after chunk
static void merge(const State &total, const State &part, int64_t rows) {
  for (int64_t r = 0; r < rows; r++) {
    const State a = total.at(r), b = part.at(r);
    const float most = std::max(*a.most, *b.most);
    const F x = exp(set(*a.most - most)), y = exp(set(*b.most - most));
    float u[16], v[16];
    store(u, x), store(v, y);
    *a.total = *a.total * u[0] + *b.total * v[0], *a.most = most;
    for (int64_t d = 0; d < a.dim; d += 16) store(a.mix + d, fma(load(b.mix + d), y, mul(load(a.mix + d), x)));
  }
}

// Some consecutive queries and one KV head.
struct Task {
  const SpecexecAttention &what;
  Head head;
  const Query *queries;
  int64_t index, count, group, kv_head;  // of the first query; how many; heads a KV head
  std::vector<const float *> q;
  std::vector<int64_t> first, seen, from_group;  // the first row each sees, here and among gathered ones; position, of groups
  const SpecexecGathered *gathered;
  const SpecexecQuantised *quantised;
  Head base;
  int64_t position;  // of this cache's first row
  int64_t groups = 0;  // that any of them sees quantised
  int64_t whole_from = 0, whole_to = INT64_MAX, end = 0;  // positions: blocks all see whole, the last one any sees

  Task(const SpecexecAttention &a, const SpecexecCache &c, const SpecexecPass &p, const Queries &all, int64_t kv, int64_t from, int64_t to)
      : what(a), head{c.keys + kv * c.capacity * c.dim, c.values + kv * c.capacity * c.dim, c.dim},
        queries(all.each.data() + from), index(from), count(to - from), group(a.heads / c.kv_heads), kv_head(kv),
        gathered(c.gathered), quantised(c.quantised), base{nullptr, nullptr, c.dim}, position(c.position) {
    if (gathered) {
      const int64_t start = kv * gathered->capacity * c.dim;
      base = {gathered->keys + start, gathered->values + start, c.dim};
    }
    whole_from = INT64_MAX;
    for (int64_t i = 0; i < count; i++) {
      whole_from = std::min(whole_from, queries[i].first / kBlock * kBlock);
      whole_to = std::min(whole_to, queries[i].contiguous / kBlock * kBlock);
      end = std::max(end, queries[i].end());
      groups = std::max(groups, queries[i].groups);
      for (int64_t g = 0; g < group; g++) {
        q.push_back(a.q + ((from + i) * a.heads + kv * group + g) * c.dim);
        first.push_back(queries[i].first);
        seen.push_back(std::max<int64_t>(0, p.first[from + i] - (gathered ? gathered->position : 0)));
        from_group.push_back(p.first[from + i]);
      }
    }
  }
  int64_t rows() const { return count * group; }
  int64_t first_chunk() const { return whole_from / kChunk; }
  int64_t chunks() const { return (end + kChunk - 1) / kChunk; }
  int64_t gathered_pieces() const { return gathered ? (gathered->blocks + kChunk / kBlock - 1) / (kChunk / kBlock) : 0; }
  int64_t quantised_rows() const { return quantised && quantised->tiles ? quantised->chosen * kSeenRows : groups * kGroupRows; }
  int64_t quantised_pieces() const { return (quantised_rows() + kChunk - 1) / kChunk; }
  int64_t pieces() const { return quantised_pieces() + gathered_pieces() + std::max<int64_t>(0, chunks() - first_chunk()); }

  void piece(int64_t i, const State &s) const {
    s.clear(rows());
    if (i < quantised_pieces()) return quantised_piece(i, s);
    i -= quantised_pieces();
    if (i < gathered_pieces()) gathered_piece(i, s);
    else chunk(first_chunk() + i - gathered_pieces(), s);
  }

  void quantised_piece(int64_t i, const State &s) const {
    if (quantised->tiles) return tiles_piece(i, s);
    const int64_t to = std::min(groups, (i + 1) * (kChunk / kGroupRows));
    for (int64_t g = i * (kChunk / kGroupRows); g < to; g++) {
      if (g < quantised->groups) attend_group(stored(g), g, 0, count, s);
      else made_groups(g, s);
    }
  }

  void tiles_piece(int64_t i, const State &s) const {
    const int32_t *all = quantised->tiles + kv_head * quantised->chosen;
    const int64_t end = std::min(quantised->chosen, (i + 1) * (kChunk / kSeenRows));
    for (int64_t from = i * (kChunk / kSeenRows); from < end; from += kBlock / kSeenRows) {
      Group of[kBlock / kSeenRows];
      int64_t tiles[kBlock / kSeenRows], held = 0;
      for (int64_t at = from; at < std::min(end, from + kBlock / kSeenRows); at++)
        if (all[at] >= 0) tiles[held] = all[at], of[held++] = stored(all[at] / kGroupSeen);
      const Tiled some{of, tiles, held};
      if (held && quantised->bits == 8) tiles_all<kAttendRows, 8>(some, rows(), q.data(), from_group.data(), s);
      else if (held) tiles_all<kAttendRows, 4>(some, rows(), q.data(), from_group.data(), s);
    }
  }

  template <int R, int Bits>
  void tiles_all(const Tiled &some, int64_t rows, const float *const *asked, const int64_t *from, const State &s) const {
    int64_t r = 0;
    for (; r + R <= rows; r += R) tiled_rows<R, Bits>(some, head.dim, asked + r, from + r, s.at(r));
    if constexpr (R > 1) {
      if (r < rows) tiles_all<(R > 8 ? 8 : R / 2), Bits>(some, rows - r, asked + r, from + r, s.at(r));
    }
  }

  Group stored(int64_t g) const {
    const MadeGroup at = lying(*quantised, kv_head, g);
    return {at.upper, at.lower, at.scales, quantised->record};
  }

  // Groups of rows that are not committed, or just now: a query's are of its own path.
  void made_groups(int64_t g, const State &s) const {
    const int64_t last = (g + 1) * kGroupRows - 1 - position;
    for (int64_t i = 0, j; i < count; i = j) {
      for (j = i + 1; j < count && queries[j].groups > g && queries[i].groups > g && queries[j].row(last) == queries[i].row(last);) j++;
      if (queries[i].groups > g) attend_group(made(g, queries[i]), g, i, j, s);
    }
  }

  Group made(int64_t g, const Query &query) const;

  // Queries from..to - 1.
  void attend_group(const Group &g, int64_t index, int64_t from, int64_t to, const State &s) const {
    const int64_t r = from * group, count_rows = (to - from) * group, start = index * kGroupRows;
    if (quantised->bits == 8) group_all<kAttendRows, 8>(g, start, count_rows, q.data() + r, from_group.data() + r, s.at(r));
    else group_all<kAttendRows, 4>(g, start, count_rows, q.data() + r, from_group.data() + r, s.at(r));
  }

  template <int R, int Bits>
  void group_all(const Group &g, int64_t start, int64_t rows, const float *const *asked, const int64_t *from, const State &s) const {
    int64_t r = 0;
    for (; r + R <= rows; r += R) group_rows<R, Bits>(g, start, head.dim, asked + r, from + r, s.at(r));
    if constexpr (R > 1) {
      if (r < rows) group_all<(R > 8 ? 8 : R / 2), Bits>(g, start, rows - r, asked + r, from + r, s.at(r));
    }
  }

  void gathered_piece(int64_t i, const State &s) const {
    const int64_t end = std::min(gathered->blocks, (i + 1) * (kChunk / kBlock));
    const int32_t *eights = gathered->eights + kv_head * gathered->blocks * 8;
    for (int64_t b = i * (kChunk / kBlock); b < end; b++) {
      const int32_t *now = eights + b * 8, *then = b + 1 < gathered->blocks ? now + 8 : now;
      whole_blocks<kAttendRows>(base, Eights{now, then, position - gathered->position}, rows(), q.data(), seen.data(), s);
    }
  }

  void chunk(int64_t c, const State &s) const {
    const int64_t from = c * kChunk, to = from + kChunk;
    for (int64_t b = std::max(from, whole_from); b < std::min(to, whole_to); b += kBlock)
      whole_blocks<kAttendRows>(head, b, rows(), q.data(), first.data(), s);
    for (int64_t i = 0; i < count; i++)
      for (int64_t b = std::max(from, std::max(whole_to, queries[i].first / kBlock * kBlock)); b < std::min(to, queries[i].end()); b += kBlock)
        own_blocks<4>(head, b, group, q.data() + i * group, queries[i], s.at(i * group));
  }

  void finish(const State &s) const {
    for (int64_t r = 0; r < rows(); r++) {
      const State row = s.at(r);
      const int64_t at = (index + r / group) * what.heads + kv_head * group + r % group;
      for (int64_t d = 0; d < what.out_dim; d++) what.out[at * what.out_dim + d] = row.mix[d] / *row.total;
      if (what.log_sum_exp) what.log_sum_exp[at] = *row.most + std::log(*row.total);
    }
  }
};

// Groups that a thread made lately: queries of one head mostly share them.
struct Lately {
  struct Slot {
    int64_t pass = -1, last = 0;
    const uint16_t *keys = nullptr;
    std::vector<uint8_t> codes;
    std::vector<uint16_t> scales;
  };
  std::vector<Slot> slots = std::vector<Slot>(32);
  size_t next = 0;
  Making room;
};
static Lately &lately() {  // one in the file's scope would be made by a function that all instruction sets share the name of
  static thread_local Lately own;
  return own;
}
static std::atomic<int64_t> passes{0};  // calls of attend

Group Task::made(int64_t g, const Query &query) const {
  int64_t rows[kGroupRows];
  for (int64_t r = 0; r < kGroupRows; r++) rows[r] = query.row(g * kGroupRows - position + r);
  const int64_t size = Group::bytes(head.dim), last = rows[kGroupRows - 1], pass = passes;
  Lately &own = lately();
  Lately::Slot *slot = nullptr;
  for (Lately::Slot &one : own.slots)
    if (one.pass == pass && one.keys == head.keys && one.last == last) slot = &one;
  if (!slot) {
    slot = &own.slots[own.next++ % own.slots.size()];
    slot->pass = pass, slot->keys = head.keys, slot->last = last;
    slot->codes.resize(size_t(2 * size)), slot->scales.resize(size_t(Group::numbers(head.dim)));
    make_group(head.keys, head.values, rows, head.dim, quantised->head_dim, own.room,
               {slot->codes.data(), slot->codes.data() + size, slot->scales.data()});
  }
  return {slot->codes.data(), slot->codes.data() + size, slot->scales.data(), size};
}

static float *scratch(int64_t floats) {
  static thread_local std::vector<float> room;
  if (int64_t(room.size()) < floats) room.resize(size_t(floats));
  return room.data();
}

static void whole_task(const Task &task) {  // all its chunks, one after another
  const int64_t rows = task.rows(), dim = task.head.dim, size = State::floats(rows, dim);
  float *room = scratch(2 * size);
  const State total = State::over(room, rows, dim), part = State::over(room + size, rows, dim);
  task.piece(0, total);
  for (int64_t i = 1; i < task.pieces(); i++) {
    task.piece(i, part);
    merge(total, part, rows);
  }
  task.finish(total);
}

// few tasks over many keys: every chunk on its own, merged at the end
static void split_tasks(const std::vector<Task> &tasks, int threads) {
  struct Piece { const Task *task; int64_t index; int64_t at; };
  std::vector<Piece> pieces;
  int64_t size = 0;
  for (const Task &t : tasks)
    for (int64_t i = 0; i < t.pieces(); i++) {
      pieces.push_back({&t, i, size});
      size += State::floats(t.rows(), t.head.dim);
    }
  std::vector<float> room(static_cast<size_t>(size));
  const auto state = [&](const Piece &p) { return State::over(room.data() + p.at, p.task->rows(), p.task->head.dim); };
  (void)threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t i = 0; i < pieces.size(); i++) pieces[i].task->piece(pieces[i].index, state(pieces[i]));
  for (size_t i = 0, j; i < pieces.size(); i = j) {
    for (j = i + 1; j < pieces.size() && pieces[j].task == pieces[i].task; j++)
      merge(state(pieces[i]), state(pieces[j]), pieces[i].task->rows());
    pieces[i].task->finish(state(pieces[i]));
  }
}

static void attend(const SpecexecAttention *what, const SpecexecCache *over, const SpecexecPass *pass) {
  passes++;
  const Queries queries(*pass, *over);
  const int64_t step = std::max<int64_t>(1, kTaskRows / (what->heads / over->kv_heads));
  std::vector<Task> tasks;
  for (int64_t h = 0; h < over->kv_heads; h++)
    for (int64_t i = 0; i < pass->n; i += step) tasks.emplace_back(*what, *over, *pass, queries, h, i, std::min(i + step, pass->n));
  const int threads = pass->threads;
  const double work = double(pass->n) * double(what->heads * over->dim) * double(pass->committed + pass->n + kBlock * (over->gathered ? over->gathered->blocks : 0) +
             (over->quantised ? over->quantised->tiles ? kSeenRows * over->quantised->chosen : kGroupRows * over->quantised->groups : 0));
  if (threads > 1 && work > kAttendWorthWaking && int64_t(tasks.size()) < 3 * threads && tasks[0].pieces() > 1)
    return split_tasks(tasks, threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1 && work > kAttendWorthWaking)
  for (size_t i = 0; i < tasks.size(); i++) whole_task(tasks[i]);
}

void fill_attention(Kernels &k) { k.attend = attend; }

}  // namespace specexec::SPECEXEC_ISA
