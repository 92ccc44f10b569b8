/* The optimizers: checks and cutting into tasks. */
#include <math.h>

#include "cpu_kern.h"

#define BLOCK 16384

static double power(double b, int64_t n) {
  double r = 1;
  for (; n > 0; n /= 2) {
    if (n & 1) r *= b;
    b *= b;
  }
  return r;
}

/* Scalars of a step, which may be the device's. */
static int skipped(tf_ptr dev) { return dev && *(const int32_t *)(uintptr_t)dev; }
static int64_t step_of(int64_t step, tf_ptr dev) { return dev ? *(const int64_t *)(uintptr_t)dev : step; }
static double rate(double lr, tf_ptr dev) { return dev ? lr * (double)*(const float *)(uintptr_t)dev : lr; }
static float grad_scale(float scale, tf_ptr clip) {
  float s = scale == 0 ? 1 : scale;
  return clip ? s * *(const float *)(uintptr_t)clip : s;
}

tf_status cpu_adamw(tf_queue *q, const tf_adamw *p) {
  if (q->st != TF_OK) return q->st;
  void *w, *m, *v, *g;
  TF_TRY(tf_flat(q, &p->p, "p", TF_F32, -1, &w));
  int64_t n = tf_numel(&p->p);
  TF_TRY(tf_flat(q, &p->m, "m", TF_F32, n, &m));
  TF_TRY(tf_flat(q, &p->v, "v", TF_F32, n, &v));
  TF_TRY(tf_flat(q, &p->g, "g", TF_F32, n, &g));
  if (skipped(p->skip_dev)) return TF_OK;
  int64_t step = step_of(p->step, p->step_dev);
  if (step < 1) return tf_fail(q, TF_EINVALID, "step is %ld, the first is 1", (long)step);
  double lr = rate(p->lr, p->lr_dev);
  float gs = grad_scale(p->grad_scale, p->clip_dev);
  tf_adamw_job j = {.p = w, .m = m, .v = v, .g = g, .n = n, .block = BLOCK, .decay = (float)(1 - lr * p->weight_decay),
                    .beta1c = (float)(1 - p->beta1), .beta2 = (float)p->beta2, .beta2c = (float)(1 - p->beta2), .eps = (float)p->eps,
                    .step_size = (float)(lr / (1 - power(p->beta1, step))), .bc2_sqrt = (float)sqrt(1 - power(p->beta2, step)), .gscale = gs};
  tf_run(q, tf_ceil_div(n, BLOCK), q->d->k->adamw, &j);
  return TF_OK;
}

tf_status cpu_adamw8(tf_queue *q, const tf_adamw8 *p) {
  if (q->st != TF_OK) return q->st;
  void *w, *g, *mc, *vc, *ms, *vs;
  TF_TRY(tf_flat(q, &p->p, "p", TF_F32, -1, &w));
  int64_t n = tf_numel(&p->p), blocks = tf_ceil_div(n, TF_ADAM8_BLOCK);
  TF_TRY(tf_flat(q, &p->g, "g", TF_F32, n, &g));
  TF_TRY(tf_flat(q, &p->m_codes, "m_codes", TF_U8, n, &mc));
  TF_TRY(tf_flat(q, &p->v_codes, "v_codes", TF_U8, n, &vc));
  TF_TRY(tf_flat(q, &p->m_scales, "m_scales", TF_F32, blocks, &ms));
  TF_TRY(tf_flat(q, &p->v_scales, "v_scales", TF_F32, blocks, &vs));
  if (skipped(p->skip_dev)) return TF_OK;
  int64_t step = step_of(p->step, p->step_dev);
  if (step < 1) return tf_fail(q, TF_EINVALID, "step is %ld, the first is 1", (long)step);
  double lr = rate(p->lr, p->lr_dev);
  float gs = grad_scale(p->grad_scale, p->clip_dev);
  tf_adamw8_job j = {.p = w, .g = g, .mc = mc, .vc = vc, .ms = ms, .vs = vs, .n = n, .blocks = BLOCK / TF_ADAM8_BLOCK / 4,
                     .decay = (float)(1 - lr * p->weight_decay), .beta1 = (float)p->beta1, .beta1c = (float)(1 - p->beta1), .beta2 = (float)p->beta2,
                     .beta2c = (float)(1 - p->beta2), .eps = (float)p->eps, .step_size = (float)(lr / (1 - power(p->beta1, step))),
                     .bc2_sqrt = (float)sqrt(1 - power(p->beta2, step)), .gscale = gs};
  tf_run(q, tf_ceil_div(blocks, j.blocks), q->d->k->adamw8, &j);
  return TF_OK;
}

