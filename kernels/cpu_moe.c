/* Mixture of experts: checks of operands and cutting into tasks. */
#include <string.h>

#include "cpu_kern.h"

/* Elements of a task. */
#define TASK_ELEMS 16384
/* Tokens whose load is summed before the sums are. */
#define AUX_ROWS 256

static int64_t rows_of(const tf_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->rank - 1; i++) n *= t->dim[i];
  return n;
}

static int64_t block_of(int64_t d) { return tf_max(1, TASK_ELEMS / tf_max(d, 1)); }

static tf_status clamped(tf_queue *q, tf_row_job *j, const tf_tensor *x, const tf_tensor *half, tf_rows *h, float alpha, float limit, int interleaved) {
  j->alpha = alpha;
  j->beta = limit;
  j->mode = interleaved;
  TF_TRY(tf_as_elems(q, x, "x", &j->a));
  if (j->a.d % 2 || !(limit >= 0)) return tf_fail(q, TF_EINVALID, "rows of x have %ld elements, limit is %g", (long)j->a.d, (double)limit);
  TF_TRY(tf_as_elems_of(q, half, "y or dy", h, j->a.rows, j->a.d / 2, j->a.dt));
  j->block = block_of(j->a.d);
  return TF_OK;
}

tf_status cpu_glu_clamped_fwd(tf_queue *q, const tf_glu_clamped_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {0};
  TF_TRY(clamped(q, &j, &p->x, &p->y, &j.y, p->alpha, p->limit, p->interleaved));
  tf_run(q, tf_ceil_div(j.a.rows, j.block), tf_kern_of(q->d, j.a.dt)->glu_clamped_fwd, &j);
  return TF_OK;
}

tf_status cpu_glu_clamped_bwd(tf_queue *q, const tf_glu_clamped_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.acc = p->accumulate};
  TF_TRY(clamped(q, &j, &p->x, &p->dy, &j.b, p->alpha, p->limit, p->interleaved));
  TF_TRY(tf_as_elems_of(q, &p->dx, "dx", &j.y, j.a.rows, j.a.d, j.a.dt));
  tf_run(q, tf_ceil_div(j.a.rows, j.block), tf_kern_of(q->d, j.a.dt)->glu_clamped_bwd, &j);
  return TF_OK;
}

/* --- routing --- */

static tf_status experts(tf_queue *q, int64_t e, int64_t k) {
  if (e < 1 || e > TF_MOE_EXPERTS) return tf_fail(q, TF_EUNSUPPORTED, "%ld experts, at most %d are supported", (long)e, TF_MOE_EXPERTS);
  if (k < 1 || k > e) return tf_fail(q, TF_EINVALID, "k is %ld of %ld experts", (long)k, (long)e);
  return TF_OK;
}

static tf_status score(tf_queue *q, int s) {
  if (s < TF_ROUTE_SOFTMAX || s > TF_ROUTE_SOFTMAX_TOPK) return tf_fail(q, TF_EINVALID, "unknown score %d", s);
  return TF_OK;
}

tf_status cpu_moe_route_fwd(tf_queue *q, const tf_moe_route_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_route_job j = {.f = p, .k = p->k, .scale = p->scale == 0 ? 1 : p->scale};
  void *v;
  TF_TRY(tf_as_rows(q, &p->logits, "logits", &j.x));
  j.n = j.x.rows;
  j.e = j.x.d;
  TF_TRY(experts(q, j.e, j.k));
  TF_TRY(score(q, p->score));
  if (p->groups > 1 && (p->groups > TF_MOE_GROUPS || j.e % p->groups || p->topk_groups < 1 || p->topk_groups > p->groups ||
                        p->group_top < 1 || p->group_top > 2 || p->group_top > j.e / p->groups))
    return tf_fail(q, TF_EINVALID, "%ld of %ld groups by their %ld greatest, %ld experts", (long)p->topk_groups, (long)p->groups,
                   (long)p->group_top, (long)j.e);
  if (tf_has(&p->bias)) {
    TF_TRY(tf_flat(q, &p->bias, "bias", TF_F32, j.e, &v));
    j.bias = v;
  }
  TF_TRY(tf_flat(q, &p->scores, "scores", TF_F32, j.n * j.e, &v));
  j.scores = v;
  TF_TRY(tf_flat(q, &p->weights, "weights", TF_F32, j.n * j.k, &v));
  j.weights = v;
  TF_TRY(tf_flat(q, &p->ids, "ids", TF_I32, j.n * j.k, &v));
  j.ids = v;
  j.block = block_of(8 * j.e);
  tf_run(q, tf_ceil_div(j.n, j.block), q->d->k->moe_route_fwd, &j);
  return TF_OK;
}

