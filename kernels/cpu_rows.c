/* Elementwise operations, normalizations, sums over rows, gather and scatter: checks and cutting into tasks. */
#include <string.h>

#include "cpu_kern.h"

/* Elements of a task. */
#define TASK_ELEMS 16384
#define FLAT_ROW 1024

static int64_t block_of(int64_t d) { return tf_max(1, TASK_ELEMS / tf_max(d, 1)); }

static void run_blocks(tf_queue *q, tf_row_job *j, tf_task_fn fn) {
  if (j->a.rows == 0 || j->a.d == 0) return;
  j->block = block_of(j->a.d);
  tf_run(q, tf_ceil_div(j->a.rows, j->block), fn, j);
}

static int is_flat(const tf_rows *r) { return !r->p || r->rows == 1 || r->ld == r->d; }

static void reshape(tf_rows *r, int64_t off, int64_t rows, int64_t d) {
  if (!r->p) return;
  *r = (tf_rows){.p = (float *)(void *)((char *)r->p + off * tf_dtype_size(r->dt)), .dt = r->dt, .rows = rows, .d = d, .dim = {1, 1, 1, rows}, .stride = {0, 0, 0, d}, .ld = d};
}

/* Runs an elementwise fn over rows; a single stretch is cut anew, so that its rows do not matter. */
static void run_elements(tf_queue *q, tf_row_job *j, tf_task_fn fn) {
  int64_t n = j->a.rows * j->a.d;
  if (j->w || !is_flat(&j->a) || !is_flat(&j->b) || !is_flat(&j->c) || !is_flat(&j->y) || !is_flat(&j->z)) {
    run_blocks(q, j, fn);
    return;
  }
  int64_t body = n / FLAT_ROW * FLAT_ROW, parts[2][3] = {{0, n / FLAT_ROW, FLAT_ROW}, {body, 1, n - body}};
  for (int i = 0; i < 2; i++) {
    tf_row_job t = *j;
    tf_rows *all[] = {&t.a, &t.b, &t.c, &t.y, &t.z};
    for (int k = 0; k < 5; k++) reshape(all[k], parts[i][0], parts[i][1], parts[i][2]);
    run_blocks(q, &t, fn);
  }
}

tf_status cpu_add(tf_queue *q, const tf_add *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.alpha = p->alpha, .beta = p->beta, .acc = p->accumulate};
  if (p->alpha_dev) j.alpha *= *(const float *)(uintptr_t)p->alpha_dev;
  TF_TRY(tf_as_elems(q, &p->a, "a", &j.a));
  if (tf_has(&p->b)) TF_TRY(tf_as_elems_of(q, &p->b, "b", &j.b, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->add);
  return TF_OK;
}

tf_status cpu_mul(tf_queue *q, const tf_mul *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.acc = p->accumulate};
  TF_TRY(tf_as_elems(q, &p->a, "a", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.a.rows, j.a.d, j.a.dt));
  if (p->b.rank == 1 && p->a.rank > 1) {
    void *w;
    TF_TRY(tf_flat(q, &p->b, "b", TF_F32, j.a.d, &w));
    j.w = w;
  } else {
    TF_TRY(tf_as_elems_of(q, &p->b, "b", &j.b, j.a.rows, j.a.d, j.a.dt));
  }
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->mul);
  return TF_OK;
}

static tf_status check_act(tf_queue *q, int act) {
  if (act < TF_ACT_SILU || act > TF_ACT_TANH) return tf_fail(q, TF_EINVALID, "unknown activation %d", act);
  return TF_OK;
}

tf_status cpu_act_fwd(tf_queue *q, const tf_act_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.act = p->act};
  TF_TRY(check_act(q, p->act));
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->act_fwd);
  return TF_OK;
}

tf_status cpu_act_bwd(tf_queue *q, const tf_act_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.act = p->act, .acc = p->accumulate};
  TF_TRY(check_act(q, p->act));
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->dy, "dy", &j.b, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->dx, "dx", &j.y, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->act_bwd);
  return TF_OK;
}

