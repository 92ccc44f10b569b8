/* Attention: checks, visible keys, packing and tasks. */
#include <string.h>

#include "cpu_kern.h"

#define MAX_HEAD 1024

static tf_status head_view(tf_queue *q, const tf_tensor *t, const char *name, int64_t b, int64_t n, int64_t h, int64_t d, int32_t dt) {
  if (!t->data || t->rank != 4) return tf_fail(q, TF_EINVALID, "%s has to be [b,t,h,d]", name);
  if (t->dtype != dt || (dt != TF_F32 && !tf_is_half(dt)))
    return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d; all f32, all bf16 or all f16 are needed", name, t->dtype);
  if (t->dim[0] != b || t->dim[1] != n || t->dim[2] != h || t->dim[3] != d)
    return tf_fail(q, TF_EINVALID, "%s is [%ld,%ld,%ld,%ld], [%ld,%ld,%ld,%ld] is needed", name, (long)t->dim[0], (long)t->dim[1], (long)t->dim[2],
                   (long)t->dim[3], (long)b, (long)n, (long)h, (long)d);
  if (d > 1 && t->stride[3] != 1) return tf_fail(q, TF_EINVALID, "%s has a last stride of %ld", name, (long)t->stride[3]);
  return TF_OK;
}

static tf_status optional(tf_queue *q, const tf_tensor *t, const char *name, int32_t dtype, int64_t n, const void **p) {
  void *v;
  if (!tf_has(t)) return TF_OK;
  TF_TRY(tf_flat(q, t, name, dtype, n, &v));
  *p = v;
  return TF_OK;
}

/* The bias, [b,hq,tk]. */
static tf_status bias_view(tf_queue *q, const tf_tensor *t, tf_attn_job *j) {
  if (!tf_has(t)) return TF_OK;
  if (t->rank != 3 || t->dim[0] != j->b || t->dim[1] != j->hq || t->dim[2] != j->tk)
    return tf_fail(q, TF_EINVALID, "bias has to be [%ld,%ld,%ld]", (long)j->b, (long)j->hq, (long)j->tk);
  if (t->dtype != TF_F32) return tf_fail(q, TF_EUNSUPPORTED, "bias has element type %d, f32 is needed", t->dtype);
  if (j->tk > 1 && t->stride[2] != 1) return tf_fail(q, TF_EINVALID, "bias has a last stride of %ld", (long)t->stride[2]);
  j->bias = j->tk ? tf_addr(t) : NULL;
  j->bias_b = t->stride[0];
  j->bias_h = t->stride[1];
  return TF_OK;
}

typedef struct {
  int64_t ints, lo, delta, sink, kv[2], kvt[2], qo[2], qot[2], total; /* floats */
} layout;

static layout plan(const tf_attn_fwd *p, int bwd) {
  int64_t b = p->q.dim[0], tq = p->q.dim[1], hq = p->q.dim[2], dk = p->q.dim[3], tk = p->k.dim[1], hk = p->k.dim[2], dv = p->v.dim[3];
  int64_t nk = b * hk * (tk + TF_ATTN_PAD), nq = b * hq * (tq + TF_ATTN_PAD);
  layout l = {.lo = b * tq};
  l.kv[0] = nk * dk;
  if (bwd) {
    l.delta = b * hq * tq;
    l.sink = b * hq;
    l.kv[1] = nk * dv;
    l.kvt[0] = nk * (dk + TF_ATTN_PAD);
    l.qo[0] = nq * dk;
    l.qo[1] = nq * dv;
    l.qot[0] = nq * (dk + TF_ATTN_PAD);
    l.qot[1] = nq * (dv + TF_ATTN_PAD);
  } else {
    l.kvt[1] = nk * (dv + TF_ATTN_PAD);
  }
  l.total = 2 * l.lo + l.delta + l.sink + l.kv[0] + l.kv[1] + l.kvt[0] + l.kvt[1] + l.qo[0] + l.qo[1] + l.qot[0] + l.qot[1] + 16 * 16;
  return l;
}

int64_t cpu_attn_fwd_ws(const tf_attn_fwd *p) { return plan(p, 0).total * (int64_t)sizeof(float); }
int64_t cpu_attn_bwd_ws(const tf_attn_bwd *p) { return plan(&p->f, 1).total * (int64_t)sizeof(float); }

/* The next n floats of the workspace, on a cache line. */
static float *take(float **at, int64_t n) {
  float *p = *at;
  *at += (n + 15) / 16 * 16;
  return n ? p : NULL;
}

