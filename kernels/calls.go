package kernels

/*
#include "dl.h"
*/
import "C"

import "unsafe"

// GatherRows queues the operation; see type GatherRows.
func (q *Queue) GatherRows(p GatherRows) { q.run(C.TF_OP_gather_rows, unsafe.Pointer(&p)) }

// ScatterAddRows queues the operation; see type ScatterAddRows.
func (q *Queue) ScatterAddRows(p ScatterAddRows) { q.run(C.TF_OP_scatter_add_rows, unsafe.Pointer(&p)) }

// Copy queues the operation; see type Copy.
func (q *Queue) Copy(p Copy) { q.run(C.TF_OP_copy, unsafe.Pointer(&p)) }

// Fill queues the operation; see type Fill.
func (q *Queue) Fill(p Fill) { q.run(C.TF_OP_fill, unsafe.Pointer(&p)) }

// ColSum queues the operation; see type ColSum.
func (q *Queue) ColSum(p ColSum) { q.run(C.TF_OP_colsum, unsafe.Pointer(&p)) }

// RowTopK queues the operation; see type RowTopK.
func (q *Queue) RowTopK(p RowTopK) { q.run(C.TF_OP_row_topk, unsafe.Pointer(&p)) }

// Add queues the operation; see type Add.
func (q *Queue) Add(p Add) { q.run(C.TF_OP_add, unsafe.Pointer(&p)) }

// Mul queues the operation; see type Mul.
func (q *Queue) Mul(p Mul) { q.run(C.TF_OP_mul, unsafe.Pointer(&p)) }

// ActFwd queues the operation; see type ActFwd.
func (q *Queue) ActFwd(p ActFwd) { q.run(C.TF_OP_act_fwd, unsafe.Pointer(&p)) }

// ActBwd queues the operation; see type ActBwd.
func (q *Queue) ActBwd(p ActBwd) { q.run(C.TF_OP_act_bwd, unsafe.Pointer(&p)) }

// GLUFwd queues the operation; see type GLUFwd.
func (q *Queue) GLUFwd(p GLUFwd) { q.run(C.TF_OP_glu_fwd, unsafe.Pointer(&p)) }

// GLUBwd queues the operation; see type GLUBwd.
func (q *Queue) GLUBwd(p GLUBwd) { q.run(C.TF_OP_glu_bwd, unsafe.Pointer(&p)) }

// Dropout queues the operation; see type Dropout.
func (q *Queue) Dropout(p Dropout) { q.run(C.TF_OP_dropout, unsafe.Pointer(&p)) }

// Random queues the operation; see type Random.
func (q *Queue) Random(p Random) { q.run(C.TF_OP_random, unsafe.Pointer(&p)) }

// RMSNormFwd queues the operation; see type RMSNormFwd.
func (q *Queue) RMSNormFwd(p RMSNormFwd) { q.run(C.TF_OP_rmsnorm_fwd, unsafe.Pointer(&p)) }

// RMSNormBwd queues the operation; see type RMSNormBwd.
func (q *Queue) RMSNormBwd(p RMSNormBwd) { q.run(C.TF_OP_rmsnorm_bwd, unsafe.Pointer(&p)) }

// LayerNormFwd queues the operation; see type LayerNormFwd.
func (q *Queue) LayerNormFwd(p LayerNormFwd) { q.run(C.TF_OP_layernorm_fwd, unsafe.Pointer(&p)) }

// LayerNormBwd queues the operation; see type LayerNormBwd.
func (q *Queue) LayerNormBwd(p LayerNormBwd) { q.run(C.TF_OP_layernorm_bwd, unsafe.Pointer(&p)) }

// Gemm queues the operation; see type Gemm.
func (q *Queue) Gemm(p Gemm) { q.run(C.TF_OP_gemm, unsafe.Pointer(&p)) }

// Rope queues the operation; see type Rope.
func (q *Queue) Rope(p Rope) { q.run(C.TF_OP_rope, unsafe.Pointer(&p)) }

// AttnFwd queues the operation; see type AttnFwd.
func (q *Queue) AttnFwd(p AttnFwd) { q.run(C.TF_OP_attn_fwd, unsafe.Pointer(&p)) }

// AttnBwd queues the operation; see type AttnBwd.
func (q *Queue) AttnBwd(p AttnBwd) { q.run(C.TF_OP_attn_bwd, unsafe.Pointer(&p)) }

// LinearLogprobFwd queues the operation; see type LinearLogprobFwd.
func (q *Queue) LinearLogprobFwd(p LinearLogprobFwd) {
	q.run(C.TF_OP_linear_logprob_fwd, unsafe.Pointer(&p))
}

// LinearLogprobBwd queues the operation; see type LinearLogprobBwd.
func (q *Queue) LinearLogprobBwd(p LinearLogprobBwd) {
	q.run(C.TF_OP_linear_logprob_bwd, unsafe.Pointer(&p))
}

// LinearXent queues the operation; see type LinearXent.
func (q *Queue) LinearXent(p LinearXent) { q.run(C.TF_OP_linear_xent, unsafe.Pointer(&p)) }