tf_status cpu_glu_fwd(tf_queue *q, const tf_glu_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.act = p->act};
  TF_TRY(check_act(q, p->act));
  TF_TRY(tf_as_elems(q, &p->gate, "gate", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->up, "up", &j.b, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->glu_fwd);
  return TF_OK;
}

tf_status cpu_glu_bwd(tf_queue *q, const tf_glu_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.act = p->act, .acc = p->dgate_accumulate, .acc2 = p->dup_accumulate};
  TF_TRY(check_act(q, p->act));
  TF_TRY(tf_as_elems(q, &p->gate, "gate", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->up, "up", &j.b, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->dy, "dy", &j.c, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->dgate, "dgate", &j.y, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->dup, "dup", &j.z, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->glu_bwd);
  return TF_OK;
}

static tf_status check_clamp(tf_queue *q, float lo, float hi) {
  if (!(lo <= hi)) return tf_fail(q, TF_EINVALID, "limits %g to %g", (double)lo, (double)hi);
  return TF_OK;
}

tf_status cpu_clamp_fwd(tf_queue *q, const tf_clamp_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.alpha = p->lo, .beta = p->hi};
  TF_TRY(check_clamp(q, p->lo, p->hi));
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->clamp_fwd);
  return TF_OK;
}

tf_status cpu_clamp_bwd(tf_queue *q, const tf_clamp_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.alpha = p->lo, .beta = p->hi, .acc = p->accumulate};
  TF_TRY(check_clamp(q, p->lo, p->hi));
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.a));
  TF_TRY(tf_as_elems_of(q, &p->dy, "dy", &j.b, j.a.rows, j.a.d, j.a.dt));
  TF_TRY(tf_as_elems_of(q, &p->dx, "dx", &j.y, j.a.rows, j.a.d, j.a.dt));
  run_elements(q, &j, tf_kern_of(q->d, j.a.dt)->clamp_bwd);
  return TF_OK;
}

/* --- normalizations --- */

/* What both forward norms take. */
static tf_status norm_operands(tf_queue *q, tf_row_job *j, const tf_tensor *x, const tf_tensor *res, const tf_tensor *sum, const tf_tensor *w,
                               const tf_tensor *y, const tf_tensor *rstd) {
  void *v;
  TF_TRY(tf_as_elems(q, x, "x", &j->a));
  if (j->a.d == 0) return tf_fail(q, TF_EINVALID, "rows of x are empty");
  if (tf_has(res)) {
    TF_TRY(tf_as_elems_of(q, res, "res", &j->b, j->a.rows, j->a.d, j->a.dt));
    TF_TRY(tf_as_elems_of(q, sum, "sum", &j->z, j->a.rows, j->a.d, j->a.dt));
  } else if (tf_has(sum)) {
    return tf_fail(q, TF_EINVALID, "sum is given without res");
  }
  if (tf_has(w)) {
    TF_TRY(tf_flat(q, w, "w", TF_F32, j->a.d, &v));
    j->w = v;
  }
  TF_TRY(tf_as_elems_of(q, y, "y", &j->y, j->a.rows, j->a.d, j->a.dt));
  if (tf_has(rstd)) {
    TF_TRY(tf_flat(q, rstd, "rstd", TF_F32, j->a.rows, &v));
    j->u = v;
  }
  return TF_OK;
}

tf_status cpu_rmsnorm_fwd(tf_queue *q, const tf_rmsnorm_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.eps = p->eps, .off = p->w_offset};
  TF_TRY(norm_operands(q, &j, &p->x, &p->res, &p->sum, &p->w, &p->y, &p->rstd));
  run_blocks(q, &j, tf_kern_of(q->d, j.a.dt)->rmsnorm_fwd);
  return TF_OK;
}

tf_status cpu_layernorm_fwd(tf_queue *q, const tf_layernorm_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.eps = p->eps, .off = p->w_offset};
  void *v;
  TF_TRY(norm_operands(q, &j, &p->x, &p->res, &p->sum, &p->w, &p->y, &p->rstd));
  if (tf_has(&p->b)) {
    TF_TRY(tf_flat(q, &p->b, "b", TF_F32, j.a.d, &v));
    j.c.p = v;
  }
  if (tf_has(&p->mean)) {
    TF_TRY(tf_flat(q, &p->mean, "mean", TF_F32, j.a.rows, &v));
    j.v = v;
  }
  run_blocks(q, &j, tf_kern_of(q->d, j.a.dt)->layernorm_fwd);
  return TF_OK;
}

