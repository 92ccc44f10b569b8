/* Linear layer and loss over a vocabulary, by chunks of rows, so that the logits of a batch never exist at once. The chunk does not show in
 * the results: the weight gradient's chains go on from chunk to chunk. */
#include "cpu_kern.h"

typedef struct {
  const tf_tensor *x, *w, *bias, *targets, *dx, *dw, *dbias;
  int dx_acc, dw_acc, dbias_acc;
} operands;

static int64_t chunk_rows(int64_t n, int64_t v) {
  int64_t rows = tf_max(128, tf_min(512, (4 << 20) / tf_max(v, 1)));
  return tf_min(rows, tf_max(n, 1));
}

static int64_t bytes_needed(const tf_tensor *x, const tf_tensor *w) {
  if (x->rank != 2 || w->rank != 2) return 0;
  int64_t n = x->dim[0], d = x->dim[1], v = w->dim[0], c = chunk_rows(n, v);
  int64_t pack = tf_max(tf_gemm_pack_bytes(v, d), tf_max(tf_gemm_pack_bytes(d, v), tf_gemm_pack_bytes(d, c)));
  return (c * v + 64) * (int64_t)sizeof(float) + (tf_ceil_div(c, 32) * v + 64) * (int64_t)sizeof(float) + pack +
         (tf_is_half(x->dtype) ? (tf_gemm_c_floats(c, d, v) + 64) * (int64_t)sizeof(float) : 0);
}

int64_t cpu_linear_logprob_fwd_ws(const tf_linear_logprob_fwd *p) { return bytes_needed(&p->x, &p->w); }
int64_t cpu_linear_logprob_bwd_ws(const tf_linear_logprob_bwd *p) { return bytes_needed(&p->x, &p->w); }
int64_t cpu_linear_xent_ws(const tf_linear_xent *p) { return bytes_needed(&p->x, &p->w); }

static tf_status check(tf_queue *q, const operands *o, tf_loss_job *j) {
  void *v;
  if (o->x->rank != 2 || o->w->rank != 2 || !o->x->data || !o->w->data || o->x->dim[1] != o->w->dim[1])
    return tf_fail(q, TF_EINVALID, "x and w have to be [n,d] and [v,d]");
  tf_rows r;
  TF_TRY(tf_as_elems(q, o->x, "x", &r));
  TF_TRY(tf_as_elems(q, o->w, "w", &r));
  int64_t n = o->x->dim[0], d = o->x->dim[1], V = o->w->dim[0];
  TF_TRY(tf_flat(q, o->targets, "targets", TF_I32, n, &v));
  j->targets = v;
  j->v = V;
  for (int64_t i = 0; i < n; i++)
    if (j->targets[i] >= V) return tf_fail(q, TF_EINVALID, "target %d at %ld is outside the vocabulary of %ld", j->targets[i], (long)i, (long)V);
  if (tf_has(o->bias)) {
    TF_TRY(tf_flat(q, o->bias, "bias", TF_F32, V, &v));
    j->bias = v;
  }
  if (o->dx && tf_has(o->dx)) TF_TRY(tf_as_elems_of(q, o->dx, "dx", &r, n, d, o->x->dtype));
  if (o->dw && tf_has(o->dw)) TF_TRY(tf_as_rows_of(q, o->dw, "dw", &r, V, d));
  if (o->dbias && tf_has(o->dbias)) TF_TRY(tf_flat(q, o->dbias, "dbias", TF_F32, V, &v));
  if (j->logit_scale == 0) j->logit_scale = 1;
  return TF_OK;
}

static tf_status out_row(tf_queue *q, const tf_tensor *t, const char *name, int64_t n, float **p) {
  void *v;
  if (!tf_has(t)) return TF_OK;
  TF_TRY(tf_flat(q, t, name, TF_F32, n, &v));
  *p = v;
  return TF_OK;
}

