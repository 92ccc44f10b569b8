/* Matrices in few bits: expansion, and products that expand some rows at a time. An expanded element is one or two multiplications and an
 * addition, each rounded, so it is the same on every instruction set. */
#include "cpu_kern.h"

#define NF4_BLOCK 64
#define SCALE_BLOCK 256
/* Floats of w that are expanded at once. */
#define CHUNK_FLOATS (2 << 20)

/* The quantiles of the normal distribution of arXiv:2305.14314, appendix E. */
static const float nf4_table[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

typedef struct {
  const uint8_t *codes, *scale_codes;
  const float *scales;
  int64_t rows, cols, blocks;
  int kind;
  /* Of this expansion. */
  float *y;
  int64_t row0, n, ld;
} packed_job;

static tf_status as_packed(tf_queue *q, const tf_packed *p, packed_job *j) {
  if (p->rows < 1 || p->cols < 1) return tf_fail(q, TF_EINVALID, "a packed matrix of %ld rows and %ld columns", (long)p->rows, (long)p->cols);
  int64_t n = p->rows * p->cols;
  *j = (packed_job){.rows = p->rows, .cols = p->cols, .kind = p->kind, .blocks = tf_ceil_div(n, NF4_BLOCK)};
  void *v;
  if (p->kind == TF_PACKED_INT8) {
    TF_TRY(tf_flat(q, &p->codes, "codes", TF_U8, n, &v));
    j->codes = v;
    TF_TRY(tf_flat(q, &p->scales, "scales", TF_F32, p->rows, &v));
    j->scales = v;
    return TF_OK;
  }
  if (p->kind != TF_PACKED_NF4) return tf_fail(q, TF_EINVALID, "unknown kind of packed matrix %d", p->kind);
  TF_TRY(tf_flat(q, &p->codes, "codes", TF_U8, tf_ceil_div(n, 2), &v));
  j->codes = v;
  int64_t scales = j->blocks;
  if (tf_has(&p->scale_codes)) {
    TF_TRY(tf_flat(q, &p->scale_codes, "scale codes", TF_U8, j->blocks, &v));
    j->scale_codes = v;
    scales = 256 + tf_ceil_div(j->blocks, SCALE_BLOCK) + 1;
  }
  TF_TRY(tf_flat(q, &p->scales, "scales", TF_F32, scales, &v));
  j->scales = v;
  return TF_OK;
}

static inline float nf4_scale(const packed_job *j, int64_t block) {
  if (!j->scale_codes) return j->scales[block];
  float s = j->scales[j->scale_codes[block]] * j->scales[256 + block / SCALE_BLOCK];
  return s + j->scales[256 + tf_ceil_div(j->blocks, SCALE_BLOCK)];
}

static void expand_nf4(const packed_job *j, int64_t row, float *y) {
  int64_t at = row * j->cols, end = at + j->cols;
  while (at < end) {
    int64_t block = at / NF4_BLOCK, stop = tf_min(end, (block + 1) * NF4_BLOCK);
    float scale = nf4_scale(j, block);
    if (at % 2) {
      *y++ = nf4_table[j->codes[at / 2] & 15] * scale;
      at++;
    }
    for (; at + 1 < stop; at += 2) {
      uint8_t c = j->codes[at / 2];
      *y++ = nf4_table[c >> 4] * scale;
      *y++ = nf4_table[c & 15] * scale;
    }
    if (at < stop) {
      *y++ = nf4_table[j->codes[at / 2] >> 4] * scale;
      at++;
    }
  }
}

static void expand_int8(const packed_job *j, int64_t row, float *y) {
  const int8_t *c = (const int8_t *)j->codes + row * j->cols;
  float scale = j->scales[row];
  for (int64_t i = 0; i < j->cols; i++) y[i] = (float)c[i] * scale * 0.007874015718698502f;
}

#define ROWS_OF_TASK 8

static void expand_rows(void *arg, int64_t task, int thread) {
  const packed_job *j = arg;
  (void)thread;
  for (int64_t r = task * ROWS_OF_TASK; r < j->n && r < (task + 1) * ROWS_OF_TASK; r++) {
    float *y = j->y + r * j->ld;
    if (j->kind == TF_PACKED_NF4)
      expand_nf4(j, j->row0 + r, y);
    else
      expand_int8(j, j->row0 + r, y);
  }
}

tf_status cpu_unpack(tf_queue *q, const tf_unpack *p) {
  if (q->st != TF_OK) return q->st;
  packed_job j;
  tf_rows y;
  TF_TRY(as_packed(q, &p->w, &j));
  TF_TRY(tf_as_rows(q, &p->y, "y", &y));
  if (y.d != j.cols || y.ld < 0 || p->row0 < 0 || p->row0 + y.rows > j.rows)
    return tf_fail(q, TF_EINVALID, "rows %ld to %ld of %ld elements, w has %ld of %ld", (long)p->row0, (long)(p->row0 + y.rows), (long)y.d,
                   (long)j.rows, (long)j.cols);
  j.y = y.p;
  j.ld = y.ld;
  j.n = y.rows;
  j.row0 = p->row0;
  tf_run(q, tf_ceil_div(j.n, ROWS_OF_TASK), expand_rows, &j);
  return TF_OK;
}

static int64_t chunk_rows(const tf_packed *w) { return tf_min(w->rows, tf_max(64, CHUNK_FLOATS / tf_max(w->cols, 1) / 64 * 64)); }

int64_t cpu_packed_gemm_ws(const tf_packed_gemm *p) {
  int64_t rows = chunk_rows(&p->w), cols = p->w.cols;
  int64_t pack = p->transposed ? tf_gemm_pack_bytes(cols, rows) : tf_gemm_pack_bytes(rows, cols);
  return rows * cols * (int64_t)sizeof(float) + pack + 64;
}

tf_status cpu_packed_gemm(tf_queue *q, const tf_packed_gemm *p) {
  if (q->st != TF_OK) return q->st;
  packed_job w;
  tf_rows a, c;
  TF_TRY(as_packed(q, &p->w, &w));
  TF_TRY(tf_as_rows(q, &p->a, "a", &a));
  TF_TRY(tf_as_rows(q, &p->c, "c", &c));
  int64_t k = p->transposed ? w.rows : w.cols, n = p->transposed ? w.cols : w.rows;
  if (a.d != k || c.d != n || a.rows != c.rows || a.ld < 0 || c.ld < 0)
    return tf_fail(q, TF_EINVALID, "a [%ld,%ld] and w [%ld,%ld] do not give c [%ld,%ld]", (long)a.rows, (long)a.d, (long)w.rows, (long)w.cols,
                   (long)c.rows, (long)c.d);
  void *bias = NULL;
  if (tf_has(&p->bias)) {
    if (p->transposed) return tf_fail(q, TF_EINVALID, "a product with the transposed matrix has no bias");
    TF_TRY(tf_flat(q, &p->bias, "bias", TF_F32, n, &bias));
  }
  int64_t step = chunk_rows(&p->w);
  w.y = (float *)(uintptr_t)q->ws;
  w.ld = w.cols;
  float *pack = w.y + tf_ceil_div(step * w.cols, 16) * 16;
  tf_lock(q->d);
  for (w.row0 = 0; w.row0 < w.rows; w.row0 += step) {
    w.n = tf_min(step, w.rows - w.row0);
    int64_t tasks = tf_ceil_div(w.n, ROWS_OF_TASK);
    if (q->d->threads > 1 && w.n * w.cols > 1 << 15) {
      tf_pool_run(q->d->pool, tasks, expand_rows, &w);
    } else {
      for (int64_t t = 0; t < tasks; t++) expand_rows(&w, t, 0);
    }
    tf_gemm_job j = {.a = a.p, .b = w.y, .c = c.p, .packed_b = pack, .ars = a.ld, .acs = 1, .ldc = c.ld, .m = a.rows, .alpha = p->alpha,
                     .accumulate = p->accumulate};
    if (p->transposed) {
      /* Rows of w are steps of the sums: each chunk goes on where the one before ended. */
      j.a += w.row0;
      j.brs = w.cols;
      j.bcs = 1;
      j.n = n;
      j.k = w.n;
      j.accumulate = p->accumulate || w.row0 > 0;
    } else {
      j.c += w.row0;
      j.bias = bias ? (float *)bias + w.row0 : NULL;
      j.brs = 1;
      j.bcs = w.cols;
      j.n = w.n;
      j.k = k;
    }
    tf_gemm_exec(q->d, &j);
  }
  tf_unlock(q->d);
  return TF_OK;
}
