/* AVX-512 (F, BW, DQ, VL). */
#if defined(__x86_64__)
/* TF_EMULATE_AVX512: for tests on machines without it, with testdata/avx512/immintrin.h. */
#ifndef TF_EMULATE_AVX512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "cpu_kern.h"
#include "cpu_v16_avx512.h"
#define TF_TABLE tf_kern_avx512
#include "cpu_t_table.h"
#endif