tf_status cpu_moe_route_bwd(tf_queue *q, const tf_moe_route_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_route_job j = {.g = p, .k = p->k, .scale = p->scale == 0 ? 1 : p->scale, .acc = p->accumulate};
  void *v;
  TF_TRY(tf_as_rows(q, &p->dlogits, "dlogits", &j.y));
  j.n = j.y.rows;
  j.e = j.y.d;
  TF_TRY(experts(q, j.e, j.k));
  TF_TRY(score(q, p->score));
  TF_TRY(tf_flat(q, &p->scores, "scores", TF_F32, j.n * j.e, &v));
  j.scores = v;
  TF_TRY(tf_flat(q, &p->ids, "ids", TF_I32, j.n * j.k, &v));
  j.ids = v;
  if (tf_has(&p->dweights)) {
    TF_TRY(tf_flat(q, &p->dweights, "dweights", TF_F32, j.n * j.k, &v));
    j.dweights = v;
  }
  if (tf_has(&p->dscores)) {
    TF_TRY(tf_flat(q, &p->dscores, "dscores", TF_F32, j.n * j.e, &v));
    j.dscores = v;
  }
  for (int64_t i = 0; i < j.n * j.k; i++)
    if (j.ids[i] < 0 || j.ids[i] >= j.e) return tf_fail(q, TF_EINVALID, "id %d at %ld, there are %ld experts", j.ids[i], (long)i, (long)j.e);
  j.block = block_of(8 * j.e);
  tf_run(q, tf_ceil_div(j.n, j.block), q->d->k->moe_route_bwd, &j);
  return TF_OK;
}

tf_status cpu_moe_sort(tf_queue *q, const tf_moe_sort *p) {
  if (q->st != TF_OK) return q->st;
  void *v;
  int64_t m = tf_numel(&p->ids), e = p->experts;
  if (p->ids.rank != 2) return tf_fail(q, TF_EINVALID, "ids has rank %d, 2 is needed", p->ids.rank);
  TF_TRY(experts(q, e, 1));
  TF_TRY(tf_flat(q, &p->ids, "ids", TF_I32, m, &v));
  const int32_t *ids = v;
  TF_TRY(tf_flat(q, &p->offsets, "offsets", TF_I32, e + 1, &v));
  int32_t *offsets = v;
  TF_TRY(tf_flat(q, &p->order, "order", TF_I32, m, &v));
  int32_t *order = v;
  TF_TRY(tf_flat(q, &p->place, "place", TF_I32, m, &v));
  int32_t *place = v;
  TF_TRY(tf_flat(q, &p->tokens, "tokens", TF_I32, m, &v));
  int32_t *tokens = v, next[TF_MOE_EXPERTS] = {0};
  for (int64_t i = 0; i < m; i++) {
    if (ids[i] < 0 || ids[i] >= e) return tf_fail(q, TF_EINVALID, "id %d at %ld, there are %ld experts", ids[i], (long)i, (long)e);
    next[ids[i]]++;
  }
  offsets[0] = 0;
  for (int64_t i = 0; i < e; i++) {
    offsets[i + 1] = offsets[i] + next[i];
    next[i] = offsets[i];
  }
  int64_t k = tf_max(1, p->ids.dim[1]);
  for (int64_t i = 0; i < m; i++) {
    int32_t at = next[ids[i]]++;
    order[at] = (int32_t)i;
    place[i] = at;
    tokens[at] = (int32_t)(i / k);
  }
  return TF_OK;
}