/* Rows whose parameter gradients are summed before the sums are: fixed, so that the order of additions is. Long inputs take longer blocks. */
static int64_t sum_block(int64_t rows) { return tf_max(32, tf_ceil_div(rows, 128)); }

static int64_t rows_of(const tf_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->rank - 1; i++) n *= t->dim[i];
  return n;
}

static int64_t partial_bytes(const tf_tensor *t, int64_t width) {
  if (t->rank < 1) return 0;
  int64_t rows = rows_of(t);
  return tf_ceil_div(rows, sum_block(rows)) * width * t->dim[t->rank - 1] * (int64_t)sizeof(float);
}

/* out (+)= the partial sums in ws: n of them at a distance of ld floats. */
static void join(tf_queue *q, float *ws, int64_t n, int64_t ld, float *out, int64_t d, int acc) {
  tf_row_job j = {.u = out, .v = ws, .n = n, .acc = acc, .block = 1024};
  j.y.d = d;
  j.y.ld = ld;
  tf_run(q, tf_ceil_div(d, j.block), q->d->k->colsum_join, &j);
}

int64_t cpu_rmsnorm_bwd_ws(const tf_rmsnorm_bwd *p) { return tf_has(&p->dw) ? partial_bytes(&p->x, 1) : 0; }
int64_t cpu_layernorm_bwd_ws(const tf_layernorm_bwd *p) { return partial_bytes(&p->x, 2); }
int64_t cpu_colsum_ws(const tf_colsum *p) { return partial_bytes(&p->x, 1); }

static tf_status bwd_operands(tf_queue *q, tf_row_job *j, const tf_tensor *x, const tf_tensor *w, const tf_tensor *rstd, const tf_tensor *dy,
                              const tf_tensor *dsum, const tf_tensor *dx) {
  void *v;
  TF_TRY(tf_as_elems(q, x, "x", &j->a));
  if (tf_has(w)) {
    TF_TRY(tf_flat(q, w, "w", TF_F32, j->a.d, &v));
    j->w = v;
  }
  TF_TRY(tf_flat(q, rstd, "rstd", TF_F32, j->a.rows, &v));
  j->u = v;
  TF_TRY(tf_as_elems_of(q, dy, "dy", &j->b, j->a.rows, j->a.d, j->a.dt));
  if (tf_has(dsum)) TF_TRY(tf_as_elems_of(q, dsum, "dsum", &j->c, j->a.rows, j->a.d, j->a.dt));
  if (tf_has(dx)) TF_TRY(tf_as_elems_of(q, dx, "dx", &j->y, j->a.rows, j->a.d, j->a.dt));
  j->block = sum_block(j->a.rows);
  return TF_OK;
}

tf_status cpu_rmsnorm_bwd(tf_queue *q, const tf_rmsnorm_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.off = p->w_offset, .acc = p->dx_accumulate};
  void *dw = NULL;
  TF_TRY(bwd_operands(q, &j, &p->x, &p->w, &p->rstd, &p->dy, &p->dsum, &p->dx));
  if (tf_has(&p->dw)) TF_TRY(tf_flat(q, &p->dw, "dw", TF_F32, j.a.d, &dw));
  if (dw) j.v = (float *)(uintptr_t)q->ws;
  int64_t n = tf_ceil_div(j.a.rows, j.block);
  tf_run(q, n, tf_kern_of(q->d, j.a.dt)->rmsnorm_bwd, &j);
  if (dw) join(q, j.v, n, j.a.d, dw, j.a.d, p->dw_accumulate);
  return TF_OK;
}

