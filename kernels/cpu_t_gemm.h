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

#if defined(TF_TRANSPOSE8) && defined(__x86_64__)
/* dst[i * dld + j] = src[j * sld + i], 8 x 8; of fewer rows n the last is repeated. */
V1 void transpose8(const float *src, int64_t sld, int64_t n, float *dst, int64_t dld) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int64_t i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(src + (i < n ? i : n - 1) * sld);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) _mm256_storeu_ps(dst + i * dld, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) _mm256_storeu_ps(dst + (i + 4) * dld, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
}
#endif

/* dst[k * w + i] = src(i, k) for i < n, 0 for n <= i < w; src(i, k) = src[i * is + k * ks]. The transposes for contiguous k may write past a
 * row of dst, which the next row overwrites; the last rows go one by one. */
V1 void pack_panel(const float *restrict src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *restrict dst, const int64_t w) {
  int64_t k0 = 0;
#ifdef TF_TRANSPOSE8
  if (ks == 1 && n == w) {
    for (; k0 + 16 <= kc; k0 += 8) {
      const float *s = src + k0;
      float *d = dst + k0 * w;
      for (int64_t i = 0; i + 8 <= w; i += 8) transpose8(s + i * is, is, 8, d + i, w);
      if (w % 8 && w > 8) transpose8(s + (w - 8) * is, is, 8, d + w - 8, w);
      if (w < 8) transpose8(s, is, w, d, w);
    }
  }
  if (is == 1 && n == w) {
    for (; k0 + 2 <= kc; k0++) {
      /* Overlapping copies of 8; a width below 8 writes into the next row. */
      const float *s = src + k0 * ks;
      float *d = dst + k0 * w;
      if (w >= 8) {
        for (int64_t i = 0; i + 8 <= w; i += 8) __builtin_memcpy(d + i, s + i, 32);
        if (w % 8) __builtin_memcpy(d + w - 8, s + w - 8, 32);
      } else {
        __builtin_memcpy(d, s, 16);
        __builtin_memcpy(d + w - 4, s + w - 4, 16);
      }
    }
  }
#endif
  for (int64_t k = k0; k < kc; k++) {
    for (int64_t i = 0; i < n; i++) dst[k * w + i] = src[i * is + k * ks];
    for (int64_t i = n; i < w; i++) dst[k * w + i] = 0;
  }
}

static __attribute__((noinline)) void pack_rows(const float *src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *dst) {
  pack_panel(src, is, ks, n, kc, dst, TF_MR);
}

static __attribute__((noinline)) void pack_cols(const float *src, int64_t is, int64_t ks, int64_t n, int64_t kc, float *dst) {
  pack_panel(src, is, ks, n, kc, dst, NR);
}

/* Packs m rows (i) of kc steps into panels of TF_MR: panel p at dst + p * TF_MR * kc. The last panel is padded with zeros. */
static void pack_a(const float *src, int64_t is, int64_t ks, int64_t m, int64_t kc, float *dst) {
  for (int64_t i = 0; i < m; i += TF_MR) pack_rows(src + i * is, is, ks, tf_min(TF_MR, m - i), kc, dst + i * kc);
}

#define H(name) b_##name
#define h_ld1(x) tf_from_bf16(x)
#include "cpu_t_pack16.h"
#define H(name) h_##name
#define h_ld1(x) tf_from_f16(x)
#include "cpu_t_pack16.h"

#ifdef TF_DP
V1 void gemm_pack_a(const tf_gemm_job *j, int64_t m0, int64_t m, int64_t k0, int64_t kc, float *dst) {
  const uint16_t *a = (const uint16_t *)(const void *)j->a + m0 * j->ars + 2 * k0 * j->acs;
  for (int64_t i = 0; i < m; i += TF_MR)
    dp_pack(a + i * j->ars, j->ars, j->acs, tf_min(TF_MR, m - i), tf_min(2 * kc, j->elems - 2 * k0), dst + i * kc, TF_MR);
}

