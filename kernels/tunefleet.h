/* tunefleet.h: the only contract between the engine and a device backend.
 *
 * A backend is a filled tf_backend table: the CPU one is linked in, others (CUDA, the hostile test backend) are shared objects that
 * export tf_backend_get and are refused unless they were built against this very file (TF_ABI_HASH, see abi_hash.h).
 *
 * Rules that hold for every call:
 *  - Addresses are tf_ptr, opaque to the caller; 0 means absent. A tensor with data == 0 is absent.
 *  - Operations run in the order of their queue and may be asynchronous; events order queues. The first error sticks to its queue:
 *    everything after it is skipped and returns that error, until the queue is closed.
 *  - Strides count elements. Where a comment says "rows", a tensor of rank r is r-1 leading dimensions (any strides) of rows whose
 *    last dimension has stride 1. Outputs never overlap inputs unless the comment allows it.
 *  - Every gradient output has an accumulate flag: 0 writes, 1 adds.
 *  - An optional device scalar (a tf_ptr to one element) is read when the operation runs, so that it may come from an operation
 *    queued before; it multiplies the host value beside it.
 *  - fp32 results depend on shapes and values only: not on threads, nor on the instruction set.
 */
#ifndef TUNEFLEET_H
#define TUNEFLEET_H

#include <stdint.h>

#define TF_ABI_VERSION 12
#define TF_MAX_RANK 5

typedef uint64_t tf_ptr;
typedef int32_t tf_status;

enum {
  TF_OK = 0,
  TF_EINVALID = 1,     /* a shape, stride, type or parameter the operation does not take */
  TF_EUNSUPPORTED = 2, /* valid, but not in this backend */
  TF_ENOMEM = 3,       /* memory of the device */
  TF_EWORKSPACE = 4,   /* the queue's workspace is too small; not sticky */
  TF_EINTERNAL = 5,    /* the device failed */
  TF_EAGAIN = 6,       /* not done yet; not sticky */
  TF_ELOST = 7         /* a communicator that results depended on was given up */
};

enum { TF_F32 = 1, TF_F64 = 2, TF_BF16 = 3, TF_F16 = 4, TF_I32 = 5, TF_I64 = 6, TF_U8 = 7, TF_I8 = 8 };

typedef struct {
  tf_ptr data;
  int32_t dtype, rank;
  int64_t dim[TF_MAX_RANK], stride[TF_MAX_RANK];
} tf_tensor;

/* Activations. GELU_TANH is also gelu_new. */
enum { TF_ACT_SILU = 1, TF_ACT_GELU_TANH = 2, TF_ACT_GELU_ERF = 3, TF_ACT_RELU = 4, TF_ACT_RELU2 = 5, TF_ACT_TANH = 6 };

/* --- rows ----------------------------------------------------------------------------------------------------------------------- */

/* y[i] = scale * x[ids[i]]: embedding forward. x [v,d], ids i32 [n] contiguous (any rank), y [n,d]. An id outside [0,v) is an error. */
typedef struct {
  tf_tensor x, ids, y;
  float scale;
  int32_t reserved;
} tf_gather_rows;

/* y[ids[i]] += scale * x[i], rows added in the order of i: embedding backward. accumulate 0 clears y first. An id < 0 is skipped. */
typedef struct {
  tf_tensor x, ids, y;
  float scale;
  int32_t accumulate;
} tf_scatter_add_rows;

/* y = copy of x with y's type; any equal dimensions, any strides. f32, bf16, f16, f64 convert to f32 and back; others keep their type. */
typedef struct {
  tf_tensor x, y;
} tf_copy;

/* y[...] = value, any strides. */
typedef struct {
  tf_tensor y;
  double value;
} tf_fill;

/* y[n] = (accumulate ? y : 0) + sum over rows of x [m,n]: bias gradient. Rows are added in order within fixed blocks, blocks in order. */
typedef struct {
  tf_tensor x, y;
  int32_t accumulate, reserved;
} tf_colsum;

/* values, ids: the k greatest of each row of x [r,n], greatest first, equal ones by lower index. values f32 [r,k] optional, ids i32 [r,k]. */
typedef struct {
  tf_tensor x, values, ids;
  int64_t k;
} tf_row_topk;

/* --- elementwise ---------------------------------------------------------------------------------------------------------------- */

/* y = alpha * a + beta * b (+ y when accumulate); b optional. Equal dimensions, rows of any strides; y may be a or b. */
typedef struct {
  tf_tensor a, b, y;
  float alpha, beta;
  tf_ptr alpha_dev; /* f32, optional */
  int32_t accumulate, reserved;
} tf_add;

