/* Attention. Scores are made transposed, a panel of NR queries at a time: lanes are queries and rows are keys (or the other way round for
 * dK and dV), so that the softmax runs down the lanes without horizontal sums, and the probabilities already lie as the packed right
 * operand of the next product. Keys go in blocks of TF_ATTN_BLOCK with a running maximum (FlashAttention, arXiv:2205.14135; only the
 * logarithm of the sum is kept). Once for f32, bf16 and f16 each as cpu_t_rows.h: packed operands and sums are f32. */

#ifndef E_HALF
#define NG (NR / 16) /* v16 groups of a panel */
#define LOW (-1e30f)

enum { PACK_K = 1, PACK_V = 2, PACK_KT = 4, PACK_VT = 8 };

/* rows [MR-padded] x NR scores into s: a panels times the packed right operand. */
V1 void panel_product(const float *a, int64_t rows, int64_t k, const float *b, float *s) {
  for (int64_t i = 0; i < rows; i += TF_MR) micro(TF_MR, k, a + i * k, b, s + i * NR, NR, 0);
}

/* out [d rows, MR-padded][NR] += the panels of TF_MR columns over n rows, times s [n][NR]. */
V1 void panel_accumulate(const float *colp, int64_t len, int64_t r0, int64_t n, int64_t d, const float *s, float *out, int load) {
  for (int64_t c = 0; c < d; c += TF_MR) micro(TF_MR, n, colp + c * len + r0 * TF_MR, s, out + c * NR, NR, load);
}

/* How products become scores, for one head. */
typedef struct {
  v16 scale, cap, inv_cap;
  int capped;
  const float *bias; /* of each key, or NULL */
} scoring;

V1 scoring scoring_of(const tf_attn_job *j, int64_t b, int64_t h) {
  float cap = j->p->softcap;
  return (scoring){v_set1(j->p->scale), v_set1(cap), v_set1(cap > 0 ? 1.0f / cap : 0), cap > 0, tf_attn_bias(j, b, h)};
}

/* From a product q.k to the score, the bias not yet added. */
V1 v16 score(const scoring *c, v16 x) {
  x = v_mul(x, c->scale);
  return c->capped ? v_mul(c->cap, v_tanh(v_mul(x, c->inv_cap))) : x;
}

/* The derivative of softcap at the score, without the bias. */
V1 v16 cap_grad(const scoring *c, v16 ds, v16 s) {
  if (!c->capped) return ds;
  v16 u = v_mul(s, c->inv_cap);
  return v_mul(ds, v_fma(v_neg(u), u, v_set1(1.0f)));
}

/* A panel of queries: which keys each lane sees, and what is taken off the bias. */
typedef struct {
  float lo[NR], hi[NR], own[NR];
  int64_t first, last;         /* union */
  int64_t all_first, all_last; /* intersection of valid lanes */
} lanes_q;

static void query_lanes(const tf_attn_job *j, int64_t b, const float *bias, int64_t q0, int64_t n, lanes_q *w) {
  w->first = j->tk;
  w->last = 0;
  w->all_first = 0;
  w->all_last = j->tk;
  for (int64_t i = 0; i < NR; i++) {
    int32_t lo = 0, hi = 0;
    if (i < n) {
      lo = j->lo[b * j->tq + q0 + i];
      hi = j->hi[b * j->tq + q0 + i];
      if (lo < hi) {
        w->first = tf_min(w->first, lo);
        w->last = tf_max(w->last, hi);
      }
      w->all_first = tf_max(w->all_first, lo);
      w->all_last = tf_min(w->all_last, hi);
    }
    w->lo[i] = (float)lo - 0.5f;
    w->hi[i] = (float)hi - 0.5f;
    w->own[i] = bias ? tf_attn_own(j, bias, b, q0 + i) : 0;
  }
}

/* Lanes are queries, x[g] the products with key: scores, LOW where the key is hidden. */
V1 v16 masked(v16 s, const lanes_q *w, int g, int64_t key, int hidden) {
  if (hidden) return v_set1(LOW);
  v16 k = v_set1((float)key);
  m16 see = v_and(v_lt(v_ld(w->lo + 16 * g), k), v_lt(k, v_ld(w->hi + 16 * g)));
  return v_sel(see, s, v_set1(LOW));
}

