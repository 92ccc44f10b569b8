/* AVX2, FMA and F16C. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#include "cpu_kern.h"
#include "cpu_v16_avx2.h"
#define TF_TABLE tf_kern_avx2
#include "cpu_t_table.h"
#endif