/* y = a * b (+ y when accumulate); y may be a or b. b has a's dimensions, or is one row [d] for all rows. */
typedef struct {
  tf_tensor a, b, y;
  int32_t accumulate, reserved;
} tf_mul;

/* y = act(x). */
typedef struct {
  tf_tensor x, y;
  int32_t act, reserved;
} tf_act_fwd;

/* dx = act'(x) * dy; dx may be dy. */
typedef struct {
  tf_tensor x, dy, dx;
  int32_t act, accumulate;
} tf_act_bwd;

/* y = act(gate) * up: SwiGLU with TF_ACT_SILU. */
typedef struct {
  tf_tensor gate, up, y;
  int32_t act, reserved;
} tf_glu_fwd;

/* dgate = act'(gate) * up * dy, dup = act(gate) * dy; dgate may be gate, dup may be up. */
typedef struct {
  tf_tensor gate, up, dy, dgate, dup;
  int32_t act, dgate_accumulate, dup_accumulate, reserved;
} tf_glu_bwd;

/* y = x with probability 1-p scaled by 1/(1-p), else 0; the same call on dy is the backward. Philox4x32-10 with a key from
 * (seed, stream) and the counter (column / 4, row id); row_ids i64 [rows] optional (default: row index). y may be x. */
typedef struct {
  tf_tensor x, row_ids, y;
  uint64_t seed, stream;
  float p;
  int32_t accumulate;
} tf_dropout;

enum { TF_RANDOM_UNIFORM = 1, TF_RANDOM_NORMAL = 2 };

/* y[i] from Philox4x32-10 with a key from (seed, stream) and the counter (offset + i) / 4: uniform in [a, b) or normal of mean a and
 * deviation b. y contiguous; offset is a multiple of 4, so shards of a tensor get the values of the whole. */
typedef struct {
  tf_tensor y;
  uint64_t seed, stream, offset;
  float a, b;
  int32_t kind, reserved;
} tf_random;

/* --- normalization -------------------------------------------------------------------------------------------------------------- */

/* s = x + res (when res is given; stored in sum), y = s * rstd * (w + w_offset), rstd = 1/sqrt(mean(s^2) + eps).
 * x, res, sum, y rows [..., d]; w [d] optional; rstd f32 [rows] contiguous. sum may be x or res. */
typedef struct {
  tf_tensor x, res, sum, w, y, rstd;
  float eps, w_offset;
} tf_rmsnorm_fwd;

/* x is s of the forward. dx = (dsum: gradient arriving at s, optional) + norm's gradient; dw optional. dx may be dy or dsum. */
typedef struct {
  tf_tensor x, w, rstd, dy, dsum, dx, dw;
  float w_offset;
  int32_t dx_accumulate, dw_accumulate, reserved;
} tf_rmsnorm_bwd;

/* y = (s - mean) * rstd * (w + w_offset) + b; w and b optional; otherwise as rmsnorm_fwd. */
typedef struct {
  tf_tensor x, res, sum, w, b, y, mean, rstd;
  float eps, w_offset;
} tf_layernorm_fwd;

typedef struct {
  tf_tensor x, w, mean, rstd, dy, dsum, dx, dw, db;
  float w_offset;
  int32_t dx_accumulate, dw_accumulate, db_accumulate;
} tf_layernorm_bwd;

/* --- matrix products ------------------------------------------------------------------------------------------------------------ */

/* c [m,n] = (accumulate ? c : 0) + bias[n] + (alpha * a) b, with a [m,k], b [k,n]; a transposed operand is a view with swapped strides,
 * one stride of each operand is 1, c's rows have stride 1. Rank 3: a batch in the first dimension (stride 0 repeats an operand).
 * Each element is one chain c = fma(a_k, b_k, c) over ascending k that begins with c or 0, plus bias; alpha multiplies a's elements.
 * A linear layer: y = x w^T: a = x, b = w transposed; dx: a = dy, b = w; dw: a = dy transposed, b = x. */
typedef struct {
  tf_tensor a, b, c, bias;
  float alpha;
  int32_t accumulate;
} tf_gemm;

/* --- packed matrices ------------------------------------------------------------------------------------------------------------ */

enum { TF_PACKED_NF4 = 1, TF_PACKED_INT8 = 2 };

/* A frozen matrix [rows, cols] in few bits, row after row.
 * NF4 (arXiv:2305.14314): codes u8 [ceil(rows*cols/2)], the first element of a pair in the high half of its byte; blocks of 64 consecutive
 * elements share a scale: w = table[code] * scale. Either scales f32 [blocks] holds the scales, or scale_codes u8 [blocks] and scales f32
 * [256 + ceil(blocks/256) + 1] give them: scales[code] * scales[256 + block/256] + scales[last] (double quantization).
 * INT8: codes u8 [rows*cols], two's complement, scales f32 [rows]: w = code * scale / 127. */