/* --- combination --- */

static tf_status places(tf_queue *q, tf_combine_job *j, const tf_tensor *place, const tf_tensor *weights, int64_t n, int64_t m) {
  void *v;
  if (j->k < 1) return tf_fail(q, TF_EINVALID, "k is %ld", (long)j->k);
  if (tf_has(weights)) {
    TF_TRY(tf_flat(q, weights, "weights", TF_F32, n * j->k, &v));
    j->weights = v;
  }
  if (!tf_has(place)) {
    if (j->k != 1 || m != n) return tf_fail(q, TF_EINVALID, "without place, k is 1 and there are as many rows");
    return TF_OK;
  }
  TF_TRY(tf_flat(q, place, "place", TF_I32, n * j->k, &v));
  j->place = v;
  for (int64_t i = 0; i < n * j->k; i++)
    if (j->place[i] < 0 || j->place[i] >= m) return tf_fail(q, TF_EINVALID, "place %d at %ld, there are %ld rows", j->place[i], (long)i, (long)m);
  return TF_OK;
}

tf_status cpu_moe_combine_fwd(tf_queue *q, const tf_moe_combine_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_combine_job j = {.k = p->k, .acc = p->accumulate};
  TF_TRY(tf_as_elems(q, &p->y, "y", &j.y));
  TF_TRY(tf_as_elems_of(q, &p->x, "x", &j.x, rows_of(&p->x), j.y.d, j.y.dt));
  TF_TRY(places(q, &j, &p->place, &p->weights, j.y.rows, j.x.rows));
  j.block = block_of(j.y.d * j.k);
  tf_run(q, tf_ceil_div(j.y.rows, j.block), tf_kern_of(q->d, j.y.dt)->moe_combine_fwd, &j);
  return TF_OK;
}

tf_status cpu_moe_combine_bwd(tf_queue *q, const tf_moe_combine_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_combine_job j = {.k = p->k, .acc = p->dx_accumulate, .acc2 = p->dweights_accumulate};
  void *v;
  TF_TRY(tf_as_elems(q, &p->dy, "dy", &j.dy));
  int64_t n = j.dy.rows, m = n;
  if (tf_has(&p->dx)) {
    m = rows_of(&p->dx);
    TF_TRY(tf_as_elems_of(q, &p->dx, "dx", &j.dx, m, j.dy.d, j.dy.dt));
  }
  if (tf_has(&p->dweights)) {
    if (!tf_has(&p->dx)) m = rows_of(&p->x);
    TF_TRY(tf_as_elems_of(q, &p->x, "x", &j.x, m, j.dy.d, j.dy.dt));
    TF_TRY(tf_flat(q, &p->dweights, "dweights", TF_F32, n * j.k, &v));
    j.dweights = v;
  }
  TF_TRY(places(q, &j, &p->place, &p->weights, n, m));
  j.block = block_of(j.dy.d * j.k);
  tf_run(q, tf_ceil_div(n, j.block), tf_kern_of(q->d, j.dy.dt)->moe_combine_bwd, &j);
  return TF_OK;
}

/* --- grouped products --- */

/* The matrices of the experts: where the i-th begins, or NULL to leave it out. */
typedef struct {
  char *p;
  const int64_t *at;
  int64_t stride, rs, cs, size;
} stack;

static void *stack_at(const stack *s, int64_t i) {
  if (!s->at) return s->p + i * s->stride * s->size;
  return s->at[i] < 0 ? NULL : s->p + s->at[i] * s->size;
}

