/* Elementwise operations and normalizations over rows; one task is a block of rows, or of a long row's elements. Included once for f32,
 * for bf16 and for f16: E is the element type, e_ldn and e_stn load and store it, K(name) is the function's name. Sums are in f32, and so are
 * weights, statistics and gradients of weights. */

#ifndef ROW_TASK
#define ROW_TASK(j)                                 \
  int64_t r0 = task * (j)->block, r1 = r0 + (j)->block; \
  (void)thread
#endif

/* Where the operands are one stretch, rows are cut into pieces of job->d elements by the caller. */
static void K(add)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  v16 al = v_set1(j->alpha), be = v_set1(j->beta);
  for (int64_t r = r0; r < r1; r++) {
    const E *a = E_ROW(&j->a, r), *b = j->b.p ? E_ROW(&j->b, r) : NULL;
    E *y = E_ROW(&j->y, r);
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) {
      int64_t n = d - i;
      v16 t = v_mul(al, e_ldn(a + i, n));
      if (b) t = v_fma(be, e_ldn(b + i, n), t);
      if (j->acc) t = v_add(e_ldn(y + i, n), t);
      e_stn(y + i, t, n);
    }
  }
}

static void K(mul)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  for (int64_t r = r0; r < r1; r++) {
    const E *a = E_ROW(&j->a, r), *b = j->w ? NULL : E_ROW(&j->b, r);
    E *y = E_ROW(&j->y, r);
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) {
      int64_t n = d - i;
      v16 t = v_mul(e_ldn(a + i, n), b ? e_ldn(b + i, n) : v_ldn(j->w + i, n));
      if (j->acc) t = v_add(e_ldn(y + i, n), t);
      e_stn(y + i, t, n);
    }
  }
}

/* alpha = lower limit, beta = upper. */
static void K(clamp_fwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  v16 lo = v_set1(j->alpha), hi = v_set1(j->beta);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r);
    E *y = E_ROW(&j->y, r);
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) e_stn(y + i, v_min(hi, v_max(lo, e_ldn(x + i, d - i))), d - i);
  }
}

static void K(clamp_bwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  v16 lo = v_set1(j->alpha), hi = v_set1(j->beta);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r), *dy = E_ROW(&j->b, r);
    E *dx = E_ROW(&j->y, r);
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) {
      int64_t n = d - i;
      v16 v = e_ldn(x + i, n), g = v_sel(v_lt(v, lo), v_zero(), v_sel(v_lt(hi, v), v_zero(), e_ldn(dy + i, n)));
      if (j->acc) g = v_add(e_ldn(dx + i, n), g);
      e_stn(dx + i, g, n);
    }
  }
}

#ifndef ACT_SWITCH
/* act(x), and its derivative in *g. */
V1 v16 act(int kind, v16 x, v16 *g) {
  v16 one = v_set1(1.0f), half = v_set1(0.5f), zero = v_zero();
  switch (kind) {
    case TF_ACT_SILU: {
      v16 s = v_sigmoid(x), y = v_mul(x, s);
      /* s * (1 + x * (1 - s)) */
      *g = v_mul(s, v_fma(x, v_sub(one, s), one));
      return y;
    }
    case TF_ACT_GELU_TANH: {
      v16 k = v_set1(0.79788456080286536f), c = v_set1(0.044715f);
      v16 x2 = v_mul(x, x);
      v16 t = v_tanh(v_mul(k, v_fma(v_mul(c, x2), x, x)));
      v16 h = v_fma(half, t, half);
      v16 du = v_mul(k, v_fma(v_set1(3.0f * 0.044715f), x2, one));
      *g = v_fma(v_mul(v_mul(half, x), v_fma(v_neg(t), t, one)), du, h);
      return v_mul(x, h);
    }
    case TF_ACT_GELU_ERF: {
      v16 h = v_fma(half, v_erf(v_mul(x, v_set1(0.70710678118654752f))), half);
      v16 pdf = v_mul(v_set1(0.39894228040143268f), v_exp(v_mul(v_mul(x, x), v_set1(-0.5f))));
      *g = v_fma(x, pdf, h);
      return v_mul(x, h);
    }
    case TF_ACT_RELU:
      *g = v_sel(v_lt(zero, x), one, zero);
      return v_max(zero, x);
    case TF_ACT_RELU2: {
      v16 y = v_max(zero, x);
      *g = v_add(y, y);
      return v_mul(y, y);
    }
    default: {
      v16 t = v_tanh(x);
      *g = v_fma(v_neg(t), t, one);
      return t;
    }
  }
}

#define ACT_LOOP(kind)                                             \
  case kind:                                                       \
    for (int64_t r = r0; r < r1; r++) ACT_BODY(kind);              \
    break;
