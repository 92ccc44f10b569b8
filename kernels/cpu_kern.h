/* What an instruction set provides: task functions, each with the struct it takes. Tasks are cut by shape only; every output element
 * has one writer. */
#ifndef TUNEFLEET_CPU_KERN_H
#define TUNEFLEET_CPU_KERN_H

#include "cpu.h"

/* c [m,n] (+)= alpha * a b, see cpu_t_gemm.h. Strides in elements. */
typedef struct {
  const float *a, *b, *bias;
  float *c, *packed_b;
  int64_t ars, acs, brs, bcs, ldc;
  int64_t m, n, k;
  float alpha;
  int accumulate;
  int32_t a_dt, b_dt;  /* the types of a and b: f32, bf16 or f16 */
  int64_t elems;       /* where k counts pairs (vdpbf16ps): the steps there are */
  uint16_t *c16;       /* where c has 16 bits: c is then m rows of ldc = nn floats of workspace */
  int32_t c_dt;
  int64_t ldc16;
  int64_t n0, nn;     /* columns of this pass */
  int64_t mc, nc;     /* rows and columns of a task */
  int64_t mt, nt;     /* tasks: mt * nt */
  tf_device *dev;
} tf_gemm_job;

enum { TF_PACK_COLS = 64, TF_KC = 256 };

typedef struct {
  tf_rows a, b, c, y, z; /* by operation */
  const float *w;
  float *u, *v;
  float alpha, beta, eps, off;
  int64_t block, n; /* rows of a task */
  int act, acc, acc2, mode;
} tf_row_job;

typedef struct {
  const tf_rope *p;
  const int32_t *pos;
  const float *cos, *sin;
  const float *x;
  float *y;
  int64_t n, block;
} tf_rope_job;

typedef struct {
  float *p, *m, *v;
  const float *g;
  int64_t n, block;
  float decay, beta1c, beta2, beta2c, eps, step_size, bc2_sqrt, gscale;
} tf_adamw_job;

enum { TF_ADAM8_BLOCK = 256 }; /* elements that share a scale */

typedef struct {
  float *p, *ms, *vs;
  uint8_t *mc, *vc;
  const float *g;
  int64_t n, blocks; /* blocks of a task */
  float decay, beta1, beta1c, beta2, beta2c, eps, step_size, bc2_sqrt, gscale;
} tf_adamw8_job;

typedef struct {
  float *p, *m;
  const float *g;
  int64_t n, block;
  float decay, step, beta1, beta1c, beta2, beta2c, gscale;
} tf_lion_job;

/* Elements of a row, and columns, that a unit of sums of squares has; lanes of the mean of a matrix's row means. */
enum { TF_SUM_CHUNK = 4096, TF_SUM_COLS = 256, TF_SUM_LANES = 256 };

/* Sums of squares: of rows of m elements, cut into parts chunks, or of columns of matrices [n,m], cut into parts of rows rows. */
typedef struct {
  const float *x;
  double *partial;
  int64_t n, m, parts, rows, units, block; /* units of a task */
  float scale, eps;
} tf_sqsums_job;

typedef struct {
  float *p, *m;
  const float *g, *sizes; /* a block's step */
  int64_t size, chunks, units, block;
  float decay, rate, beta1c, gscale;
} tf_mini_job;

/* Matrices of rows rows of cols columns, or n elements with v; scale_rows takes g to p. */
typedef struct {
  float *p, *g, *m, *v;
  const float *r, *c;
  int64_t n, rows, cols, units, block;
  float gscale, beta1, beta1c, beta2, beta2c, eps, shrink, lr, decay;
} tf_adafactor_job;

typedef struct {
  const float *x;
  float *m, *v, *y;
  int64_t n, block;
  float beta1, beta1c, beta2, beta2c, eps, scale;
} tf_adam_dir_job;

/* y = x x^T by squares of TF_GRAM_TILE rows, of which task t is one of those up to the diagonal. */
enum { TF_GRAM_TILE = 16 };
typedef struct {
  const float *x;
  double *y;
  int64_t n, m;
} tf_gram_job;

typedef struct {
  const float *x;
  float *y;
  double *partial;
  int32_t *flags;
  int64_t n, s, ld, block;
  int dtype, acc;
} tf_flat_job;

typedef struct {
  float *y;
  int64_t n, block;
  uint64_t offset;
  uint32_t k0, k1;
  float a, b;
  int kind;
} tf_random_job;

typedef struct {
  tf_rows x, y;
  const int64_t *row_ids;
  uint32_t k0, k1;
  float scale;
  uint32_t threshold;
  int acc;
  int64_t block;
} tf_dropout_job;

#define TF_MOE_EXPERTS 1024 /* most experts of a layer */
#define TF_MOE_GROUPS 64    /* most groups of experts */

/* Routing and load balancing: one task is block tokens. */
typedef struct {
  const tf_moe_route_fwd *f;
  const tf_moe_route_bwd *g;
  tf_rows x, y;          /* logits, dlogits */
  float *scores;         /* also read by the backward */
  const float *bias, *dweights, *dscores;
  float *weights;
  int32_t *ids;
  int64_t n, e, k, block;
  float scale;
  const uint8_t *mask;
  const double *counts;
  double *partial; /* [task][2 e] */
  double dscale;
  int acc;
} tf_route_job;

/* Gather of expert outputs, and its backward: one task is block tokens. */
typedef struct {
  tf_rows x, y, dy, dx;
  const int32_t *place;
  const float *weights;
  float *dweights;
  int64_t k, block;
  int acc, acc2;
} tf_combine_job;