// AdamW queues the operation; see type AdamW.
func (q *Queue) AdamW(p AdamW) { q.run(C.TF_OP_adamw, unsafe.Pointer(&p)) }

// SqNorm queues the operation; see type SqNorm.
func (q *Queue) SqNorm(p SqNorm) { q.run(C.TF_OP_sqnorm, unsafe.Pointer(&p)) }

// SumF64 queues the operation; see type SumF64.
func (q *Queue) SumF64(p SumF64) { q.run(C.TF_OP_sum_f64, unsafe.Pointer(&p)) }

// ClipFactor queues the operation; see type ClipFactor.
func (q *Queue) ClipFactor(p ClipFactor) { q.run(C.TF_OP_clip_factor, unsafe.Pointer(&p)) }

// NonFinite queues the operation; see type NonFinite.
func (q *Queue) NonFinite(p NonFinite) { q.run(C.TF_OP_nonfinite, unsafe.Pointer(&p)) }

// SliceAdd queues the operation; see type SliceAdd.
func (q *Queue) SliceAdd(p SliceAdd) { q.run(C.TF_OP_slice_add, unsafe.Pointer(&p)) }

// ClampFwd queues the operation; see type ClampFwd.
func (q *Queue) ClampFwd(p ClampFwd) { q.run(C.TF_OP_clamp_fwd, unsafe.Pointer(&p)) }

// ClampBwd queues the operation; see type ClampBwd.
func (q *Queue) ClampBwd(p ClampBwd) { q.run(C.TF_OP_clamp_bwd, unsafe.Pointer(&p)) }

// GLUClampedFwd queues the operation; see type GLUClampedFwd.
func (q *Queue) GLUClampedFwd(p GLUClampedFwd) { q.run(C.TF_OP_glu_clamped_fwd, unsafe.Pointer(&p)) }

// GLUClampedBwd queues the operation; see type GLUClampedBwd.
func (q *Queue) GLUClampedBwd(p GLUClampedBwd) { q.run(C.TF_OP_glu_clamped_bwd, unsafe.Pointer(&p)) }

// MoERouteFwd queues the operation; see type MoERouteFwd.
func (q *Queue) MoERouteFwd(p MoERouteFwd) { q.run(C.TF_OP_moe_route_fwd, unsafe.Pointer(&p)) }

// MoERouteBwd queues the operation; see type MoERouteBwd.
func (q *Queue) MoERouteBwd(p MoERouteBwd) { q.run(C.TF_OP_moe_route_bwd, unsafe.Pointer(&p)) }

// MoESort queues the operation; see type MoESort.
func (q *Queue) MoESort(p MoESort) { q.run(C.TF_OP_moe_sort, unsafe.Pointer(&p)) }

// MoECombineFwd queues the operation; see type MoECombineFwd.
func (q *Queue) MoECombineFwd(p MoECombineFwd) { q.run(C.TF_OP_moe_combine_fwd, unsafe.Pointer(&p)) }

// MoECombineBwd queues the operation; see type MoECombineBwd.
func (q *Queue) MoECombineBwd(p MoECombineBwd) { q.run(C.TF_OP_moe_combine_bwd, unsafe.Pointer(&p)) }

// GroupedGemm queues the operation; see type GroupedGemm.
func (q *Queue) GroupedGemm(p GroupedGemm) { q.run(C.TF_OP_grouped_gemm, unsafe.Pointer(&p)) }

// GroupedGemmDW queues the operation; see type GroupedGemmDW.
func (q *Queue) GroupedGemmDW(p GroupedGemmDW) { q.run(C.TF_OP_grouped_gemm_dw, unsafe.Pointer(&p)) }

// GroupedColSum queues the operation; see type GroupedColSum.
func (q *Queue) GroupedColSum(p GroupedColSum) { q.run(C.TF_OP_grouped_colsum, unsafe.Pointer(&p)) }

// MoEAuxFwd queues the operation; see type MoEAuxFwd.
func (q *Queue) MoEAuxFwd(p MoEAuxFwd) { q.run(C.TF_OP_moe_aux_fwd, unsafe.Pointer(&p)) }

// MoEAuxBwd queues the operation; see type MoEAuxBwd.
func (q *Queue) MoEAuxBwd(p MoEAuxBwd) { q.run(C.TF_OP_moe_aux_bwd, unsafe.Pointer(&p)) }

// Unpack queues the operation; see type Unpack.
func (q *Queue) Unpack(p Unpack) { q.run(C.TF_OP_unpack, unsafe.Pointer(&p)) }

// PackedGemm queues the operation; see type PackedGemm.
func (q *Queue) PackedGemm(p PackedGemm) { q.run(C.TF_OP_packed_gemm, unsafe.Pointer(&p)) }

// AdamW8 queues the operation; see type AdamW8.
func (q *Queue) AdamW8(p AdamW8) { q.run(C.TF_OP_adamw8, unsafe.Pointer(&p)) }

// Lion queues the operation; see type Lion.
func (q *Queue) Lion(p Lion) { q.run(C.TF_OP_lion, unsafe.Pointer(&p)) }

