/* Optimizers whose products and sums are rounded one by one: AdamW with moments in 8 bits, and Lion. */
#include "dynamic8.h"

static const float dynamic_signed[256] = TF_DYNAMIC8_SIGNED, dynamic_unsigned[256] = TF_DYNAMIC8_UNSIGNED;

/* Codes a block by the nearest entry of the table, the lower of equals, and returns its scale. x has room for whole 16s. */
static float quantize8(const float *table, const float *x, int64_t n, uint8_t *codes) {
  float most = 0;
  for (int64_t i = 0; i < n; i++) {
    float a = __builtin_fabsf(x[i]);
    most = a > most || a != a ? a : most; /* a NaN stays */
  }
  float scale = most == 0 ? 0 : 1 / most;
  for (int64_t lo = 0; lo < n; lo += 16) {
    float v[16];
    int32_t at[16]; /* how many entries are not greater */
    v_st(v, v_mul(v_ld(x + lo), v_set1(scale)));
    for (int l = 0; l < 16; l++) at[l] = 0;
    for (int s = 128; s > 0; s /= 2)
      for (int l = 0; l < 16; l++) at[l] += table[at[l] + s - 1] > v[l] ? 0 : s;
    for (int l = 0; l < 16; l++) {
      int32_t hi = at[l], low = hi > 0 ? hi - 1 : 0;
      at[l] = hi == 255 && !(table[255] > v[l]) ? 255 : table[hi] - v[l] < v[l] - table[low] ? hi : low;
    }
    for (int64_t l = 0; l < 16 && lo + l < n; l++) codes[lo + l] = (uint8_t)at[l];
  }
  return most;
}

static void k_adamw8(void *arg, int64_t task, int thread) {
  const tf_adamw8_job *j = arg;
  (void)thread;
  v16 decay = v_set1(j->decay), b1 = v_set1(j->beta1), b1c = v_set1(j->beta1c), b2 = v_set1(j->beta2), b2c = v_set1(j->beta2c), eps = v_set1(j->eps);
  v16 step = v_set1(-j->step_size), bc2 = v_set1(j->bc2_sqrt), gs = v_set1(j->gscale);
  int64_t blocks = tf_ceil_div(j->n, TF_ADAM8_BLOCK);
  for (int64_t b = task * j->blocks; b < blocks && b < (task + 1) * j->blocks; b++) {
    int64_t lo = b * TF_ADAM8_BLOCK, hi = tf_min(lo + TF_ADAM8_BLOCK, j->n);
    v16 ms = v_set1(j->ms[b]), vs = v_set1(j->vs[b]);
    float m[TF_ADAM8_BLOCK], v[TF_ADAM8_BLOCK];
    for (int64_t i = lo; i < hi; i += 16) {
      int64_t n = tf_min(hi - i, 16);
      float mt[16] = {0}, vt[16] = {0};
      for (int64_t l = 0; l < n; l++) {
        mt[l] = dynamic_signed[j->mc[i + l]];
        vt[l] = dynamic_unsigned[j->vc[i + l]];
      }
      v16 g = v_mul(v_ldn(j->g + i, n), gs);
      v16 mi = v_add(v_mul(v_mul(v_ld(mt), ms), b1), v_mul(g, b1c));
      v16 vi = v_add(v_mul(v_mul(v_ld(vt), vs), b2), v_mul(v_mul(g, g), b2c));
      v_st(m + (i - lo), mi);
      v_st(v + (i - lo), vi);
      v16 den = v_add(v_div(v_sqrt(vi), bc2), eps);
      v_stn(j->p + i, v_add(v_mul(v_ldn(j->p + i, n), decay), v_mul(step, v_div(mi, den))), n);
    }
    j->ms[b] = quantize8(dynamic_signed, m, hi - lo, j->mc + lo);
    j->vs[b] = quantize8(dynamic_unsigned, v, hi - lo, j->vc + lo);
  }
}

static void k_lion(void *arg, int64_t task, int thread) {
  const tf_lion_job *j = arg;
  (void)thread;
  int64_t lo = task * j->block, hi = tf_min(lo + j->block, j->n);
  v16 decay = v_set1(j->decay), step = v_set1(j->step), b1 = v_set1(j->beta1), b1c = v_set1(j->beta1c), b2 = v_set1(j->beta2), b2c = v_set1(j->beta2c);
  v16 gs = v_set1(j->gscale), zero = v_zero();
  for (int64_t i = lo; i < hi; i += 16) {
    int64_t n = hi - i;
    v16 g = v_mul(v_ldn(j->g + i, n), gs), m = v_ldn(j->m + i, n), p = v_mul(v_ldn(j->p + i, n), decay);
    v16 u = v_add(v_mul(m, b1), v_mul(g, b1c));
    p = v_sel(v_lt(zero, u), v_sub(p, step), v_sel(v_lt(u, zero), v_add(p, step), p));
    v_stn(j->p + i, p, n);
    v_stn(j->m + i, v_add(v_mul(m, b2), v_mul(g, b2c)), n);
  }
}