/* The factors of dropout, 0 or keep, of four keys from k on (a multiple of 4) for query i: m[0], m[step], ... */
static inline void drop_four(const tf_attn_job *j, int64_t b, int64_t h, int64_t i, int64_t k, float *m, int64_t step) {
  uint64_t id = (uint64_t)(j->row_ids ? j->row_ids[b * j->tq + i] : b * j->tq + i);
  uint32_t u[4];
  philox((uint32_t)(k / 4), (uint32_t)h, (uint32_t)id, (uint32_t)(id >> 32), j->k0, j->k1, u);
  for (int c = 0; c < 4; c++) m[c * step] = u[c] >= j->threshold ? j->keep : 0.0f;
}

/* Lanes are the queries from q0 on, rows the n keys from j0 on. */
static void drop_lanes_q(const tf_attn_job *j, int64_t b, int64_t h, int64_t q0, int64_t lanes, int64_t j0, int64_t n, float *m) {
  for (int64_t i = 0; i < n; i += 4)
    for (int64_t q = 0; q < NR; q++) {
      if (q < lanes)
        drop_four(j, b, h, q0 + q, j0 + i, m + i * NR + q, NR);
      else
        for (int64_t c = 0; c < 4; c++) m[(i + c) * NR + q] = 0;
    }
}

/* Lanes are the keys from k0 on, rows the n queries from q0 on. */
static void drop_lanes_k(const tf_attn_job *j, int64_t b, int64_t h, int64_t k0, int64_t q0, int64_t n, float *m) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < NR; k += 4) drop_four(j, b, h, q0 + i, k0 + k, m + i * NR + k, 1);
}
#endif

/* One packing task: TF_ATTN_BLOCK rows of one head of x [rows][d]: as panels of TF_MR rows (rowp) and of TF_MR columns (colp). */
static void K(attn_pack_block)(const E *x, int64_t ld, int64_t rows, int64_t r0, int64_t d, float *rowp, float *colp) {
  int64_t n = tf_min(TF_ATTN_BLOCK, rows - r0), len = rows + TF_ATTN_PAD;
  if (rowp) PACK_A(x + r0 * ld, ld, 1, n, d, rowp + r0 * d);
  if (colp)
    for (int64_t c = 0; c < d; c += TF_MR)
      PACK_ROWS(x + r0 * ld + c, 1, ld, tf_min(TF_MR, d - c), n, colp + c * len + r0 * TF_MR);
}

static inline const E *K(head_of)(const tf_tensor *t, int64_t b, int64_t h) {
  return (const E *)tf_addr(t) + b * t->stride[0] + h * t->stride[2];
}

static void K(attn_pack)(void *arg, int64_t task, int thread) {
  const tf_attn_job *j = arg;
  (void)thread;
  int64_t nk = j->b * j->hk * j->kblocks;
  if (task < nk) {
    int64_t blk = task % j->kblocks, bh = task / j->kblocks, b = bh / j->hk, h = bh % j->hk, r0 = blk * TF_ATTN_BLOCK, len = j->tk + TF_ATTN_PAD;
    K(attn_pack_block)(K(head_of)(&j->p->k, b, h), j->p->k.stride[1], j->tk, r0, j->dk, j->ka + bh * len * j->dk,
                    j->kt ? j->kt + bh * len * (j->dk + TF_ATTN_PAD) : NULL);
    K(attn_pack_block)(K(head_of)(&j->p->v, b, h), j->p->v.stride[1], j->tk, r0, j->dv, j->va ? j->va + bh * len * j->dv : NULL,
                    j->vt ? j->vt + bh * len * (j->dv + TF_ATTN_PAD) : NULL);
    return;
  }
  task -= nk;
  int64_t blk = task % j->qblocks, bh = task / j->qblocks, b = bh / j->hq, h = bh % j->hq, r0 = blk * TF_ATTN_BLOCK, len = j->tq + TF_ATTN_PAD;
  K(attn_pack_block)(K(head_of)(&j->p->q, b, h), j->p->q.stride[1], j->tq, r0, j->dk, j->qa + bh * len * j->dk,
                  j->qt + bh * len * (j->dk + TF_ATTN_PAD));
  K(attn_pack_block)(K(head_of)(&j->g->d_o, b, h), j->g->d_o.stride[1], j->tq, r0, j->dv, j->oa + bh * len * j->dv,
                  j->ot + bh * len * (j->dv + TF_ATTN_PAD));
}

