/* Mixture of experts: the clamped gated unit and combination, once for f32, bf16 and f16 each as cpu_t_rows.h; routing and load balancing. */

/* 16 gates and ups of column i on; n of them are there. */
V1 void K(glu_pair)(const E *x, int64_t i, int64_t n, int64_t f, int interleaved, v16 *g, v16 *u) {
  if (!interleaved) {
    *g = e_ldn(x + i, n);
    *u = e_ldn(x + f + i, n);
    return;
  }
  float a[16] = {0}, b[16] = {0};
  for (int64_t c = 0; c < n && c < 16; c++) {
    a[c] = e_get(x[2 * (i + c)]);
    b[c] = e_get(x[2 * (i + c) + 1]);
  }
  *g = v_ld(a);
  *u = v_ld(b);
}

/* a = x, y; alpha, beta = limit, mode = interleaved. */
static void K(glu_clamped_fwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  v16 al = v_set1(j->alpha), hi = v_set1(j->beta), lo = v_set1(-j->beta), one = v_set1(1.0f);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r);
    E *y = E_ROW(&j->y, r);
    for (int64_t i = 0, f = j->y.d; i < f; i += 16) {
      v16 g, u;
      K(glu_pair)(x, i, f - i, f, j->mode, &g, &u);
      g = v_min(hi, g);
      u = v_min(hi, v_max(lo, u));
      e_stn(y + i, v_mul(v_add(u, one), v_mul(g, v_sigmoid(v_mul(al, g)))), f - i);
    }
  }
}

/* a = x, b = dy, y = dx. */
static void K(glu_clamped_bwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  v16 al = v_set1(j->alpha), hi = v_set1(j->beta), lo = v_set1(-j->beta), one = v_set1(1.0f), zero = v_zero();
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r), *dy = E_ROW(&j->b, r);
    E *dx = E_ROW(&j->y, r);
    for (int64_t i = 0, f = j->b.d; i < f; i += 16) {
      int64_t n = f - i;
      v16 g0, u0, e = e_ldn(dy + i, n);
      K(glu_pair)(x, i, n, f, j->mode, &g0, &u0);
      v16 g = v_min(hi, g0), u = v_min(hi, v_max(lo, u0)), s = v_sigmoid(v_mul(al, g));
      /* d(g s)/dg = s * (1 + alpha * g * (1 - s)) */
      v16 dg = v_mul(v_mul(e, v_add(u, one)), v_mul(s, v_fma(v_mul(al, g), v_sub(one, s), one)));
      v16 du = v_mul(e, v_mul(g, s));
      dg = v_sel(v_lt(hi, g0), zero, dg);
      du = v_sel(v_lt(hi, u0), zero, v_sel(v_lt(u0, lo), zero, du));
      if (!j->mode) {
        if (j->acc) {
          dg = v_add(e_ldn(dx + i, n), dg);
          du = v_add(e_ldn(dx + f + i, n), du);
        }
        e_stn(dx + i, dg, n);
        e_stn(dx + f + i, du, n);
        continue;
      }
      float a[16], b[16];
      v_st(a, dg);
      v_st(b, du);
      for (int64_t c = 0; c < n && c < 16; c++) {
        dx[2 * (i + c)] = e_set(j->acc ? e_get(dx[2 * (i + c)]) + a[c] : a[c]);
        dx[2 * (i + c) + 1] = e_set(j->acc ? e_get(dx[2 * (i + c) + 1]) + b[c] : b[c]);
      }
    }
  }
}

/* --- combination --- */

static void K(moe_combine_fwd)(void *arg, int64_t task, int thread) {
  const tf_combine_job *j = arg;
  (void)thread;
  for (int64_t t = task * j->block; t < j->y.rows && t < (task + 1) * j->block; t++) {
    E *y = E_ROW(&j->y, t);
    for (int64_t i = 0, d = j->y.d; i < d; i += 16) {
      v16 s = j->acc ? e_ldn(y + i, d - i) : v_zero();
      for (int64_t c = 0; c < j->k; c++) {
        v16 x = e_ldn(E_ROW(&j->x, j->place ? j->place[t * j->k + c] : t) + i, d - i);
        s = j->weights ? v_fma(v_set1(j->weights[t * j->k + c]), x, s) : v_add(s, x);
      }
      e_stn(y + i, s, d - i);
    }
  }
}