tf_status cpu_lion(tf_queue *q, const tf_lion *p) {
  if (q->st != TF_OK) return q->st;
  void *w, *m, *g;
  TF_TRY(tf_flat(q, &p->p, "p", TF_F32, -1, &w));
  int64_t n = tf_numel(&p->p);
  TF_TRY(tf_flat(q, &p->m, "m", TF_F32, n, &m));
  TF_TRY(tf_flat(q, &p->g, "g", TF_F32, n, &g));
  if (skipped(p->skip_dev)) return TF_OK;
  double lr = rate(p->lr, p->lr_dev);
  float gs = grad_scale(p->grad_scale, p->clip_dev);
  tf_lion_job j = {.p = w, .m = m, .g = g, .n = n, .block = BLOCK, .decay = (float)(1 - lr * p->weight_decay), .step = (float)lr, .beta1 = (float)p->beta1,
                   .beta1c = (float)(1 - p->beta1), .beta2 = (float)p->beta2, .beta2c = (float)(1 - p->beta2), .gscale = gs};
  tf_run(q, tf_ceil_div(n, BLOCK), q->d->k->lion, &j);
  return TF_OK;
}

/* --- sums of squares --- */

static int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

/* Rows are summed by chunks, columns by parts of rows. */
static int64_t sum_chunks(int64_t m) { return tf_max(1, tf_ceil_div(m, TF_SUM_CHUNK)); }
static int64_t part_rows(int64_t n) { return tf_max(32, tf_ceil_div(n, 128)); }
static int64_t sum_parts(int64_t n) { return tf_max(1, tf_ceil_div(n, part_rows(n))); }

static int64_t row_sums_ws(int64_t rows, int64_t m) { return sum_chunks(m) > 1 ? align(rows * sum_chunks(m) * 8) : 0; }

/* out[r] = the sum over row r of rows rows of m elements; ws has row_sums_ws. */
static void row_sums(tf_queue *q, const float *x, int64_t rows, int64_t m, float scale, float eps, double *ws, double *out) {
  int64_t chunks = sum_chunks(m), units = rows * chunks;
  tf_sqsums_job j = {.x = x, .n = rows, .m = m, .parts = chunks, .units = units, .scale = scale, .eps = eps, .partial = chunks > 1 ? ws : out,
                     .block = tf_max(1, BLOCK / tf_max(1, tf_min(m, TF_SUM_CHUNK)))};
  tf_run(q, tf_ceil_div(units, j.block), q->d->k->sqsum_rows, &j);
  for (int64_t r = 0; chunks > 1 && r < rows; r++) {
    double s = 0;
    for (int64_t c = 0; c < chunks; c++) s += ws[r * chunks + c];
    out[r] = s;
  }
}

static int64_t col_sums_ws(int64_t b, int64_t n, int64_t m) { return sum_parts(n) > 1 ? align(b * sum_parts(n) * m * 8) : 0; }