static tf_status as_stack(tf_queue *q, const tf_tensor *t, const tf_tensor *at, const char *name, int64_t e, int64_t m, int64_t n, stack *s) {
  int uneven = tf_has(at), r = uneven ? 2 : 3;
  if (!t->data || t->rank != r) return tf_fail(q, TF_EINVALID, "%s has rank %d, %d is needed", name, t->rank, r);
  if (t->dtype != TF_F32 && !tf_is_half(t->dtype))
    return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32, bf16 or f16 is needed", name, t->dtype);
  const int64_t *d = t->dim + r - 2;
  if ((!uneven && t->dim[0] != e) || d[0] != m || d[1] != n)
    return tf_fail(q, TF_EINVALID, "%s is %ld of [%ld,%ld], %ld of [%ld,%ld] are needed", name, (long)(uneven ? e : t->dim[0]), (long)d[0],
                   (long)d[1], (long)e, (long)m, (long)n);
  *s = (stack){.p = tf_addr(t), .stride = uneven ? 0 : t->stride[0], .rs = t->stride[r - 2], .cs = t->stride[r - 1], .size = tf_dtype_size(t->dtype)};
  if (uneven) {
    void *v;
    TF_TRY(tf_flat(q, at, "the table of distances", TF_I64, e, &v));
    s->at = v;
  }
  return TF_OK;
}

static tf_status groups(tf_queue *q, const tf_tensor *t, int64_t m, const int32_t **out, int64_t *e) {
  void *v;
  TF_TRY(tf_flat(q, t, "offsets", TF_I32, -1, &v));
  const int32_t *o = v;
  *e = tf_numel(t) - 1;
  if (*e < 1 || o[0] != 0 || o[*e] != m) return tf_fail(q, TF_EINVALID, "offsets of %ld experts do not cover %ld rows", (long)*e, (long)m);
  for (int64_t i = 0; i < *e; i++)
    if (o[i] > o[i + 1]) return tf_fail(q, TF_EINVALID, "offsets descend at %ld", (long)i);
  *out = o;
  return TF_OK;
}

/* Workspace of a c of 16 bits, whatever the groups. */
static int64_t c_floats(int64_t m, int64_t n, int64_t k) {
  return (tf_max(tf_gemm_c_floats(m, n, k), tf_gemm_c_floats(tf_min(m, 48), n, k)) + 15) / 16 * 16;
}

int64_t cpu_grouped_gemm_ws(const tf_grouped_gemm *p) {
  int r = p->b.rank;
  if (r < 2 || p->c.rank != 2) return 0;
  int64_t n = p->b.dim[r - 1], k = p->b.dim[r - 2];
  return tf_gemm_pack_bytes(n, k) + (tf_is_half(p->c.dtype) ? c_floats(p->c.dim[0], n, k) * (int64_t)sizeof(float) : 0);
}

tf_status cpu_grouped_gemm(tf_queue *q, const tf_grouped_gemm *p) {
  if (q->st != TF_OK) return q->st;
  tf_rows a, c, bias = {0};
  const int32_t *o;
  int64_t e;
  stack b;
  TF_TRY(tf_as_elems(q, &p->a, "a", &a));
  TF_TRY(tf_as_elems(q, &p->c, "c", &c));
  if (p->a.rank != 2 || p->c.rank != 2 || a.rows != c.rows)
    return tf_fail(q, TF_EINVALID, "a has rank %d and %ld rows, c rank %d and %ld rows", p->a.rank, (long)a.rows, p->c.rank, (long)c.rows);
  TF_TRY(groups(q, &p->offsets, a.rows, &o, &e));
  TF_TRY(as_stack(q, &p->b, &p->b_at, "b", e, a.d, c.d, &b));
  if (tf_has(&p->bias)) TF_TRY(tf_as_rows_of(q, &p->bias, "bias", &bias, e, c.d));
  float *ws = (float *)(uintptr_t)q->ws;
  tf_gemm_job j = {.n = c.d, .k = a.d, .alpha = p->alpha, .accumulate = p->accumulate, .ars = p->a.stride[0], .acs = 1, .brs = b.rs, .bcs = b.cs};
  j.packed_b = ws + (tf_is_half(c.dt) ? c_floats(c.rows, j.n, j.k) : 0);
  tf_lock(q->d);
  for (int64_t i = 0; i < e; i++) {
    void *bi = stack_at(&b, i);
    j.m = o[i + 1] - o[i];
    if (j.m == 0 || !bi) continue;
    tf_gemm_a(&j, tf_elem(&p->a, o[i] * j.ars), a.dt);
    tf_gemm_b(&j, bi, p->b.dtype);
    tf_gemm_c(&j, tf_elem(&p->c, o[i] * p->c.stride[0]), p->c.stride[0], c.dt, ws);
    j.bias = bias.p ? tf_row(&bias, i) : NULL;
    tf_gemm_exec(q->d, &j);
  }
  tf_unlock(q->d);
  return TF_OK;
}