/* Rows of logits in z: probabilities, losses and dz. */
typedef struct {
  float *z;
  int64_t ld, rows, v, block;
  const float *bias;
  const int32_t *targets;
  const float *weights; /* xent: token weights; logprob_bwd: dlogp */
  float *logp, *lse, *entropy, *zsum;
  const float *lse_in;
  float logit_scale, softcap, scale, smooth, z_loss;
  int grad; /* 0: statistics only; 1: xent; 2: dlogp */
} tf_loss_job;

/* Attention: everything resolved to pointers. Packed operands by what they hold: ka, va, qa, oa panels of rows of K, V, Q, dO; kt, vt, qt,
 * ot panels of columns. One head of a packed operand has (rows + TF_ATTN_PAD) * d floats, of columns (rows + PAD) * (d + PAD). */
typedef struct {
  const tf_attn_fwd *p;
  const tf_attn_bwd *g;
  tf_device *dev;
  int64_t b, tq, tk, hq, hk, dk, dv, group;
  const int32_t *q_start;
  const uint8_t *key_mask;
  const float *bias, *sinks;
  int64_t bias_b, bias_h; /* strides of bias */
  const int64_t *row_ids;
  int drop; /* whether probabilities are dropped: with this key, where a number is below the threshold; the others times keep */
  uint32_t k0, k1, threshold;
  float keep;
  int32_t *lo, *hi; /* per (b, query): the visible keys are lo <= j < hi */
  float *lse, *delta, *sink_part;
  float *ka, *va, *kt, *vt, *qa, *oa, *qt, *ot;
  int64_t qblocks, kblocks;
} tf_attn_job;

#define TF_ATTN_BLOCK 84 /* keys of one softmax block: a multiple of every panel height */
#define TF_ATTN_PAD 16   /* at least every panel height */
#define TF_ATTN_LANES 32 /* queries or keys of one task */

static inline int64_t tf_attn_pos(const tf_attn_job *j, int64_t b) { return j->q_start ? j->q_start[b] : j->p->q_start0; }
/* The bias of the keys of a head, or NULL. */
static inline const float *tf_attn_bias(const tf_attn_job *j, int64_t b, int64_t h) {
  return j->bias ? j->bias + b * j->bias_b + h * j->bias_h : NULL;
}
/* What is taken off the bias for query i: that of the key at its position, so that scores stay small however far the keys go. */
static inline float tf_attn_own(const tf_attn_job *j, const float *bias, int64_t b, int64_t i) {
  return bias[tf_max(0, tf_min(tf_attn_pos(j, b) + i, j->tk - 1))];
}

struct tf_kern {
  int mr, nr;
  tf_task_fn gemm_pack_b, gemm_run, gemm_run_few;
  tf_task_fn add, mul, act_fwd, act_bwd, glu_fwd, glu_bwd, dropout, clamp_fwd, clamp_bwd;
  tf_task_fn rmsnorm_fwd, rmsnorm_bwd, layernorm_fwd, layernorm_bwd, colsum, colsum_join;
  tf_task_fn rope, random, adamw, adamw8, lion, sqnorm, nonfinite, slice_add, loss;
  tf_task_fn sqsum_rows, sqsum_cols, adam_mini, adafactor_scale, adafactor_vector, adafactor_apply, adam_dir, scale_rows, gram;
  tf_task_fn glu_clamped_fwd, glu_clamped_bwd, moe_route_fwd, moe_route_bwd, moe_combine_fwd, moe_combine_bwd, moe_aux_fwd, moe_aux_bwd;
  tf_task_fn attn_pack, attn_fwd, attn_bwd_prep, attn_bwd_kv, attn_bwd_q;
};

extern const tf_kern tf_kern_scalar, tf_kern_scalar_bf16, tf_kern_scalar_f16;
#if defined(__x86_64__)
extern const tf_kern tf_kern_avx2, tf_kern_avx512, tf_kern_avx2_bf16, tf_kern_avx512_bf16, tf_kern_avx2_f16, tf_kern_avx512_f16, tf_kern_avx512_dp;
#elif defined(__aarch64__)
extern const tf_kern tf_kern_neon, tf_kern_neon_bf16, tf_kern_neon_f16;
#endif

/* Runs a product with the device locked; packed_b has tf_gemm_pack_bytes. */
void tf_gemm_exec(tf_device *d, tf_gemm_job *j);
int64_t tf_gemm_pack_bytes(int64_t n, int64_t k);
/* Floats of workspace that a c of m rows of 16 bits needs. */
int64_t tf_gemm_c_floats(int64_t m, int64_t n, int64_t k);
/* Points the job at a tensor's elements (c: with that workspace). */
static inline void tf_gemm_a(tf_gemm_job *j, const void *a, int32_t dt) {
  j->a = a;
  j->a_dt = dt;
}
static inline void tf_gemm_b(tf_gemm_job *j, const void *b, int32_t dt) {
  j->b = b;
  j->b_dt = dt;
}
static inline void tf_gemm_c(tf_gemm_job *j, void *c, int64_t ldc, int32_t dt, float *ws) {
  j->c = tf_is_half(dt) ? ws : c;
  j->c16 = tf_is_half(dt) ? c : NULL;
  j->c_dt = dt;
  j->ldc = j->ldc16 = ldc;
}
/* The key of random numbers (SplitMix64 of both). */
static inline uint64_t tf_splitmix(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
static inline uint64_t tf_philox_key(uint64_t seed, uint64_t stream) { return tf_splitmix(seed ^ tf_splitmix(stream)); }
/* Numbers below it drop an element. */
static inline uint32_t tf_drop_threshold(float p) { return (uint32_t)((double)p * 4294967296.0); }
/* Element i of a tensor. */
static inline void *tf_elem(const tf_tensor *t, int64_t i) { return (char *)tf_addr(t) + i * tf_dtype_size(t->dtype); }

#endif
