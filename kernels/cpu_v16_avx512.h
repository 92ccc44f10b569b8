/* v16 as one 512-bit register. */
#include <immintrin.h>

typedef __m512 v16;
typedef __mmask16 m16;

#define V1 static inline __attribute__((always_inline))

V1 v16 v_set1(float x) { return _mm512_set1_ps(x); }
V1 v16 v_zero(void) { return _mm512_setzero_ps(); }
V1 v16 v_ld(const float *p) { return _mm512_loadu_ps(p); }
V1 void v_st(float *p, v16 a) { _mm512_storeu_ps(p, a); }
V1 __mmask16 v_tail(int64_t n) { return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1); }
/* The first n lanes (0 <= n <= 16); the others are 0 and not read. */
V1 v16 v_ldn(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_tail(n), p); }
V1 void v_stn(float *p, v16 a, int64_t n) { _mm512_mask_storeu_ps(p, v_tail(n), a); }
V1 v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
V1 v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
V1 v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
V1 v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
/* The second operand when either is a NaN. */
V1 v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
V1 v16 v_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
V1 v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
V1 v16 v_sqrt(v16 a) { return _mm512_sqrt_ps(a); }
V1 v16 v_neg(v16 a) { return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0x80000000))); }
V1 v16 v_abs(v16 a) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff))); }
/* a's magnitude with s's sign. */
V1 v16 v_copysign(v16 a, v16 s) {
  __m512i m = _mm512_set1_epi32((int)0x80000000);
  return _mm512_castsi512_ps(
      _mm512_or_si512(_mm512_andnot_si512(m, _mm512_castps_si512(a)), _mm512_and_si512(m, _mm512_castps_si512(s))));
}
V1 m16 v_lt(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
V1 m16 v_and(m16 a, m16 b) { return (m16)(a & b); }
/* m ? a : b */
V1 v16 v_sel(m16 m, v16 a, v16 b) { return _mm512_mask_blend_ps(m, b, a); }
/* 2^n for n a whole number in [-127, 127] (-127 gives 0). */
V1 v16 v_pow2(v16 n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23)); }
/* x > 0, normal: mantissa in [1, 2) to *m, exponent returned. */
V1 v16 v_frexp(v16 x, v16 *m) {
  __m512i i = _mm512_castps_si512(x);
  *m = _mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(i, _mm512_set1_epi32(0x7fffff)), _mm512_set1_epi32(0x3f800000)));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(i, 23), _mm512_set1_epi32(127)));
}
V1 v16 v_lane(void) { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
V1 __m256 v_high(v16 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
/* Lanes are joined as i with i+8, then i+4, i+2, i+1. */
V1 float v_hsum(v16 a) {
  __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a), v_high(a));
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
V1 float v_hmax(v16 a) {
  __m256 s = _mm256_max_ps(_mm512_castps512_ps256(a), v_high(a));
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}

#ifndef TF_EMULATE_AVX512
#define TF_V_BF16 1
/* 16 bf16 from and to memory, as v_ldn and v_stn; rounded to nearest, ties to even, a NaN stays one. */
V1 v16 b_ldn(const uint16_t *p, int64_t n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(v_tail(n), p)), 16));
}
V1 void b_stn(uint16_t *p, v16 a, int64_t n) {
  __m512i u = _mm512_castps_si512(a), high = _mm512_srli_epi32(u, 16);
  __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff))), 16);
  r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), high, _mm512_set1_epi32(64));
  _mm256_mask_storeu_epi16(p, v_tail(n), _mm512_cvtepi32_epi16(r));
}
#define TF_V_F16 1
/* The same of f16. */
V1 v16 h_ldn(const uint16_t *p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_tail(n), p)); }
V1 void h_stn(uint16_t *p, v16 a, int64_t n) {
  _mm256_mask_storeu_epi16(p, v_tail(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#endif

/* The microkernel's vectors: NV of W lanes. */
typedef __m512 vn;
#define VN_W 16
#define TF_MR 14
#define TF_NV 2
V1 vn n_ld(const float *p) { return _mm512_loadu_ps(p); }
V1 void n_st(float *p, vn a) { _mm512_storeu_ps(p, a); }
V1 vn n_set1(const float *p) { return _mm512_set1_ps(*p); }
V1 vn n_zero(void) { return _mm512_setzero_ps(); }
#ifdef TF_DP
/* An element is a pair of bf16: both products are added. */
V1 vn n_fma(vn a, vn b, vn c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
#else
V1 vn n_fma(vn a, vn b, vn c) { return _mm512_fmadd_ps(a, b, c); }
#endif
#define TF_TRANSPOSE8 1