tf_status cpu_layernorm_bwd(tf_queue *q, const tf_layernorm_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.off = p->w_offset, .acc = p->dx_accumulate};
  void *dw = NULL, *db = NULL, *mean;
  TF_TRY(bwd_operands(q, &j, &p->x, &p->w, &p->rstd, &p->dy, &p->dsum, &p->dx));
  TF_TRY(tf_flat(q, &p->mean, "mean", TF_F32, j.a.rows, &mean));
  j.z.p = mean;
  if (tf_has(&p->dw)) TF_TRY(tf_flat(q, &p->dw, "dw", TF_F32, j.a.d, &dw));
  if (tf_has(&p->db)) TF_TRY(tf_flat(q, &p->db, "db", TF_F32, j.a.d, &db));
  j.v = (float *)(uintptr_t)q->ws;
  int64_t n = tf_ceil_div(j.a.rows, j.block), d = j.a.d;
  tf_run(q, n, tf_kern_of(q->d, j.a.dt)->layernorm_bwd, &j);
  if (dw) join(q, j.v, n, 2 * d, dw, d, p->dw_accumulate);
  if (db) join(q, j.v + d, n, 2 * d, db, d, p->db_accumulate);
  return TF_OK;
}

tf_status cpu_colsum(tf_queue *q, const tf_colsum *p) {
  if (q->st != TF_OK) return q->st;
  tf_row_job j = {.v = (float *)(uintptr_t)q->ws};
  void *y;
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.a));
  TF_TRY(tf_flat(q, &p->y, "y", TF_F32, j.a.d, &y));
  j.block = sum_block(j.a.rows);
  int64_t n = tf_ceil_div(j.a.rows, j.block);
  tf_run(q, n, tf_kern_of(q->d, j.a.dt)->colsum, &j);
  join(q, j.v, n, j.a.d, y, j.a.d, p->accumulate);
  return TF_OK;
}

/* --- positions --- */

tf_status cpu_rope(tf_queue *q, const tf_rope *p) {
  if (q->st != TF_OK) return q->st;
  tf_rope_job j = {.p = p};
  tf_rows r;
  void *v;
  TF_TRY(tf_as_elems(q, &p->x, "x", &r));
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &r, r.rows, r.d, r.dt));
  if (p->x.rank != 4 || p->y.rank != 4 || memcmp(p->x.dim, p->y.dim, 4 * sizeof(int64_t)))
    return tf_fail(q, TF_EINVALID, "x and y have to be [b,t,h,d] of equal size");
  int64_t half = p->rot_dim / 2;
  if (p->rot_dim < 2 || p->rot_dim % 2 || p->rot_dim > p->x.dim[3])
    return tf_fail(q, TF_EINVALID, "rot_dim is %d, heads have %ld", p->rot_dim, (long)p->x.dim[3]);
  j.n = p->x.dim[0] * p->x.dim[1];
  TF_TRY(tf_flat(q, &p->cos, "cos", TF_F32, -1, &v));
  j.cos = v;
  TF_TRY(tf_flat(q, &p->sin, "sin", TF_F32, tf_numel(&p->cos), &v));
  j.sin = v;
  int64_t positions = tf_numel(&p->cos) / half;
  if (tf_has(&p->pos)) {
    TF_TRY(tf_flat(q, &p->pos, "pos", TF_I32, j.n, &v));
    j.pos = v;
    for (int64_t i = 0; i < j.n; i++)
      if (j.pos[i] < 0 || j.pos[i] >= positions)
        return tf_fail(q, TF_EINVALID, "position %d of row %ld is outside the tables of %ld", j.pos[i], (long)i, (long)positions);
  } else if (p->pos0 < 0 || p->pos0 + p->x.dim[1] > positions) {
    return tf_fail(q, TF_EINVALID, "positions %ld to %ld are outside the tables of %ld", (long)p->pos0, (long)(p->pos0 + p->x.dim[1]),
                   (long)positions);
  }
  j.x = tf_addr(&p->x);
  j.y = tf_addr(&p->y);
  j.block = block_of(p->x.dim[2] * p->x.dim[3]);
  if (j.n) tf_run(q, tf_ceil_div(j.n, j.block), tf_kern_of(q->d, p->x.dtype)->rope, &j);
  return TF_OK;
}