typedef struct {
  tf_tensor codes, scales, scale_codes;
  int64_t rows, cols;
  int32_t kind, reserved;
} tf_packed;

/* y [n, cols] = rows row0 .. row0 + n of w as f32. */
typedef struct {
  tf_packed w;
  tf_tensor y;
  int64_t row0;
} tf_unpack;

/* c = (accumulate ? c : 0) + bias + alpha * a w^T, with a [m, cols], c [m, rows], bias [rows] optional; or, with transposed, alpha * a w,
 * with a [m, rows], c [m, cols] and no bias. The bits are those of gemm on the matrix that unpack gives. */
typedef struct {
  tf_packed w;
  tf_tensor a, c, bias;
  float alpha;
  int32_t accumulate, transposed, reserved;
} tf_packed_gemm;

/* --- positions and attention ---------------------------------------------------------------------------------------------------- */

/* Rotates the first rot_dim elements of each head of x [b,t,h,d] by the angle of its position. cos, sin f32 [positions, rot_dim/2];
 * pos i32 [b,t] optional (default: pos0 + t). Half layout pairs i with i + rot_dim/2, interleaved 2i with 2i+1. inverse rotates back
 * (the backward). The elements from rot_dim on are copied. y may be x (without accumulate). */
typedef struct {
  tf_tensor x, pos, cos, sin, y;
  int32_t rot_dim, interleaved, inverse, accumulate;
  int64_t pos0;
} tf_rope;

/* What both directions of attention share. q [b,tq,hq,dk], k [b,tk,hk,dk], v [b,tk,hk,dv], o [b,tq,hq,dv]: last stride 1, others any
 * (views of one fused projection); hq is a multiple of hk. lse f32 [b,hq,tq] contiguous: the logarithm of the sum of exponents.
 * Which keys a query sees: with p = q_start[b] + i (q_start i32 [b] optional, default q_start0): causal: j <= p; window_left >= 0:
 * j >= p - window_left; window_right >= 0: j <= p + window_right; kv_first[b] <= j < kv_last[b] (i32 [b], optional: padding, cache);
 * key_mask u8 [b,tk] optional, 0 hides a key; cu_seqlens i32 [documents+1] optional: b is 1, tq == tk, and a query sees its own document.
 * A query that sees nothing gives 0. score = scale * q.k, then softcap*tanh(score/softcap) when softcap > 0, plus bias[b,h,j] - bias[b,h,p]
 * (f32 [b,hq,tk] optional, last stride 1, others any; p at most tk - 1 and at least 0): ALiBi. It has no gradient; what is taken off is the same
 * for all keys of a query and keeps scores small. sinks f32 [hq] optional: one more logit of each head, in the denominator only.
 * dropout > 0: each probability, the sum over them taken, is 0 or divided by 1 - dropout, as in tf_dropout with the key of (seed, stream)
 * and the counter (j / 4, h, row id); row_ids i64 [b,tq] optional (default: the number of the query, b * tq + i). */
typedef struct {
  tf_tensor q, k, v, o, lse, q_start, kv_first, kv_last, key_mask, cu_seqlens, bias, sinks, row_ids;
  int64_t q_start0;
  uint64_t seed, stream;
  float scale, softcap;
  int32_t causal, window_left, window_right;
  float dropout;
} tf_attn_fwd;

/* dk and dv have one writer per (sequence, kv head, key block); the gradient of sinks is f32 [hq], optional. */
typedef struct {
  tf_attn_fwd f;
  tf_tensor d_o, dq, dk, dv, dsinks;
  int32_t dq_accumulate, dk_accumulate, dv_accumulate, dsinks_accumulate;
} tf_attn_bwd;

/* --- losses over a vocabulary --------------------------------------------------------------------------------------------------- */

/* Logits z = softcap(logit_scale * (x w^T + bias)), made by chunks of rows and never kept: x [n,d], w [v,d], bias [v] optional.
 * targets i32 [n]; a target < 0 (say -100) is ignored: its logp is 0 and it gives no gradient.
 * logp f32 [n] = z[target] - lse; lse f32 [n], entropy f32 [n], zsum f32 [n] (the sum of z over the vocabulary) are optional. */
typedef struct {
  tf_tensor x, w, bias, targets, logp, lse, entropy, zsum;
  float logit_scale, softcap;
} tf_linear_logprob_fwd;

/* The gradients of sum dlogp[i] * logp[i]; dx, dw, dbias optional. lse as the forward gave it. */
typedef struct {
  tf_tensor x, w, bias, targets, lse, dlogp, dx, dw, dbias;
  float logit_scale, softcap;
  int32_t dx_accumulate, dw_accumulate, dbias_accumulate, reserved;
} tf_linear_logprob_bwd;

