/* The kernels of one instruction set, as a table. TF_TABLE names it. */
#include "cpu_t_math.h"
#include "cpu_t_gemm.h"
#include "cpu_t_rows.h"
#include "cpu_t_flat.h"
#include "cpu_t_attn.h"
#include "cpu_t_moe.h"

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