static void K(moe_combine_bwd)(void *arg, int64_t task, int thread) {
  const tf_combine_job *j = arg;
  (void)thread;
  int64_t d = j->dy.d;
  for (int64_t t = task * j->block; t < j->dy.rows && t < (task + 1) * j->block; t++) {
    const E *dy = E_ROW(&j->dy, t);
    for (int64_t c = 0; c < j->k; c++) {
      int64_t slot = t * j->k + c, row = j->place ? j->place[slot] : t;
      if (j->dweights) {
        const E *x = E_ROW(&j->x, row);
        v16 s = v_zero();
        for (int64_t i = 0; i < d; i += 16) s = v_fma(e_ldn(dy + i, d - i), e_ldn(x + i, d - i), s);
        float v = v_hsum(s);
        j->dweights[slot] = j->acc2 ? j->dweights[slot] + v : v;
      }
      if (!j->dx.p) continue;
      E *dx = E_ROW(&j->dx, row);
      v16 w = v_set1(j->weights ? j->weights[slot] : 1);
      for (int64_t i = 0; i < d; i += 16) {
        v16 g = v_mul(w, e_ldn(dy + i, d - i));
        if (j->acc) g = v_add(e_ldn(dx + i, d - i), g);
        e_stn(dx + i, g, d - i);
      }
    }
  }
}

#ifndef E_HALF
/* --- routing --- */

/* p = softmax of x [e]. */
V1 void softmax_row(const float *x, float *p, int64_t e) {
  v16 low = v_set1(-__builtin_inff()), mx = low, s = v_zero();
  for (int64_t i = 0; i < e; i += 16) {
    v16 a = v_ldn(x + i, e - i);
    if (e - i < 16) a = v_sel(v_lt(v_lane(), v_set1((float)(e - i))), a, low);
    mx = v_max(mx, a);
  }
  v16 m = v_set1(v_hmax(mx));
  for (int64_t i = 0; i < e; i += 16) {
    v16 a = v_exp(v_sub(v_ldn(x + i, e - i), m));
    if (e - i < 16) a = v_sel(v_lt(v_lane(), v_set1((float)(e - i))), a, v_zero());
    s = v_add(s, a);
    v_stn(p + i, a, e - i);
  }
  v16 r = v_set1(v_hsum(s));
  for (int64_t i = 0; i < e; i += 16) v_stn(p + i, v_div(v_ldn(p + i, e - i), r), e - i);
}

/* The k greatest of x [e], greatest first, equal ones by lower index. */
V1 void choose(const float *x, int64_t e, int64_t k, int32_t *ids) {
  int64_t have = 0;
  for (int64_t i = 0; i < e; i++) {
    if (have == k && !(x[i] > x[ids[have - 1]])) continue;
    int64_t at = have < k ? have++ : have - 1;
    for (; at > 0 && x[i] > x[ids[at - 1]]; at--) ids[at] = ids[at - 1];
    ids[at] = (int32_t)i;
  }
}

/* Clears the choices of all but the best groups. */
static void limit_groups(const tf_moe_route_fwd *p, float *choice, int64_t e) {
  int64_t per = e / p->groups;
  float sums[TF_MOE_GROUPS];
  int32_t best[TF_MOE_GROUPS];
  for (int64_t g = 0; g < p->groups; g++) {
    int32_t top[2];
    choose(choice + g * per, per, p->group_top, top);
    sums[g] = choice[g * per + top[0]];
    if (p->group_top == 2) sums[g] += choice[g * per + top[1]];
  }
  choose(sums, p->groups, p->topk_groups, best);
  for (int64_t g = 0; g < p->groups; g++) {
    int keep = 0;
    for (int64_t i = 0; i < p->topk_groups; i++) keep |= best[i] == g;
    if (!keep)
      for (int64_t i = 0; i < per; i++) choice[g * per + i] = 0;
  }
}

static void k_moe_route_fwd(void *arg, int64_t task, int thread) {
  const tf_route_job *j = arg;
  const tf_moe_route_fwd *p = j->f;
  (void)thread;
  int64_t e = j->e, k = j->k;
  float choice[TF_MOE_EXPERTS];
  for (int64_t r = task * j->block; r < j->n && r < (task + 1) * j->block; r++) {
    const float *x = tf_row(&j->x, r);
    float *s = j->scores + r * e, *w = j->weights + r * k;
    int32_t *ids = j->ids + r * k;
    if (p->score == TF_ROUTE_SOFTMAX)
      softmax_row(x, s, e);
    else if (p->score == TF_ROUTE_SIGMOID)
      for (int64_t i = 0; i < e; i += 16) v_stn(s + i, v_sigmoid(v_ldn(x + i, e - i)), e - i);
    const float *from = p->score == TF_ROUTE_SOFTMAX_TOPK ? x : s;
    for (int64_t i = 0; i < e; i++) choice[i] = j->bias ? from[i] + j->bias[i] : from[i];
    if (p->groups > 1) limit_groups(p, choice, e);
    choose(choice, e, k, ids);
    if (p->score == TF_ROUTE_SOFTMAX_TOPK) {
      for (int64_t i = 0; i < k; i++) w[i] = x[ids[i]];
      softmax_row(w, w, k);
      for (int64_t i = 0; i < e; i++) s[i] = 0;
      for (int64_t i = 0; i < k; i++) s[ids[i]] = w[i];
    }
    float sum = 0;
    for (int64_t i = 0; i < k; i++) {
      w[i] = s[ids[i]];
      sum += w[i];
    }
    float den = sum + p->norm_eps;
    if (den < p->norm_min) den = p->norm_min;
    for (int64_t i = 0; i < k; i++) w[i] = (p->normalize ? w[i] / den : w[i]) * j->scale;
  }
}