/* Loss and gradients in one pass, where the weight of each token is known: the gradients are those of
 * loss_scale * sum_i weights[i] * ((1 - label_smoothing) * -logp_i + label_smoothing * mean_v(-log p_v) + z_loss * lse_i^2).
 * weights f32 [n] optional (1); loss_scale_dev f32 optional. dx, dw, dbias optional: none of them = logp only. */
typedef struct {
  tf_tensor x, w, bias, targets, weights, logp, lse, zsum, dx, dw, dbias;
  float logit_scale, softcap, loss_scale, label_smoothing, z_loss;
  int32_t dx_accumulate, dw_accumulate, dbias_accumulate;
  tf_ptr loss_scale_dev;
} tf_linear_xent;

/* --- optimizer ------------------------------------------------------------------------------------------------------------------ */

/* torch.optim.AdamW on a flat shard, all f32 [n] contiguous: p *= 1 - lr*wd; m += (1-beta1)(g-m); v = beta2 v + (1-beta2) g^2;
 * p -= lr/(1-beta1^step) * m / (sqrt(v)/sqrt(1-beta2^step) + eps), with g = grad * grad_scale * clip.
 * Device scalars, all optional: lr_dev f32 multiplies lr, clip_dev f32, step_dev i64 replaces step, skip_dev i32 (not 0: no change). */
typedef struct {
  tf_tensor p, m, v, g;
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;
  tf_ptr lr_dev, clip_dev, step_dev, skip_dev;
  float grad_scale;
  int32_t reserved;
} tf_adamw;

/* AdamW with moments in 8 bits (arXiv:2110.02861, as bitsandbytes computes it) on a flat shard, p and g f32 [n]. Blocks of 256 elements share
 * a scale, their largest magnitude: m = m_scales[i/256] * table[m_codes[i]], codes u8 [n], scales f32 [ceil(n/256)]; v likewise. The tables are
 * bitsandbytes' dynamic maps (dynamic8.h), signed for m and unsigned for v; a value takes the nearest entry, the lower of equals. Scales of 0
 * are moments of 0. m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2; p as in adamw from these, before they are coded; every product and
 * sum is rounded (no fma). Scalars as in adamw. */
typedef struct {
  tf_tensor p, g, m_codes, v_codes, m_scales, v_scales;
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;
  tf_ptr lr_dev, clip_dev, step_dev, skip_dev;
  float grad_scale;
  int32_t reserved;
} tf_adamw8;

/* Lion (arXiv:2302.06675, as lion-pytorch computes it), all f32 [n] contiguous: p *= 1 - lr*wd; p -= lr * sign(beta1 m + (1-beta1) g);
 * m = beta2 m + (1-beta2) g; every product and sum is rounded. Scalars as in adamw. */
typedef struct {
  tf_tensor p, m, g;
  double lr, beta1, beta2, weight_decay;
  tf_ptr lr_dev, clip_dev, skip_dev;
  float grad_scale;
  int32_t reserved;
} tf_lion;

/* partials f64 [ceil(n/4096)]: the sum of squares of each chunk of 4,096 elements of x f32 [n] contiguous. 16 lanes, lane order fixed. */
typedef struct {
  tf_tensor x, partials;
} tf_sqnorm;

/* total = (accumulate ? total : 0) + x[0] + x[1] + ... in order, f64. */
typedef struct {
  tf_tensor x, total;
  int32_t accumulate, reserved;
} tf_sum_f64;

/* From sumsq f64 [1]: norm f32 [1] = inv_scale * sqrt(sumsq); clip f32 [1] = min(1, max_norm / (norm + 1e-6)) (1 when max_norm <= 0);
 * skip i32 [1] = norm is not finite. Each output optional. */
typedef struct {
  tf_tensor sumsq, norm, clip, skip;
  float max_norm, inv_scale;
} tf_clip_factor;

/* flag i32 [1] = (accumulate ? flag : 0) | any element of x not finite. */
typedef struct {
  tf_tensor x, flag;
  int32_t accumulate, reserved;
} tf_nonfinite;

/* y [n] f32 = (accumulate ? y : 0) + x[0] + x[1] + ... in this order, x [s,n] f32 or bf16; accumulate 0 begins with x[0]. */
typedef struct {
  tf_tensor x, y;
  int32_t accumulate, reserved;
} tf_slice_add;

/* Sums of squares of x f32 [b,n,m], contiguous: rows f64 [b*n] over the last dimension, cols f64 [b*m] over the middle one; each optional. An
 * element is multiplied by scale (0 means 1), squared, and eps is added, each rounded to f32; sums are f64. A row is added by chunks of 4,096
 * elements in 16 lanes, a column by parts of rows; lanes, chunks and parts in order. */
