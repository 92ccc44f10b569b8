/* Dropout and random numbers: functions of seed, stream and place, with the bits of the CPU backend. */
#include "philox.cuh"
#include "rows.cuh"

namespace tf {
namespace {

/* 4 columns a thread, one block a row. Wide: they are loaded at once. */
template <typename T, bool wide>
__global__ void __launch_bounds__(kRowThreads) dropout_kernel(Rows x, Rows y, const int64_t *row_ids, Key key, float scale, uint32_t threshold, int32_t accumulate) {
  typedef vec<T, 4> V;
  const int64_t r = blockIdx.x, d = x.d;
  const uint64_t id = row_ids ? (uint64_t)row_ids[r] : (uint64_t)r;
  const T *px = x.row<T>(r);
  T *py = y.row<T>(r);
  for (int64_t i = threadIdx.x; 4 * i < d; i += blockDim.x) {
    uint32_t u[4];
    philox((uint32_t)i, id, key, u);
    V a = {}, b = {};
    if (wide) {
      a = reinterpret_cast<const V *>(px)[i];
      if (accumulate) b = reinterpret_cast<V *>(py)[i];
    } else {
      for (int k = 0; k < 4; k++) {
        if (4 * i + k >= d) continue;
        a.v[k] = px[4 * i + k];
        if (accumulate) b.v[k] = py[4 * i + k];
      }
    }
    for (int k = 0; k < 4; k++) {
      const float t = u[k] >= threshold ? __fmul_rn(up(a.v[k]), scale) : 0.0f;
      b.v[k] = down<T>(accumulate ? up(b.v[k]) + t : t);
    }
    if (wide) {
      reinterpret_cast<V *>(py)[i] = b;
    } else {
      for (int k = 0; k < 4; k++)
        if (4 * i + k < d) py[4 * i + k] = b.v[k];
    }
  }
}

/* log x for x > 0, normal: the CPU backend's (after Cephes), operation by operation. */
__device__ inline float log_fixed(float x) {
  const uint32_t u = float_bits(x);
  float m = bits_float((u & 0x7fffff) | 0x3f800000), e = (float)((int32_t)(u >> 23) - 127);
  if (1.41421356f < m) {
    m *= 0.5f;
    e += 1.0f;
  }
  const float r = m - 1.0f, z = __fmul_rn(r, r);
  float p = 7.0376836292e-2f;
  p = fmaf(p, r, -1.1514610310e-1f);
  p = fmaf(p, r, 1.1676998740e-1f);
  p = fmaf(p, r, -1.2420140846e-1f);
  p = fmaf(p, r, 1.4249322787e-1f);
  p = fmaf(p, r, -1.6668057665e-1f);
  p = fmaf(p, r, 2.0000714765e-1f);
  p = fmaf(p, r, -2.4999993993e-1f);
  p = fmaf(p, r, 3.3333331174e-1f);
  float y = __fmul_rn(__fmul_rn(p, r), z);
  y = fmaf(e, -2.12194440e-4f, y);
  y = fmaf(z, -0.5f, y);
  y = __fadd_rn(r, y);
  return fmaf(e, 0.693359375f, y);
}

/* sin and cos of 2 pi u for u in [0, 1), likewise. */
__device__ inline void sincos_fixed(float u, float *s, float *c) {
  const float magic = 12582912.0f; /* 1.5 * 2^23 rounds to whole numbers */
  const float q = fmaf(u, 4.0f, magic) - magic, x = __fmul_rn(fmaf(q, -0.25f, u), 6.28318530717958648f), z = __fmul_rn(x, x);
  float ps = -1.9515295891e-4f;
  ps = fmaf(ps, z, 8.3321608736e-3f);
  ps = fmaf(ps, z, -1.6666654611e-1f);
  ps = fmaf(__fmul_rn(ps, z), x, x);
  float pc = 2.443315711809948e-5f;
  pc = fmaf(pc, z, -1.388731625493765e-3f);
  pc = fmaf(pc, z, 4.166664568298827e-2f);
  pc = fmaf(__fmul_rn(pc, z), z, fmaf(z, -0.5f, 1.0f));
  switch ((int)q) { /* the quadrant, 4 is 0 */
    case 1:
      *s = pc;
      *c = -ps;
      break;
    case 2:
      *s = -ps;
      *c = -pc;
      break;
    case 3:
      *s = -pc;
      *c = ps;
      break;
    default:
      *s = ps;
      *c = pc;
  }
}

/* 4 elements a thread. Box-Muller: numbers 2k and 2k+1 give elements 2k and 2k+1. */
__global__ void __launch_bounds__(256) random_kernel(float *y, int64_t n, uint64_t counter, Key key, float a, float b, int32_t kind) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (4 * i >= n) return;
  const float unit = 0x1p-24f;
  uint32_t u[4];
  float out[4];
  philox(counter + (uint64_t)i, 0, key, u);
  if (kind == TF_RANDOM_UNIFORM) {
    for (int k = 0; k < 4; k++) out[k] = fmaf((float)(u[k] >> 8) * unit, b - a, a);
  } else {
    for (int k = 0; k < 4; k += 2) {
      float s, c;
      const float radius = __fmul_rn(sqrtf(__fmul_rn(-2.0f, log_fixed(((float)(u[k] >> 8) + 1.0f) * unit))), b);
      sincos_fixed((float)(u[k + 1] >> 8) * unit, &s, &c);
      out[k] = fmaf(radius, c, a);
      out[k + 1] = fmaf(radius, s, a);
    }
  }
  for (int k = 0; k < 4; k++)
    if (4 * i + k < n) y[4 * i + k] = out[k];
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_dropout(tf_queue *q, const tf_dropout *p) {
  Rows x, y;
  int64_t *row_ids;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(rows_of(q, p->y, "y", x.n, x.d, x.dt, &y));
  if (!(p->p >= 0 && p->p < 1)) return fail(q, TF_EINVALID, "p is %g", (double)p->p);
  TF_TRY(maybe_flat(q, p->row_ids, "row_ids", TF_I64, x.n, &row_ids));
  if (x.d == 0) return TF_OK;
  const float scale = 1.0f / (1.0f - p->p);
  const uint32_t threshold = (uint32_t)((double)p->p * 4294967296.0);
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    const bool wide = x.d % 4 == 0 && x.aligned(4, sizeof(T)) && y.aligned(4, sizeof(T));
    return launch(q, "dropout", wide ? dropout_kernel<T, true> : dropout_kernel<T, false>, dim3((unsigned)x.n), dim3(row_threads(ceil_div(x.d, 4))), 0, x, y,
                  row_ids, philox_key(p->seed, p->stream), scale, threshold, p->accumulate);
  });
}

tf_status cuda_random(tf_queue *q, const tf_random *p) {
  float *y;
  TF_TRY(flat(q, p->y, "y", TF_F32, -1, &y));
  if (p->offset % 4 || (p->kind != TF_RANDOM_UNIFORM && p->kind != TF_RANDOM_NORMAL))
    return fail(q, TF_EINVALID, "offset %lu or kind %d", (unsigned long)p->offset, p->kind);
  const int64_t n = numel(p->y);
  return launch(q, "random", random_kernel, dim3((unsigned)ceil_div(n, 1024)), dim3(256), 0, y, n, p->offset / 4, philox_key(p->seed, p->stream), p->a, p->b,
                p->kind);
}