/* Writes the transposed panel t [d][NR] times scale per lane as rows of y. */
static void K(write_rows)(const float *t, int64_t d, int64_t lanes, const float *scale, E *y, int64_t ld, int acc) {
  for (int64_t i = 0; i < lanes; i++) {
    E *o = y + i * ld;
    float f = scale ? scale[i] : 1;
    if (acc)
      for (int64_t k = 0; k < d; k++) o[k] = e_set(e_get(o[k]) + t[k * NR + i] * f);
    else
      for (int64_t k = 0; k < d; k++) o[k] = e_set(t[k * NR + i] * f);
  }
}

static void K(attn_fwd)(void *arg, int64_t task, int thread) {
  const tf_attn_job *j = arg;
  int64_t qt = tf_ceil_div(j->tq, TF_ATTN_LANES), bh = task / qt, b = bh / j->hq, h = bh % j->hq, kv = b * j->hk + h / j->group;
  int64_t len = j->tk + TF_ATTN_PAD, dk = j->dk, dv = j->dv;
  const float *ka = j->ka + kv * len * dk, *vt = j->vt + kv * len * (dv + TF_ATTN_PAD);
  float *qp = tf_scratch(j->dev, thread), *s = qp + dk * NR, *o = s + (TF_ATTN_BLOCK + TF_ATTN_PAD) * NR;
  float *keep = o + (dv + TF_ATTN_PAD) * NR;
  const scoring sc = scoring_of(j, b, h);
  int64_t end = tf_min(j->tq, (task % qt + 1) * TF_ATTN_LANES);
  for (int64_t q0 = task % qt * TF_ATTN_LANES; q0 < end; q0 += NR) {
    int64_t n = tf_min(NR, end - q0), qs = j->p->q.stride[1];
    lanes_q w;
    query_lanes(j, b, sc.bias, q0, n, &w);
    PACK_COLS(K(head_of)(&j->p->q, b, h) + q0 * qs, qs, 1, n, dk, qp);
    v16 m[NG], l[NG];
    for (int g = 0; g < NG; g++) {
      m[g] = v_set1(j->sinks ? j->sinks[h] : LOW);
      l[g] = v_set1(j->sinks ? 1.0f : 0.0f);
    }
    int load = 0;
    for (int64_t j0 = w.first / TF_ATTN_BLOCK * TF_ATTN_BLOCK; j0 < w.last; j0 += TF_ATTN_BLOCK) {
      int64_t kn = tf_min(TF_ATTN_BLOCK, w.last - j0);
      int partial = w.all_first > j0 || w.all_last < j0 + kn || j->key_mask;
      panel_product(ka + j0 * dk, kn, dk, qp, s);
      if (j->drop) drop_lanes_q(j, b, h, q0, n, j0, kn, keep);
      for (int g = 0; g < NG; g++) {
        v16 own = v_ld(w.own + 16 * g), mx = m[g];
        for (int64_t i = 0; i < kn; i++) {
          float *si = s + i * NR + 16 * g;
          v16 x = score(&sc, v_ld(si));
          if (sc.bias) x = v_add(x, v_sub(v_set1(sc.bias[j0 + i]), own));
          if (partial) x = masked(x, &w, g, j0 + i, j->key_mask && !j->key_mask[b * j->tk + j0 + i]);
          v_st(si, x);
          mx = v_max(mx, x);
        }
        v16 alpha = v_exp(v_sub(m[g], mx)), sum = v_mul(l[g], alpha);
        for (int64_t i = 0; i < kn; i++) {
          float *si = s + i * NR + 16 * g;
          v16 x = v_ld(si), p = v_exp(v_sub(x, mx));
          if (partial) p = v_sel(v_lt(x, v_set1(0.5f * LOW)), v_zero(), p);
          v_st(si, j->drop ? v_mul(p, v_ld(keep + i * NR + 16 * g)) : p);
          sum = v_add(sum, p);
        }
        if (load)
          for (int64_t d = 0; d < dv; d++) v_st(o + d * NR + 16 * g, v_mul(v_ld(o + d * NR + 16 * g), alpha));
        l[g] = sum;
        m[g] = mx;
      }
      panel_accumulate(vt, len, j0, kn, dv, s, o, load);
      load = 1;
    }
    float inv[NR], lse[NR];
    for (int g = 0; g < NG; g++) {
      m16 some = v_lt(v_zero(), l[g]);
      v16 safe = v_sel(some, l[g], v_set1(1.0f));
      v_st(inv + 16 * g, v_sel(some, v_div(v_set1(1.0f), safe), v_zero()));
      v_st(lse + 16 * g, v_sel(v_lt(l[g], v_set1(1e-37f)), v_set1(-__builtin_inff()), v_add(m[g], v_log(safe))));
    }
    const tf_tensor *y = &j->p->o;
    E *out = (E *)K(head_of)(y, b, h) + q0 * y->stride[1];
    if (!load)
      for (int64_t d = 0; d < dv * NR; d++) o[d] = 0;
    K(write_rows)(o, dv, n, inv, out, y->stride[1], 0);
    if (j->lse)
      for (int64_t i = 0; i < n; i++) j->lse[bh * j->tq + q0 + i] = lse[i];
  }
}

