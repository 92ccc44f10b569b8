/* Operations over flat stretches: random numbers, optimizer, norms, ordered sums. */

static inline void philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1, uint32_t out[4]) {
  for (int r = 0; r < 10; r++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

static void k_random(void *arg, int64_t task, int thread) {
  const tf_random_job *j = arg;
  (void)thread;
  int64_t lo = task * j->block, hi = tf_min(lo + j->block, j->n);
  const float unit = 0x1p-24f;
  for (int64_t i = lo; i < hi; i += 32) {
    uint32_t r[32];
    float u[32], out[32];
    for (int q = 0; q < 8; q++) {
      uint64_t c = (j->offset + (uint64_t)i) / 4 + (uint64_t)q;
      philox((uint32_t)c, (uint32_t)(c >> 32), 0, 0, j->k0, j->k1, r + 4 * q);
    }
    if (j->kind == TF_RANDOM_UNIFORM) {
      for (int q = 0; q < 32; q++) u[q] = (float)(r[q] >> 8) * unit;
      v16 scale = v_set1(j->b - j->a), base = v_set1(j->a);
      v_st(out, v_fma(v_ld(u), scale, base));
      v_st(out + 16, v_fma(v_ld(u + 16), scale, base));
    } else {
      /* Box-Muller: numbers 2q and 2q+1 give elements 2q and 2q+1. */
      for (int q = 0; q < 16; q++) {
        u[q] = ((float)(r[2 * q] >> 8) + 1.0f) * unit;
        u[16 + q] = (float)(r[2 * q + 1] >> 8) * unit;
      }
      float s[16], c[16];
      v16 sv, cv, rad = v_mul(v_sqrt(v_mul(v_set1(-2.0f), v_log(v_ld(u)))), v_set1(j->b));
      v_sincos2pi(v_ld(u + 16), &sv, &cv);
      v_st(c, v_fma(rad, cv, v_set1(j->a)));
      v_st(s, v_fma(rad, sv, v_set1(j->a)));
      for (int q = 0; q < 16; q++) {
        out[2 * q] = c[q];
        out[2 * q + 1] = s[q];
      }
    }
    int64_t n = tf_min(32, hi - i);
    for (int64_t q = 0; q < n; q++) j->y[i + q] = out[q];
  }
}

static void k_adamw(void *arg, int64_t task, int thread) {
  const tf_adamw_job *j = arg;
  (void)thread;
  int64_t lo = task * j->block, hi = tf_min(lo + j->block, j->n);
  v16 decay = v_set1(j->decay), b1c = v_set1(j->beta1c), b2 = v_set1(j->beta2), b2c = v_set1(j->beta2c), eps = v_set1(j->eps);
  v16 step = v_set1(-j->step_size), bc2 = v_set1(j->bc2_sqrt), gs = v_set1(j->gscale);
  for (int64_t i = lo; i < hi; i += 16) {
    int64_t n = hi - i;
    v16 g = v_mul(v_ldn(j->g + i, n), gs), p = v_mul(v_ldn(j->p + i, n), decay), m = v_ldn(j->m + i, n), v = v_ldn(j->v + i, n);
    m = v_fma(b1c, v_sub(g, m), m);
    v = v_fma(v_mul(b2c, g), g, v_mul(v, b2));
    v16 den = v_add(v_div(v_sqrt(v), bc2), eps);
    p = v_fma(step, v_div(m, den), p);
    v_stn(j->p + i, p, n);
    v_stn(j->m + i, m, n);
    v_stn(j->v + i, v, n);
  }
}

static void k_sqnorm(void *arg, int64_t task, int thread) {
  const tf_flat_job *j = arg;
  (void)thread;
  int64_t chunks = tf_ceil_div(j->n, 4096);
  for (int64_t c = task * j->block; c < chunks && c < (task + 1) * j->block; c++) {
    int64_t lo = c * 4096, hi = tf_min(lo + 4096, j->n);
    v16 s = v_zero();
    for (int64_t i = lo; i < hi; i += 16) {
      v16 x = v_ldn(j->x + i, hi - i);
      s = v_fma(x, x, s);
    }
    float lane[16];
    v_st(lane, s);
    double t = 0;
    for (int i = 0; i < 16; i++) t += (double)lane[i];
    j->partial[c] = t;
  }
}

static void k_nonfinite(void *arg, int64_t task, int thread) {
  const tf_flat_job *j = arg;
  (void)thread;
  int64_t lo = task * j->block, hi = tf_min(lo + j->block, j->n);
  /* x * 0 is 0 for finite x and NaN otherwise. */
  v16 s = v_zero();
  for (int64_t i = lo; i < hi; i += 16) s = v_fma(v_ldn(j->x + i, hi - i), v_zero(), s);
  float t = v_hsum(s);
  j->flags[task] = !(t == 0);
}

static void k_slice_add(void *arg, int64_t task, int thread) {
  const tf_flat_job *j = arg;
  (void)thread;
  int64_t lo = task * j->block, hi = tf_min(lo + j->block, j->n);
  for (int64_t i = lo; i < hi; i += 16) {
    int64_t n = hi - i;
    v16 a = v_zero();
    for (int64_t s = j->acc ? -1 : 0; s < j->s; s++) {
      v16 x = s < 0                   ? v_ldn(j->y + i, n)
              : j->dtype == TF_F32    ? v_ldn(j->x + s * j->ld + i, n)
              : j->dtype == TF_F16    ? h_ldn((const uint16_t *)j->x + s * j->ld + i, n)
                                      : b_ldn((const uint16_t *)j->x + s * j->ld + i, n);
      a = s == (j->acc ? -1 : 0) ? x : v_add(a, x);
    }
    v_stn(j->y + i, a, n);
  }
}

/* One row of logits after another. */
static void k_loss(void *arg, int64_t task, int thread) {
  const tf_loss_job *j = arg;
  (void)thread;
  int64_t V = j->v;
  v16 scale = v_set1(j->logit_scale), cap = v_set1(j->softcap), inv_cap = v_set1(j->softcap > 0 ? 1.0f / j->softcap : 0);
  v16 low = v_set1(-__builtin_inff());
  for (int64_t r = task * j->block; r < j->rows && r < (task + 1) * j->block; r++) {
    float *z = j->z + r * j->ld;
    int32_t t = j->targets[r];
    v16 mx = low, zs = v_zero();
    for (int64_t i = 0; i < V; i += 16) {
      int64_t n = V - i;
      v16 a = v_ldn(z + i, n);
      if (j->logit_scale != 1) a = v_mul(a, scale);
      if (j->softcap > 0) a = v_mul(cap, v_tanh(v_mul(a, inv_cap)));
      if (j->logit_scale != 1 || j->softcap > 0) v_stn(z + i, a, n);
      if (j->zsum) zs = v_add(zs, a);
      if (n < 16) a = v_sel(v_lt(v_lane(), v_set1((float)n)), a, low);
      mx = v_max(mx, a);
    }
    float m = v_hmax(mx), zt = t >= 0 ? z[t] : 0;
    if (j->grad && (t < 0 || (j->weights && j->weights[r] == 0)) && !j->entropy) {
      /* No gradient; the statistics below still need the sum, but not the exponentials kept. */
      v16 s = v_zero(), mv = v_set1(m);
      for (int64_t i = 0; i < V; i += 16) {
        v16 e = v_exp(v_sub(v_ldn(z + i, V - i), mv));
        if (V - i < 16) e = v_sel(v_lt(v_lane(), v_set1((float)(V - i))), e, v_zero());
        s = v_add(s, e);
        v_stn(z + i, v_zero(), V - i);
      }
      float lse = m + v_hmax(v_log(v_set1(v_hsum(s))));
      if (j->lse) j->lse[r] = lse;
      if (j->logp) j->logp[r] = t >= 0 ? zt - lse : 0;
      if (j->zsum) j->zsum[r] = v_hsum(zs);
      continue;
    }
    v16 s = v_zero(), h = v_zero(), mv = v_set1(m);
    if (j->lse_in) {
      m = j->lse_in[r];
      mv = v_set1(m);
    }
    for (int64_t i = 0; i < V; i += 16) {
      int64_t n = V - i;
      v16 a = v_sub(v_ldn(z + i, n), mv);
      v16 e = v_exp(a);
      if (n < 16) e = v_sel(v_lt(v_lane(), v_set1((float)n)), e, v_zero());
      s = v_add(s, e);
      if (j->entropy) h = v_fma(e, n < 16 ? v_sel(v_lt(v_lane(), v_set1((float)n)), a, v_zero()) : a, h);
      if (j->grad && j->softcap <= 0) v_stn(z + i, e, n);
    }
    float sum = v_hsum(s), ln = v_hmax(v_log(v_set1(sum))), lse = j->lse_in ? m : m + ln;
    if (j->lse) j->lse[r] = lse;
    if (j->logp) j->logp[r] = t >= 0 ? zt - lse : 0;
    if (j->entropy) j->entropy[r] = ln - v_hsum(h) / sum;
    if (j->zsum) j->zsum[r] = v_hsum(zs);
    if (!j->grad) continue;
    float w = j->scale * (j->weights ? j->weights[r] : 1), pk, at, all;
    if (j->grad == 1) {
      pk = w * (1 + 2 * j->z_loss * lse);
      at = -w * (1 - j->smooth);
      all = -w * j->smooth / (float)V;
    } else {
      pk = -w;
      at = w;
      all = 0;
    }
    float norm = j->lse_in ? 1.0f : 1.0f / sum;
    v16 pv = v_set1(pk * norm), av = v_set1(all);
    float dcap = 1;
    if (j->softcap > 0) {
      float u = zt / j->softcap;
      dcap = 1 - u * u;
    }
    for (int64_t i = 0; i < V; i += 16) {
      int64_t n = V - i;
      v16 a = v_ldn(z + i, n);
      v16 g = v_fma(pv, j->softcap > 0 ? v_exp(v_sub(a, mv)) : a, av);
      if (j->softcap > 0) {
        v16 u = v_mul(a, inv_cap);
        g = v_mul(g, v_fma(v_neg(u), u, v_set1(1.0f)));
      }
      if (j->logit_scale != 1) g = v_mul(g, scale);
      v_stn(z + i, g, n);
    }
    z[t] += at * dcap * j->logit_scale;
  }
}
