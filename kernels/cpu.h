/* Inside of the CPU backend. */
#ifndef TUNEFLEET_CPU_H
#define TUNEFLEET_CPU_H

#include <stddef.h>
#include <stdint.h>

#include "tunefleet.h"

/* --- thread pool (cpu_pool.c) --- */

typedef struct tf_pool tf_pool;
typedef void (*tf_task_fn)(void *arg, int64_t task, int thread);

tf_pool *tf_pool_open(int threads);
void tf_pool_close(tf_pool *);
/* Runs fn for tasks 0..n-1 on all threads and returns when all are done. Which thread runs a task is not determined; results may not
 * depend on it. One caller at a time. */
void tf_pool_run(tf_pool *, int64_t n, tf_task_fn fn, void *arg);
int tf_pool_threads(const tf_pool *);

/* --- device and queue (cpu_backend.c) --- */

/* Scratch of one thread, for packed blocks and tiles. */
#define TF_SCRATCH_BYTES (2 << 20)

/* Stack of a pool thread: the deepest operation takes 9 KiB of it. */
#define TF_STACK_BYTES (256 << 10)

typedef struct tf_kern tf_kern;

struct tf_device {
  tf_pool *pool;
  const tf_kern *k, *kb, *kh; /* kernels on f32, bf16 and f16 */
  const tf_kern *dp;     /* products of two bf16 matrices, or NULL: then they go over f32 */
  int isa, threads;
  char *scratch; /* threads * TF_SCRATCH_BYTES */
  void *lock;    /* pthread_mutex_t: operations of several queues run one at a time */
};

struct tf_queue {
  tf_device *d;
  tf_status st;
  int32_t kind;
  char why[256];
  tf_ptr ws;
  int64_t ws_bytes;
};

static inline float *tf_scratch(tf_device *d, int thread) { return (float *)(d->scratch + (size_t)thread * TF_SCRATCH_BYTES); }

/* Makes st the queue's sticky status. */
tf_status tf_fail(tf_queue *q, tf_status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void tf_lock(tf_device *);
void tf_unlock(tf_device *);
/* Runs tasks with the device locked. */
void tf_run(tf_queue *, int64_t n, tf_task_fn fn, void *arg);

/* The operations: cpu_<op>, and cpu_<op>_ws for those that need workspace. */
#define TF_X(name) tf_status cpu_##name(tf_queue *, const tf_##name *);
TF_OPS(TF_X)
#undef TF_X
int64_t cpu_scatter_add_rows_ws(const tf_scatter_add_rows *);
int64_t cpu_colsum_ws(const tf_colsum *);
int64_t cpu_rmsnorm_bwd_ws(const tf_rmsnorm_bwd *);
int64_t cpu_layernorm_bwd_ws(const tf_layernorm_bwd *);
int64_t cpu_gemm_ws(const tf_gemm *);
int64_t cpu_attn_fwd_ws(const tf_attn_fwd *);
int64_t cpu_attn_bwd_ws(const tf_attn_bwd *);
int64_t cpu_linear_logprob_fwd_ws(const tf_linear_logprob_fwd *);
int64_t cpu_linear_logprob_bwd_ws(const tf_linear_logprob_bwd *);
int64_t cpu_linear_xent_ws(const tf_linear_xent *);
int64_t cpu_nonfinite_ws(const tf_nonfinite *);
int64_t cpu_packed_gemm_ws(const tf_packed_gemm *);
int64_t cpu_grouped_gemm_ws(const tf_grouped_gemm *);
int64_t cpu_grouped_gemm_dw_ws(const tf_grouped_gemm_dw *);
int64_t cpu_moe_aux_fwd_ws(const tf_moe_aux_fwd *);
int64_t cpu_sqsums_ws(const tf_sqsums *);
int64_t cpu_adam_mini_ws(const tf_adam_mini *);
int64_t cpu_adafactor_ws(const tf_adafactor *);

/* --- checks and views (cpu_check.c) --- */

/* A tensor as rows: up to 4 leading dimensions with any strides, the last with stride 1. */
typedef struct {
  float *p; /* or bf16 or f16, see dt */
  int64_t rows, d;
  int64_t dim[4], stride[4]; /* leading dimensions, right-aligned; unused ones are 1 */
  int64_t ld;                /* distance of rows when uniform, else -1 */
  int32_t dt;                /* TF_F32, TF_BF16 or TF_F16 */
} tf_rows;

static inline int64_t tf_rows_at(const tf_rows *r, int64_t i) {
  if (r->ld >= 0) return i * r->ld;
  int64_t off = 0;
  for (int k = 3; k >= 0 && i; k--) {
    off += i % r->dim[k] * r->stride[k];
    i /= r->dim[k];
  }
  return off;
}

static inline float *tf_row(const tf_rows *r, int64_t i) { return r->p + tf_rows_at(r, i); }

static inline float tf_from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

/* Round to nearest even; a NaN stays one. */
static inline uint16_t tf_to_bf16(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* IEEE 754 binary16 and back, as the processor's instructions do it: to nearest even, subnormals kept, too large is infinite, a NaN stays one
 * (quiet, with the upper bits of its payload). */
static inline float tf_from_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, u;
  float f;
  if (e == 31) {
    u = 0x7f800000 | m << 13 | (m ? 0x400000 : 0);
  } else if (e) {
    u = (e + 112) << 23 | m << 13;
  } else {
    f = (float)m * 0x1p-24f;
    __builtin_memcpy(&u, &f, 4);
  }
  u |= sign;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t tf_to_f16(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x1ff));
  if (u >= 0x477ff000) return sign | 0x7c00;
  if (u < 0x38800000) {
    /* Subnormal: adding 0.5 leaves the rounded mantissa in the low bits. */
    float a;
    __builtin_memcpy(&a, &u, 4);
    a += 0.5f;
    __builtin_memcpy(&u, &a, 4);
    return (uint16_t)(sign | (u - 0x3f000000));
  }
  u += 0xc8000fff + (u >> 13 & 1);
  return (uint16_t)(sign | u >> 13);
}