static void k_moe_route_bwd(void *arg, int64_t task, int thread) {
  const tf_route_job *j = arg;
  const tf_moe_route_bwd *p = j->g;
  (void)thread;
  int64_t e = j->e, k = j->k;
  float ds[TF_MOE_EXPERTS];
  for (int64_t r = task * j->block; r < j->n && r < (task + 1) * j->block; r++) {
    const float *s = j->scores + r * e;
    const int32_t *ids = j->ids + r * k;
    for (int64_t i = 0; i < e; i++) ds[i] = j->dscores ? j->dscores[r * e + i] : 0;
    if (j->dweights) {
      const float *dw = j->dweights + r * k;
      float sum = 0, dot = 0;
      for (int64_t i = 0; i < k; i++) {
        sum += s[ids[i]];
        dot += dw[i] * s[ids[i]];
      }
      float den = sum + p->norm_eps, through = 1;
      if (den < p->norm_min) {
        den = p->norm_min;
        through = 0;
      }
      /* w = scale * s / den, den = sum of s. */
      for (int64_t i = 0; i < k; i++) ds[ids[i]] += p->normalize ? (dw[i] - through * (dot / den)) / den * j->scale : dw[i] * j->scale;
    }
    float *dx = tf_row(&j->y, r);
    v16 dot = v_zero();
    if (p->score != TF_ROUTE_SIGMOID) {
      /* The scores that were not chosen are 0 with SOFTMAX_TOPK, so one formula serves both. */
      for (int64_t i = 0; i < e; i += 16) dot = v_fma(v_ldn(s + i, e - i), v_ldn(ds + i, e - i), dot);
      dot = v_set1(v_hsum(dot));
    }
    for (int64_t i = 0; i < e; i += 16) {
      int64_t n = e - i;
      v16 sv = v_ldn(s + i, n), d = v_ldn(ds + i, n);
      v16 g = p->score == TF_ROUTE_SIGMOID ? v_mul(v_mul(d, sv), v_sub(v_set1(1.0f), sv)) : v_mul(sv, v_sub(d, dot));
      if (j->acc) g = v_add(v_ldn(dx + i, n), g);
      v_stn(dx + i, g, n);
    }
  }
}

/* --- load balancing --- */

static void k_moe_aux_fwd(void *arg, int64_t task, int thread) {
  const tf_route_job *j = arg;
  (void)thread;
  int64_t e = j->e;
  double *count = j->partial + task * 2 * e, *prob = count + e;
  float p[TF_MOE_EXPERTS];
  int32_t ids[TF_MOE_EXPERTS];
  for (int64_t i = 0; i < 2 * e; i++) count[i] = 0;
  for (int64_t r = task * j->block; r < j->n && r < (task + 1) * j->block; r++) {
    if (j->mask && !j->mask[r]) continue;
    softmax_row(tf_row(&j->x, r), p, e);
    choose(p, e, j->k, ids);
    for (int64_t i = 0; i < j->k; i++) count[ids[i]] += 1;
    for (int64_t i = 0; i < e; i++) prob[i] += (double)p[i];
  }
}

static void k_moe_aux_bwd(void *arg, int64_t task, int thread) {
  const tf_route_job *j = arg;
  (void)thread;
  int64_t e = j->e;
  float p[TF_MOE_EXPERTS], dp[TF_MOE_EXPERTS];
  for (int64_t i = 0; i < e; i++) dp[i] = (float)(j->dscale * j->counts[i]);
  for (int64_t r = task * j->block; r < j->n && r < (task + 1) * j->block; r++) {
    float *dx = tf_row(&j->y, r);
    if (j->mask && !j->mask[r]) {
      if (!j->acc)
        for (int64_t i = 0; i < e; i++) dx[i] = 0;
      continue;
    }
    softmax_row(tf_row(&j->x, r), p, e);
    v16 dot = v_zero();
    for (int64_t i = 0; i < e; i += 16) dot = v_fma(v_ldn(p + i, e - i), v_ldn(dp + i, e - i), dot);
    dot = v_set1(v_hsum(dot));
    for (int64_t i = 0; i < e; i += 16) {
      v16 g = v_mul(v_ldn(p + i, e - i), v_sub(v_ldn(dp + i, e - i), dot));
      if (j->acc) g = v_add(v_ldn(dx + i, e - i), g);
      v_stn(dx + i, g, e - i);
    }
  }
}
#endif