/* out[k*m+c] = the sum over column c of matrix k of b matrices [n,m]; ws has col_sums_ws. */
static void col_sums(tf_queue *q, const float *x, int64_t b, int64_t n, int64_t m, float scale, float eps, double *ws, double *out) {
  int64_t parts = sum_parts(n), cuts = tf_ceil_div(m, TF_SUM_COLS);
  tf_sqsums_job j = {.x = x, .n = n, .m = m, .parts = parts, .rows = part_rows(n), .units = b * parts * cuts, .scale = scale, .eps = eps,
                     .partial = parts > 1 ? ws : out, .block = 1};
  tf_run(q, j.units, q->d->k->sqsum_cols, &j);
  for (int64_t k = 0; parts > 1 && k < b; k++) {
    for (int64_t c = 0; c < m; c++) out[k * m + c] = 0;
    for (int64_t p = 0; p < parts; p++)
      for (int64_t c = 0; c < m; c++) out[k * m + c] += ws[(k * parts + p) * m + c];
  }
}

int64_t cpu_sqsums_ws(const tf_sqsums *p) {
  const tf_tensor *x = &p->x;
  int64_t rows = tf_has(&p->rows) ? row_sums_ws(x->dim[0] * x->dim[1], x->dim[2]) : 0;
  return rows + (tf_has(&p->cols) ? col_sums_ws(x->dim[0], x->dim[1], x->dim[2]) : 0);
}

tf_status cpu_sqsums(tf_queue *q, const tf_sqsums *p) {
  if (q->st != TF_OK) return q->st;
  const tf_tensor *t = &p->x;
  void *x, *out;
  TF_TRY(tf_flat(q, t, "x", TF_F32, -1, &x));
  if (t->rank != 3) return tf_fail(q, TF_EINVALID, "x has %d dimensions, 3 are needed", t->rank);
  int64_t b = t->dim[0], n = t->dim[1], m = t->dim[2];
  float scale = p->scale == 0 ? 1 : p->scale;
  char *ws = (char *)(uintptr_t)q->ws;
  if (tf_has(&p->rows)) {
    TF_TRY(tf_flat(q, &p->rows, "rows", TF_F64, b * n, &out));
    row_sums(q, x, b * n, m, scale, p->eps, (double *)(void *)ws, out);
    ws += row_sums_ws(b * n, m);
  }
  if (tf_has(&p->cols)) {
    TF_TRY(tf_flat(q, &p->cols, "cols", TF_F64, b * m, &out));
    col_sums(q, x, b, n, m, scale, p->eps, (double *)(void *)ws, out);
  }
  return TF_OK;
}

/* --- one second moment for each block --- */

int64_t cpu_adam_mini_ws(const tf_adam_mini *p) {
  int64_t blocks = tf_max(1, tf_numel(&p->v));
  return align(blocks * 8) + align(blocks * 4) + row_sums_ws(blocks, tf_numel(&p->p) / blocks);
}

tf_status cpu_adam_mini(tf_queue *q, const tf_adam_mini *p) {
  if (q->st != TF_OK) return q->st;
  void *w, *m, *g, *vv;
  TF_TRY(tf_flat(q, &p->p, "p", TF_F32, -1, &w));
  int64_t n = tf_numel(&p->p), blocks = tf_numel(&p->v);
  TF_TRY(tf_flat(q, &p->m, "m", TF_F32, n, &m));
  TF_TRY(tf_flat(q, &p->g, "g", TF_F32, n, &g));
  TF_TRY(tf_flat(q, &p->v, "v", TF_F32, blocks, &vv));
  if (n == 0 || blocks == 0 || n % blocks) return tf_fail(q, TF_EINVALID, "%ld elements cannot be cut into %ld blocks", (long)n, (long)blocks);
  if (skipped(p->skip_dev)) return TF_OK;
  int64_t step = step_of(p->step, p->step_dev), size = n / blocks;
  if (step < 1) return tf_fail(q, TF_EINVALID, "step is %ld, the first is 1", (long)step);
  double lr = rate(p->lr, p->lr_dev);
  char *ws = (char *)(uintptr_t)q->ws;
  double *sums = (double *)(void *)ws;
  float *sizes = (float *)(void *)(ws + align(blocks * 8)), *v = vv;
  tf_mini_job j = {.p = w, .m = m, .g = g, .sizes = sizes, .size = size, .chunks = sum_chunks(size), .decay = (float)(1 - lr * p->weight_decay),
                   .rate = (float)lr, .beta1c = (float)(1 - p->beta1), .gscale = grad_scale(p->grad_scale, p->clip_dev),
                   .block = tf_max(1, BLOCK / tf_min(size, TF_SUM_CHUNK))};
  row_sums(q, g, blocks, size, j.gscale, 0, (double *)(void *)(ws + align(blocks * 8) + align(blocks * 4)), sums);
  const float b2 = (float)p->beta2, b2c = (float)(1 - p->beta2), eps = (float)p->eps;
  const float inverse = (float)(1 / (1 - power(p->beta1, step))), root2 = (float)sqrt(1 - power(p->beta2, step));
  for (int64_t b = 0; b < blocks; b++) {
    v[b] = v[b] * b2 + (float)(sums[b] / (double)size) * b2c;
    sizes[b] = inverse / (sqrtf(v[b]) / root2 + eps);
  }
  j.units = blocks * j.chunks;
  tf_run(q, tf_ceil_div(j.units, j.block), q->d->k->adam_mini, &j);
  return TF_OK;
}

