// What a machine can do at most: read memory, and multiply bytes. Compiled by machine.py where it runs.
#include <omp.h>

#include <cstddef>
#include <cstdint>
#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

extern "C" {

// The sum of n bytes as words. Each thread reads four streams: no page walk or prefetcher holds all of them up at once.
uint64_t read_all(const char *p, size_t n, int threads) {
  uint64_t all = 0;
#pragma omp parallel num_threads(threads) reduction(+ : all)
  {
    const size_t quarter = n / size_t(threads) / 4 / 64 * 64;
    const char *from = p + 4 * quarter * size_t(omp_get_thread_num());
    uint64_t sum[4][8] = {};
    for (size_t i = 0; i < quarter; i += 64)
      for (int s = 0; s < 4; s++) {
        const uint64_t *line = (const uint64_t *)(from + s * quarter + i);
        __builtin_prefetch(line + 128, 0, 3);
        for (int j = 0; j < 8; j++) sum[s][j] += line[j];
      }
    for (auto &one : sum)
      for (uint64_t x : one) all += x;
  }
  return all;
}

// Does `times` x 1024 products of bytes a thread, and returns how many: 0 where there is no VNNI.
int64_t byte_products(int64_t times, int threads) {
#if defined(__AVX512VNNI__)
  int64_t kept = 0;
#pragma omp parallel num_threads(threads) reduction(+ : kept)
  {
    __m512i sum[16];
    for (auto &s : sum) s = _mm512_setzero_si512();
    __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(3);
    for (int64_t i = 0; i < times; i++) {
      asm volatile("" : "+v"(a), "+v"(b));  // no loop invariant
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
    }
    for (auto &s : sum) kept += _mm512_reduce_add_epi32(s);
  }
  return kept == 1 ? 1 : times * 16 * 64 * threads;
#else
  (void)times, (void)threads;
  return 0;
#endif
}
}
