/* v16 as four 128-bit registers (AArch64). Lane i of v16 is lane i%4 of the register i/4. */
#include <arm_neon.h>

typedef struct {
  float32x4_t a, b, c, d;
} v16;
typedef struct {
  uint32x4_t a, b, c, d;
} m16;

#define V1 static inline __attribute__((always_inline))

V1 v16 v_set1(float x) {
  float32x4_t r = vdupq_n_f32(x);
  return (v16){r, r, r, r};
}
V1 v16 v_zero(void) { return v_set1(0); }
V1 v16 v_ld(const float *p) { return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
V1 void v_st(float *p, v16 x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
/* The first n lanes (0 <= n <= 16); the others are 0 and not read. */
V1 v16 v_ldn(const float *p, int64_t n) {
  if (n >= 16) return v_ld(p);
  float t[16] = {0};
  for (int64_t i = 0; i < n; i++) t[i] = p[i];
  return v_ld(t);
}
V1 void v_stn(float *p, v16 x, int64_t n) {
  if (n >= 16) {
    v_st(p, x);
    return;
  }
  float t[16];
  v_st(t, x);
  for (int64_t i = 0; i < n; i++) p[i] = t[i];
}
#define V_BIN(name, op) \
  V1 v16 name(v16 x, v16 y) { return (v16){op(x.a, y.a), op(x.b, y.b), op(x.c, y.c), op(x.d, y.d)}; }
V_BIN(v_add, vaddq_f32)
V_BIN(v_sub, vsubq_f32)
V_BIN(v_mul, vmulq_f32)
V_BIN(v_div, vdivq_f32)
/* The second operand when either is a NaN: not so FMAX and FMIN. */
V1 float32x4_t q_max(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
V1 float32x4_t q_min(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
V_BIN(v_max, q_max)
V_BIN(v_min, q_min)
/* The magnitude of x with the sign of s. */
V1 float32x4_t q_copysign(float32x4_t x, float32x4_t s) { return vbslq_f32(vdupq_n_u32(0x80000000u), s, x); }
V_BIN(v_copysign, q_copysign)
#undef V_BIN
V1 v16 v_fma(v16 x, v16 y, v16 z) {
  return (v16){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
V1 v16 v_sqrt(v16 x) { return (v16){vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)}; }
V1 v16 v_neg(v16 x) { return (v16){vnegq_f32(x.a), vnegq_f32(x.b), vnegq_f32(x.c), vnegq_f32(x.d)}; }
V1 v16 v_abs(v16 x) { return (v16){vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
V1 m16 v_lt(v16 x, v16 y) { return (m16){vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b), vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d)}; }
V1 m16 v_and(m16 x, m16 y) { return (m16){vandq_u32(x.a, y.a), vandq_u32(x.b, y.b), vandq_u32(x.c, y.c), vandq_u32(x.d, y.d)}; }
/* m ? x : y */
V1 v16 v_sel(m16 m, v16 x, v16 y) {
  return (v16){vbslq_f32(m.a, x.a, y.a), vbslq_f32(m.b, x.b, y.b), vbslq_f32(m.c, x.c, y.c), vbslq_f32(m.d, x.d, y.d)};
}
/* 2^n for n a whole number in [-127, 127] (-127 gives 0); a NaN gives 1, as on x86. */
V1 float32x4_t q_pow2(float32x4_t n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)); }
V1 v16 v_pow2(v16 n) { return (v16){q_pow2(n.a), q_pow2(n.b), q_pow2(n.c), q_pow2(n.d)}; }
/* x > 0, normal: mantissa in [1, 2) to *m, exponent returned. */
V1 float32x4_t q_mantissa(float32x4_t x) {
  return vreinterpretq_f32_u32(vorrq_u32(vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fffff)), vdupq_n_u32(0x3f800000)));
}
V1 float32x4_t q_exponent(float32x4_t x) {
  return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(x), 23)), vdupq_n_s32(127)));
}
V1 v16 v_frexp(v16 x, v16 *m) {
  *m = (v16){q_mantissa(x.a), q_mantissa(x.b), q_mantissa(x.c), q_mantissa(x.d)};
  return (v16){q_exponent(x.a), q_exponent(x.b), q_exponent(x.c), q_exponent(x.d)};
}
V1 v16 v_lane(void) {
  static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return v_ld(lanes);
}
/* Lanes are joined as i with i+8, then i+4, i+2, i+1. */
V1 float v_hsum(v16 x) {
  float32x4_t s = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
  return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
V1 float v_hmax(v16 x) {
  float32x4_t s = q_max(q_max(x.a, x.c), q_max(x.b, x.d));
  s = q_max(s, vextq_f32(s, s, 2));
  float l = vgetq_lane_f32(s, 0), h = vgetq_lane_f32(s, 1);
  return l > h ? l : h;
}

#define TF_V_BF16 1
/* 16 bf16 from and to memory, as v_ldn and v_stn; rounded to nearest, ties to even, a NaN stays one. */
V1 float32x4_t q_from_bf16(uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); }
V1 v16 b_ldn(const uint16_t *p, int64_t n) {
  uint16_t t[16] = {0};
  if (n < 16) {
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    p = t;
  }
  return (v16){q_from_bf16(vld1_u16(p)), q_from_bf16(vld1_u16(p + 4)), q_from_bf16(vld1_u16(p + 8)), q_from_bf16(vld1_u16(p + 12))};
}
V1 uint16x4_t q_to_bf16(float32x4_t x) {
  uint32x4_t u = vreinterpretq_u32_f32(x), high = vshrq_n_u32(u, 16);
  uint32x4_t r = vshrq_n_u32(vaddq_u32(u, vaddq_u32(vandq_u32(high, vdupq_n_u32(1)), vdupq_n_u32(0x7fff))), 16);
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), r, vorrq_u32(high, vdupq_n_u32(64))));
}
V1 void b_stn(uint16_t *p, v16 x, int64_t n) {
  uint16_t t[16], *to = n >= 16 ? p : t;
  vst1_u16(to, q_to_bf16(x.a));
  vst1_u16(to + 4, q_to_bf16(x.b));
  vst1_u16(to + 8, q_to_bf16(x.c));
  vst1_u16(to + 12, q_to_bf16(x.d));
  if (n < 16)
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

#define TF_V_F16 1
/* The same of f16. */
V1 float32x4_t q_from_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
V1 v16 h_ldn(const uint16_t *p, int64_t n) {
  uint16_t t[16] = {0};
  if (n < 16) {
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    p = t;
  }
  return (v16){q_from_f16(p), q_from_f16(p + 4), q_from_f16(p + 8), q_from_f16(p + 12)};
}
V1 uint16x4_t q_to_f16(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }
V1 void h_stn(uint16_t *p, v16 x, int64_t n) {
  uint16_t t[16], *to = n >= 16 ? p : t;
  vst1_u16(to, q_to_f16(x.a));
  vst1_u16(to + 4, q_to_f16(x.b));
  vst1_u16(to + 8, q_to_f16(x.c));
  vst1_u16(to + 12, q_to_f16(x.d));
  if (n < 16)
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

/* The microkernel's vectors: NV of W lanes. 24 of the 32 registers hold a tile. */
typedef float32x4_t vn;
#define VN_W 4
#define TF_MR 6
#define TF_NV 4
V1 vn n_ld(const float *p) { return vld1q_f32(p); }
V1 void n_st(float *p, vn x) { vst1q_f32(p, x); }
V1 vn n_set1(const float *p) { return vld1q_dup_f32(p); }
V1 vn n_zero(void) { return vdupq_n_f32(0); }
V1 vn n_fma(vn x, vn y, vn z) { return vfmaq_f32(z, x, y); }

#define TF_TRANSPOSE8 1
V1 void q_transpose4(float32x4_t *r) {
  float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
  float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
  r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
/* dst[i * dld + j] = src[j * sld + i], 8 x 8, row after row; of fewer rows n the last is repeated. */
V1 void transpose8(const float *src, int64_t sld, int64_t n, float *dst, int64_t dld) {
  float32x4_t t[2][2][4]; /* halves of columns and of rows */
#pragma GCC unroll 8
  for (int64_t i = 0; i < 8; i++) {
    const float *row = src + (i < n ? i : n - 1) * sld;
    t[0][i / 4][i % 4] = vld1q_f32(row);
    t[1][i / 4][i % 4] = vld1q_f32(row + 4);
  }
  q_transpose4(t[0][0]);
  q_transpose4(t[0][1]);
  q_transpose4(t[1][0]);
  q_transpose4(t[1][1]);
#pragma GCC unroll 8
  for (int64_t i = 0; i < 8; i++) {
    vst1q_f32(dst + i * dld, t[i / 4][0][i % 4]);
    vst1q_f32(dst + i * dld + 4, t[i / 4][1][i % 4]);
  }
}