/* --- factored second moments --- */

/* Parts of the workspace of adafactor. */
typedef struct {
  int64_t b, n, m, numel;
  int factored;
  double *rows, *cols, *part; /* sums, and partial ones */
  float *r, *c;               /* 1 / the roots */
  int64_t bytes;
} ada_plan;

static ada_plan plan_adafactor(const tf_adafactor *p, char *ws) {
  ada_plan a = {.numel = tf_numel(&p->p), .factored = tf_has(&p->row)};
  int64_t part = row_sums_ws(1, a.numel);
  if (a.factored) {
    a.b = p->p.dim[0];
    a.n = p->p.dim[1];
    a.m = p->p.dim[2];
    part = tf_max(part, tf_max(row_sums_ws(a.b * a.n, a.m), col_sums_ws(a.b, a.n, a.m)));
  }
  int64_t at[4] = {align(part), align(a.b * a.n * 8), align(a.b * a.m * 8), align(a.b * a.n * 4)};
  a.part = (double *)(void *)ws;
  a.rows = (double *)(void *)(ws + at[0]);
  a.cols = (double *)(void *)(ws + at[0] + at[1]);
  a.r = (float *)(void *)(ws + at[0] + at[1] + at[2]);
  a.c = (float *)(void *)(ws + at[0] + at[1] + at[2] + at[3]);
  a.bytes = at[0] + at[1] + at[2] + at[3] + align(a.b * a.m * 4);
  return a;
}

int64_t cpu_adafactor_ws(const tf_adafactor *p) {
  static char none[1];
  return plan_adafactor(p, none).bytes;
}

/* Row and column means, and the factors of each row and column. The mean of a matrix's row means is added in TF_SUM_LANES lanes. */
static void ada_factors(const ada_plan *a, float *row, float *col, float b2, float b2c) {
  for (int64_t k = 0; k < a->b; k++) {
    double lane[TF_SUM_LANES] = {0}, mean = 0;
    for (int64_t i = 0; i < a->n; i++) {
      float *v = row + k * a->n + i;
      *v = *v * b2 + (float)(a->rows[k * a->n + i] / (double)a->m) * b2c;
      lane[i % TF_SUM_LANES] += (double)*v;
    }
    for (int l = 0; l < TF_SUM_LANES; l++) mean += lane[l];
    mean /= (double)a->n;
    for (int64_t i = k * a->n; i < (k + 1) * a->n; i++) a->r[i] = (float)(1 / sqrt((double)row[i] / mean));
  }
  for (int64_t i = 0; i < a->b * a->m; i++) {
    col[i] = col[i] * b2 + (float)(a->cols[i] / (double)a->n) * b2c;
    a->c[i] = (float)(1 / sqrt((double)col[i]));
  }
}