/* One (sequence, head): delta = the dot products of dO and O, and the head's share of the sinks' gradient. */
static void K(attn_bwd_prep)(void *arg, int64_t task, int thread) {
  const tf_attn_job *j = arg;
  (void)thread;
  int64_t b = task / j->hq, h = task % j->hq;
  const tf_tensor *to = &j->p->o, *td = &j->g->d_o;
  float *delta = j->delta + task * j->tq;
  for (int64_t i = 0; i < j->tq; i++) {
    const E *o = K(head_of)(to, b, h) + i * to->stride[1], *e = K(head_of)(td, b, h) + i * td->stride[1];
    v16 s = v_zero();
    for (int64_t d = 0; d < j->dv; d += 16) s = v_fma(e_ldn(o + d, j->dv - d), e_ldn(e + d, j->dv - d), s);
    delta[i] = v_hsum(s);
  }
  if (!j->sinks) return;
  v16 sum = v_zero(), sink = v_set1(j->sinks[h]);
  for (int64_t i = 0; i < j->tq; i += 16) {
    v16 p = v_exp(v_sub(sink, v_ldn(j->lse + task * j->tq + i, j->tq - i)));
    sum = v_fma(p, v_ldn(delta + i, j->tq - i), sum);
  }
  j->sink_part[task] = -v_hsum(sum);
}