typedef struct {
  tf_tensor x, rows, cols;
  float scale, eps;
} tf_sqsums;

/* adam-mini (arXiv:2406.16793) on whole tensors, f32 and contiguous: p, m, g [n], and v, which has one element for each of numel(v) blocks of
 * n/numel(v) consecutive elements. With g = grad * grad_scale * clip, and the block's mean of g^2 as in sqsums: v = beta2 v + (1-beta2) mean;
 * m += (1-beta1)(g-m); p = p (1 - lr*wd) - m * (1/(1-beta1^step)) / (sqrt(v)/sqrt(1-beta2^step) + eps) * lr; every product and sum is
 * rounded (no fma). Scalars as in adamw. */
typedef struct {
  tf_tensor p, m, g, v;
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;
  tf_ptr lr_dev, clip_dev, step_dev, skip_dev;
  float grad_scale;
  int32_t reserved;
} tf_adam_mini;

/* Adafactor (arXiv:1804.04235, as transformers' Adafactor computes it) on a whole tensor, all f32 and contiguous. Matrices: p [b,n,m], g, row
 * [b*n], col [b*m], with the means of g^2 + eps1 over the last and over the middle dimension as in sqsums: row = beta2 row + (1-beta2) mean,
 * col likewise, u = g / sqrt(row / mean(row)) / sqrt(col). Else v [n] as p: v = beta2 v + (1-beta2) (g^2 + eps1), u = g / sqrt(v). Then
 * u = u / max(1, rms(u) / clip_threshold) * lr, where lr is multiplied by max(eps2, rms(p)) with scale_parameter; m optional:
 * m = beta1 m + (1-beta1) u, and u = m; p = p - p * lr * wd - u. g is grad * grad_scale * clip at first and undefined afterwards; every
 * product and sum is rounded (no fma). lr_dev, clip_dev and skip_dev as in adamw. */
typedef struct {
  tf_tensor p, g, row, col, v, m;
  double lr, beta1, beta2, eps1, eps2, clip_threshold, weight_decay;
  tf_ptr lr_dev, clip_dev, skip_dev;
  float grad_scale;
  int32_t scale_parameter;
} tf_adafactor;

/* The direction of Adam: with g = x * scale (0 means 1), m = beta1 m + (1-beta1) g, v = beta2 v + (1-beta2) g^2, y = m / (sqrt(v) + eps), all
 * f32 [n] contiguous; y may be x; every product and sum is rounded. */
typedef struct {
  tf_tensor x, m, v, y;
  double beta1, beta2, eps;
  float scale;
  int32_t reserved;
} tf_adam_dir;

/* y [n,m] = r [n] * x [n,m], row by row, f32 and contiguous; y may be x. */
typedef struct {
  tf_tensor x, r, y;
} tf_scale_rows;

/* y f32 [n] = sqrt(num) / max(sqrt(den) + eps, floor) of sums of squares f64 [n], roots rounded to f32; without num it is 1 / .... With dtype
 * TF_BF16 the root of den is rounded to that too. */
typedef struct {
  tf_tensor num, den, y;
  float eps, floor;
  int32_t dtype, reserved;
} tf_norm_ratio;

/* Fira's limit (arXiv:2410.01623) on how much an update's norm may grow: with norm = sqrt(sumsq f64 [1]) and last f32 [1], the norm before,
 * y f32 [1] = 1 / max(1, norm / (last + eps) / growth), or 1 when last is 0, and last = norm * y. */
typedef struct {
  tf_tensor sumsq, last, y;
  float growth, eps;
} tf_norm_limit;

/* y f64 [n,n] = x x^T of x f32 [n,m], contiguous. Products are exact in f64; an element's are added in 8 lanes by k modulo 8, each over
 * ascending k, and the lanes in order. */
typedef struct {
  tf_tensor x, y;
} tf_gram;

/* --- clamp ---------------------------------------------------------------------------------------------------------------------- */

/* y = min(max(x, lo), hi), a NaN stays one; y may be x. */
typedef struct {
  tf_tensor x, y;
  float lo, hi;
} tf_clamp_fwd;

/* dx = dy where lo <= x <= hi, else 0, as torch.clamp; dx may be dy. */
typedef struct {
  tf_tensor x, dy, dx;
  float lo, hi;
  int32_t accumulate, reserved;
} tf_clamp_bwd;

/* --- mixture of experts --------------------------------------------------------------------------------------------------------- */

