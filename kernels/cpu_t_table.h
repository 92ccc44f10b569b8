/* The kernels of one instruction set, as a table. TF_TABLE names it. */
#include "cpu_t_math.h"
#include "cpu_t_gemm.h"
#include "cpu_t_flat.h"
#include "cpu_t_optim8.h"
#include "cpu_t_optim.h"

#define E float
#define K(name) k_##name
#define E_ROW(r, i) tf_row(r, i)
#define e_ldn v_ldn
#define e_stn v_stn
#define e_get(x) (x)
#define e_set(x) (x)
#define PACK_A pack_a
#define PACK_ROWS pack_rows
#define PACK_COLS pack_cols
#include "cpu_t_elems.h"

#define E_HALF 1
#define E uint16_t
#define K(name) kb_##name
#define E_ROW(r, i) ((uint16_t *)(void *)(r)->p + tf_rows_at(r, i))
#define e_ldn b_ldn
#define e_stn b_stn
#define e_get(x) tf_from_bf16(x)
#define e_set(x) tf_to_bf16(x)
#define PACK_A b_pack_a
#define PACK_ROWS b_pack_rows
#define PACK_COLS b_pack_cols
#include "cpu_t_elems.h"

#define E uint16_t
#define K(name) kh_##name
#define E_ROW(r, i) ((uint16_t *)(void *)(r)->p + tf_rows_at(r, i))
#define e_ldn h_ldn
#define e_stn h_stn
#define e_get(x) tf_from_f16(x)
#define e_set(x) tf_to_f16(x)
#define PACK_A h_pack_a
#define PACK_ROWS h_pack_rows
#define PACK_COLS h_pack_cols
#include "cpu_t_elems.h"

#define CAT2(a, b) a##b
#define CAT(a, b) CAT2(a, b)

const tf_kern TF_TABLE = {
    .mr = TF_MR,
    .nr = NR,
    .gemm_pack_b = gemm_pack_b,
    .gemm_run = gemm_run,
    .gemm_run_few = gemm_run_few,
    .add = k_add,
    .mul = k_mul,
    .act_fwd = k_act_fwd,
    .act_bwd = k_act_bwd,
    .glu_fwd = k_glu_fwd,
    .glu_bwd = k_glu_bwd,
    .dropout = k_dropout,
    .clamp_fwd = k_clamp_fwd,
    .clamp_bwd = k_clamp_bwd,
    .rmsnorm_fwd = k_rmsnorm_fwd,
    .rmsnorm_bwd = k_rmsnorm_bwd,
    .layernorm_fwd = k_layernorm_fwd,
    .layernorm_bwd = k_layernorm_bwd,
    .colsum = k_colsum,
    .colsum_join = k_colsum_join,
    .rope = k_rope,
    .random = k_random,
    .adamw = k_adamw,
    .adamw8 = k_adamw8,
    .lion = k_lion,
    .sqsum_rows = k_sqsum_rows,
    .sqsum_cols = k_sqsum_cols,
    .adam_mini = k_adam_mini,
    .adafactor_scale = k_adafactor_scale,
    .adafactor_vector = k_adafactor_vector,
    .adafactor_apply = k_adafactor_apply,
    .adam_dir = k_adam_dir,
    .gram = k_gram,
    .scale_rows = k_scale_rows,
    .sqnorm = k_sqnorm,
    .nonfinite = k_nonfinite,
    .slice_add = k_slice_add,
    .loss = k_loss,
    .glu_clamped_fwd = k_glu_clamped_fwd,
    .glu_clamped_bwd = k_glu_clamped_bwd,
    .moe_route_fwd = k_moe_route_fwd,
    .moe_route_bwd = k_moe_route_bwd,
    .moe_combine_fwd = k_moe_combine_fwd,
    .moe_combine_bwd = k_moe_combine_bwd,
    .moe_aux_fwd = k_moe_aux_fwd,
    .moe_aux_bwd = k_moe_aux_bwd,
    .attn_pack = k_attn_pack,
    .attn_fwd = k_attn_fwd,
    .attn_bwd_prep = k_attn_bwd_prep,
    .attn_bwd_kv = k_attn_bwd_kv,
    .attn_bwd_q = k_attn_bwd_q,
};

/* What works on 16 bits; the rest is in the table above. */
#define HALF_TABLE(p)                            \
  {                                              \
    .add = p##_add,                              \
    .mul = p##_mul,                              \
    .act_fwd = p##_act_fwd,                      \
    .act_bwd = p##_act_bwd,                      \
    .glu_fwd = p##_glu_fwd,                      \
    .glu_bwd = p##_glu_bwd,                      \
    .dropout = p##_dropout,                      \
    .clamp_fwd = p##_clamp_fwd,                  \
    .clamp_bwd = p##_clamp_bwd,                  \
    .rmsnorm_fwd = p##_rmsnorm_fwd,              \
    .rmsnorm_bwd = p##_rmsnorm_bwd,              \
    .layernorm_fwd = p##_layernorm_fwd,          \
    .layernorm_bwd = p##_layernorm_bwd,          \
    .colsum = p##_colsum,                        \
    .rope = p##_rope,                            \
    .glu_clamped_fwd = p##_glu_clamped_fwd,      \
    .glu_clamped_bwd = p##_glu_clamped_bwd,      \
    .moe_combine_fwd = p##_moe_combine_fwd,      \
    .moe_combine_bwd = p##_moe_combine_bwd,      \
    .attn_pack = p##_attn_pack,                  \
    .attn_fwd = p##_attn_fwd,                    \
    .attn_bwd_prep = p##_attn_bwd_prep,          \
    .attn_bwd_kv = p##_attn_bwd_kv,              \
    .attn_bwd_q = p##_attn_bwd_q,                \
  }
const tf_kern CAT(TF_TABLE, _bf16) = HALF_TABLE(kb);
const tf_kern CAT(TF_TABLE, _f16) = HALF_TABLE(kh);
