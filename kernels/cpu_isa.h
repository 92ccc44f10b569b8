/* Instruction sets: each is one compilation of the same kernels (cpu_isa_<name>.c) and fills a tf_kern. */
#ifndef TUNEFLEET_CPU_ISA_H
#define TUNEFLEET_CPU_ISA_H

#include "cpu.h"

/* Operations that need workspace. */
#define TF_CPU_WS_OPS(X)                                                                                                 \
  X(scatter_add_rows) X(colsum) X(rmsnorm_bwd) X(layernorm_bwd) X(gemm) X(attn_fwd) X(attn_bwd) X(linear_logprob_fwd)    \
  X(linear_logprob_bwd) X(linear_xent) X(nonfinite) X(packed_gemm)                                                                  \
  X(grouped_gemm) X(grouped_gemm_dw) X(moe_aux_fwd) X(sqsums) X(adam_mini) X(adafactor)

/* The instruction set to use for a wish (TF_ISA_*), 0 when the machine lacks it. */
int tf_isa_pick(int wish);
const char *tf_isa_name(int isa);
const tf_kern *tf_isa_table(int isa, int dt);
/* Products of two bf16 matrices by instructions of their own, or NULL. */
const tf_kern *tf_isa_dp(int isa);

#endif