#define ACT_SWITCH                                                                                      \
  switch (j->act) {                                                                                     \
    ACT_LOOP(TF_ACT_SILU) ACT_LOOP(TF_ACT_GELU_TANH) ACT_LOOP(TF_ACT_GELU_ERF) ACT_LOOP(TF_ACT_RELU)    \
    ACT_LOOP(TF_ACT_RELU2) ACT_LOOP(TF_ACT_TANH)                                                        \
  }
#endif

static void K(act_fwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
#define ACT_BODY(kind)                                                 \
  {                                                                    \
    const E *x = E_ROW(&j->a, r);                                 \
    E *y = E_ROW(&j->y, r);                                       \
    v16 g;                                                             \
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) e_stn(y + i, act(kind, e_ldn(x + i, d - i), &g), d - i); \
  }
  ACT_SWITCH
#undef ACT_BODY
}

static void K(act_bwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
#define ACT_BODY(kind)                                                   \
  {                                                                      \
    const E *x = E_ROW(&j->a, r), *dy = E_ROW(&j->b, r);           \
    E *dx = E_ROW(&j->y, r);                                        \
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) {                    \
      v16 g;                                                             \
      act(kind, e_ldn(x + i, d - i), &g);                                \
      g = v_mul(g, e_ldn(dy + i, d - i));                                \
      if (j->acc) g = v_add(e_ldn(dx + i, d - i), g);                    \
      e_stn(dx + i, g, d - i);                                           \
    }                                                                    \
  }
  ACT_SWITCH
#undef ACT_BODY
}

static void K(glu_fwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
#define ACT_BODY(kind)                                                              \
  {                                                                                 \
    const E *g = E_ROW(&j->a, r), *u = E_ROW(&j->b, r);                       \
    E *y = E_ROW(&j->y, r);                                                    \
    v16 dg;                                                                         \
    for (int64_t i = 0, d = j->a.d; i < d; i += 16)                                 \
      e_stn(y + i, v_mul(act(kind, e_ldn(g + i, d - i), &dg), e_ldn(u + i, d - i)), d - i); \
  }
  ACT_SWITCH
#undef ACT_BODY
}

static void K(glu_bwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
#define ACT_BODY(kind)                                                                               \
  {                                                                                                  \
    const E *g = E_ROW(&j->a, r), *u = E_ROW(&j->b, r), *dy = E_ROW(&j->c, r);                \
    E *dg = E_ROW(&j->y, r), *du = E_ROW(&j->z, r);                                            \
    for (int64_t i = 0, d = j->a.d; i < d; i += 16) {                                                \
      int64_t n = d - i;                                                                             \
      v16 deriv, up = e_ldn(u + i, n), e = e_ldn(dy + i, n);                                         \
      v16 y = v_mul(act(kind, e_ldn(g + i, n), &deriv), e);                                          \
      v16 x = v_mul(v_mul(deriv, up), e);                                                            \
      if (j->acc) x = v_add(e_ldn(dg + i, n), x);                                                    \
      if (j->acc2) y = v_add(e_ldn(du + i, n), y);                                                   \
      e_stn(dg + i, x, n);                                                                           \
      e_stn(du + i, y, n);                                                                           \
    }                                                                                                \
  }
  ACT_SWITCH
#undef ACT_BODY
}

/* a = x, b = res, z = sum, w, y; u = rstd, v = mean (layer norm), alpha unused. */
static void K(rmsnorm_fwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  int64_t d = j->a.d;
  v16 off = v_set1(j->off);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r);
    v16 ss = v_zero();
    if (j->b.p) {
      const E *res = E_ROW(&j->b, r);
      E *s = E_ROW(&j->z, r);
      for (int64_t i = 0; i < d; i += 16) {
        v16 t = v_add(e_ldn(x + i, d - i), e_ldn(res + i, d - i));
        e_stn(s + i, t, d - i);
        ss = v_fma(t, t, ss);
      }
      x = s;
    } else {
      for (int64_t i = 0; i < d; i += 16) {
        v16 t = e_ldn(x + i, d - i);
        ss = v_fma(t, t, ss);
      }
    }
    float rs = 1.0f / __builtin_sqrtf(v_hsum(ss) / (float)d + j->eps);
    if (j->u) j->u[r] = rs;
    v16 rv = v_set1(rs);
    E *y = E_ROW(&j->y, r);
    for (int64_t i = 0; i < d; i += 16) {
      v16 t = v_mul(e_ldn(x + i, d - i), rv);
      if (j->w) t = v_mul(t, v_add(v_ldn(j->w + i, d - i), off));
      e_stn(y + i, t, d - i);
    }
  }
}