V1 void gemm_pack_cols(const tf_gemm_job *j, int64_t n0, int64_t n, int64_t k0, int64_t kc, float *dst) {
  const uint16_t *b = (const uint16_t *)(const void *)j->b + n0 * j->bcs + 2 * k0 * j->brs;
  dp_pack(b, j->bcs, j->brs, n, tf_min(2 * kc, j->elems - 2 * k0), dst, NR);
}
#else
/* Rows m0 on of a, and columns n0 on of b, of any type, over steps k0..k0+kc. */
V1 void gemm_pack_a(const tf_gemm_job *j, int64_t m0, int64_t m, int64_t k0, int64_t kc, float *dst) {
  int64_t at = m0 * j->ars + k0 * j->acs;
  if (j->a_dt == TF_BF16)
    b_pack_a((const uint16_t *)j->a + at, j->ars, j->acs, m, kc, dst);
  else if (j->a_dt == TF_F16)
    h_pack_a((const uint16_t *)j->a + at, j->ars, j->acs, m, kc, dst);
  else
    pack_a(j->a + at, j->ars, j->acs, m, kc, dst);
}

V1 void gemm_pack_cols(const tf_gemm_job *j, int64_t n0, int64_t n, int64_t k0, int64_t kc, float *dst) {
  int64_t at = n0 * j->bcs + k0 * j->brs;
  if (j->b_dt == TF_BF16)
    b_pack_cols((const uint16_t *)j->b + at, j->bcs, j->brs, n, kc, dst);
  else if (j->b_dt == TF_F16)
    h_pack_cols((const uint16_t *)j->b + at, j->bcs, j->brs, n, kc, dst);
  else
    pack_cols(j->b + at, j->bcs, j->brs, n, kc, dst);
}
#endif

/* A c of 16 bits is made in f32 beside it: brought there before, rounded once after. */
V1 void gemm_c_in(const tf_gemm_job *j, int64_t m0, int64_t m1, int64_t c0, int64_t c1) {
  if (!j->c16 || !j->accumulate) return;
  for (int64_t i = m0; i < m1; i++)
    for (int64_t n = c0; n < c1; n += 16) {
      const uint16_t *s = j->c16 + i * j->ldc16 + j->n0 + n;
      v_stn(j->c + i * j->ldc + n, j->c_dt == TF_F16 ? h_ldn(s, c1 - n) : b_ldn(s, c1 - n), c1 - n);
    }
}

V1 void gemm_c_out(const tf_gemm_job *j, int64_t m0, int64_t m1, int64_t c0, int64_t c1) {
  if (!j->c16) return;
  for (int64_t i = m0; i < m1; i++)
    for (int64_t n = c0; n < c1; n += 16) {
      uint16_t *d = j->c16 + i * j->ldc16 + j->n0 + n;
      v16 x = v_ldn(j->c + i * j->ldc + n, c1 - n);
      if (j->c_dt == TF_F16)
        h_stn(d, x, c1 - n);
      else
        b_stn(d, x, c1 - n);
    }
}

static void gemm_pack_b(void *arg, int64_t task, int thread) {
  (void)thread;
  const tf_gemm_job *j = arg;
  int64_t lo = task * TF_PACK_COLS, hi = tf_min(lo + TF_PACK_COLS, j->nn);
  /* Few steps at a time, so that lines of b that several panels share are still in the first-level cache. */
  for (int64_t k0 = 0; k0 < j->k; k0 += 64)
    for (int64_t n = lo; n < hi; n += NR)
      gemm_pack_cols(j, j->n0 + n, tf_min(NR, hi - n), k0, tf_min(64, j->k - k0), j->packed_b + n * j->k + k0 * NR);
}