static tf_status prepare(tf_queue *q, const tf_attn_fwd *p, const tf_attn_bwd *g, tf_attn_job *j) {
  if (p->q.rank != 4 || p->k.rank != 4 || p->v.rank != 4) return tf_fail(q, TF_EINVALID, "q, k and v have to be [b,t,h,d]");
  *j = (tf_attn_job){.p = p, .g = g, .dev = q->d, .b = p->q.dim[0], .tq = p->q.dim[1], .hq = p->q.dim[2], .dk = p->q.dim[3], .tk = p->k.dim[1],
                     .hk = p->k.dim[2], .dv = p->v.dim[3]};
  if (j->hk < 1 || j->hq % j->hk) return tf_fail(q, TF_EINVALID, "%ld query heads are no multiple of %ld kv heads", (long)j->hq, (long)j->hk);
  if (j->dk > MAX_HEAD || j->dv > MAX_HEAD) return tf_fail(q, TF_EUNSUPPORTED, "heads of more than %d elements", MAX_HEAD);
  if (j->tk >= 1 << 23) return tf_fail(q, TF_EUNSUPPORTED, "more than %d keys", (1 << 23) - 1);
  TF_TRY(head_view(q, &p->q, "q", j->b, j->tq, j->hq, j->dk, p->q.dtype));
  TF_TRY(head_view(q, &p->k, "k", j->b, j->tk, j->hk, j->dk, p->q.dtype));
  TF_TRY(head_view(q, &p->v, "v", j->b, j->tk, j->hk, j->dv, p->q.dtype));
  TF_TRY(head_view(q, &p->o, "o", j->b, j->tq, j->hq, j->dv, p->q.dtype));
  j->group = j->hq / j->hk;
  const void *lse = NULL, *start = NULL, *first = NULL, *last = NULL, *mask = NULL, *cu = NULL, *sinks = NULL, *ids = NULL;
  TF_TRY(optional(q, &p->lse, "lse", TF_F32, j->b * j->hq * j->tq, &lse));
  TF_TRY(optional(q, &p->q_start, "q_start", TF_I32, j->b, &start));
  TF_TRY(optional(q, &p->kv_first, "kv_first", TF_I32, j->b, &first));
  TF_TRY(optional(q, &p->kv_last, "kv_last", TF_I32, j->b, &last));
  TF_TRY(optional(q, &p->key_mask, "key_mask", TF_U8, j->b * j->tk, &mask));
  TF_TRY(optional(q, &p->cu_seqlens, "cu_seqlens", TF_I32, -1, &cu));
  TF_TRY(bias_view(q, &p->bias, j));
  TF_TRY(optional(q, &p->sinks, "sinks", TF_F32, j->hq, &sinks));
  TF_TRY(optional(q, &p->row_ids, "row_ids", TF_I64, j->b * j->tq, &ids));
  if (!(p->dropout >= 0 && p->dropout < 1)) return tf_fail(q, TF_EINVALID, "dropout is %g", (double)p->dropout);
  if (p->dropout > 0) {
    uint64_t key = tf_philox_key(p->seed, p->stream);
    j->drop = 1;
    j->k0 = (uint32_t)key;
    j->k1 = (uint32_t)(key >> 32);
    j->threshold = tf_drop_threshold(p->dropout);
    j->keep = 1.0f / (1.0f - p->dropout);
    j->row_ids = ids;
  }
  if (g && !lse) return tf_fail(q, TF_EINVALID, "lse is needed for the backward");
  j->lse = (float *)(uintptr_t)lse;
  j->q_start = start;
  j->key_mask = mask;
  j->sinks = sinks;
  j->kblocks = tf_ceil_div(j->tk, TF_ATTN_BLOCK);
  j->qblocks = tf_ceil_div(j->tq, TF_ATTN_BLOCK);
  layout l = plan(p, g != NULL);
  float *at = (float *)(uintptr_t)q->ws;
  j->lo = (int32_t *)take(&at, l.lo);
  j->hi = (int32_t *)take(&at, l.lo);
  j->delta = take(&at, l.delta);
  j->sink_part = take(&at, l.sink);
  j->ka = take(&at, l.kv[0]);
  j->va = take(&at, l.kv[1]);
  j->kt = take(&at, l.kvt[0]);
  j->vt = take(&at, l.kvt[1]);
  j->qa = take(&at, l.qo[0]);
  j->oa = take(&at, l.qo[1]);
  j->qt = take(&at, l.qot[0]);
  j->ot = take(&at, l.qot[1]);

  const int32_t *c = cu, *kf = first, *kl = last;
  int64_t docs = cu ? tf_numel(&p->cu_seqlens) - 1 : 0, doc = 0;
  if (cu && (j->b != 1 || j->tq != j->tk || docs < 1 || c[0] != 0 || c[docs] != j->tq))
    return tf_fail(q, TF_EINVALID, "cu_seqlens needs one sequence with as many queries as keys, and to run from 0 to their number");
  for (int64_t i = 0; i < docs; i++)
    if (c[i + 1] < c[i]) return tf_fail(q, TF_EINVALID, "cu_seqlens decreases at %ld", (long)i + 1);
  for (int64_t b = 0; b < j->b; b++) {
    for (int64_t i = 0; i < j->tq; i++) {
      int64_t pos = tf_attn_pos(j, b) + i, lo = 0, hi = j->tk;
      if (p->causal) hi = tf_min(hi, pos + 1);
      if (p->window_left >= 0) lo = tf_max(lo, pos - p->window_left);
      if (p->window_right >= 0) hi = tf_min(hi, pos + p->window_right + 1);
      if (kf) lo = tf_max(lo, kf[b]);
      if (kl) hi = tf_min(hi, kl[b]);
      if (cu) {
        while (i >= c[doc + 1]) doc++;
        lo = tf_max(lo, c[doc]);
        hi = tf_min(hi, c[doc + 1]);
      }
      lo = tf_min(lo, j->tk);
      hi = tf_max(hi, 0);
      j->lo[b * j->tq + i] = (int32_t)lo;
      j->hi[b * j->tq + i] = (int32_t)tf_max(lo, hi);
    }
  }
  return TF_OK;
}