/* a = x, b = dy, c = dsum, y = dx (optional), u = rstd, v = partial sums of dw by task (optional). */
static void K(rmsnorm_bwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  int64_t d = j->a.d;
  float *dw = j->v ? j->v + task * d : NULL;
  if (dw)
    for (int64_t i = 0; i < d; i += 16) v_stn(dw + i, v_zero(), d - i);
  v16 off = v_set1(j->off);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r), *dy = E_ROW(&j->b, r), *ds = j->c.p ? E_ROW(&j->c, r) : NULL;
    float rs = j->u[r];
    v16 rv = v_set1(rs), dot = v_zero();
    for (int64_t i = 0; i < d; i += 16) {
      v16 xv = e_ldn(x + i, d - i), e = e_ldn(dy + i, d - i);
      if (dw) v_stn(dw + i, v_fma(v_mul(xv, rv), e, v_ldn(dw + i, d - i)), d - i);
      if (j->w) e = v_mul(e, v_add(v_ldn(j->w + i, d - i), off));
      dot = v_fma(e, xv, dot);
    }
    if (!j->y.p) continue;
    E *dx = E_ROW(&j->y, r);
    v16 k = v_set1(-(v_hsum(dot) / (float)d * rs * rs * rs));
    for (int64_t i = 0; i < d; i += 16) {
      v16 e = e_ldn(dy + i, d - i);
      if (j->w) e = v_mul(e, v_add(v_ldn(j->w + i, d - i), off));
      v16 t = v_fma(k, e_ldn(x + i, d - i), v_mul(e, rv));
      if (ds) t = v_add(e_ldn(ds + i, d - i), t);
      if (j->acc) t = v_add(e_ldn(dx + i, d - i), t);
      e_stn(dx + i, t, d - i);
    }
  }
}

/* As rmsnorm_fwd; v = mean, c.p = bias row. */
static void K(layernorm_fwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  int64_t d = j->a.d;
  v16 off = v_set1(j->off);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r);
    v16 s = v_zero();
    if (j->b.p) {
      const E *res = E_ROW(&j->b, r);
      E *sum = E_ROW(&j->z, r);
      for (int64_t i = 0; i < d; i += 16) {
        v16 t = v_add(e_ldn(x + i, d - i), e_ldn(res + i, d - i));
        e_stn(sum + i, t, d - i);
        s = v_add(s, t);
      }
      x = sum;
    } else {
      for (int64_t i = 0; i < d; i += 16) s = v_add(s, e_ldn(x + i, d - i));
    }
    float mean = v_hsum(s) / (float)d;
    v16 mv = v_set1(mean), ss = v_zero();
    for (int64_t i = 0; i < d; i += 16) {
      v16 t = v_sub(e_ldn(x + i, d - i), mv);
      if (d - i < 16) t = v_sel(v_lt(v_lane(), v_set1((float)(d - i))), t, v_zero());
      ss = v_fma(t, t, ss);
    }
    float rs = 1.0f / __builtin_sqrtf(v_hsum(ss) / (float)d + j->eps);
    if (j->u) j->u[r] = rs;
    if (j->v) j->v[r] = mean;
    v16 rv = v_set1(rs);
    E *y = E_ROW(&j->y, r);
    for (int64_t i = 0; i < d; i += 16) {
      v16 t = v_mul(v_sub(e_ldn(x + i, d - i), mv), rv);
      if (j->w) t = v_mul(t, v_add(v_ldn(j->w + i, d - i), off));
      if (j->c.p) t = v_add(t, v_ldn(j->c.p + i, d - i));
      e_stn(y + i, t, d - i);
    }
  }
}

/* a = x, b = dy, c = dsum, y = dx, u = rstd, z.p = mean, v = partials by task: dw [d] then db [d]. */
static void K(layernorm_bwd)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  int64_t d = j->a.d;
  float *dw = j->v + task * 2 * d, *db = dw + d;
  for (int64_t i = 0; i < 2 * d; i += 16) v_stn(dw + i, v_zero(), 2 * d - i);
  v16 off = v_set1(j->off);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r), *dy = E_ROW(&j->b, r), *ds = j->c.p ? E_ROW(&j->c, r) : NULL;
    float rs = j->u[r];
    v16 rv = v_set1(rs), mv = v_set1(j->z.p[r]), dot = v_zero(), sum = v_zero();
    for (int64_t i = 0; i < d; i += 16) {
      v16 h = v_mul(v_sub(e_ldn(x + i, d - i), mv), rv), e = e_ldn(dy + i, d - i);
      v_stn(dw + i, v_fma(h, e, v_ldn(dw + i, d - i)), d - i);
      v_stn(db + i, v_add(e, v_ldn(db + i, d - i)), d - i);
      if (j->w) e = v_mul(e, v_add(v_ldn(j->w + i, d - i), off));
      dot = v_fma(e, h, dot);
      sum = v_add(sum, e);
    }
    if (!j->y.p) continue;
    E *dx = E_ROW(&j->y, r);
    v16 c1 = v_set1(-(v_hsum(dot) / (float)d)), c0 = v_set1(-(v_hsum(sum) / (float)d));
    for (int64_t i = 0; i < d; i += 16) {
      v16 h = v_mul(v_sub(e_ldn(x + i, d - i), mv), rv), e = e_ldn(dy + i, d - i);
      if (j->w) e = v_mul(e, v_add(v_ldn(j->w + i, d - i), off));
      v16 t = v_mul(v_fma(c1, h, v_add(e, c0)), rv);
      if (ds) t = v_add(e_ldn(ds + i, d - i), t);
      if (j->acc) t = v_add(e_ldn(dx + i, d - i), t);
      e_stn(dx + i, t, d - i);
    }
  }
}