/* The root of the mean of squares of n elements. */
static float rms(tf_queue *q, const float *x, int64_t n, double *part) {
  double sum;
  row_sums(q, x, 1, n, 1, 0, part, &sum);
  return (float)((double)(float)sqrt(sum) / sqrt((double)n));
}

tf_status cpu_adafactor(tf_queue *q, const tf_adafactor *p) {
  if (q->st != TF_OK) return q->st;
  void *w, *g, *row = NULL, *col = NULL, *v = NULL, *m = NULL;
  TF_TRY(tf_flat(q, &p->p, "p", TF_F32, -1, &w));
  int64_t n = tf_numel(&p->p);
  TF_TRY(tf_flat(q, &p->g, "g", TF_F32, n, &g));
  if (tf_has(&p->row) == tf_has(&p->v)) return tf_fail(q, TF_EINVALID, "either row and col or v are needed");
  if (tf_has(&p->row) && p->p.rank != 3) return tf_fail(q, TF_EINVALID, "p has %d dimensions, 3 are needed", p->p.rank);
  ada_plan a = plan_adafactor(p, (char *)(uintptr_t)q->ws);
  if (a.factored) {
    TF_TRY(tf_flat(q, &p->row, "row", TF_F32, a.b * a.n, &row));
    TF_TRY(tf_flat(q, &p->col, "col", TF_F32, a.b * a.m, &col));
  } else {
    TF_TRY(tf_flat(q, &p->v, "v", TF_F32, n, &v));
  }
  if (tf_has(&p->m)) TF_TRY(tf_flat(q, &p->m, "m", TF_F32, n, &m));
  if (n == 0 || skipped(p->skip_dev)) return TF_OK;
  float gs = grad_scale(p->grad_scale, p->clip_dev), b2 = (float)p->beta2, b2c = (float)(1 - p->beta2), eps = (float)p->eps1;
  tf_adafactor_job j = {.p = w, .g = g, .m = m, .v = v, .r = a.r, .c = a.c, .n = n, .cols = a.factored ? a.m : n, .rows = a.factored ? a.n : 1,
                        .gscale = gs, .beta1 = (float)p->beta1, .beta1c = (float)(1 - p->beta1), .beta2 = b2, .beta2c = b2c, .eps = eps};
  double lr = rate(p->lr, p->lr_dev);
  if (p->scale_parameter) {
    double size = (double)rms(q, w, n, a.part);
    lr *= size < p->eps2 ? p->eps2 : size;
  }
  if (a.factored) {
    row_sums(q, g, a.b * a.n, a.m, gs, eps, a.part, a.rows);
    col_sums(q, g, a.b, a.n, a.m, gs, eps, a.part, a.cols);
    ada_factors(&a, row, col, b2, b2c);
    j.units = a.b * a.n;
    j.block = tf_max(1, BLOCK / a.m);
    tf_run(q, tf_ceil_div(j.units, j.block), q->d->k->adafactor_scale, &j);
  } else {
    j.block = BLOCK;
    tf_run(q, tf_ceil_div(n, BLOCK), q->d->k->adafactor_vector, &j);
  }
  float over = rms(q, g, n, a.part) / (float)p->clip_threshold;
  j.shrink = over < 1 ? 1 : over;
  j.lr = (float)lr;
  j.decay = (float)-p->weight_decay * j.lr;
  j.block = BLOCK;
  tf_run(q, tf_ceil_div(n, BLOCK), q->d->k->adafactor_apply, &j);
  return TF_OK;
}

/* --- parts of optimizers in fewer dimensions --- */

tf_status cpu_adam_dir(tf_queue *q, const tf_adam_dir *p) {
  if (q->st != TF_OK) return q->st;
  void *x, *m, *v, *y;
  TF_TRY(tf_flat(q, &p->x, "x", TF_F32, -1, &x));
  int64_t n = tf_numel(&p->x);
  TF_TRY(tf_flat(q, &p->m, "m", TF_F32, n, &m));
  TF_TRY(tf_flat(q, &p->v, "v", TF_F32, n, &v));
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, n, &y));
  tf_adam_dir_job j = {.x = x, .m = m, .v = v, .y = y, .n = n, .block = BLOCK, .beta1 = (float)p->beta1, .beta1c = (float)(1 - p->beta1),
                       .beta2 = (float)p->beta2, .beta2c = (float)(1 - p->beta2), .eps = (float)p->eps, .scale = p->scale == 0 ? 1 : p->scale};
  tf_run(q, tf_ceil_div(n, BLOCK), q->d->k->adam_dir, &j);
  return TF_OK;
}