static inline int tf_is_half(int32_t dt) { return dt == TF_BF16 || dt == TF_F16; }
static inline float tf_from_half(int32_t dt, uint16_t h) { return dt == TF_F16 ? tf_from_f16(h) : tf_from_bf16(h); }
static inline uint16_t tf_to_half(int32_t dt, float f) { return dt == TF_F16 ? tf_to_f16(f) : tf_to_bf16(f); }

static inline int tf_has(const tf_tensor *t) { return t->data != 0 || t->rank < 0; }
static inline void *tf_addr(const tf_tensor *t) { return (void *)(uintptr_t)t->data; }
int64_t tf_numel(const tf_tensor *t);
int tf_contiguous(const tf_tensor *t);
int64_t tf_dtype_size(int32_t dtype);

/* Fills r from t, which must be f32 of rank >= 1 with a last stride of 1 (dimension 1 takes any). name is for the message. */
tf_status tf_as_rows(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r);
/* As tf_as_rows, and of this size. */
tf_status tf_as_rows_of(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r, int64_t rows, int64_t d);
/* As tf_as_rows, of f32, bf16 or f16; tf_as_elems_of wants a certain one of them. */
tf_status tf_as_elems(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r);
tf_status tf_as_elems_of(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r, int64_t rows, int64_t d, int32_t dt);
/* The kernels for an element type. */
static inline const tf_kern *tf_kern_of(const tf_device *d, int32_t dt) { return dt == TF_BF16 ? d->kb : dt == TF_F16 ? d->kh : d->k; }
/* Requires a contiguous tensor with this type and number of elements. */
tf_status tf_flat(tf_queue *q, const tf_tensor *t, const char *name, int32_t dtype, int64_t n, void **p);

#define TF_TRY(call)            \
  do {                          \
    tf_status st_ = (call);     \
    if (st_ != TF_OK) return st_; \
  } while (0)

static inline int64_t tf_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t tf_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t tf_max(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