int64_t cpu_grouped_gemm_dw_ws(const tf_grouped_gemm_dw *p) {
  return p->b.rank < 2 ? 0 : tf_gemm_pack_bytes(p->b.dim[1], p->b.dim[0]);
}

tf_status cpu_grouped_gemm_dw(tf_queue *q, const tf_grouped_gemm_dw *p) {
  if (q->st != TF_OK) return q->st;
  tf_rows a, b;
  const int32_t *o;
  int64_t e;
  stack c;
  TF_TRY(tf_as_elems(q, &p->a, "a", &a));
  TF_TRY(tf_as_elems(q, &p->b, "b", &b));
  if (p->a.rank != 2 || p->b.rank != 2 || a.rows != b.rows)
    return tf_fail(q, TF_EINVALID, "a has rank %d and %ld rows, b rank %d and %ld rows", p->a.rank, (long)a.rows, p->b.rank, (long)b.rows);
  TF_TRY(groups(q, &p->offsets, a.rows, &o, &e));
  TF_TRY(as_stack(q, &p->c, &p->c_at, "c", e, a.d, b.d, &c));
  if (p->c.dtype != TF_F32) return tf_fail(q, TF_EUNSUPPORTED, "c has element type %d, f32 is needed", p->c.dtype);
  if (b.d > 1 && c.cs != 1) return tf_fail(q, TF_EINVALID, "c has a last stride of %ld", (long)c.cs);
  tf_gemm_job j = {.packed_b = (float *)(uintptr_t)q->ws, .m = a.d, .n = b.d, .alpha = p->alpha, .accumulate = p->accumulate, .ars = 1,
                   .acs = p->a.stride[0], .brs = p->b.stride[0], .bcs = 1, .ldc = c.rs};
  tf_lock(q->d);
  for (int64_t i = 0; i < e; i++) {
    j.k = o[i + 1] - o[i];
    tf_gemm_a(&j, tf_elem(&p->a, o[i] * j.acs), a.dt);
    tf_gemm_b(&j, tf_elem(&p->b, o[i] * j.brs), b.dt);
    j.c = stack_at(&c, i);
    if (j.c) tf_gemm_exec(q->d, &j);
  }
  tf_unlock(q->d);
  return TF_OK;
}

typedef struct {
  tf_rows x;
  const int32_t *o;
  stack y;
  int acc;
} colsum_job;

static void colsum_task(void *arg, int64_t i, int thread) {
  const colsum_job *j = arg;
  (void)thread;
  float *y = stack_at(&j->y, i);
  if (!y) return;
  if (!j->acc) memset(y, 0, (size_t)j->x.d * sizeof *y);
  for (int64_t r = j->o[i]; r < j->o[i + 1]; r++) {
    int64_t at = tf_rows_at(&j->x, r);
    if (tf_is_half(j->x.dt))
      for (int64_t c = 0; c < j->x.d; c++) y[c] += tf_from_half(j->x.dt, ((const uint16_t *)j->x.p)[at + c]);
    else
      for (int64_t c = 0; c < j->x.d; c++) y[c] += j->x.p[at + c];
  }
}