tf_status cpu_scale_rows(tf_queue *q, const tf_scale_rows *p) {
  if (q->st != TF_OK) return q->st;
  void *x, *r, *y;
  TF_TRY(tf_flat(q, &p->x, "x", TF_F32, -1, &x));
  if (p->x.rank != 2) return tf_fail(q, TF_EINVALID, "x has %d dimensions, 2 are needed", p->x.rank);
  int64_t n = p->x.dim[0], m = p->x.dim[1];
  TF_TRY(tf_flat(q, &p->r, "r", TF_F32, n, &r));
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, n * m, &y));
  tf_adafactor_job j = {.g = x, .p = y, .r = r, .cols = m, .rows = n, .units = n, .block = tf_max(1, BLOCK / tf_max(1, m))};
  tf_run(q, tf_ceil_div(n, j.block), q->d->k->scale_rows, &j);
  return TF_OK;
}

tf_status cpu_norm_ratio(tf_queue *q, const tf_norm_ratio *p) {
  if (q->st != TF_OK) return q->st;
  void *num = NULL, *den, *y;
  TF_TRY(tf_flat(q, &p->den, "den", TF_F64, -1, &den));
  int64_t n = tf_numel(&p->den);
  if (tf_has(&p->num)) TF_TRY(tf_flat(q, &p->num, "num", TF_F64, n, &num));
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, n, &y));
  if (p->dtype && p->dtype != TF_F32 && p->dtype != TF_BF16) return tf_fail(q, TF_EUNSUPPORTED, "roots of element type %d", p->dtype);
  for (int64_t i = 0; i < n; i++) {
    float root = (float)sqrt(((double *)den)[i]), d = p->dtype == TF_BF16 ? tf_from_bf16(tf_to_bf16(root)) : root;
    d += p->eps;
    ((float *)y)[i] = (num ? (float)sqrt(((double *)num)[i]) : 1.0f) / (d < p->floor ? p->floor : d);
  }
  return TF_OK;
}

tf_status cpu_norm_limit(tf_queue *q, const tf_norm_limit *p) {
  if (q->st != TF_OK) return q->st;
  void *sum, *last, *y;
  TF_TRY(tf_flat(q, &p->sumsq, "sumsq", TF_F64, 1, &sum));
  TF_TRY(tf_flat(q, &p->last, "last", TF_F32, 1, &last));
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, 1, &y));
  float norm = (float)sqrt(*(double *)sum), *before = last, by = 1;
  if (*before > 0) {
    float over = norm / (*before + p->eps) / p->growth;
    by = over > 1 ? 1 / over : 1;
  }
  *(float *)y = by;
  *before = norm * by;
  return TF_OK;
}

/* --- inner products of rows --- */

tf_status cpu_gram(tf_queue *q, const tf_gram *p) {
  if (q->st != TF_OK) return q->st;
  void *x, *y;
  TF_TRY(tf_flat(q, &p->x, "x", TF_F32, -1, &x));
  if (p->x.rank != 2) return tf_fail(q, TF_EINVALID, "x has %d dimensions, 2 are needed", p->x.rank);
  int64_t n = p->x.dim[0], tiles = tf_ceil_div(n, TF_GRAM_TILE);
  TF_TRY(tf_flat(q, &p->y, "y", TF_F64, n * n, &y));
  tf_gram_job j = {.x = x, .y = y, .n = n, .m = p->x.dim[1]};
  tf_run(q, tiles * (tiles + 1) / 2, q->d->k->gram, &j);
  return TF_OK;
}
