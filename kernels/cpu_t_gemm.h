/* Matrix products. Operands are packed: a into panels of TF_MR rows [k][TF_MR], b into panels of NR columns [k][NR]; the microkernel keeps
 * a TF_MR x NR tile of c in registers over a block of TF_KC steps of k, and the next block goes on from c. So each element of c is one chain
 * of fma over ascending k, whatever the tile, the blocks and the tasks. */

#define NR (VN_W * TF_NV)

V1 void tile(const int mr, int64_t kc, const float *restrict a, const float *restrict b, float *restrict c, int64_t ldc, int load) {
  vn acc[TF_MR][TF_NV];
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
    for (int j = 0; j < TF_NV; j++) acc[i][j] = load ? n_ld(c + i * ldc + j * VN_W) : n_zero();
  for (int64_t k = 0; k < kc; k++) {
    vn bv[TF_NV];
#pragma GCC unroll 4
    for (int j = 0; j < TF_NV; j++) bv[j] = n_ld(b + j * VN_W);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
      vn av = n_set1(a + i);
#pragma GCC unroll 4
      for (int j = 0; j < TF_NV; j++) acc[i][j] = n_fma(av, bv[j], acc[i][j]);
    }
    a += TF_MR;
    b += NR;
  }
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
    for (int j = 0; j < TF_NV; j++) n_st(c + i * ldc + j * VN_W, acc[i][j]);
}

static __attribute__((noinline)) void tile_full(int64_t kc, const float *a, const float *b, float *c, int64_t ldc, int load) {
  if (load)
    tile(TF_MR, kc, a, b, c, ldc, 1);
  else
    tile(TF_MR, kc, a, b, c, ldc, 0);
}

static __attribute__((noinline)) void tile_part(int mr, int64_t kc, const float *a, const float *b, float *c, int64_t ldc, int load) {
  switch (mr) {
#define TILE_CASE(n)                                     \
  case n:                                                \
    if (n < TF_MR) tile(n, kc, a, b, c, ldc, load);      \
    break;
    TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6) TILE_CASE(7)
    TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12) TILE_CASE(13)
#undef TILE_CASE
  }
}

/* c tile of mr <= TF_MR rows and NR whole columns. */
V1 void micro(int64_t mr, int64_t kc, const float *a, const float *b, float *c, int64_t ldc, int load) {
  if (mr >= TF_MR)
    tile_full(kc, a, b, c, ldc, load);
  else
    tile_part((int)mr, kc, a, b, c, ldc, load);
}

#ifdef TF_TRANSPOSE8
/* dst[i * dld + j] = src[j * sld + i], 8 x 8. */
V1 void transpose8(const float *src, int64_t sld, float *dst, int64_t dld) {
  __m256 r0 = _mm256_loadu_ps(src), r1 = _mm256_loadu_ps(src + sld), r2 = _mm256_loadu_ps(src + 2 * sld), r3 = _mm256_loadu_ps(src + 3 * sld);
  __m256 r4 = _mm256_loadu_ps(src + 4 * sld), r5 = _mm256_loadu_ps(src + 5 * sld), r6 = _mm256_loadu_ps(src + 6 * sld),
         r7 = _mm256_loadu_ps(src + 7 * sld);
  __m256 t0 = _mm256_unpacklo_ps(r0, r1), t1 = _mm256_unpackhi_ps(r0, r1), t2 = _mm256_unpacklo_ps(r2, r3), t3 = _mm256_unpackhi_ps(r2, r3);
  __m256 t4 = _mm256_unpacklo_ps(r4, r5), t5 = _mm256_unpackhi_ps(r4, r5), t6 = _mm256_unpacklo_ps(r6, r7), t7 = _mm256_unpackhi_ps(r6, r7);
  r0 = _mm256_shuffle_ps(t0, t2, 0x44);
  r1 = _mm256_shuffle_ps(t0, t2, 0xee);
  r2 = _mm256_shuffle_ps(t1, t3, 0x44);
  r3 = _mm256_shuffle_ps(t1, t3, 0xee);
  r4 = _mm256_shuffle_ps(t4, t6, 0x44);
  r5 = _mm256_shuffle_ps(t4, t6, 0xee);
  r6 = _mm256_shuffle_ps(t5, t7, 0x44);
  r7 = _mm256_shuffle_ps(t5, t7, 0xee);
  _mm256_storeu_ps(dst, _mm256_permute2f128_ps(r0, r4, 0x20));
  _mm256_storeu_ps(dst + dld, _mm256_permute2f128_ps(r1, r5, 0x20));
  _mm256_storeu_ps(dst + 2 * dld, _mm256_permute2f128_ps(r2, r6, 0x20));
  _mm256_storeu_ps(dst + 3 * dld, _mm256_permute2f128_ps(r3, r7, 0x20));
  _mm256_storeu_ps(dst + 4 * dld, _mm256_permute2f128_ps(r0, r4, 0x31));
  _mm256_storeu_ps(dst + 5 * dld, _mm256_permute2f128_ps(r1, r5, 0x31));
  _mm256_storeu_ps(dst + 6 * dld, _mm256_permute2f128_ps(r2, r6, 0x31));
  _mm256_storeu_ps(dst + 7 * dld, _mm256_permute2f128_ps(r3, r7, 0x31));
}
#endif