/* dK and dV of TF_ATTN_LANES keys of one (sequence, kv head): lanes are keys, rows are queries. */
static void K(attn_bwd_kv)(void *arg, int64_t task, int thread) {
  const tf_attn_job *j = arg;
  int64_t kt = tf_ceil_div(j->tk, TF_ATTN_LANES), bk = task / kt, b = bk / j->hk, hk = bk % j->hk;
  int64_t dk = j->dk, dv = j->dv, len = j->tq + TF_ATTN_PAD;
  float *kp = tf_scratch(j->dev, thread), *vp = kp + dk * NR, *s = vp + dv * NR, *e = s + (TF_ATTN_BLOCK + TF_ATTN_PAD) * NR;
  float *gk = e + (TF_ATTN_BLOCK + TF_ATTN_PAD) * NR, *gv = gk + (dk + TF_ATTN_PAD) * NR, *keep = gv + (dv + TF_ATTN_PAD) * NR;
  int64_t end = tf_min(j->tk, (task % kt + 1) * TF_ATTN_LANES);
  for (int64_t k0 = task % kt * TF_ATTN_LANES; k0 < end; k0 += NR) {
    int64_t n = tf_min(NR, end - k0), ks = j->p->k.stride[1], vs = j->p->v.stride[1];
    float key[NR], see[NR];
    for (int64_t i = 0; i < NR; i++) {
      key[i] = (float)(k0 + i);
      see[i] = i < n && !(j->key_mask && !j->key_mask[b * j->tk + k0 + i]) ? 1.0f : 0.0f;
    }
    PACK_COLS(K(head_of)(&j->p->k, b, hk) + k0 * ks, ks, 1, n, dk, kp);
    PACK_COLS(K(head_of)(&j->p->v, b, hk) + k0 * vs, vs, 1, n, dv, vp);
    int load = 0;
    for (int64_t h = hk * j->group; h < (hk + 1) * j->group; h++) {
      int64_t bh = b * j->hq + h;
      const float *qa = j->qa + bh * len * dk, *oa = j->oa + bh * len * dv;
      const float *qt = j->qt + bh * len * (dk + TF_ATTN_PAD), *ot = j->ot + bh * len * (dv + TF_ATTN_PAD);
      const float *lse = j->lse + bh * j->tq, *delta = j->delta + bh * j->tq;
      const int32_t *lo = j->lo + b * j->tq, *hi = j->hi + b * j->tq;
      const scoring sc = scoring_of(j, b, h);
      for (int64_t q0 = 0; q0 < j->tq; q0 += TF_ATTN_BLOCK) {
        /* Queries of the block that see any of the keys. */
        int64_t first = tf_min(q0 + TF_ATTN_BLOCK, j->tq), last = q0;
        for (int64_t q = q0; q < tf_min(q0 + TF_ATTN_BLOCK, j->tq); q++)
          if (lo[q] < k0 + n && hi[q] > k0) {
            first = tf_min(first, q);
            last = q + 1;
          }
        if (first >= last) continue;
        first = q0 + (first - q0) / TF_MR * TF_MR;
        int64_t rows = last - first;
        panel_product(qa + first * dk, rows, dk, kp, s);
        panel_product(oa + first * dv, rows, dv, vp, e);
        if (j->drop) drop_lanes_k(j, b, h, k0, first, rows, keep);
        for (int64_t i = 0; i < rows; i++) {
          int64_t q = first + i;
          int whole = lo[q] <= k0 && hi[q] >= k0 + n;
          v16 ls = v_set1(lse[q]), de = v_set1(delta[q]), own = v_set1(sc.bias ? tf_attn_own(j, sc.bias, b, q) : 0);
          for (int g = 0; g < NG; g++) {
            float *si = s + i * NR + 16 * g, *ei = e + i * NR + 16 * g;
            v16 kv = v_ld(key + 16 * g), x = score(&sc, v_ld(si)), y = x;
            if (sc.bias) y = v_add(x, v_sub(v_ldn(sc.bias + k0 + 16 * g, tf_max(0, n - 16 * g)), own));
            v16 p = v_exp(v_sub(y, ls));
            if (!whole || j->key_mask) {
              m16 vis = v_and(v_lt(v_set1((float)lo[q] - 0.5f), kv), v_lt(kv, v_set1((float)hi[q] - 0.5f)));
              p = v_sel(v_and(vis, v_lt(v_zero(), v_ld(see + 16 * g))), p, v_zero());
            }
            v16 dp = v_ld(ei);
            v_st(si, p);
            if (j->drop) {
              v16 f = v_ld(keep + i * NR + 16 * g);
              dp = v_mul(dp, f);
              v_st(si, v_mul(p, f));
            }
            v_st(ei, v_mul(v_mul(p, cap_grad(&sc, v_sub(dp, de), x)), sc.scale));
          }
        }
        panel_accumulate(ot, len, first, rows, dv, s, gv, load);
        panel_accumulate(qt, len, first, rows, dk, e, gk, load);
        load = 1;
      }
    }
    if (!load) {
      for (int64_t i = 0; i < dk * NR; i++) gk[i] = 0;
      for (int64_t i = 0; i < dv * NR; i++) gv[i] = 0;
    }
    const tf_tensor *tk = &j->g->dk, *tv = &j->g->dv;
    if (tf_has(tk)) K(write_rows)(gk, dk, n, NULL, (E *)K(head_of)(tk, b, hk) + k0 * tk->stride[1], tk->stride[1], j->g->dk_accumulate);
    if (tf_has(tv)) K(write_rows)(gv, dv, n, NULL, (E *)K(head_of)(tv, b, hk) + k0 * tv->stride[1], tv->stride[1], j->g->dv_accumulate);
  }
}

