/* Fills, copies and casts, random numbers, norms: checks and cutting into tasks. */
#include <math.h>
#include <string.h>

#include "cpu_kern.h"

#define BLOCK 16384

typedef struct {
  const char *x;
  char *y;
  int xt, yt;
  int64_t n, xs, ys; /* the last dimension: elements and strides */
  int64_t rows, block;
  int rank;
  const int64_t *dim, *xst, *yst;
  double value;
} copy_job;

static void convert(const copy_job *j, const char *x, char *y) {
  int64_t xb = tf_dtype_size(j->xt), yb = tf_dtype_size(j->yt);
  if (j->xt == j->yt) {
    if (j->xs == 1 && j->ys == 1) {
      memcpy(y, x, (size_t)(j->n * xb));
    } else {
      for (int64_t i = 0; i < j->n; i++) memcpy(y + i * j->ys * yb, x + i * j->xs * xb, (size_t)xb);
    }
    return;
  }
  for (int64_t i = 0; i < j->n; i++) {
    const void *s = x + i * j->xs * xb;
    void *d = y + i * j->ys * yb;
    if (j->xt == TF_F64 && j->yt == TF_F32) {
      *(float *)d = (float)*(const double *)s;
      continue;
    }
    float f = j->xt == TF_F32 ? *(const float *)s : tf_is_half(j->xt) ? tf_from_half(j->xt, *(const uint16_t *)s) : (float)*(const double *)s;
    if (j->yt == TF_F32)
      *(float *)d = f;
    else if (tf_is_half(j->yt))
      *(uint16_t *)d = tf_to_half(j->yt, f);
    else
      *(double *)d = f;
  }
}

static void copy_task(void *arg, int64_t task, int thread) {
  const copy_job *j = arg;
  (void)thread;
  for (int64_t r = task * j->block; r < j->rows && r < (task + 1) * j->block; r++) {
    int64_t xo = 0, yo = 0, i = r;
    for (int k = j->rank - 2; k >= 0; k--) {
      int64_t c = i % j->dim[k];
      i /= j->dim[k];
      if (j->xst) xo += c * j->xst[k];
      yo += c * j->yst[k];
    }
    convert(j, j->x + xo * tf_dtype_size(j->xt), j->y + yo * tf_dtype_size(j->yt));
  }
}

static int is_float(int32_t t) { return t >= TF_F32 && t <= TF_F16; }

tf_status cpu_copy(tf_queue *q, const tf_copy *p) {
  if (q->st != TF_OK) return q->st;
  const tf_tensor *x = &p->x, *y = &p->y;
  if (!x->data || !y->data || x->rank < 0 || x->rank != y->rank || memcmp(x->dim, y->dim, (size_t)x->rank * sizeof(int64_t)))
    return tf_fail(q, TF_EINVALID, "x and y differ in their dimensions or are absent");
  if (!tf_dtype_size(x->dtype) || (x->dtype != y->dtype && !(is_float(x->dtype) && is_float(y->dtype))))
    return tf_fail(q, TF_EUNSUPPORTED, "no conversion from type %d to %d", x->dtype, y->dtype);
  copy_job j = {.x = tf_addr(x), .y = tf_addr(y), .xt = x->dtype, .yt = y->dtype, .n = 1, .xs = 1, .ys = 1, .rows = 1};
  int64_t flat_dim[2], flat_stride[2];
  if (tf_contiguous(x) && tf_contiguous(y)) {
    int64_t n = tf_numel(x), body = n / BLOCK * BLOCK;
    j.rank = 2;
    flat_dim[0] = j.rows = n / BLOCK;
    flat_dim[1] = j.n = flat_stride[0] = BLOCK;
    flat_stride[1] = 1;
    j.dim = flat_dim;
    j.xst = j.yst = flat_stride;
    j.block = 1;
    tf_run(q, j.rows, copy_task, &j);
    j.n = n - body;
    if (j.n) convert(&j, j.x + body * tf_dtype_size(j.xt), j.y + body * tf_dtype_size(j.yt));
    return TF_OK;
  }
  int last = x->rank - 1;
  j.rank = x->rank;
  j.dim = x->dim;
  j.xst = x->stride;
  j.yst = y->stride;
  j.n = x->dim[last];
  j.xs = x->stride[last];
  j.ys = y->stride[last];
  for (int i = 0; i < last; i++) j.rows *= x->dim[i];
  j.block = tf_max(1, BLOCK / tf_max(1, j.n));
  if (j.n) tf_run(q, tf_ceil_div(j.rows, j.block), copy_task, &j);
  return TF_OK;
}