/* The gated unit of gpt-oss on x [n,2f]: g = min(gate, limit), u = clamp(up, -limit, limit), y [n,f] = (u + 1) * g * sigmoid(alpha * g).
 * interleaved: gate is x's even columns and up its odd ones, else they are the halves. */
typedef struct {
  tf_tensor x, y;
  float alpha, limit;
  int32_t interleaved, reserved;
} tf_glu_clamped_fwd;

/* A clamped element gets no gradient, one at the limit does (torch.clamp). dx [n,2f] may be x. */
typedef struct {
  tf_tensor x, dy, dx;
  float alpha, limit;
  int32_t interleaved, accumulate;
} tf_glu_clamped_bwd;

enum { TF_ROUTE_SOFTMAX = 1, TF_ROUTE_SIGMOID = 2, TF_ROUTE_SOFTMAX_TOPK = 3 };

/* Which k of e experts each of n tokens goes to, and with what weights; logits rows [n,e].
 * scores f32 [n,e] are softmax or sigmoid of the logits; SOFTMAX_TOPK: chosen by logits, softmax over the chosen ones, 0 elsewhere.
 * Chosen are the greatest of choice = scores + bias (bias f32 [e] optional), equal ones by lower index. With groups > 1 the experts are
 * cut into so many groups; only those topk_groups whose group_top (1 or 2) greatest choices have the greatest sum keep their choices,
 * the others' become 0. ids i32 [n,k], greatest choice first. weights f32 [n,k] = scale * scores[ids], divided by
 * max(their sum + norm_eps, norm_min) before scaling when normalize is set. */
typedef struct {
  tf_tensor logits, bias, scores, ids, weights;
  int64_t k, groups, topk_groups, group_top;
  float norm_eps, norm_min, scale;
  int32_t score, normalize, reserved;
} tf_moe_route_fwd;

/* dlogits [n,e] from dweights f32 [n,k] and dscores f32 [n,e], both optional; the choice has no gradient. */
typedef struct {
  tf_tensor scores, ids, dweights, dscores, dlogits;
  int64_t k;
  float norm_eps, norm_min, scale;
  int32_t score, normalize, accumulate;
} tf_moe_route_bwd;

/* Orders the slots (token * k + choice) of ids i32 [n,k] by expert, stably: order i32 [n*k] is the slot at each place, place i32 [n*k]
 * its inverse, tokens i32 [n*k] = order / k; expert i has the places offsets[i] <= p < offsets[i+1], offsets i32 [experts+1]. */
typedef struct {
  tf_tensor ids, offsets, order, place, tokens;
  int64_t experts;
} tf_moe_sort;

/* y[t] = (accumulate ? y[t] : 0) + sum over j, ascending, of weights[t,j] * x[place[t,j]]. x [m,d], y [n,d], place i32 [n,k] optional
 * (k is 1 and place[t] = t), weights f32 [n,k] optional (1). */
typedef struct {
  tf_tensor x, place, weights, y;
  int64_t k;
  int32_t accumulate, reserved;
} tf_moe_combine_fwd;

/* dx[place[t,j]] (+)= weights[t,j] * dy[t], dweights[t,j] (+)= dy[t] . x[place[t,j]]; each optional. No two slots share a place. */
typedef struct {
  tf_tensor x, place, weights, dy, dx, dweights;
  int64_t k;
  int32_t dx_accumulate, dweights_accumulate;
} tf_moe_combine_bwd;

/* Rows offsets[i] <= r < offsets[i+1] of a [m,k] and c [m,n] belong to expert i: c[r] = (accumulate ? c[r] : 0) + bias[i] +
 * alpha * a[r] b[i]. b [e,k,n] of any strides with one of the last two 1, bias [e,n] optional. Where the experts' matrices are not evenly
 * spaced, b is the first one, [k,n], and b_at i64 [e] says how many elements after it each begins. An element is one chain as in gemm. */
typedef struct {
  tf_tensor a, b, b_at, c, bias, offsets;
  float alpha;
  int32_t accumulate;
} tf_grouped_gemm;

/* The weights' gradients: c[i] (+)= alpha * a_i^T b_i over the rows of expert i; a [m,p], b [m,n], c [e,p,n], or [p,n] with c_at i64 [e]
 * as b_at above, where a negative element leaves the expert out. An expert without rows gets 0, or what it had. */
typedef struct {
  tf_tensor a, b, c, c_at, offsets;
  float alpha;
  int32_t accumulate;
} tf_grouped_gemm_dw;

/* The biases' gradients: y[i] (+)= sum of the rows of expert i, in order; x [m,n], y [e,n], or [n] with y_at i64 [e] as c_at above. */
typedef struct {
  tf_tensor x, y, y_at, offsets;
  int32_t accumulate, reserved;
} tf_grouped_colsum;

