/* Matrix products: checks, cutting into passes and tasks. */
#include "cpu_kern.h"

/* Floats of b packed at once. */
#define PACK_FLOATS (4 << 20)
/* Up to so many rows, packing all of b first does not pay. */
#define FEW_ROWS 48

static int64_t pass_cols(int64_t n, int64_t k) {
  int64_t cols = PACK_FLOATS / tf_max(k, 1) / TF_PACK_COLS * TF_PACK_COLS;
  cols = tf_max(cols, TF_PACK_COLS);
  return tf_min(cols, tf_ceil_div(n, TF_PACK_COLS) * TF_PACK_COLS);
}

int64_t tf_gemm_pack_bytes(int64_t n, int64_t k) { return pass_cols(n, k) * tf_max(k, 1) * (int64_t)sizeof(float) + 64; }

int64_t tf_gemm_c_floats(int64_t m, int64_t n, int64_t k) { return m <= FEW_ROWS ? m * n : m * tf_min(n, pass_cols(n, k)); }

void tf_gemm_exec(tf_device *d, tf_gemm_job *j) {
  if (j->m == 0 || j->n == 0) return;
  j->dev = d;
  const tf_kern *kern = d->k;
  if (d->dp && j->a_dt == TF_BF16 && j->b_dt == TF_BF16 && j->alpha == 1) {
    kern = d->dp;
    j->elems = j->k;
    j->k = tf_ceil_div(j->k, 2);
  }
  if (j->m <= FEW_ROWS) {
    j->n0 = 0;
    j->nn = j->n;
    if (j->c16) j->ldc = j->nn;
    int64_t tasks = tf_ceil_div(j->n, TF_PACK_COLS);
    if (d->threads > 1 && tasks > 1 && j->n * j->k > 1 << 15) {
      tf_pool_run(d->pool, tasks, kern->gemm_run_few, j);
    } else {
      for (int64_t t = 0; t < tasks; t++) kern->gemm_run_few(j, t, 0);
    }
    if (kern == d->dp) j->k = j->elems;
    return;
  }
  int64_t cols = pass_cols(j->n, kern == d->dp ? j->elems : j->k), mr = kern->mr; /* as workspace was asked for */
  for (j->n0 = 0; j->n0 < j->n; j->n0 += cols) {
    j->nn = tf_min(cols, j->n - j->n0);
    if (j->c16) j->ldc = j->nn;
    int64_t packs = tf_ceil_div(j->nn, TF_PACK_COLS);
    /* Blocks of a that stay in the second-level cache; smaller ones when there would be too few tasks. */
    int64_t want = d->threads > 1 && j->m * j->nn * j->k > 1 << 17 ? 4 * d->threads : 1;
    j->mc = tf_max(mr, 168 / mr * mr);
    j->nc = j->nn;
    while (tf_ceil_div(j->m, j->mc) < want && j->mc > 48) j->mc = tf_ceil_div(j->mc / 2, mr) * mr;
    j->mt = tf_ceil_div(j->m, j->mc);
    while (j->mt * tf_ceil_div(j->nn, j->nc) < want && j->nc > 128)
      j->nc = tf_ceil_div(j->nc / 2, TF_PACK_COLS) * TF_PACK_COLS;
    /* Even rows over the tasks. */
    j->mc = tf_ceil_div(tf_ceil_div(j->m, j->mt), mr) * mr;
    j->mt = tf_ceil_div(j->m, j->mc);
    j->nt = tf_ceil_div(j->nn, j->nc);
    if (want == 1) {
      for (int64_t t = 0; t < packs; t++) kern->gemm_pack_b(j, t, 0);
      for (int64_t t = 0; t < j->mt * j->nt; t++) kern->gemm_run(j, t, 0);
    } else {
      tf_pool_run(d->pool, packs, kern->gemm_pack_b, j);
      tf_pool_run(d->pool, j->mt * j->nt, kern->gemm_run, j);
    }
  }
  if (kern == d->dp) j->k = j->elems;
}

int64_t cpu_gemm_ws(const tf_gemm *p) {
  int r = p->b.rank;
  if (r < 2 || r > 3 || p->c.rank != r) return 0;
  int64_t m = p->c.dim[r - 2], n = p->b.dim[r - 1], k = p->b.dim[r - 2];
  int64_t bytes = tf_is_half(p->c.dtype) ? tf_gemm_c_floats(m, n, k) * (int64_t)sizeof(float) + 64 : 0;
  return m <= FEW_ROWS ? bytes : bytes + tf_gemm_pack_bytes(n, k);
}

static tf_status operand(tf_queue *q, const tf_tensor *t, const char *name, int rank) {
  if (!t->data || t->rank != rank) return tf_fail(q, TF_EINVALID, "%s has rank %d, c has %d", name, t->rank, rank);
  if (t->dtype != TF_F32 && !tf_is_half(t->dtype))
    return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32, bf16 or f16 is needed", name, t->dtype);
  return TF_OK;
}

tf_status cpu_gemm(tf_queue *q, const tf_gemm *p) {
  if (q->st != TF_OK) return q->st;
  int r = p->c.rank;
  if (r != 2 && r != 3) return tf_fail(q, TF_EINVALID, "c has rank %d, 2 or 3 is needed", r);
  TF_TRY(operand(q, &p->a, "a", r));
  TF_TRY(operand(q, &p->b, "b", r));
  TF_TRY(operand(q, &p->c, "c", r));
  int64_t batch = r == 3 ? p->c.dim[0] : 1;
  const int64_t *ad = p->a.dim + r - 2, *bd = p->b.dim + r - 2, *cd = p->c.dim + r - 2;
  if (ad[0] != cd[0] || bd[1] != cd[1] || ad[1] != bd[0] || (r == 3 && (p->a.dim[0] != batch || p->b.dim[0] != batch)))
    return tf_fail(q, TF_EINVALID, "a [%ld,%ld] b [%ld,%ld] do not give c [%ld,%ld]", (long)ad[0], (long)ad[1], (long)bd[0], (long)bd[1],
                   (long)cd[0], (long)cd[1]);
  if (cd[1] > 1 && p->c.stride[r - 1] != 1) return tf_fail(q, TF_EINVALID, "c has a last stride of %ld", (long)p->c.stride[r - 1]);
  void *bias = NULL;
  if (tf_has(&p->bias)) TF_TRY(tf_flat(q, &p->bias, "bias", TF_F32, cd[1], &bias));
  tf_gemm_job j = {.bias = bias, .m = cd[0], .n = cd[1], .k = ad[1], .alpha = p->alpha,
                   .accumulate = p->accumulate, .ars = p->a.stride[r - 2], .acs = p->a.stride[r - 1], .brs = p->b.stride[r - 2],
                   .bcs = p->b.stride[r - 1]};
  float *ws = (float *)(uintptr_t)q->ws;
  j.packed_b = ws + (tf_is_half(p->c.dtype) ? (tf_gemm_c_floats(j.m, j.n, j.k) + 15) / 16 * 16 : 0);
  tf_lock(q->d);
  for (int64_t i = 0; i < batch; i++) {
    tf_gemm_a(&j, tf_elem(&p->a, r == 3 ? i * p->a.stride[0] : 0), p->a.dtype);
    tf_gemm_b(&j, tf_elem(&p->b, r == 3 ? i * p->b.stride[0] : 0), p->b.dtype);
    tf_gemm_c(&j, tf_elem(&p->c, r == 3 ? i * p->c.stride[0] : 0), p->c.stride[r - 2], p->c.dtype, ws);
    tf_gemm_exec(q->d, &j);
  }
  tf_unlock(q->d);
  return TF_OK;
}