static void run(tf_queue *q, const operands *o, tf_loss_job j) {
  int64_t n = o->x->dim[0], d = o->x->dim[1], V = j.v, c = chunk_rows(n, V);
  float *z = (float *)(uintptr_t)q->ws, *part = z + (c * V + 15) / 16 * 16, *c32 = part + (tf_ceil_div(c, 32) * V + 15) / 16 * 16;
  float *pack = c32 + (tf_is_half(o->x->dtype) ? (tf_gemm_c_floats(c, d, V) + 15) / 16 * 16 : 0);
  int64_t xs = o->x->stride[0], ws = o->w->stride[0];
  int dx = o->dx && tf_has(o->dx), dw = o->dw && tf_has(o->dw), db = o->dbias && tf_has(o->dbias);
  tf_device *dev = q->d;
  tf_lock(dev);
  for (int64_t r = 0; r < n; r += c) {
    int64_t m = tf_min(c, n - r);
    tf_gemm_job g = {.ars = xs, .acs = 1, .brs = 1, .bcs = ws, .bias = j.bias, .c = z, .ldc = V, .m = m, .n = V, .k = d, .alpha = 1, .packed_b = pack};
    tf_gemm_a(&g, tf_elem(o->x, r * xs), o->x->dtype);
    tf_gemm_b(&g, tf_addr(o->w), o->w->dtype);
    tf_gemm_exec(dev, &g);
    tf_loss_job t = j;
    t.z = z;
    t.ld = V;
    t.rows = m;
    t.block = tf_max(1, 32768 / V);
    t.targets += r;
    if (t.weights) t.weights += r;
    if (t.lse_in) t.lse_in += r;
    if (t.logp) t.logp += r;
    if (t.lse) t.lse += r;
    if (t.entropy) t.entropy += r;
    if (t.zsum) t.zsum += r;
    tf_pool_run(dev->pool, tf_ceil_div(m, t.block), dev->k->loss, &t);
    if (dx) {
      g = (tf_gemm_job){.a = z, .ars = V, .acs = 1, .brs = ws, .bcs = 1, .m = m, .n = d, .k = V, .alpha = 1, .packed_b = pack, .accumulate = o->dx_acc};
      tf_gemm_b(&g, tf_addr(o->w), o->w->dtype);
      tf_gemm_c(&g, tf_elem(o->dx, r * o->dx->stride[0]), o->dx->stride[0], o->dx->dtype, c32);
      tf_gemm_exec(dev, &g);
    }
    if (dw) {
      g = (tf_gemm_job){.a = z, .ars = 1, .acs = V, .brs = xs, .bcs = 1, .c = tf_addr(o->dw), .ldc = o->dw->stride[0], .m = V, .n = d, .k = m, .alpha = 1,
                        .packed_b = pack, .accumulate = r > 0 || o->dw_acc};
      tf_gemm_b(&g, tf_elem(o->x, r * xs), o->x->dtype);
      tf_gemm_exec(dev, &g);
    }
    if (db) {
      tf_row_job s = {.a = {.p = z, .rows = m, .d = V, .ld = V}, .v = part, .block = 32};
      int64_t parts = tf_ceil_div(m, s.block);
      tf_pool_run(dev->pool, parts, dev->k->colsum, &s);
      s.u = tf_addr(o->dbias);
      s.n = parts;
      s.acc = r > 0 || o->dbias_acc;
      s.block = 1024;
      s.y.d = s.y.ld = V;
      tf_pool_run(dev->pool, tf_ceil_div(V, s.block), dev->k->colsum_join, &s);
    }
  }
  tf_unlock(dev);
}

tf_status cpu_linear_logprob_fwd(tf_queue *q, const tf_linear_logprob_fwd *p) {
  if (q->st != TF_OK) return q->st;
  operands o = {.x = &p->x, .w = &p->w, .bias = &p->bias, .targets = &p->targets};
  tf_loss_job j = {.logit_scale = p->logit_scale, .softcap = p->softcap};
  TF_TRY(check(q, &o, &j));
  int64_t n = p->x.dim[0];
  TF_TRY(out_row(q, &p->logp, "logp", n, &j.logp));
  TF_TRY(out_row(q, &p->lse, "lse", n, &j.lse));
  TF_TRY(out_row(q, &p->entropy, "entropy", n, &j.entropy));
  TF_TRY(out_row(q, &p->zsum, "zsum", n, &j.zsum));
  run(q, &o, j);
  return TF_OK;
}

tf_status cpu_linear_logprob_bwd(tf_queue *q, const tf_linear_logprob_bwd *p) {
  if (q->st != TF_OK) return q->st;
  operands o = {&p->x, &p->w, &p->bias, &p->targets, &p->dx, &p->dw, &p->dbias, p->dx_accumulate, p->dw_accumulate, p->dbias_accumulate};
  tf_loss_job j = {.logit_scale = p->logit_scale, .softcap = p->softcap, .scale = 1, .grad = 2};
  TF_TRY(check(q, &o, &j));
  void *v;
  TF_TRY(tf_flat(q, &p->lse, "lse", TF_F32, p->x.dim[0], &v));
  j.lse_in = v;
  TF_TRY(tf_flat(q, &p->dlogp, "dlogp", TF_F32, p->x.dim[0], &v));
  j.weights = v;
  run(q, &o, j);
  return TF_OK;
}

tf_status cpu_linear_xent(tf_queue *q, const tf_linear_xent *p) {
  if (q->st != TF_OK) return q->st;
  operands o = {&p->x, &p->w, &p->bias, &p->targets, &p->dx, &p->dw, &p->dbias, p->dx_accumulate, p->dw_accumulate, p->dbias_accumulate};
  tf_loss_job j = {.logit_scale = p->logit_scale, .softcap = p->softcap, .scale = p->loss_scale, .smooth = p->label_smoothing, .z_loss = p->z_loss};
  TF_TRY(check(q, &o, &j));
  j.grad = tf_has(&p->dx) || tf_has(&p->dw) || tf_has(&p->dbias);
  if (p->loss_scale_dev) j.scale *= *(const float *)(uintptr_t)p->loss_scale_dev;
  int64_t n = p->x.dim[0];
  if (tf_has(&p->weights)) {
    void *v;
    TF_TRY(tf_flat(q, &p->weights, "weights", TF_F32, n, &v));
    j.weights = v;
  }
  TF_TRY(out_row(q, &p->logp, "logp", n, &j.logp));
  TF_TRY(out_row(q, &p->lse, "lse", n, &j.lse));
  TF_TRY(out_row(q, &p->zsum, "zsum", n, &j.zsum));
  run(q, &o, j);
  return TF_OK;
}