/* Load balancing (Switch Transformer, as load_balancing_loss_func of transformers). With p = softmax of each row of x [n,e]:
 * counts f64 [e] = how often each expert is among a row's k greatest, probs f64 [e] = the sum of p; mask u8 [n] optional, rows with 0 do
 * not count. accumulate adds, so that layers are summed. The loss is e * sum_i (counts[i] / T) * (probs[i] / T), T = rows that counted. */
typedef struct {
  tf_tensor x, mask, counts, probs;
  int64_t k;
  int32_t accumulate, reserved;
} tf_moe_aux_fwd;

/* dx of scale * sum_i counts[i] * probs[i], with counts as constants. */
typedef struct {
  tf_tensor x, mask, counts, dx;
  double scale;
  int32_t accumulate, reserved;
} tf_moe_aux_bwd;

/* The operations, in ABI order; a new one is appended and TF_ABI_VERSION raised. */
#define TF_OPS(X)                                                                                                                     \
  X(gather_rows) X(scatter_add_rows) X(copy) X(fill) X(colsum) X(row_topk) X(add) X(mul) X(act_fwd) X(act_bwd) X(glu_fwd) X(glu_bwd)   \
  X(dropout) X(random) X(rmsnorm_fwd) X(rmsnorm_bwd) X(layernorm_fwd) X(layernorm_bwd) X(gemm) X(rope) X(attn_fwd) X(attn_bwd)         \
  X(linear_logprob_fwd) X(linear_logprob_bwd) X(linear_xent) X(adamw) X(sqnorm) X(sum_f64) X(clip_factor) X(nonfinite) X(slice_add) \
  X(clamp_fwd) X(clamp_bwd) X(glu_clamped_fwd) X(glu_clamped_bwd) X(moe_route_fwd) X(moe_route_bwd) X(moe_sort) X(moe_combine_fwd)      \
  X(moe_combine_bwd) X(grouped_gemm) X(grouped_gemm_dw) X(grouped_colsum) X(moe_aux_fwd) X(moe_aux_bwd)                                  \
  X(unpack) X(packed_gemm) X(adamw8) X(lion) X(sqsums) X(adam_mini) X(adafactor) X(adam_dir) X(scale_rows) X(norm_ratio)  \
  X(norm_limit) X(gram)

enum {
#define TF_X(name) TF_OP_##name,
  TF_OPS(TF_X)
#undef TF_X
      TF_OP_COUNT
};

/* --- device --------------------------------------------------------------------------------------------------------------------- */

typedef struct tf_device tf_device;
typedef struct tf_queue tf_queue;
typedef struct tf_event tf_event;

enum { TF_QUEUE_COMPUTE = 0, TF_QUEUE_COPY = 1, TF_QUEUE_COMM = 2 };
enum { TF_ISA_AUTO = 0, TF_ISA_SCALAR = 1, TF_ISA_AVX2 = 2, TF_ISA_AVX512 = 3, TF_ISA_NEON = 4 };

typedef struct {
  int32_t threads; /* CPU threads; 0: all cores the process may use */
  int32_t isa;     /* TF_ISA_*; a forced one the machine lacks is refused */
  int32_t index;   /* which device of the backend */
  int32_t reserved;
} tf_options;

typedef struct {
  char name[64];
  char isa[16];
  int32_t threads, reserved;
  int64_t memory_total, memory_free; /* bytes; 0 unknown */
  char bus[32];                      /* which card of the machine it is; empty for the CPU */
} tf_device_info;

/* What a queue submitted as recorded graphs, counted since it was opened. */
typedef struct {
  int64_t made;       /* graphs that were made */
  int64_t slower;     /* of them given up because they were measured slower than the operations one by one */
  int64_t refused;    /* sequences that the device cannot record */
  int64_t launches;   /* graphs launched */
  int64_t operations; /* operations in these launches */
} tf_graph_counts;

/* --- communicators: ranks in processes of their own, each with a device of its own, move device memory between them --------------------- */

typedef struct tf_comm tf_comm;
#define TF_COMM_ID_BYTES 128

enum { TF_SEND = 1, TF_RECV = 2, TF_BROADCAST = 3 };

/* SEND of src to the peer, RECV into dst from it; or a BROADCAST of the peer's src into everyone's dst, which all ranks list in the same
 * order. Between two ranks, transfers meet in the order in which each lists them. */
typedef struct {
  int32_t kind, peer;
  tf_ptr src, dst;
  int64_t bytes;
} tf_transfer;