/* dQ of TF_ATTN_LANES queries of one (sequence, head): lanes are queries, rows are keys. */
static void K(attn_bwd_q)(void *arg, int64_t task, int thread) {
  const tf_attn_job *j = arg;
  int64_t qt = tf_ceil_div(j->tq, TF_ATTN_LANES), bh = task / qt, b = bh / j->hq, h = bh % j->hq, kv = b * j->hk + h / j->group;
  int64_t len = j->tk + TF_ATTN_PAD, dk = j->dk, dv = j->dv;
  const float *ka = j->ka + kv * len * dk, *va = j->va + kv * len * dv, *kt = j->kt + kv * len * (dk + TF_ATTN_PAD);
  float *qp = tf_scratch(j->dev, thread), *op = qp + dk * NR, *s = op + dv * NR, *e = s + (TF_ATTN_BLOCK + TF_ATTN_PAD) * NR;
  float *gq = e + (TF_ATTN_BLOCK + TF_ATTN_PAD) * NR, *keep = gq + (dk + TF_ATTN_PAD) * NR;
  const scoring sc = scoring_of(j, b, h);
  int64_t end = tf_min(j->tq, (task % qt + 1) * TF_ATTN_LANES);
  for (int64_t q0 = task % qt * TF_ATTN_LANES; q0 < end; q0 += NR) {
    int64_t n = tf_min(NR, end - q0), qs = j->p->q.stride[1], os = j->g->d_o.stride[1];
    lanes_q w;
    query_lanes(j, b, sc.bias, q0, n, &w);
    PACK_COLS(K(head_of)(&j->p->q, b, h) + q0 * qs, qs, 1, n, dk, qp);
    PACK_COLS(K(head_of)(&j->g->d_o, b, h) + q0 * os, os, 1, n, dv, op);
    int load = 0;
    for (int64_t j0 = w.first / TF_ATTN_BLOCK * TF_ATTN_BLOCK; j0 < w.last; j0 += TF_ATTN_BLOCK) {
      int64_t kn = tf_min(TF_ATTN_BLOCK, w.last - j0);
      int partial = w.all_first > j0 || w.all_last < j0 + kn || j->key_mask;
      panel_product(ka + j0 * dk, kn, dk, qp, s);
      panel_product(va + j0 * dv, kn, dv, op, e);
      if (j->drop) drop_lanes_q(j, b, h, q0, n, j0, kn, keep);
      for (int g = 0; g < NG; g++) {
        v16 own = v_ld(w.own + 16 * g), ls = v_ldn(j->lse + bh * j->tq + q0 + 16 * g, tf_max(0, n - 16 * g));
        v16 de = v_ldn(j->delta + bh * j->tq + q0 + 16 * g, tf_max(0, n - 16 * g));
        for (int64_t i = 0; i < kn; i++) {
          float *si = s + i * NR + 16 * g, *ei = e + i * NR + 16 * g;
          v16 x = score(&sc, v_ld(si)), y = x;
          if (sc.bias) y = v_add(x, v_sub(v_set1(sc.bias[j0 + i]), own));
          v16 p = v_exp(v_sub(y, ls));
          if (partial) {
            y = masked(y, &w, g, j0 + i, j->key_mask && !j->key_mask[b * j->tk + j0 + i]);
            p = v_sel(v_lt(y, v_set1(0.5f * LOW)), v_zero(), p);
          }
          v16 dp = v_ld(ei);
          if (j->drop) dp = v_mul(dp, v_ld(keep + i * NR + 16 * g));
          v_st(ei, v_mul(v_mul(p, cap_grad(&sc, v_sub(dp, de), x)), sc.scale));
        }
      }
      panel_accumulate(kt, len, j0, kn, dk, e, gq, load);
      load = 1;
    }
    if (!load)
      for (int64_t i = 0; i < dk * NR; i++) gq[i] = 0;
    const tf_tensor *t = &j->g->dq;
    K(write_rows)(gq, dk, n, NULL, (E *)K(head_of)(t, b, h) + q0 * t->stride[1], t->stride[1], j->g->dq_accumulate);
  }
}
