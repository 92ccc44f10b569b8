/* AVX2 and FMA. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#include "cpu_kern.h"
#include "cpu_v16_avx2.h"
#define TF_TABLE tf_kern_avx2
#include "cpu_t_table.h"
#endif