/* --- gather, scatter, top-k --- */

typedef struct {
  tf_rows x, y;
  const int32_t *ids, *order;
  int32_t *out;
  float *values;
  int64_t n, k, block;
  float scale;
} ids_job;

/* y = scale * x, or y += it, of d elements. */
static void scaled_row(const tf_rows *tx, int64_t i, const tf_rows *ty, int64_t k, float scale, int add) {
  int64_t d = tx->d, xi = tf_rows_at(tx, i), yi = tf_rows_at(ty, k);
  const float *x = tx->p + xi;
  const uint16_t *x16 = (const uint16_t *)(const void *)tx->p + xi;
  float *y = ty->p + yi;
  uint16_t *y16 = (uint16_t *)(void *)ty->p + yi;
  if (tx->dt == ty->dt && scale == 1 && !add) {
    int64_t size = tf_dtype_size(tx->dt);
    memcpy((char *)ty->p + yi * size, (const char *)tx->p + xi * size, (size_t)(d * size));
  } else if (tf_is_half(ty->dt)) {
    for (int64_t c = 0; c < d; c++) {
      float v = scale * (tf_is_half(tx->dt) ? tf_from_half(tx->dt, x16[c]) : x[c]);
      y16[c] = tf_to_half(ty->dt, add ? tf_from_half(ty->dt, y16[c]) + v : v);
    }
  } else if (tf_is_half(tx->dt)) {
    for (int64_t c = 0; c < d; c++) y[c] = scale * tf_from_half(tx->dt, x16[c]) + (add ? y[c] : 0);
  } else if (add) {
    for (int64_t c = 0; c < d; c++) y[c] += scale * x[c];
  } else {
    for (int64_t c = 0; c < d; c++) y[c] = scale * x[c];
  }
}

static void gather_task(void *arg, int64_t task, int thread) {
  const ids_job *j = arg;
  (void)thread;
  for (int64_t i = task * j->block; i < j->n && i < (task + 1) * j->block; i++) scaled_row(&j->x, j->ids[i], &j->y, i, j->scale, 0);
}

tf_status cpu_gather_rows(tf_queue *q, const tf_gather_rows *p) {
  if (q->st != TF_OK) return q->st;
  ids_job j = {.scale = p->scale};
  void *v;
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.x));
  TF_TRY(tf_flat(q, &p->ids, "ids", TF_I32, -1, &v));
  j.ids = v;
  j.n = tf_numel(&p->ids);
  TF_TRY(tf_as_elems_of(q, &p->y, "y", &j.y, j.n, j.x.d, p->y.dtype));
  for (int64_t i = 0; i < j.n; i++)
    if (j.ids[i] < 0 || j.ids[i] >= j.x.rows)
      return tf_fail(q, TF_EINVALID, "id %d at %ld is outside the table of %ld rows", j.ids[i], (long)i, (long)j.x.rows);
  j.block = block_of(j.x.d);
  tf_run(q, tf_ceil_div(j.n, j.block), gather_task, &j);
  return TF_OK;
}

/* One writer per id: a task takes the runs of equal ids that begin in its part of the sorted order. */
static void scatter_task(void *arg, int64_t task, int thread) {
  const ids_job *j = arg;
  (void)thread;
  int64_t lo = task * j->block, hi = tf_min(lo + j->block, j->n);
  while (lo < hi && lo > 0 && j->ids[j->order[lo]] == j->ids[j->order[lo - 1]]) lo++;
  if (lo >= hi) return;
  while (hi < j->n && j->ids[j->order[hi]] == j->ids[j->order[hi - 1]]) hi++;
  for (int64_t i = lo; i < hi; i++) {
    int32_t id = j->ids[j->order[i]];
    if (id < 0) continue;
    scaled_row(&j->x, j->order[i], &j->y, id, j->scale, 1);
  }
}

/* Two arrays for a stable radix sort. */
int64_t cpu_scatter_add_rows_ws(const tf_scatter_add_rows *p) { return 2 * tf_numel(&p->ids) * (int64_t)sizeof(int32_t); }

