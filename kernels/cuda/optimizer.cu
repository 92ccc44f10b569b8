/* The optimizer, norms of gradients, and ordered sums over shards. */
#include "dynamic8.h"
#include "optimizer.cuh"

namespace tf {
namespace {

struct Adam {
  float *p, *m, *v;
  const float *g;
  int64_t n, step;
  double lr, beta1, beta2, eps, weight_decay;
  float grad_scale;
  const float *lr_dev, *clip_dev;
  const int64_t *step_dev;
  const int32_t *skip_dev;
};

constexpr int kAdamThreads = 256, kAdamEach = 8; /* a block's first thread works out the step's factors for so many elements a thread */

__global__ void __launch_bounds__(kAdamThreads) adamw_kernel(Adam a, int32_t *trouble) {
  TF_SHARED(float, factor, 4);
  if (a.skip_dev && *a.skip_dev) return;
  const int64_t step = a.step_dev ? *a.step_dev : a.step;
  if (step < 1) {
    report(trouble, kBadStep);
    return;
  }
  if (threadIdx.x == 0) {
    const double lr = a.lr_dev ? a.lr * (double)*a.lr_dev : a.lr;
    factor[0] = (float)(1 - __dmul_rn(lr, a.weight_decay));
    factor[1] = (float)(lr / (1 - power(a.beta1, step)));
    factor[2] = (float)sqrt(1 - power(a.beta2, step));
    factor[3] = a.clip_dev ? a.grad_scale * *a.clip_dev : a.grad_scale;
  }
  __syncthreads();
  const float decay = factor[0], size = factor[1], bc2 = factor[2], scale = factor[3];
  const float b1c = (float)(1 - a.beta1), b2 = (float)a.beta2, b2c = (float)(1 - a.beta2), eps = (float)a.eps;
  int64_t i = (int64_t)blockIdx.x * kAdamThreads * kAdamEach + threadIdx.x;
  for (int k = 0; k < kAdamEach && i < a.n; k++, i += kAdamThreads) {
    const float g = a.g[i] * scale;
    const float m = fmaf(b1c, g - a.m[i], a.m[i]), v = fmaf(b2c * g, g, __fmul_rn(a.v[i], b2));
    a.m[i] = m;
    a.v[i] = v;
    a.p[i] = fmaf(-size, m / (sqrtf(v) / bc2 + eps), __fmul_rn(a.p[i], decay));
  }
}

struct Adam8 {
  float *p, *ms, *vs;
  uint8_t *mc, *vc;
  const float *g;
  int64_t n, blocks, step;
  double beta1, beta2, eps;
  Factors f;
  const int64_t *step_dev;
  const int32_t *skip_dev;
};

constexpr int kAdam8Block = 256, kAdam8Each = kAdam8Block / kWarp, kAdam8Warps = 8; /* a warp has a block of 256 elements that share a scale */

__device__ const float kDynamicSigned[256] = TF_DYNAMIC8_SIGNED;
__device__ const float kDynamicUnsigned[256] = TF_DYNAMIC8_UNSIGNED;

struct Most { /* a NaN stays */
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

/* The nearest entry of an ascending table, the lower of equals. */
__device__ inline uint8_t nearest(const float *table, float x) {
  int at = 0; /* how many entries are not greater */
  for (int s = 128; s > 0; s /= 2) at += table[at + s - 1] > x ? 0 : s;
  if (at == 255 && !(table[255] > x)) return 255;
  if (at == 0) return 0;
  return (uint8_t)(table[at] - x < x - table[at - 1] ? at : at - 1);
}

/* Codes what the lanes hold of a block. */
__device__ inline void quantize(const float *table, const float (&x)[kAdam8Each], int64_t lo, int64_t n, uint8_t *codes, float *scale) {
  float most = 0;
  for (int k = 0; k < kAdam8Each; k++) most = Most()(fabsf(x[k]), most);
  most = warp_reduce<Most>(most);
  const float inverse = most == 0 ? 0 : 1 / most;
  for (int k = 0; k < kAdam8Each; k++) {
    const int64_t i = lo + k * kWarp;
    if (i < n) codes[i] = nearest(table, __fmul_rn(x[k], inverse));
  }
  __syncwarp(); /* every lane has read the scale that was */
  if (threadIdx.x % kWarp == 0) *scale = most;
}

__global__ void __launch_bounds__(kAdam8Warps *kWarp, 2) adamw8_kernel(Adam8 a, int32_t *trouble) {
  TF_SHARED(float, factor, 4);
  TF_SHARED(float, signed_map, 256);
  TF_SHARED(float, unsigned_map, 256);
  if (a.skip_dev && *a.skip_dev) return;
  const int64_t step = a.step_dev ? *a.step_dev : a.step;
  if (step < 1) {
    report(trouble, kBadStep);
    return;
  }
  signed_map[threadIdx.x] = kDynamicSigned[threadIdx.x];
  unsigned_map[threadIdx.x] = kDynamicUnsigned[threadIdx.x];
  if (threadIdx.x == 0) {
    const double lr = a.f.rate();
    factor[0] = (float)(1 - __dmul_rn(lr, a.f.weight_decay));
    factor[1] = (float)(lr / (1 - power(a.beta1, step)));
    factor[2] = (float)sqrt(1 - power(a.beta2, step));
    factor[3] = a.f.scale();
  }
  __syncthreads();
  const int64_t block = (int64_t)blockIdx.x * kAdam8Warps + threadIdx.x / kWarp;
  if (block >= a.blocks) return;
  const float decay = factor[0], size = -factor[1], bc2 = factor[2], scale = factor[3], eps = (float)a.eps;
  const float b1 = (float)a.beta1, b1c = (float)(1 - a.beta1), b2 = (float)a.beta2, b2c = (float)(1 - a.beta2);
  const float ms = a.ms[block], vs = a.vs[block];
  const int64_t lo = block * kAdam8Block + threadIdx.x % kWarp;
  float m[kAdam8Each], v[kAdam8Each];
  for (int k = 0; k < kAdam8Each; k++) {
    const int64_t i = lo + k * kWarp;
    m[k] = v[k] = 0;
    if (i >= a.n) continue;
    const float g = __fmul_rn(a.g[i], scale);
    m[k] = __fadd_rn(__fmul_rn(__fmul_rn(signed_map[a.mc[i]], ms), b1), __fmul_rn(g, b1c));
    v[k] = __fadd_rn(__fmul_rn(__fmul_rn(unsigned_map[a.vc[i]], vs), b2), __fmul_rn(__fmul_rn(g, g), b2c));
    const float den = __fadd_rn(sqrtf(v[k]) / bc2, eps);
    a.p[i] = __fadd_rn(__fmul_rn(a.p[i], decay), __fmul_rn(size, m[k] / den));
  }
  quantize(signed_map, m, lo, a.n, a.mc, a.ms + block);
  quantize(unsigned_map, v, lo, a.n, a.vc, a.vs + block);
}

struct LionStep {
  float *p, *m;
  const float *g;
  int64_t n;
  double beta1, beta2;
  Factors f;
  const int32_t *skip_dev;
};

__global__ void __launch_bounds__(kAdamThreads) lion_kernel(LionStep a) {
  if (a.skip_dev && *a.skip_dev) return;
  const double lr = a.f.rate();
  const float decay = (float)(1 - __dmul_rn(lr, a.f.weight_decay)), step = (float)lr, scale = a.f.scale();
  const float b1 = (float)a.beta1, b1c = (float)(1 - a.beta1), b2 = (float)a.beta2, b2c = (float)(1 - a.beta2);
  int64_t i = (int64_t)blockIdx.x * kAdamThreads * kAdamEach + threadIdx.x;
  for (int k = 0; k < kAdamEach && i < a.n; k++, i += kAdamThreads) {
    const float g = __fmul_rn(a.g[i], scale), m = a.m[i], u = __fadd_rn(__fmul_rn(m, b1), __fmul_rn(g, b1c));
    float p = __fmul_rn(a.p[i], decay);
    if (u > 0) p = __fadd_rn(p, -step);
    if (u < 0) p = __fadd_rn(p, step);
    a.p[i] = p;
    a.m[i] = __fadd_rn(__fmul_rn(m, b2), __fmul_rn(g, b2c));
  }
}

/* 16 lanes a chunk of 4,096, each a chain of fma; the lanes are added in order in f64: the CPU backend's bits. */
__global__ void __launch_bounds__(256) sqnorm_kernel(const float *x, int64_t n, double *partials, int64_t chunks) {
  TF_SHARED(float, lane, 256);
  const int64_t c = (int64_t)blockIdx.x * 16 + threadIdx.x / 16;
  const int l = (int)(threadIdx.x % 16);
  float s = 0;
  if (c < chunks) {
    const int64_t hi = (c + 1) * 4096 < n ? (c + 1) * 4096 : n;
    for (int64_t i = c * 4096 + l; i < hi; i += 16) s = fmaf(x[i], x[i], s);
  }
  lane[threadIdx.x] = s;
  __syncthreads();
  if (c >= chunks || l != 0) return;
  double t = 0;
  for (int i = 0; i < 16; i++) t += (double)lane[threadIdx.x + i];
  partials[c] = t;
}

/* One block: all load, the first thread adds in order. */
__global__ void __launch_bounds__(256) sum_f64_kernel(const double *x, int64_t n, double *total, int32_t accumulate) {
  TF_SHARED(double, part, 256);
  double s = accumulate ? *total : 0.0;
  for (int64_t i = 0; i < n; i += 256) {
    __syncthreads();
    if (i + threadIdx.x < n) part[threadIdx.x] = x[i + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int64_t k = 0; k < 256 && i + k < n; k++) s += part[k];
  }
  if (threadIdx.x == 0) *total = s;
}

__global__ void clip_factor_kernel(const double *sumsq, float *norm, float *clip, int32_t *skip, float max_norm, double inv_scale) {
  const double v = sqrt(*sumsq) * inv_scale;
  if (norm) *norm = (float)v;
  if (clip) {
    const double c = max_norm > 0 ? (double)max_norm / (v + 1e-6) : 1.0;
    *clip = (float)(c < 1 ? c : 1.0);
  }
  if (skip) *skip = !(v - v == 0);
}

__global__ void flag_kernel(int32_t *flag, int32_t accumulate) { *flag = accumulate && *flag; }

__global__ void __launch_bounds__(256) nonfinite_kernel(const float *x, int64_t n, int32_t *flag) {
  bool bad = false;
  int64_t i = (int64_t)blockIdx.x * 256 * 16 + threadIdx.x;
  for (int k = 0; k < 16 && i < n; k++, i += 256) bad = bad || !(x[i] - x[i] == 0);
  if (bad) atomicOr(flag, 1); /* whoever comes first, the result is the same */
}

template <typename T>
__global__ void __launch_bounds__(256) slice_add_kernel(const T *x, int64_t s, int64_t ld, float *y, int64_t n, int32_t accumulate) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || (s == 0 && accumulate)) return;
  float a = accumulate ? y[i] : s > 0 ? up(x[i]) : 0.0f;
  for (int64_t k = accumulate ? 0 : 1; k < s; k++) a += up(x[k * ld + i]);
  y[i] = a;
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_adamw(tf_queue *q, const tf_adamw *p) {
  Adam a = {};
  TF_TRY(flat(q, p->p, "p", TF_F32, -1, &a.p));
  a.n = numel(p->p);
  float *g;
  TF_TRY(flat(q, p->m, "m", TF_F32, a.n, &a.m));
  TF_TRY(flat(q, p->v, "v", TF_F32, a.n, &a.v));
  TF_TRY(flat(q, p->g, "g", TF_F32, a.n, &g));
  if (!p->step_dev && !p->skip_dev && p->step < 1) return fail(q, TF_EINVALID, "step is %ld, the first is 1", (long)p->step);
  a.g = g;
  a.step = p->step;
  a.lr = p->lr;
  a.beta1 = p->beta1;
  a.beta2 = p->beta2;
  a.eps = p->eps;
  a.weight_decay = p->weight_decay;
  a.grad_scale = p->grad_scale == 0 ? 1 : p->grad_scale;
  a.lr_dev = at<const float>(p->lr_dev);
  a.clip_dev = at<const float>(p->clip_dev);
  a.step_dev = at<const int64_t>(p->step_dev);
  a.skip_dev = at<const int32_t>(p->skip_dev);
  return launch(q, "adamw", adamw_kernel, dim3((unsigned)ceil_div(a.n, kAdamThreads * kAdamEach)), dim3(kAdamThreads), 0, a, q->trouble);
}

tf_status cuda_adamw8(tf_queue *q, const tf_adamw8 *p) {
  Adam8 a = {};
  float *g;
  TF_TRY(flat(q, p->p, "p", TF_F32, -1, &a.p));
  a.n = numel(p->p);
  a.blocks = ceil_div(a.n, kAdam8Block);
  TF_TRY(flat(q, p->g, "g", TF_F32, a.n, &g));
  TF_TRY(flat(q, p->m_codes, "m_codes", TF_U8, a.n, &a.mc));
  TF_TRY(flat(q, p->v_codes, "v_codes", TF_U8, a.n, &a.vc));
  TF_TRY(flat(q, p->m_scales, "m_scales", TF_F32, a.blocks, &a.ms));
  TF_TRY(flat(q, p->v_scales, "v_scales", TF_F32, a.blocks, &a.vs));
  if (!p->step_dev && !p->skip_dev && p->step < 1) return fail(q, TF_EINVALID, "step is %ld, the first is 1", (long)p->step);
  a.g = g;
  a.step = p->step;
  a.beta1 = p->beta1;
  a.beta2 = p->beta2;
  a.eps = p->eps;
  a.f = factors(p);
  a.step_dev = at<const int64_t>(p->step_dev);
  a.skip_dev = at<const int32_t>(p->skip_dev);
  return launch(q, "adamw8", adamw8_kernel, dim3((unsigned)ceil_div(a.blocks, kAdam8Warps)), dim3(kAdam8Warps * kWarp), 0, a, q->trouble);
}

tf_status cuda_lion(tf_queue *q, const tf_lion *p) {
  LionStep a = {};
  float *g;
  TF_TRY(flat(q, p->p, "p", TF_F32, -1, &a.p));
  a.n = numel(p->p);
  TF_TRY(flat(q, p->m, "m", TF_F32, a.n, &a.m));
  TF_TRY(flat(q, p->g, "g", TF_F32, a.n, &g));
  a.g = g;
  a.beta1 = p->beta1;
  a.beta2 = p->beta2;
  a.f = factors(p);
  a.skip_dev = at<const int32_t>(p->skip_dev);
  return launch(q, "lion", lion_kernel, dim3((unsigned)ceil_div(a.n, kAdamThreads * kAdamEach)), dim3(kAdamThreads), 0, a);
}

tf_status cuda_sqnorm(tf_queue *q, const tf_sqnorm *p) {
  float *x;
  double *partials;
  TF_TRY(flat(q, p->x, "x", TF_F32, -1, &x));
  const int64_t n = numel(p->x), chunks = ceil_div(n, 4096);
  TF_TRY(flat(q, p->partials, "partials", TF_F64, chunks, &partials));
  return launch(q, "sqnorm", sqnorm_kernel, dim3((unsigned)ceil_div(chunks, 16)), dim3(256), 0, x, n, partials, chunks);
}

tf_status cuda_sum_f64(tf_queue *q, const tf_sum_f64 *p) {
  double *x, *total;
  TF_TRY(flat(q, p->x, "x", TF_F64, -1, &x));
  TF_TRY(flat(q, p->total, "total", TF_F64, 1, &total));
  return launch(q, "sum_f64", sum_f64_kernel, dim3(1), dim3(256), 0, x, numel(p->x), total, p->accumulate);
}

tf_status cuda_clip_factor(tf_queue *q, const tf_clip_factor *p) {
  double *sumsq;
  float *norm, *clip;
  int32_t *skip;
  TF_TRY(flat(q, p->sumsq, "sumsq", TF_F64, 1, &sumsq));
  TF_TRY(maybe_flat(q, p->norm, "norm", TF_F32, 1, &norm));
  TF_TRY(maybe_flat(q, p->clip, "clip", TF_F32, 1, &clip));
  TF_TRY(maybe_flat(q, p->skip, "skip", TF_I32, 1, &skip));
  return launch(q, "clip_factor", clip_factor_kernel, dim3(1), dim3(1), 0, sumsq, norm, clip, skip, p->max_norm, p->inv_scale == 0 ? 1.0 : (double)p->inv_scale);
}

tf_status cuda_nonfinite(tf_queue *q, const tf_nonfinite *p) {
  float *x;
  int32_t *flag;
  TF_TRY(flat(q, p->x, "x", TF_F32, -1, &x));
  TF_TRY(flat(q, p->flag, "flag", TF_I32, 1, &flag));
  const int64_t n = numel(p->x);
  TF_TRY(launch(q, "flag", flag_kernel, dim3(1), dim3(1), 0, flag, p->accumulate));
  return launch(q, "nonfinite", nonfinite_kernel, dim3((unsigned)ceil_div(n, 256 * 16)), dim3(256), 0, x, n, flag);
}

tf_status cuda_slice_add(tf_queue *q, const tf_slice_add *p) {
  float *y;
  TF_TRY(flat(q, p->y, "y", TF_F32, -1, &y));
  const int64_t n = numel(p->y);
  if (p->x.rank != 2 || p->x.dim[1] != n || !p->x.data || (n > 1 && p->x.stride[1] != 1))
    return fail(q, TF_EINVALID, "x has to be [slices,%ld] with a last stride of 1", (long)n);
  return dispatch(q, p->x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(q, "slice_add", slice_add_kernel<T>, dim3((unsigned)ceil_div(n, 256)), dim3(256), 0, at<const T>(p->x.data), p->x.dim[0], p->x.stride[0], y,
                  n, p->accumulate);
  });
}