/* Rows m0..m1 and columns c0..c1 (within the pass) of c over steps k0..k0+kc. pa: the packed rows; panel n of b at pb + n * pitch. */
V1 void gemm_block(const tf_gemm_job *j, int64_t m0, int64_t m1, int64_t c0, int64_t c1, int64_t k0, int64_t kc, float *pa, const float *pb0,
                   int64_t pitch) {
  int load = k0 > 0 || j->accumulate || j->bias;
  int64_t cn = j->c16 ? 0 : j->n0; /* where the pass begins in c */
  gemm_pack_a(j, m0, m1 - m0, k0, kc, pa);
  if (j->alpha != 1) {
    int64_t n = (m1 - m0 + TF_MR - 1) / TF_MR * TF_MR * kc;
    for (int64_t i = 0; i < n; i++) pa[i] *= j->alpha;
  }
  if (k0 == 0 && j->bias) {
    for (int64_t i = m0; i < m1; i++) {
      float *c = j->c + i * j->ldc + cn;
      for (int64_t n = c0; n < c1; n += 16) {
        v16 bv = v_ldn(j->bias + j->n0 + n, c1 - n);
        v_stn(c + n, j->accumulate ? v_add(v_ldn(c + n, c1 - n), bv) : bv, c1 - n);
      }
    }
  }
  for (int64_t n = c0; n < c1; n += NR) {
    const float *pb = pb0 + (n - c0) * pitch;
    /* While a panel is used, the next one comes nearer bit by bit, and so do the lines of c of the next tile. */
    const char *next = (const char *)(pb + NR * pitch);
    int64_t ahead = n + NR < c1 ? kc * NR * 4 : 0, part = (ahead * TF_MR / tf_max(m1 - m0, 1) + 63) / 64 * 64;
    for (int64_t i = m0; i < m1; i += TF_MR) {
      int64_t mr = tf_min(TF_MR, m1 - i);
      float *c = j->c + i * j->ldc + cn + n;
      const float *ap = pa + (i - m0) * kc;
      for (int64_t x = 0; x < part && ahead > 0; x += 64, ahead -= 64, next += 64) __builtin_prefetch(next, 0, 2);
      if (n + NR <= c1) {
        for (int64_t x = 0; x < TF_MR && i + TF_MR + x < m1; x++) __builtin_prefetch(c + (TF_MR + x) * j->ldc, 1, 3);
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

/* A task of a product whose b is packed for all tasks. */
static void gemm_run(void *arg, int64_t task, int thread) {
  const tf_gemm_job *j = arg;
  int64_t m0 = task / j->nt * j->mc, m1 = tf_min(m0 + j->mc, j->m);
  int64_t c0 = task % j->nt * j->nc, c1 = tf_min(c0 + j->nc, j->nn);
  float *pa = tf_scratch(j->dev, thread);
  gemm_c_in(j, m0, m1, c0, c1);
  for (int64_t k0 = 0; k0 < j->k || k0 == 0; k0 += TF_KC)
    gemm_block(j, m0, m1, c0, c1, k0, tf_min(TF_KC, j->k - k0), pa, j->packed_b + c0 * j->k + k0 * NR, j->k);
  gemm_c_out(j, m0, m1, c0, c1);
}

/* A task of a product with few rows: each panel of b is used by one task only, which packs it where it stays in the cache. */
static void gemm_run_few(void *arg, int64_t task, int thread) {
  const tf_gemm_job *j = arg;
  int64_t c0 = task * TF_PACK_COLS, c1 = tf_min(c0 + TF_PACK_COLS, j->nn);
  float *pb = tf_scratch(j->dev, thread), *pa = pb + TF_PACK_COLS * TF_KC;
  gemm_c_in(j, 0, j->m, c0, c1);
  for (int64_t k0 = 0; k0 < j->k || k0 == 0; k0 += TF_KC) {
    int64_t kc = tf_min(TF_KC, j->k - k0);
    for (int64_t n = c0; n < c1; n += NR) gemm_pack_cols(j, j->n0 + n, tf_min(NR, c1 - n), k0, kc, pb + (n - c0) * kc);
    gemm_block(j, 0, j->m, c0, c1, k0, kc, pa, pb, kc);
  }
  gemm_c_out(j, 0, j->m, c0, c1);
}
