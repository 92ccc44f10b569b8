/* v16 as two 256-bit registers. Lane i of v16 is lane i%8 of half i/8. */
#include <immintrin.h>

typedef struct {
  __m256 l, h;
} v16;
typedef struct {
  __m256 l, h;
} m16;

#define V1 static inline __attribute__((always_inline))

V1 v16 v_set1(float x) { return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
V1 v16 v_zero(void) { return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
V1 v16 v_ld(const float *p) { return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
V1 void v_st(float *p, v16 a) {
  _mm256_storeu_ps(p, a.l);
  _mm256_storeu_ps(p + 8, a.h);
}
V1 __m256i v_tail8(int64_t n) {
  __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), i);
}
/* The first n lanes (0 <= n <= 16); the others are 0 and not read. */
V1 v16 v_ldn(const float *p, int64_t n) {
  if (n >= 16) return v_ld(p);
  if (n <= 8) return (v16){_mm256_maskload_ps(p, v_tail8(n)), _mm256_setzero_ps()};
  return (v16){_mm256_loadu_ps(p), _mm256_maskload_ps(p + 8, v_tail8(n - 8))};
}
V1 void v_stn(float *p, v16 a, int64_t n) {
  if (n >= 16) {
    v_st(p, a);
  } else if (n <= 8) {
    _mm256_maskstore_ps(p, v_tail8(n), a.l);
  } else {
    _mm256_storeu_ps(p, a.l);
    _mm256_maskstore_ps(p + 8, v_tail8(n - 8), a.h);
  }
}
#define V_BIN(name, op) \
  V1 v16 name(v16 a, v16 b) { return (v16){op(a.l, b.l), op(a.h, b.h)}; }
V_BIN(v_add, _mm256_add_ps)
V_BIN(v_sub, _mm256_sub_ps)
V_BIN(v_mul, _mm256_mul_ps)
V_BIN(v_div, _mm256_div_ps)
/* The second operand when either is a NaN. */
V_BIN(v_max, _mm256_max_ps)
V_BIN(v_min, _mm256_min_ps)
#undef V_BIN
V1 v16 v_fma(v16 a, v16 b, v16 c) { return (v16){_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h)}; }
V1 v16 v_sqrt(v16 a) { return (v16){_mm256_sqrt_ps(a.l), _mm256_sqrt_ps(a.h)}; }
V1 v16 v_neg(v16 a) {
  __m256 s = _mm256_set1_ps(-0.0f);
  return (v16){_mm256_xor_ps(a.l, s), _mm256_xor_ps(a.h, s)};
}
V1 v16 v_abs(v16 a) {
  __m256 s = _mm256_set1_ps(-0.0f);
  return (v16){_mm256_andnot_ps(s, a.l), _mm256_andnot_ps(s, a.h)};
}
/* a's magnitude with s's sign. */
V1 v16 v_copysign(v16 a, v16 s) {
  __m256 m = _mm256_set1_ps(-0.0f);
  return (v16){_mm256_or_ps(_mm256_andnot_ps(m, a.l), _mm256_and_ps(m, s.l)), _mm256_or_ps(_mm256_andnot_ps(m, a.h), _mm256_and_ps(m, s.h))};
}
V1 m16 v_lt(v16 a, v16 b) { return (m16){_mm256_cmp_ps(a.l, b.l, _CMP_LT_OQ), _mm256_cmp_ps(a.h, b.h, _CMP_LT_OQ)}; }
V1 m16 v_and(m16 a, m16 b) { return (m16){_mm256_and_ps(a.l, b.l), _mm256_and_ps(a.h, b.h)}; }
/* m ? a : b */
V1 v16 v_sel(m16 m, v16 a, v16 b) { return (v16){_mm256_blendv_ps(b.l, a.l, m.l), _mm256_blendv_ps(b.h, a.h, m.h)}; }
/* 2^n for n a whole number in [-127, 127] (-127 gives 0). */
V1 v16 v_pow2(v16 n) {
  __m256i b = _mm256_set1_epi32(127);
  return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.l), b), 23)),
               _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.h), b), 23))};
}
/* x > 0, normal: mantissa in [1, 2) to *m, exponent returned. */
V1 v16 v_frexp(v16 x, v16 *m) {
  __m256i mask = _mm256_set1_epi32(0x7fffff), one = _mm256_set1_epi32(0x3f800000), b = _mm256_set1_epi32(127);
  __m256i l = _mm256_castps_si256(x.l), h = _mm256_castps_si256(x.h);
  m->l = _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(l, mask), one));
  m->h = _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(h, mask), one));
  return (v16){_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(l, 23), b)), _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(h, 23), b))};
}
V1 v16 v_lane(void) {
  return (v16){_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)};
}
/* Lanes are joined as i with i+8, then i+4, i+2, i+1. */
V1 float v_hsum(v16 a) {
  __m256 s = _mm256_add_ps(a.l, a.h);
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
V1 float v_hmax(v16 a) {
  __m256 s = _mm256_max_ps(a.l, a.h);
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}

#define TF_V_BF16 1
/* 16 bf16 from and to memory, as v_ldn and v_stn; rounded to nearest, ties to even, a NaN stays one. */
V1 v16 b_ldn(const uint16_t *p, int64_t n) {
  uint16_t t[16] = {0};
  if (n < 16) {
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    p = t;
  }
  __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
  return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
V1 __m256i b_round(__m256 a) {
  __m256i u = _mm256_castps_si256(a), high = _mm256_srli_epi32(u, 16);
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff))), 16);
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(r, _mm256_or_si256(high, _mm256_set1_epi32(64)), nan);
}
V1 void b_stn(uint16_t *p, v16 a, int64_t n) {
  __m256i r = _mm256_permute4x64_epi64(_mm256_packus_epi32(b_round(a.l), b_round(a.h)), 0xd8);
  if (n >= 16) {
    _mm256_storeu_si256((__m256i *)p, r);
    return;
  }
  uint16_t t[16];
  _mm256_storeu_si256((__m256i *)t, r);
  for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

#define TF_V_F16 1
/* The same of f16. */
V1 v16 h_ldn(const uint16_t *p, int64_t n) {
  uint16_t t[16] = {0};
  if (n < 16) {
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    p = t;
  }
  return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
V1 void h_stn(uint16_t *p, v16 a, int64_t n) {
  __m128i l = _mm256_cvtps_ph(a.l, _MM_FROUND_TO_NEAREST_INT), h = _mm256_cvtps_ph(a.h, _MM_FROUND_TO_NEAREST_INT);
  if (n >= 16) {
    _mm_storeu_si128((__m128i *)p, l);
    _mm_storeu_si128((__m128i *)(p + 8), h);
    return;
  }
  uint16_t t[16];
  _mm_storeu_si128((__m128i *)t, l);
  _mm_storeu_si128((__m128i *)(t + 8), h);
  for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

/* The microkernel's vectors: NV of W lanes. */
typedef __m256 vn;
#define VN_W 8
#define TF_MR 6
#define TF_NV 2
V1 vn n_ld(const float *p) { return _mm256_loadu_ps(p); }
V1 void n_st(float *p, vn a) { _mm256_storeu_ps(p, a); }
V1 vn n_set1(const float *p) { return _mm256_broadcast_ss(p); }
V1 vn n_zero(void) { return _mm256_setzero_ps(); }
V1 vn n_fma(vn a, vn b, vn c) { return _mm256_fmadd_ps(a, b, c); }
#define TF_TRANSPOSE8 1
