/* Packing from 16 bits: rows are converted to f32 some steps at a time. Included once for bf16 and once for f16: H(ldn) loads, h_ld1 converts
 * one element. */
V1 void H(pack_panel)(const uint16_t *src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *restrict dst, const int64_t w) {
  if (is == 1) {
    for (int64_t k = 0; k < kc; k++) {
      float t[NR + 16];
      for (int64_t i = 0; i < n; i += 16) v_st(t + i, H(ldn)(src + k * ks + i, n - i));
      for (int64_t i = 0; i < n; i++) dst[k * w + i] = t[i];
      for (int64_t i = n; i < w; i++) dst[k * w + i] = 0;
    }
    return;
  }
  float t[NR * 32];
  for (int64_t k = 0; k < kc; k += 32) {
    int64_t steps = tf_min(32, kc - k);
    for (int64_t i = 0; i < n; i++) {
      const uint16_t *s = src + i * is + k * ks;
      if (ks == 1) {
        v_st(t + i * 32, H(ldn)(s, steps));
        v_st(t + i * 32 + 16, H(ldn)(s + 16, tf_max(0, steps - 16)));
      } else {
        for (int64_t x = 0; x < steps; x++) t[i * 32 + x] = h_ld1(s[x * ks]);
      }
    }
    pack_panel(t, 32, 1, n, steps, dst + k * w, w);
  }
}

static __attribute__((noinline)) void H(pack_rows)(const uint16_t *src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *dst) {
  H(pack_panel)(src, is, ks, n, kc, dst, TF_MR);
}

static __attribute__((noinline)) void H(pack_cols)(const uint16_t *src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *dst) {
  H(pack_panel)(src, is, ks, n, kc, dst, NR);
}

static void H(pack_a)(const uint16_t *src, int64_t is, int64_t ks, int64_t m, int64_t kc, float *dst) {
  for (int64_t i = 0; i < m; i += TF_MR) H(pack_rows)(src + i * is, is, ks, tf_min(TF_MR, m - i), kc, dst + i * kc);
}

#undef H
#undef h_ld1
