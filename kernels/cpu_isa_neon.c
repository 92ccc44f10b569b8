/* Advanced SIMD of AArch64, which every such processor has. */
#if defined(__aarch64__)
#include "cpu_kern.h"
#include "cpu_v16_neon.h"
#define TF_TABLE tf_kern_neon
#include "cpu_t_table.h"
#endif