/* v[task] = the sum of the task's rows of a. */
static void K(colsum)(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->a.rows) r1 = j->a.rows;
  int64_t d = j->a.d;
  float *out = j->v + task * d;
  for (int64_t i = 0; i < d; i += 16) v_stn(out + i, v_zero(), d - i);
  for (int64_t r = r0; r < r1; r++) {
    const E *x = E_ROW(&j->a, r);
    for (int64_t i = 0; i < d; i += 16) v_stn(out + i, v_add(v_ldn(out + i, d - i), e_ldn(x + i, d - i)), d - i);
  }
}

#ifndef E_HALF
/* u[i] (+)= v[0][i] + v[1][i] + ...: n rows of y.d at a distance of y.ld; block elements a task. */
static void k_colsum_join(void *arg, int64_t task, int thread) {
  const tf_row_job *j = arg;
  ROW_TASK(j);
  if (r1 > j->y.d) r1 = j->y.d;
  for (int64_t i = r0; i < r1; i += 16) {
    v16 s = j->acc ? v_ldn(j->u + i, r1 - i) : v_zero();
    for (int64_t r = 0; r < j->n; r++) s = v_add(s, v_ldn(j->v + r * j->y.ld + i, r1 - i));
    v_stn(j->u + i, s, r1 - i);
  }
}
#endif

static void K(rope)(void *arg, int64_t task, int thread) {
  const tf_rope_job *j = arg;
  const tf_rope *p = j->p;
  (void)thread;
  const tf_tensor *x = &p->x, *y = &p->y;
  int64_t T = x->dim[1], H = x->dim[2], D = x->dim[3], half = p->rot_dim / 2;
  for (int64_t i = task * j->block; i < j->n && i < (task + 1) * j->block; i++) {
    int64_t b = i / T, t = i % T, pos = j->pos ? j->pos[i] : p->pos0 + t;
    const float *c = j->cos + pos * half, *s = j->sin + pos * half;
    for (int64_t h = 0; h < H; h++) {
      const E *xi = (const E *)j->x + b * x->stride[0] + t * x->stride[1] + h * x->stride[2];
      E *yi = (E *)j->y + b * y->stride[0] + t * y->stride[1] + h * y->stride[2];
      if (!p->interleaved) {
        for (int64_t k = 0; k < half; k += 16) {
          int64_t n = half - k;
          v16 u = e_ldn(xi + k, n), v = e_ldn(xi + half + k, n), cv = v_ldn(c + k, n), sv = v_ldn(s + k, n);
          if (p->inverse) sv = v_neg(sv);
          v16 a = v_fma(u, cv, v_neg(v_mul(v, sv))), e = v_fma(v, cv, v_mul(u, sv));
          if (p->accumulate) {
            a = v_add(e_ldn(yi + k, n), a);
            e = v_add(e_ldn(yi + half + k, n), e);
          }
          e_stn(yi + k, a, n);
          e_stn(yi + half + k, e, n);
        }
      } else {
        for (int64_t k = 0; k < half; k++) {
          float u = e_get(xi[2 * k]), v = e_get(xi[2 * k + 1]), sv = p->inverse ? -s[k] : s[k];
          float a = __builtin_fmaf(u, c[k], -(v * sv)), e = __builtin_fmaf(v, c[k], u * sv);
          yi[2 * k] = e_set(p->accumulate ? e_get(yi[2 * k]) + a : a);
          yi[2 * k + 1] = e_set(p->accumulate ? e_get(yi[2 * k + 1]) + e : e);
        }
      }
      if (p->accumulate)
        for (int64_t k = p->rot_dim; k < D; k++) yi[k] = e_set(e_get(yi[k]) + e_get(xi[k]));
      else if (yi != xi)
        for (int64_t k = p->rot_dim; k < D; k++) yi[k] = xi[k];
    }
  }
}
