/* Elementary functions on v16; the same operations in every instruction set. Polynomials after Cephes (Moshier), erf after a minimax
 * fit of our own. */

/* e^x: 0 below -87.33, infinity above 88.72. */
V1 v16 v_exp(v16 x) {
  v16 lo = v_set1(-87.33f), hi = v_set1(88.72f);
  v16 c = v_min(hi, v_max(lo, x));
  v16 magic = v_set1(12582912.0f); /* 1.5 * 2^23 rounds to whole numbers */
  v16 n = v_sub(v_fma(c, v_set1(1.44269504088896341f), magic), magic);
  v16 r = v_fma(n, v_set1(-0.693359375f), c);
  r = v_fma(n, v_set1(2.12194440e-4f), r);
  v16 p = v_set1(1.9875691500e-4f);
  p = v_fma(p, r, v_set1(1.3981999507e-3f));
  p = v_fma(p, r, v_set1(8.3334519073e-3f));
  p = v_fma(p, r, v_set1(4.1665795894e-2f));
  p = v_fma(p, r, v_set1(1.6666665459e-1f));
  p = v_fma(p, r, v_set1(5.0000001201e-1f));
  p = v_fma(v_mul(r, r), p, v_add(r, v_set1(1.0f)));
  /* 2^n in two factors: n may be 128. */
  v16 half = v_sub(v_fma(n, v_set1(0.5f), magic), magic);
  p = v_mul(v_mul(p, v_pow2(half)), v_pow2(v_sub(n, half)));
  p = v_sel(v_lt(x, lo), v_zero(), p);
  return v_sel(v_lt(hi, x), v_set1(__builtin_inff()), p);
}

/* log x for x > 0, normal. */
V1 v16 v_log(v16 x) {
  v16 m;
  v16 e = v_frexp(x, &m);
  m16 big = v_lt(v_set1(1.41421356f), m);
  m = v_sel(big, v_mul(m, v_set1(0.5f)), m);
  e = v_sel(big, v_add(e, v_set1(1.0f)), e);
  v16 r = v_sub(m, v_set1(1.0f)), z = v_mul(r, r);
  v16 p = v_set1(7.0376836292e-2f);
  p = v_fma(p, r, v_set1(-1.1514610310e-1f));
  p = v_fma(p, r, v_set1(1.1676998740e-1f));
  p = v_fma(p, r, v_set1(-1.2420140846e-1f));
  p = v_fma(p, r, v_set1(1.4249322787e-1f));
  p = v_fma(p, r, v_set1(-1.6668057665e-1f));
  p = v_fma(p, r, v_set1(2.0000714765e-1f));
  p = v_fma(p, r, v_set1(-2.4999993993e-1f));
  p = v_fma(p, r, v_set1(3.3333331174e-1f));
  v16 y = v_mul(v_mul(p, r), z);
  y = v_fma(e, v_set1(-2.12194440e-4f), y);
  y = v_fma(z, v_set1(-0.5f), y);
  y = v_add(r, y);
  return v_fma(e, v_set1(0.693359375f), y);
}

/* sin and cos of 2 pi u for u in [0, 1). */
V1 void v_sincos2pi(v16 u, v16 *s, v16 *c) {
  v16 magic = v_set1(12582912.0f);
  v16 q = v_sub(v_fma(u, v_set1(4.0f), magic), magic); /* quadrant 0..4 */
  v16 x = v_mul(v_fma(q, v_set1(-0.25f), u), v_set1(6.28318530717958648f));
  v16 z = v_mul(x, x);
  v16 ps = v_set1(-1.9515295891e-4f);
  ps = v_fma(ps, z, v_set1(8.3321608736e-3f));
  ps = v_fma(ps, z, v_set1(-1.6666654611e-1f));
  ps = v_fma(v_mul(ps, z), x, x);
  v16 pc = v_set1(2.443315711809948e-5f);
  pc = v_fma(pc, z, v_set1(-1.388731625493765e-3f));
  pc = v_fma(pc, z, v_set1(4.166664568298827e-2f));
  pc = v_fma(v_mul(pc, z), z, v_fma(z, v_set1(-0.5f), v_set1(1.0f)));
  /* Quadrants 0 and 4: (s, c); 1: (c, -s); 2: (-s, -c); 3: (-c, s). */
  m16 q1 = v_and(v_lt(v_set1(0.5f), q), v_lt(q, v_set1(1.5f)));
  m16 q2 = v_and(v_lt(v_set1(1.5f), q), v_lt(q, v_set1(2.5f)));
  m16 q3 = v_and(v_lt(v_set1(2.5f), q), v_lt(q, v_set1(3.5f)));
  *s = v_sel(q1, pc, v_sel(q2, v_neg(ps), v_sel(q3, v_neg(pc), ps)));
  *c = v_sel(q1, v_neg(ps), v_sel(q2, v_neg(pc), v_sel(q3, ps, pc)));
}

