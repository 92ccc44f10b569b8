/* The AVX-512 instructions that the kernels use, in plain C on the compiler's vectors, after their definitions in Intel's manual: so that
 * the AVX-512 kernels can be tested on a machine without them. Stands before the compiler's own header in the search path. */
#include_next <immintrin.h>
#include <math.h>
#include <string.h>

#define EMU static inline __attribute__((always_inline))
#define EACH for (int i_ = 0; i_ < 16; i_++)

EMU __m512 emu_set1_ps(float x) { return (__m512){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
EMU __m512i emu_set1_epi32(int x) {
  __v16si r = {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
  return (__m512i)r;
}
EMU __m512 emu_loadu_ps(const float *p) {
  __m512 r;
  memcpy(&r, p, 64);
  return r;
}
EMU void emu_storeu_ps(float *p, __m512 a) { memcpy(p, &a, 64); }
EMU __m512 emu_maskz_loadu_ps(__mmask16 m, const float *p) {
  __m512 r = emu_set1_ps(0);
  EACH if (m >> i_ & 1) r[i_] = p[i_];
  return r;
}
EMU void emu_mask_storeu_ps(float *p, __mmask16 m, __m512 a) { EACH if (m >> i_ & 1) p[i_] = a[i_]; }
EMU __m512 emu_max_ps(__m512 a, __m512 b) {
  EACH a[i_] = a[i_] > b[i_] ? a[i_] : b[i_];
  return a;
}
EMU __m512 emu_min_ps(__m512 a, __m512 b) {
  EACH a[i_] = a[i_] < b[i_] ? a[i_] : b[i_];
  return a;
}
EMU __m512 emu_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  EACH c[i_] = fmaf(a[i_], b[i_], c[i_]);
  return c;
}
EMU __m512 emu_sqrt_ps(__m512 a) {
  EACH a[i_] = sqrtf(a[i_]);
  return a;
}
EMU __mmask16 emu_cmp_lt(__m512 a, __m512 b) {
  unsigned m = 0;
  EACH m |= (unsigned)(a[i_] < b[i_]) << i_;
  return (__mmask16)m;
}
EMU __m512 emu_mask_blend_ps(__mmask16 m, __m512 a, __m512 b) {
  EACH a[i_] = m >> i_ & 1 ? b[i_] : a[i_];
  return a;
}
EMU __m512i emu_cvtps_epi32(__m512 a) {
  __v16si r;
  EACH r[i_] = fabsf(a[i_]) < 0x1p31f ? (int)nearbyintf(a[i_]) : INT32_MIN;
  return (__m512i)r;
}
EMU __m512 emu_cvtepi32_ps(__m512i a) {
  __m512 r;
  EACH r[i_] = (float)((__v16si)a)[i_];
  return r;
}
EMU __m256d emu_high(__m512d a) { return (__m256d){a[4], a[5], a[6], a[7]}; }
EMU __m256 emu_low(__m512 a) { return (__m256){a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]}; }

#define _mm512_set1_ps emu_set1_ps
#define _mm512_set1_epi32 emu_set1_epi32
#define _mm512_setzero_ps() emu_set1_ps(0)
#undef _mm512_setr_ps
#define _mm512_setr_ps(...) ((__m512){__VA_ARGS__})
#define _mm512_loadu_ps emu_loadu_ps
#define _mm512_storeu_ps emu_storeu_ps
#define _mm512_maskz_loadu_ps emu_maskz_loadu_ps
#define _mm512_mask_storeu_ps emu_mask_storeu_ps
#define _mm512_add_ps(a, b) ((__m512)(a) + (__m512)(b))
#define _mm512_sub_ps(a, b) ((__m512)(a) - (__m512)(b))
#define _mm512_mul_ps(a, b) ((__m512)(a) * (__m512)(b))
#define _mm512_div_ps(a, b) ((__m512)(a) / (__m512)(b))
#define _mm512_max_ps emu_max_ps
#define _mm512_min_ps emu_min_ps
#define _mm512_fmadd_ps emu_fmadd_ps
#define _mm512_sqrt_ps emu_sqrt_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask(a, b, op) emu_cmp_lt(a, b) /* only _CMP_LT_OQ is used */
#define _mm512_mask_blend_ps emu_mask_blend_ps
#define _mm512_cvtps_epi32 emu_cvtps_epi32
#define _mm512_cvtepi32_ps emu_cvtepi32_ps
#define _mm512_castps_si512(a) ((__m512i)(a))
#define _mm512_castsi512_ps(a) ((__m512)(a))
#define _mm512_castps_pd(a) ((__m512d)(a))
#define _mm512_castps512_ps256 emu_low
#undef _mm512_extractf64x4_pd
#define _mm512_extractf64x4_pd(a, half) emu_high(a) /* only the upper half is used */
#define _mm512_xor_si512(a, b) ((__m512i)((__v16si)(a) ^ (__v16si)(b)))
#define _mm512_and_si512(a, b) ((__m512i)((__v16si)(a) & (__v16si)(b)))
#define _mm512_or_si512(a, b) ((__m512i)((__v16si)(a) | (__v16si)(b)))
#define _mm512_andnot_si512(a, b) ((__m512i)(~(__v16si)(a) & (__v16si)(b)))
#define _mm512_add_epi32(a, b) ((__m512i)((__v16si)(a) + (__v16si)(b)))
#define _mm512_sub_epi32(a, b) ((__m512i)((__v16si)(a) - (__v16si)(b)))
#undef _mm512_slli_epi32
#define _mm512_slli_epi32(a, n) ((__m512i)((__v16su)(a) << (n)))
#undef _mm512_srli_epi32
#define _mm512_srli_epi32(a, n) ((__m512i)((__v16su)(a) >> (n)))