// SqSums queues the operation; see type SqSums.
func (q *Queue) SqSums(p SqSums) { q.run(C.TF_OP_sqsums, unsafe.Pointer(&p)) }

// AdamMini queues the operation; see type AdamMini.
func (q *Queue) AdamMini(p AdamMini) { q.run(C.TF_OP_adam_mini, unsafe.Pointer(&p)) }

// Adafactor queues the operation; see type Adafactor.
func (q *Queue) Adafactor(p Adafactor) { q.run(C.TF_OP_adafactor, unsafe.Pointer(&p)) }

// AdamDir queues the operation; see type AdamDir.
func (q *Queue) AdamDir(p AdamDir) { q.run(C.TF_OP_adam_dir, unsafe.Pointer(&p)) }

// ScaleRows queues the operation; see type ScaleRows.
func (q *Queue) ScaleRows(p ScaleRows) { q.run(C.TF_OP_scale_rows, unsafe.Pointer(&p)) }

// NormRatio queues the operation; see type NormRatio.
func (q *Queue) NormRatio(p NormRatio) { q.run(C.TF_OP_norm_ratio, unsafe.Pointer(&p)) }

// NormLimit queues the operation; see type NormLimit.
func (q *Queue) NormLimit(p NormLimit) { q.run(C.TF_OP_norm_limit, unsafe.Pointer(&p)) }

// Gram queues the operation; see type Gram.
func (q *Queue) Gram(p Gram) { q.run(C.TF_OP_gram, unsafe.Pointer(&p)) }

// opSizes are the sizes that Go gives the params, in ABI order.
var opSizes = [...]uintptr{
	unsafe.Sizeof(GatherRows{}),
	unsafe.Sizeof(ScatterAddRows{}),
	unsafe.Sizeof(Copy{}),
	unsafe.Sizeof(Fill{}),
	unsafe.Sizeof(ColSum{}),
	unsafe.Sizeof(RowTopK{}),
	unsafe.Sizeof(Add{}),
	unsafe.Sizeof(Mul{}),
	unsafe.Sizeof(ActFwd{}),
	unsafe.Sizeof(ActBwd{}),
	unsafe.Sizeof(GLUFwd{}),
	unsafe.Sizeof(GLUBwd{}),
	unsafe.Sizeof(Dropout{}),
	unsafe.Sizeof(Random{}),
	unsafe.Sizeof(RMSNormFwd{}),
	unsafe.Sizeof(RMSNormBwd{}),
	unsafe.Sizeof(LayerNormFwd{}),
	unsafe.Sizeof(LayerNormBwd{}),
	unsafe.Sizeof(Gemm{}),
	unsafe.Sizeof(Rope{}),
	unsafe.Sizeof(AttnFwd{}),
	unsafe.Sizeof(AttnBwd{}),
	unsafe.Sizeof(LinearLogprobFwd{}),
	unsafe.Sizeof(LinearLogprobBwd{}),
	unsafe.Sizeof(LinearXent{}),
	unsafe.Sizeof(AdamW{}),
	unsafe.Sizeof(SqNorm{}),
	unsafe.Sizeof(SumF64{}),
	unsafe.Sizeof(ClipFactor{}),
	unsafe.Sizeof(NonFinite{}),
	unsafe.Sizeof(SliceAdd{}),
	unsafe.Sizeof(ClampFwd{}),
	unsafe.Sizeof(ClampBwd{}),
	unsafe.Sizeof(GLUClampedFwd{}),
	unsafe.Sizeof(GLUClampedBwd{}),
	unsafe.Sizeof(MoERouteFwd{}),
	unsafe.Sizeof(MoERouteBwd{}),
	unsafe.Sizeof(MoESort{}),
	unsafe.Sizeof(MoECombineFwd{}),
	unsafe.Sizeof(MoECombineBwd{}),
	unsafe.Sizeof(GroupedGemm{}),
	unsafe.Sizeof(GroupedGemmDW{}),
	unsafe.Sizeof(GroupedColSum{}),
	unsafe.Sizeof(MoEAuxFwd{}),
	unsafe.Sizeof(MoEAuxBwd{}),
	unsafe.Sizeof(Unpack{}),
	unsafe.Sizeof(PackedGemm{}),
	unsafe.Sizeof(AdamW8{}),
	unsafe.Sizeof(Lion{}),
	unsafe.Sizeof(SqSums{}),
	unsafe.Sizeof(AdamMini{}),
	unsafe.Sizeof(Adafactor{}),
	unsafe.Sizeof(AdamDir{}),
	unsafe.Sizeof(ScaleRows{}),
	unsafe.Sizeof(NormRatio{}),
	unsafe.Sizeof(NormLimit{}),
	unsafe.Sizeof(Gram{}),
}

// OpNames lists the operations in ABI order, by their names in tunefleet.h.
func OpNames() []string {
	names := make([]string, C.TF_OP_COUNT)
	for i := range names {
		names[i] = C.GoString(C.tf_op_name(C.int32_t(i)))
	}
	return names
}

// opSize is what C gives the params of an operation.
func opSize(op int) int64 { return int64(C.tf_op_size(C.int32_t(op))) }