tf_status cpu_attn_fwd(tf_queue *q, const tf_attn_fwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_attn_job j;
  TF_TRY(prepare(q, p, NULL, &j));
  tf_run(q, j.b * j.hk * j.kblocks, tf_kern_of(q->d, p->q.dtype)->attn_pack, &j);
  tf_run(q, j.b * j.hq * tf_ceil_div(j.tq, TF_ATTN_LANES), tf_kern_of(q->d, p->q.dtype)->attn_fwd, &j);
  return TF_OK;
}

tf_status cpu_attn_bwd(tf_queue *q, const tf_attn_bwd *p) {
  if (q->st != TF_OK) return q->st;
  tf_attn_job j;
  void *ds = NULL;
  TF_TRY(prepare(q, &p->f, p, &j));
  TF_TRY(head_view(q, &p->d_o, "d_o", j.b, j.tq, j.hq, j.dv, p->f.q.dtype));
  if (tf_has(&p->dq)) TF_TRY(head_view(q, &p->dq, "dq", j.b, j.tq, j.hq, j.dk, p->f.q.dtype));
  if (tf_has(&p->dk)) TF_TRY(head_view(q, &p->dk, "dk", j.b, j.tk, j.hk, j.dk, p->f.q.dtype));
  if (tf_has(&p->dv)) TF_TRY(head_view(q, &p->dv, "dv", j.b, j.tk, j.hk, j.dv, p->f.q.dtype));
  if (tf_has(&p->dsinks)) TF_TRY(tf_flat(q, &p->dsinks, "dsinks", TF_F32, j.hq, &ds));
  const tf_kern *k = tf_kern_of(q->d, p->f.q.dtype);
  tf_run(q, j.b * j.hk * j.kblocks + j.b * j.hq * j.qblocks, k->attn_pack, &j);
  tf_run(q, j.b * j.hq, k->attn_bwd_prep, &j);
  if (tf_has(&p->dk) || tf_has(&p->dv)) tf_run(q, j.b * j.hk * tf_ceil_div(j.tk, TF_ATTN_LANES), k->attn_bwd_kv, &j);
  if (tf_has(&p->dq)) tf_run(q, j.b * j.hq * tf_ceil_div(j.tq, TF_ATTN_LANES), k->attn_bwd_q, &j);
  if (ds && j.sinks) {
    for (int64_t h = 0; h < j.hq; h++) {
      float s = p->dsinks_accumulate ? ((float *)ds)[h] : 0;
      for (int64_t b = 0; b < j.b; b++) s += j.sink_part[b * j.hq + h];
      ((float *)ds)[h] = s;
    }
  }
  return TF_OK;
}