tf_status cpu_fill(tf_queue *q, const tf_fill *p) {
  if (q->st != TF_OK) return q->st;
  const tf_tensor *y = &p->y;
  int64_t size = tf_dtype_size(y->dtype);
  if (!y->data || y->rank < 0 || !size) return tf_fail(q, TF_EINVALID, "y is absent or not a valid view");
  union {
    float f;
    double d;
    uint16_t h;
    int32_t i;
    int64_t l;
    uint8_t u;
    int8_t b;
    char raw[8];
  } v;
  switch (y->dtype) {
    case TF_F32: v.f = (float)p->value; break;
    case TF_F64: v.d = p->value; break;
    case TF_BF16:
    case TF_F16: v.h = tf_to_half(y->dtype, (float)p->value); break;
    case TF_I32: v.i = (int32_t)p->value; break;
    case TF_I64: v.l = (int64_t)p->value; break;
    case TF_U8: v.u = (uint8_t)p->value; break;
    default: v.b = (int8_t)p->value; break;
  }
  int64_t n = tf_numel(y);
  if (n == 0) return TF_OK;
  if (tf_contiguous(y)) {
    char *d = tf_addr(y);
    if (p->value == 0 && !signbit(p->value)) {
      memset(d, 0, (size_t)(n * size));
    } else if (size == 4) {
      for (int64_t i = 0; i < n; i++) ((int32_t *)(void *)d)[i] = v.i;
    } else {
      for (int64_t i = 0; i < n; i++) memcpy(d + i * size, v.raw, (size_t)size);
    }
    return TF_OK;
  }
  /* A tensor with strides of 0 over one element, copied. */
  static const int64_t zero[TF_MAX_RANK];
  copy_job j = {.x = v.raw, .y = tf_addr(y), .xt = y->dtype, .yt = y->dtype, .rank = y->rank, .dim = y->dim, .xst = zero, .yst = y->stride,
                .n = y->dim[y->rank - 1], .xs = 0, .ys = y->stride[y->rank - 1]};
  j.rows = n / j.n;
  j.block = tf_max(1, BLOCK / j.n);
  tf_run(q, tf_ceil_div(j.rows, j.block), copy_task, &j);
  return TF_OK;
}

/* --- random numbers --- */

tf_status cpu_random(tf_queue *q, const tf_random *p) {
  if (q->st != TF_OK) return q->st;
  uint64_t key = tf_philox_key(p->seed, p->stream);
  tf_random_job j = {.offset = p->offset, .k0 = (uint32_t)key, .k1 = (uint32_t)(key >> 32), .a = p->a, .b = p->b, .kind = p->kind, .block = BLOCK};
  void *y;
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, -1, &y));
  if (p->offset % 4 || (p->kind != TF_RANDOM_UNIFORM && p->kind != TF_RANDOM_NORMAL))
    return tf_fail(q, TF_EINVALID, "offset %lu or kind %d", (unsigned long)p->offset, p->kind);
  j.y = y;
  j.n = tf_numel(&p->y);
  tf_run(q, tf_ceil_div(j.n, BLOCK), q->d->k->random, &j);
  return TF_OK;
}

tf_status cpu_dropout(tf_queue *q, const tf_dropout *p) {
  if (q->st != TF_OK) return q->st;
  uint64_t key = tf_philox_key(p->seed, p->stream);
  tf_dropout_job j = {.k0 = (uint32_t)key, .k1 = (uint32_t)(key >> 32), .acc = p->accumulate};
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.x));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.x.rows, j.x.d, j.x.dt));
  if (!(p->p >= 0 && p->p < 1)) return tf_fail(q, TF_EINVALID, "p is %g", (double)p->p);
  if (tf_has(&p->row_ids)) {
    void *v;
    TF_TRY(tf_flat(q, &p->row_ids, "row_ids", TF_I64, j.x.rows, &v));
    j.row_ids = v;
  }
  j.scale = 1.0f / (1.0f - p->p);
  j.threshold = tf_drop_threshold(p->p);
  j.block = tf_max(1, BLOCK / 4 / tf_max(1, j.x.d));
  tf_run(q, tf_ceil_div(j.x.rows, j.block), tf_kern_of(q->d, j.x.dt)->dropout, &j);
  return TF_OK;
}

/* --- norms --- */

