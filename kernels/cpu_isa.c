/* Choice of the instruction set by what the processor says. */
#include "cpu_isa.h"

#include "cpu_kern.h"

#define PICK(name) dt == TF_BF16 ? &name##_bf16 : dt == TF_F16 ? &name##_f16 : &name

#ifdef TF_EMULATE_AVX512

/* A build for tests that has nothing but the emulated AVX-512. */
static int has(int isa) { return isa == TF_ISA_AVX512; }
const tf_kern *tf_isa_table(int isa, int dt) {
  (void)isa;
  return PICK(tf_kern_avx512);
}
const tf_kern *tf_isa_dp(int isa) {
  (void)isa;
  return NULL;
}

#else

static int has(int isa) {
  switch (isa) {
    case TF_ISA_SCALAR:
      return 1;
#if defined(__x86_64__)
    case TF_ISA_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case TF_ISA_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
#elif defined(__aarch64__)
    case TF_ISA_NEON:
      return 1;
#endif
  }
  return 0;
}

const tf_kern *tf_isa_dp(int isa) {
#if defined(__x86_64__)
  if (isa == TF_ISA_AVX512 && __builtin_cpu_supports("avx512bf16")) return &tf_kern_avx512_dp;
#endif
  (void)isa;
  return NULL;
}

const tf_kern *tf_isa_table(int isa, int dt) {
  switch (isa) {
#if defined(__x86_64__)
    case TF_ISA_AVX2:
      return PICK(tf_kern_avx2);
    case TF_ISA_AVX512:
      return PICK(tf_kern_avx512);
#elif defined(__aarch64__)
    case TF_ISA_NEON:
      return PICK(tf_kern_neon);
#endif
    default:
      return PICK(tf_kern_scalar);
  }
}

#endif

int tf_isa_pick(int wish) {
  if (wish != TF_ISA_AUTO) return has(wish) ? wish : 0;
  for (int isa = TF_ISA_NEON; isa > TF_ISA_SCALAR; isa--)
    if (has(isa)) return isa;
  return TF_ISA_SCALAR;
}

const char *tf_isa_name(int isa) {
  switch (isa) {
    case TF_ISA_SCALAR:
      return "scalar";
    case TF_ISA_AVX2:
      return "avx2";
    case TF_ISA_AVX512:
      return "avx512";
    case TF_ISA_NEON:
      return "neon";
  }
  return "?";
}