/* dst[k * w + i] = src(i, k) for i < n, 0 for n <= i < w; src(i, k) = src[i * is + k * ks]. With transposes of 8 x 8 where k is contiguous:
 * they may write up to 8 floats past a row of dst, which the next row overwrites; the last rows go one by one. */
static void pack_panel(const float *src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *dst, int64_t w) {
  int64_t k0 = 0;
#ifdef TF_TRANSPOSE8
  if (ks == 1 && n == w) {
    for (; k0 + 16 <= kc; k0 += 8) {
      int64_t i = 0;
      for (; i + 8 <= w; i += 8) transpose8(src + i * is + k0, is, dst + k0 * w + i, w);
      if (i < w) {
        /* The rest: rows from w-8 on again when there are so many, else padded by repeating the last row. */
        if (w >= 8) {
          transpose8(src + (w - 8) * is + k0, is, dst + k0 * w + w - 8, w);
        } else {
          float t[64];
          const float *s = src + k0;
          float *d = dst + k0 * w;
          __m256 r[8];
          for (int x = 0; x < 8; x++) r[x] = _mm256_loadu_ps(s + (x < w ? x : w - 1) * is);
          for (int x = 0; x < 8; x++) _mm256_storeu_ps(t + 8 * x, r[x]);
          float u[64];
          transpose8(t, 8, u, 8);
          for (int x = 0; x < 8; x++) _mm256_storeu_ps(d + x * w, _mm256_loadu_ps(u + 8 * x));
        }
      }
    }
  }
#endif
  if (is == 1 && n == w) {
    for (int64_t k = k0; k < kc; k++)
      for (int64_t i = 0; i < w; i++) dst[k * w + i] = src[k * ks + i];
    return;
  }
  for (int64_t k = k0; k < kc; k++) {
    for (int64_t i = 0; i < n; i++) dst[k * w + i] = src[i * is + k * ks];
    for (int64_t i = n; i < w; i++) dst[k * w + i] = 0;
  }
}

/* Packs m rows (i) of kc steps into panels of TF_MR: panel p at dst + p * TF_MR * kc. The last panel is padded with zeros. */
static void pack_a(const float *src, int64_t is, int64_t ks, int64_t m, int64_t kc, float *dst) {
  for (int64_t i = 0; i < m; i += TF_MR) pack_panel(src + i * is, is, ks, tf_min(TF_MR, m - i), kc, dst + i * kc, TF_MR);
}

static void gemm_pack_b(void *arg, int64_t task, int thread) {
  (void)thread;
  const tf_gemm_job *j = arg;
  int64_t lo = task * TF_PACK_COLS, hi = tf_min(lo + TF_PACK_COLS, j->nn);
  for (int64_t n = lo; n < hi; n += NR)
    pack_panel(j->b + (j->n0 + n) * j->bcs, j->bcs, j->brs, tf_min(NR, hi - n), j->k, j->packed_b + n * j->k, NR);
}

static void gemm_run(void *arg, int64_t task, int thread) {
  const tf_gemm_job *j = arg;
  int64_t m0 = task / j->nt * j->mc, m1 = tf_min(m0 + j->mc, j->m);
  int64_t c0 = task % j->nt * j->nc, c1 = tf_min(c0 + j->nc, j->nn);
  float *pa = tf_scratch(j->dev, thread);
  for (int64_t k0 = 0; k0 < j->k || k0 == 0; k0 += TF_KC) {
    int64_t kc = tf_min(TF_KC, j->k - k0);
    int load = k0 > 0 || j->accumulate;
    pack_a(j->a + m0 * j->ars + k0 * j->acs, j->ars, j->acs, m1 - m0, kc, pa);
    if (j->alpha != 1) {
      int64_t n = (m1 - m0 + TF_MR - 1) / TF_MR * TF_MR * kc;
      for (int64_t i = 0; i < n; i++) pa[i] *= j->alpha;
    }
    if (k0 == 0 && j->bias) {
      for (int64_t i = m0; i < m1; i++) {
        float *c = j->c + i * j->ldc + j->n0;
        for (int64_t n = c0; n < c1; n += 16) {
          v16 bv = v_ldn(j->bias + j->n0 + n, c1 - n);
          v_stn(c + n, j->accumulate ? v_add(v_ldn(c + n, c1 - n), bv) : bv, c1 - n);
        }
      }
    }
    load |= j->bias != NULL;
    for (int64_t n = c0; n < c1; n += NR) {
      const float *pb = j->packed_b + n * j->k + k0 * NR;
      for (int64_t i = m0; i < m1; i += TF_MR) {
        int64_t mr = tf_min(TF_MR, m1 - i);
        float *c = j->c + i * j->ldc + j->n0 + n;
        const float *ap = pa + (i - m0) * kc;
        if (n + NR <= c1) {
          micro(mr, kc, ap, pb, c, j->ldc, load);
          continue;
        }
        float t[TF_MR * NR];
        if (load)
          for (int64_t r = 0; r < mr; r++)
            for (int64_t x = 0; x < NR; x++) t[r * NR + x] = n + x < c1 ? c[r * j->ldc + x] : 0;
        micro(mr, kc, ap, pb, t, NR, load);
        for (int64_t r = 0; r < mr; r++)
          for (int64_t x = 0; n + x < c1; x++) c[r * j->ldc + x] = t[r * NR + x];
      }
    }
  }
}