tf_status cpu_sqnorm(tf_queue *q, const tf_sqnorm *p) {
  if (q->st != TF_OK) return q->st;
  void *x, *out;
  TF_TRY(tf_flat(q, &p->x, "x", TF_F32, -1, &x));
  tf_flat_job j = {.x = x, .n = tf_numel(&p->x), .block = 8};
  int64_t chunks = tf_ceil_div(j.n, 4096);
  TF_TRY(tf_flat(q, &p->partials, "partials", TF_F64, chunks, &out));
  j.partial = out;
  tf_run(q, tf_ceil_div(chunks, j.block), q->d->k->sqnorm, &j);
  return TF_OK;
}

tf_status cpu_sum_f64(tf_queue *q, const tf_sum_f64 *p) {
  if (q->st != TF_OK) return q->st;
  void *x, *out;
  TF_TRY(tf_flat(q, &p->x, "x", TF_F64, -1, &x));
  TF_TRY(tf_flat(q, &p->total, "total", TF_F64, 1, &out));
  double s = p->accumulate ? *(double *)out : 0;
  for (int64_t i = 0, n = tf_numel(&p->x); i < n; i++) s += ((const double *)x)[i];
  *(double *)out = s;
  return TF_OK;
}

tf_status cpu_clip_factor(tf_queue *q, const tf_clip_factor *p) {
  if (q->st != TF_OK) return q->st;
  void *s, *o;
  TF_TRY(tf_flat(q, &p->sumsq, "sumsq", TF_F64, 1, &s));
  double norm = sqrt(*(const double *)s) * (p->inv_scale == 0 ? 1 : (double)p->inv_scale);
  if (tf_has(&p->norm)) {
    TF_TRY(tf_flat(q, &p->norm, "norm", TF_F32, 1, &o));
    *(float *)o = (float)norm;
  }
  if (tf_has(&p->clip)) {
    TF_TRY(tf_flat(q, &p->clip, "clip", TF_F32, 1, &o));
    double c = p->max_norm > 0 ? (double)p->max_norm / (norm + 1e-6) : 1;
    *(float *)o = (float)(c < 1 ? c : 1);
  }
  if (tf_has(&p->skip)) {
    TF_TRY(tf_flat(q, &p->skip, "skip", TF_I32, 1, &o));
    *(int32_t *)o = !isfinite(norm);
  }
  return TF_OK;
}

int64_t cpu_nonfinite_ws(const tf_nonfinite *p) { return tf_ceil_div(tf_numel(&p->x), BLOCK) * (int64_t)sizeof(int32_t); }

tf_status cpu_nonfinite(tf_queue *q, const tf_nonfinite *p) {
  if (q->st != TF_OK) return q->st;
  void *x, *flag;
  TF_TRY(tf_flat(q, &p->x, "x", TF_F32, -1, &x));
  TF_TRY(tf_flat(q, &p->flag, "flag", TF_I32, 1, &flag));
  tf_flat_job j = {.x = x, .n = tf_numel(&p->x), .block = BLOCK, .flags = (int32_t *)(uintptr_t)q->ws};
  int64_t n = tf_ceil_div(j.n, BLOCK);
  tf_run(q, n, q->d->k->nonfinite, &j);
  int32_t any = p->accumulate ? *(int32_t *)flag : 0;
  for (int64_t i = 0; i < n; i++) any |= j.flags[i];
  *(int32_t *)flag = any != 0;
  return TF_OK;
}

tf_status cpu_slice_add(tf_queue *q, const tf_slice_add *p) {
  if (q->st != TF_OK) return q->st;
  void *y;
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, -1, &y));
  tf_flat_job j = {.x = tf_addr(&p->x), .y = y, .n = tf_numel(&p->y), .block = BLOCK, .acc = p->accumulate, .dtype = p->x.dtype};
  if (p->x.rank != 2 || p->x.dim[1] != j.n || !p->x.data || (j.n > 1 && p->x.stride[1] != 1))
    return tf_fail(q, TF_EINVALID, "x has to be [slices,%ld] with a last stride of 1", (long)j.n);
  if (j.dtype != TF_F32 && !tf_is_half(j.dtype)) return tf_fail(q, TF_EUNSUPPORTED, "x has element type %d, f32, bf16 or f16 is needed", j.dtype);
  j.s = p->x.dim[0];
  j.ld = p->x.stride[0];
  tf_run(q, tf_ceil_div(j.n, BLOCK), q->d->k->slice_add, &j);
  return TF_OK;
}
