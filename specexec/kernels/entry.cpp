// What the library exports, and which instruction set answers.
//
// Compiled once, for every CPU of this architecture. SPECEXEC_ISAS lists the instruction sets compiled in, best first:
// X(avx512) X(avx2) X(portable). Only a set this CPU runs is ever entered, its fill functions included.
#include <atomic>
#include <cstring>
#include <string>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#define SPECEXEC_EXPORT extern "C" __attribute__((visibility("default")))

namespace specexec {

#define X(isa)                       \
  namespace isa {                    \
  void fill_linear(Kernels &);       \
  void fill_attention(Kernels &);    \
  void fill_rows(Kernels &);         \
  void fill_hierarchical(Kernels &); \
  void fill_logits(Kernels &);       \
  void fill_noise(Kernels &);        \
  }
SPECEXEC_ISAS
#undef X

namespace {

// __builtin_cpu_supports also asks whether the system saves the wide registers.
#if defined(__x86_64__)

[[maybe_unused]] bool runs_avx2() {
  unsigned a, b, c, d;
  bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);  // a name older compilers' builtin does not know
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

[[maybe_unused]] bool runs_avxvnni() {
  unsigned a, b, c, d;
  return runs_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1U << 4);
}

[[maybe_unused]] bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

#elif defined(__aarch64__) && defined(__linux__)

[[maybe_unused]] bool runs_neon() {
  constexpr unsigned long half = 1UL << 9 | 1UL << 10, dot = 1UL << 20;  // FPHP, ASIMDHP, ASIMDDP
  return (getauxval(AT_HWCAP) & (half | dot)) == (half | dot);
}

#elif defined(__aarch64__)

[[maybe_unused]] bool runs_neon() { return true; }

#endif

bool runs_portable() { return true; }

// One call instead of ten: between kernels that went through memory the caller's own code and data are in no cache any more.
void through(const Kernels &k, const SpecexecLayer &l, const SpecexecCache *cache, const SpecexecPass *pass) {
  k.norm_quantise(l.x, l.input_norm, l.width, l.eps, l.wide);
  k.linear(l.qkv, 3, l.wide);
  k.rope(l.rope, cache);
  k.attend(l.attention, cache, pass);
  k.quantise(l.attention->out, l.attention->heads * l.attention->out_dim, l.mixed);
  k.linear(l.o, 1, l.mixed);
  k.norm_quantise(l.x, l.post_norm, l.width, l.eps, l.wide);
  k.linear(l.gate_up, 2, l.wide);
  k.silu_quantise(l.gate_up->out, l.ffn, l.fed);
  k.linear(l.down, 1, l.fed);
}

#define X(isa)                   \
  const Kernels *table_##isa();  \
  void layer_##isa(const SpecexecLayer *of, const SpecexecCache *cache, const SpecexecPass *pass) { \
    through(*table_##isa(), *of, cache, pass);                                                      \
  }
SPECEXEC_ISAS
#undef X

// Filled at the first use, and by a CPU that runs them.
#define X(isa)                        \
  const Kernels *table_##isa() {      \
    static const Kernels table = [] { \
      Kernels t{};                    \
      isa::fill_linear(t);            \
      isa::fill_attention(t);         \
      isa::fill_rows(t);              \
      isa::fill_hierarchical(t);      \
      isa::fill_logits(t);            \
      isa::fill_noise(t);             \
      t.layer = layer_##isa;          \
      return t;                       \
    }();                              \
    return &table;                    \
  }
SPECEXEC_ISAS
#undef X

struct Set {
  const char *name;
  bool (*runs)();
  const Kernels *(*table)();
};

#define X(isa) {#isa, runs_##isa, table_##isa},
constexpr Set kSets[] = {SPECEXEC_ISAS};
#undef X

std::atomic<const Set *> chosen{nullptr};

const Set &best() {
  const Set *set = kSets;
  while (!set->runs()) ++set;  // portable is the last, and runs
  return *set;
}

const Set &current() {
  const Set *set = chosen.load(std::memory_order_acquire);
  return set ? *set : best();
}

std::string runnable() {
  std::string names;
  for (const Set &set : kSets)
    if (set.runs()) names += (names.empty() ? "" : ",") + std::string(set.name);
  return names;
}

}  // namespace
}  // namespace specexec

// Which sources this library is of.
SPECEXEC_EXPORT const char *specexec_version() { return SPECEXEC_VERSION; }

// The structs and signatures of kernels.h.
SPECEXEC_EXPORT int specexec_abi() { return SPECEXEC_ABI; }

// Instruction sets compiled in that this CPU runs, best first, commas between.
SPECEXEC_EXPORT const char *specexec_available() {
  static const std::string names = specexec::runnable();
  return names.c_str();
}

// "" and "auto": the best. 0 done; 1 no such set compiled in; 2 this CPU cannot run it. A refusal changes nothing.
SPECEXEC_EXPORT int specexec_choose(const char *name) {
  using namespace specexec;
  if (!*name || !std::strcmp(name, "auto")) name = best().name;
  for (const Set &set : kSets) {
    if (std::strcmp(name, set.name)) continue;
    if (!set.runs()) return 2;
    chosen.store(&set, std::memory_order_release);
    return 0;
  }
  return 1;
}

SPECEXEC_EXPORT const char *specexec_chosen() { return specexec::current().name; }

SPECEXEC_EXPORT const specexec::Kernels *specexec_table() { return specexec::current().table(); }