typedef struct tf_backend {
  uint32_t abi_version, struct_size;
  const char *abi_hash, *name;
  tf_status (*open)(const tf_options *, tf_device **, char *why, int64_t why_len);
  void (*close)(tf_device *);
  tf_status (*info)(tf_device *, tf_device_info *);
  /* Memory is aligned to 4,096 bytes and its content undefined. */
  tf_status (*alloc)(tf_device *, int64_t bytes, tf_ptr *);
  void (*release)(tf_device *, tf_ptr, int64_t bytes);
  tf_status (*queue_open)(tf_device *, int32_t kind, tf_queue **);
  void (*queue_close)(tf_queue *);
  /* Waits until everything queued has run; the sticky status. */
  tf_status (*queue_sync)(tf_queue *);
  /* The sticky status without waiting, and its message. A backend may hold operations back until something waits or asks for their results
   * (a sync, an event, a copy), so that it may name one of them later than it was queued. */
  tf_status (*queue_error)(tf_queue *, char *why, int64_t why_len);
  /* NULL where there are no graphs. */
  void (*queue_graphs)(tf_queue *, tf_graph_counts *);
  tf_status (*event_open)(tf_device *, tf_event **);
  void (*event_close)(tf_event *);
  tf_status (*event_record)(tf_event *, tf_queue *);
  tf_status (*event_wait)(tf_event *, tf_queue *);
  tf_status (*event_sync)(tf_event *);
  /* Whether the last record has been reached: TF_OK, or TF_EAGAIN. From any thread. */
  tf_status (*event_done)(tf_event *);
  /* upload: src may be reused on return. download: waits for the queue; dst is filled on return. */
  tf_status (*upload)(tf_queue *, tf_ptr dst, const void *src, int64_t bytes);
  tf_status (*download)(tf_queue *, void *dst, tf_ptr src, int64_t bytes);
  /* Host memory that a device copies from and to by itself (page-locked where it is not the CPU); aligned to 4,096 bytes, its content
   * undefined. */
  tf_status (*host_alloc)(tf_device *, int64_t bytes, void **);
  void (*host_release)(tf_device *, void *, int64_t bytes);
  /* Queue a copy between the device and memory of host_alloc. Until the queue has passed it (a sync, an event recorded afterwards), src of
   * upload_async may not be written, and dst of download_async neither read nor written. */
  tf_status (*upload_async)(tf_queue *, tf_ptr dst, const void *src, int64_t bytes);
  tf_status (*download_async)(tf_queue *, void *dst, tf_ptr src, int64_t bytes);
  /* Bytes of workspace that the operation needs; reads shapes only, never device memory. */
  tf_status (*workspace)(tf_queue *, int32_t op, const void *params, int64_t *bytes);
  /* Gives the queue its workspace, after a sync; the caller owns the memory. */
  tf_status (*set_workspace)(tf_queue *, tf_ptr, int64_t bytes);
#define TF_X(name) tf_status (*name)(tf_queue *, const tf_##name *);
  TF_OPS(TF_X)
#undef TF_X
  /* All NULL in a backend without communicators. None waits for another rank: what takes time returns TF_EAGAIN, and comm_poll tells when it
   * is done. A communicator is used by one thread at a time. */
  /* The version of the library that communicators are made with, say 22809 for 2.28.9; TF_EUNSUPPORTED and why when it is not there. */
  tf_status (*comm_version)(tf_device *, int32_t *version, char *why, int64_t why_len);
  /* One rank makes the id that all are given. */
  tf_status (*comm_id)(tf_device *, void *id, char *why, int64_t why_len);
  /* Begins to join; comm_poll says when all have. */
  tf_status (*comm_open)(tf_device *, const void *id, int32_t rank, int32_t world, tf_comm **, char *why, int64_t why_len);
  tf_status (*comm_poll)(tf_comm *, char *why, int64_t why_len);
  /* Queues transfers, all at the same time. After TF_EAGAIN nothing more may be put on the queue until comm_poll gives TF_OK. */
  tf_status (*comm_run)(tf_comm *, tf_queue *, const tf_transfer *, int64_t n, char *why, int64_t why_len);
  /* Gives up what is under way. From then on TF_ELOST sticks to each queue that ran transfers, or waited for an event of one that had, when
   * it is synchronized. It may take long, and hang. */
  tf_status (*comm_abort)(tf_comm *, char *why, int64_t why_len);
  /* Begins to leave once all that was queued has run; comm_poll says when it is done. */
  tf_status (*comm_leave)(tf_comm *, char *why, int64_t why_len);
  /* Frees what is left after comm_leave, comm_abort, or a failed comm_open. */
  void (*comm_close)(tf_comm *);
} tf_backend;

/* What a shared object exports. */
typedef const tf_backend *(*tf_backend_get_fn)(void);
#define TF_BACKEND_SYMBOL "tf_backend_get"

#endif