V1 v16 v_sigmoid(v16 x) { return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_neg(x)))); }

V1 v16 v_tanh(v16 x) {
  v16 z = v_mul(x, x), a = v_abs(x);
  v16 p = v_set1(-5.70498872745e-3f);
  p = v_fma(p, z, v_set1(2.06390887954e-2f));
  p = v_fma(p, z, v_set1(-5.37397155531e-2f));
  p = v_fma(p, z, v_set1(1.33314422036e-1f));
  p = v_fma(p, z, v_set1(-3.33332819422e-1f));
  p = v_fma(v_mul(p, z), x, x);
  v16 e = v_exp(v_add(a, a));
  v16 big = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
  return v_sel(v_lt(a, v_set1(0.625f)), p, v_copysign(big, x));
}

/* Absolute error below 2e-7. */
V1 v16 v_erf(v16 x) {
  static const float small[] = {-9.673590284e-06f, 1.1268253729e-04f, -8.4843963850e-04f, 5.2210534923e-03f,
                                -2.6865437627e-02f, 1.1283782870e-01f, -3.7612637877e-01f, 1.1283792257e+00f};
  static const float large[] = {-8.5876226425e-02f, 3.9942938089e-01f, -6.9920539856e-01f, 4.9865171313e-01f, -1.6877552867e-01f,
                                2.6137933135e-01f,  2.2760245204e-01f, 2.8489941359e-01f,  2.8185626864e-01f, 8.9695986389e-06f};
  v16 a = v_abs(x), z = v_mul(x, x), one = v_set1(1.0f);
  v16 p = v_set1(small[0]);
  for (int i = 1; i < 8; i++) p = v_fma(p, z, v_set1(small[i]));
  v16 t = v_div(one, v_fma(v_set1(0.5f), a, one)), q = v_set1(large[0]);
  for (int i = 1; i < 10; i++) q = v_fma(q, t, v_set1(large[i]));
  v16 big = v_sub(one, v_mul(q, v_exp(v_neg(z))));
  return v_sel(v_lt(a, one), v_mul(p, x), v_copysign(big, x));
}

#ifndef TF_V_F16
/* 16 f16 from and to memory, as v_ldn and v_stn. */
V1 v16 h_ldn(const uint16_t *p, int64_t n) {
  float t[16];
  for (int i = 0; i < 16; i++) t[i] = i < n ? tf_from_f16(p[i]) : 0;
  return v_ld(t);
}
V1 void h_stn(uint16_t *p, v16 a, int64_t n) {
  float t[16];
  v_st(t, a);
  for (int i = 0; i < n && i < 16; i++) p[i] = tf_to_f16(t[i]);
}
#endif

#ifndef TF_V_BF16
/* 16 bf16 from and to memory, as v_ldn and v_stn; rounded to nearest, ties to even, a NaN stays one. */
V1 v16 b_ldn(const uint16_t *p, int64_t n) {
  float t[16];
  for (int i = 0; i < 16; i++) {
    uint32_t u = i < n ? (uint32_t)p[i] << 16 : 0;
    __builtin_memcpy(t + i, &u, 4);
  }
  return v_ld(t);
}
V1 void b_stn(uint16_t *p, v16 a, int64_t n) {
  float t[16];
  v_st(t, a);
  for (int i = 0; i < n && i < 16; i++) {
    uint32_t u;
    __builtin_memcpy(&u, t + i, 4);
    p[i] = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 64 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
}
#endif