static const int32_t *sort_ids(const int32_t *ids, int64_t n, int32_t *a, int32_t *b) {
  for (int64_t i = 0; i < n; i++) a[i] = (int32_t)i;
  for (int shift = 0; shift < 32; shift += 8) {
    int64_t count[257] = {0};
    for (int64_t i = 0; i < n; i++) count[((((uint32_t)ids[i]) ^ 0x80000000u) >> shift & 255) + 1]++;
    for (int i = 0; i < 256; i++) count[i + 1] += count[i];
    for (int64_t i = 0; i < n; i++) b[count[(((uint32_t)ids[a[i]]) ^ 0x80000000u) >> shift & 255]++] = a[i];
    int32_t *t = a;
    a = b;
    b = t;
  }
  return a;
}

tf_status cpu_scatter_add_rows(tf_queue *q, const tf_scatter_add_rows *p) {
  if (q->st != TF_OK) return q->st;
  ids_job j = {.scale = p->scale};
  void *v;
  TF_TRY(tf_as_elems(q, &p->y, "y", &j.y));
  TF_TRY(tf_flat(q, &p->ids, "ids", TF_I32, -1, &v));
  j.ids = v;
  j.n = tf_numel(&p->ids);
  TF_TRY(tf_as_elems_of(q, &p->x, "x", &j.x, j.n, j.y.d, p->x.dtype));
  for (int64_t i = 0; i < j.n; i++)
    if (j.ids[i] >= j.y.rows) return tf_fail(q, TF_EINVALID, "id %d at %ld is outside the table of %ld rows", j.ids[i], (long)i, (long)j.y.rows);
  if (!p->accumulate)
    for (int64_t r = 0; r < j.y.rows; r++) memset((char *)j.y.p + tf_rows_at(&j.y, r) * tf_dtype_size(j.y.dt), 0, (size_t)(j.y.d * tf_dtype_size(j.y.dt)));
  int32_t *a = (int32_t *)(uintptr_t)q->ws;
  j.order = sort_ids(j.ids, j.n, a, a + j.n);
  j.block = block_of(j.x.d);
  tf_run(q, tf_ceil_div(j.n, j.block), scatter_task, &j);
  return TF_OK;
}

static float elem(const tf_rows *r, int64_t i) { return tf_is_half(r->dt) ? tf_from_half(r->dt, ((const uint16_t *)(const void *)r->p)[i]) : r->p[i]; }

static void topk_task(void *arg, int64_t task, int thread) {
  const ids_job *j = arg;
  (void)thread;
  int64_t row = tf_rows_at(&j->x, task), have = 0;
  int32_t *ids = j->out + task * j->k;
  for (int64_t i = 0; i < j->x.d; i++) {
    float x = elem(&j->x, row + i);
    if (have == j->k && !(x > elem(&j->x, row + ids[have - 1]))) continue;
    int64_t at = have < j->k ? have++ : have - 1;
    for (; at > 0 && x > elem(&j->x, row + ids[at - 1]); at--) ids[at] = ids[at - 1];
    ids[at] = (int32_t)i;
  }
  if (j->values)
    for (int64_t i = 0; i < j->k; i++) j->values[task * j->k + i] = elem(&j->x, row + ids[i]);
}

tf_status cpu_row_topk(tf_queue *q, const tf_row_topk *p) {
  if (q->st != TF_OK) return q->st;
  ids_job j = {.k = p->k};
  void *v;
  TF_TRY(tf_as_elems(q, &p->x, "x", &j.x));
  if (p->k < 1 || p->k > j.x.d) return tf_fail(q, TF_EINVALID, "k is %ld of %ld columns", (long)p->k, (long)j.x.d);
  TF_TRY(tf_flat(q, &p->ids, "ids", TF_I32, j.x.rows * p->k, &v));
  j.out = v;
  if (tf_has(&p->values)) {
    TF_TRY(tf_flat(q, &p->values, "values", TF_F32, j.x.rows * p->k, &v));
    j.values = v;
  }
  tf_run(q, j.x.rows, topk_task, &j);
  return TF_OK;
}
