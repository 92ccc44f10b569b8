/* Any machine. */
#include "cpu_kern.h"
#include "cpu_v16_scalar.h"
#define TF_TABLE tf_kern_scalar
#include "cpu_t_table.h"
