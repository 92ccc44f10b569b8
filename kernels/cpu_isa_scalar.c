/* Any machine. Not for speed: less optimization keeps the build short. */
#pragma GCC optimize("O2")
/* Without unrolling the compiler does not see that every lane is set. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "cpu_kern.h"
#include "cpu_v16_scalar.h"
#define TF_TABLE tf_kern_scalar
#include "cpu_t_table.h"
