/* v16 as 16 floats, for machines without the others: the definition that they have to equal. */
#include <math.h>
#include <string.h>

typedef struct {
  float f[16];
} v16;
typedef struct {
  int32_t f[16];
} m16;

#define V1 static inline
#define V_EACH for (int i = 0; i < 16; i++)

V1 v16 v_set1(float x) {
  v16 r;
  V_EACH r.f[i] = x;
  return r;
}
V1 v16 v_zero(void) { return v_set1(0); }
V1 v16 v_ld(const float *p) {
  v16 r;
  V_EACH r.f[i] = p[i];
  return r;
}
V1 void v_st(float *p, v16 a) { V_EACH p[i] = a.f[i]; }
/* The first n lanes (0 <= n <= 16); the others are 0 and not read. */
V1 v16 v_ldn(const float *p, int64_t n) {
  v16 r;
  V_EACH r.f[i] = i < n ? p[i] : 0;
  return r;
}
V1 void v_stn(float *p, v16 a, int64_t n) {
  for (int i = 0; i < n && i < 16; i++) p[i] = a.f[i];
}
#define V_BIN(name, expr)       \
  V1 v16 name(v16 a, v16 b) {   \
    v16 r;                      \
    V_EACH r.f[i] = (expr);     \
    return r;                   \
  }
V_BIN(v_add, a.f[i] + b.f[i])
V_BIN(v_sub, a.f[i] - b.f[i])
V_BIN(v_mul, a.f[i] * b.f[i])
V_BIN(v_div, a.f[i] / b.f[i])
/* The second operand when either is a NaN. */
V_BIN(v_max, a.f[i] > b.f[i] ? a.f[i] : b.f[i])
V_BIN(v_min, a.f[i] < b.f[i] ? a.f[i] : b.f[i])
/* a's magnitude with s's sign. */
V_BIN(v_copysign, copysignf(a.f[i], b.f[i]))
#undef V_BIN
V1 v16 v_fma(v16 a, v16 b, v16 c) {
  v16 r;
  V_EACH r.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
  return r;
}
V1 v16 v_sqrt(v16 a) {
  V_EACH a.f[i] = sqrtf(a.f[i]);
  return a;
}
V1 v16 v_neg(v16 a) {
  V_EACH a.f[i] = -a.f[i];
  return a;
}
V1 v16 v_abs(v16 a) {
  V_EACH a.f[i] = fabsf(a.f[i]);
  return a;
}
V1 m16 v_lt(v16 a, v16 b) {
  m16 r;
  V_EACH r.f[i] = a.f[i] < b.f[i];
  return r;
}
V1 m16 v_and(m16 a, m16 b) {
  V_EACH a.f[i] &= b.f[i];
  return a;
}
/* m ? a : b */
V1 v16 v_sel(m16 m, v16 a, v16 b) {
  V_EACH a.f[i] = m.f[i] ? a.f[i] : b.f[i];
  return a;
}
V1 float bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
V1 uint32_t float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
/* 2^n for n a whole number in [-127, 127] (-127 gives 0); a NaN gives what the vector conversion does. */
V1 v16 v_pow2(v16 n) {
  V_EACH n.f[i] = bits_float(((n.f[i] == n.f[i] ? (uint32_t)(int32_t)n.f[i] : 0x80000000u) + 127u) << 23);
  return n;
}
/* x > 0, normal: mantissa in [1, 2) to *m, exponent returned. */
V1 v16 v_frexp(v16 x, v16 *m) {
  V_EACH {
    uint32_t u = float_bits(x.f[i]);
    m->f[i] = bits_float((u & 0x7fffff) | 0x3f800000);
    x.f[i] = (float)((int32_t)(u >> 23) - 127);
  }
  return x;
}
V1 v16 v_lane(void) {
  v16 r;
  V_EACH r.f[i] = (float)i;
  return r;
}
/* Lanes are joined as i with i+8, then i+4, i+2, i+1. */
V1 float v_hsum(v16 a) {
  for (int n = 8; n; n /= 2)
    for (int i = 0; i < n; i++) a.f[i] += a.f[i + n];
  return a.f[0];
}
V1 float v_hmax(v16 a) {
  for (int n = 8; n; n /= 2)
    for (int i = 0; i < n; i++) a.f[i] = a.f[i] > a.f[i + n] ? a.f[i] : a.f[i + n];
  return a.f[0];
}

/* The microkernel's vectors: NV of W lanes. */
typedef v16 vn;
#define VN_W 16
#define TF_MR 4
#define TF_NV 1
V1 vn n_ld(const float *p) { return v_ld(p); }
V1 void n_st(float *p, vn a) { v_st(p, a); }
V1 vn n_set1(const float *p) { return v_set1(*p); }
V1 vn n_zero(void) { return v_zero(); }
V1 vn n_fma(vn a, vn b, vn c) { return v_fma(a, b, c); }