tf_status cpu_grouped_colsum(tf_queue *q, const tf_grouped_colsum *p) {
  if (q->st != TF_OK) return q->st;
  colsum_job j = {.acc = p->accumulate};
  int64_t e;
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.x));
  if (p->y.dtype != TF_F32) return tf_fail(q, TF_EUNSUPPORTED, "y has element type %d, f32 is needed", p->y.dtype);
  TF_TRY(groups(q, &p->offsets, j.x.rows, &j.o, &e));
  tf_tensor y = p->y; /* rows of one */
  if (y.rank < 1 || y.rank > 2) return tf_fail(q, TF_EINVALID, "y has rank %d", y.rank);
  y.dim[y.rank] = y.dim[y.rank - 1];
  y.stride[y.rank] = y.stride[y.rank - 1];
  y.dim[y.rank - 1] = 1;
  y.rank++;
  TF_TRY(as_stack(q, &y, &p->y_at, "y", e, 1, j.x.d, &j.y));
  if (j.x.d > 1 && j.y.cs != 1) return tf_fail(q, TF_EINVALID, "y has a last stride of %ld", (long)j.y.cs);
  tf_run(q, e, colsum_task, &j);
  return TF_OK;
}

/* --- load balancing --- */

int64_t cpu_moe_aux_fwd_ws(const tf_moe_aux_fwd *p) {
  if (p->x.rank < 1) return 0;
  int64_t e = p->x.dim[p->x.rank - 1];
  return e < 1 ? 0 : tf_ceil_div(tf_numel(&p->x) / e, AUX_ROWS) * 2 * e * (int64_t)sizeof(double);
}

static tf_status aux_mask(tf_queue *q, tf_route_job *j, const tf_tensor *mask) {
  if (!tf_has(mask)) return TF_OK;
  void *v;
  TF_TRY(tf_flat(q, mask, "mask", TF_U8, j->n, &v));
  j->mask = v;
  return TF_OK;
}

tf_status cpu_moe_aux_fwd(tf_queue *q, const tf_moe_aux_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_route_job j = {.k = p->k, .block = AUX_ROWS, .partial = (double *)(uintptr_t)q->ws};
  void *v;
  TF_TRY(tf_as_rows(q, &p->x, "x", &j.x));
  j.n = j.x.rows;
  j.e = j.x.d;
  TF_TRY(experts(q, j.e, j.k));
  TF_TRY(aux_mask(q, &j, &p->mask));
  TF_TRY(tf_flat(q, &p->counts, "counts", TF_F64, j.e, &v));
  double *counts = v;
  TF_TRY(tf_flat(q, &p->probs, "probs", TF_F64, j.e, &v));
  double *probs = v;
  int64_t tasks = tf_ceil_div(j.n, j.block);
  tf_run(q, tasks, q->d->k->moe_aux_fwd, &j);
  for (int64_t i = 0; i < j.e; i++) {
    double c = p->accumulate ? counts[i] : 0, s = p->accumulate ? probs[i] : 0;
    for (int64_t t = 0; t < tasks; t++) {
      c += j.partial[t * 2 * j.e + i];
      s += j.partial[t * 2 * j.e + j.e + i];
    }
    counts[i] = c;
    probs[i] = s;
  }
  return TF_OK;
}

tf_status cpu_moe_aux_bwd(tf_queue *q, const tf_moe_aux_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_route_job j = {.block = AUX_ROWS, .dscale = p->scale, .acc = p->accumulate};
  void *v;
  TF_TRY(tf_as_rows(q, &p->x, "x", &j.x));
  j.n = j.x.rows;
  j.e = j.x.d;
  TF_TRY(experts(q, j.e, 1));
  TF_TRY(tf_as_rows_of(q, &p->dx, "dx", &j.y, j.n, j.e));
  TF_TRY(aux_mask(q, &j, &p->mask));
  TF_TRY(tf_flat(q, &p->counts, "counts", TF_F64, j.e, &v));
  j.counts = v;
  tf_run(q, tf_ceil_div(j.n, j.block), q->d->k->moe_aux_bwd, &j);
  return TF_OK;
}
