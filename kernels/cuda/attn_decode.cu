/* Attention of one query a sequence, as when text is generated: the keys of a head are cut into parts that are worked on at the same time
 * (flash-decoding), and the parts are joined in order. How keys are cut depends on their number only. */
#include "attn_decode.cuh"

namespace tf {
namespace {

constexpr int kThreads = 128, kKeys = 128; /* a block; keys whose scores it holds at a time */
constexpr int64_t kMostParts = 64;
constexpr int kMostEach = 8; /* elements of an output that a thread sums up */
constexpr int64_t kLongest = (int64_t)kThreads * kMostEach;

int64_t span(int64_t keys) { return ceil_div(ceil_div(keys, kMostParts), kKeys) * kKeys; }
int64_t parts_of(int64_t keys) { return ceil_div(keys, span(keys)); }

/* A block has one part of the keys of one head: the greatest score, the sum of exponents, and the sum of values, [d_v + 2] of out. */
template <typename T>
__global__ void __launch_bounds__(kThreads, 3) attn_part_kernel(Attn a, int64_t each, int64_t parts, float *out) {
  TF_SHARED_DYNAMIC(float, query);
  TF_SHARED(float, ps, kKeys);
  TF_SHARED(float, red, 32);
  const int64_t part = blockIdx.x % parts, bh = blockIdx.x / parts, b = bh / a.hq, h = bh % a.hq, hk = h / a.group();
  const Scoring score = scoring(a, b, h);
  const T *q = a.q.at<T>(b, 0, h);
  for (int64_t i = threadIdx.x; i < a.d_qk; i += kThreads) query[i] = up(q[i]);
  const int64_t lo = a.lo[b] > part * each ? a.lo[b] : part * each, hi = a.hi[b] < (part + 1) * each ? a.hi[b] : (part + 1) * each;
  const int lane = (int)(threadIdx.x % kWarp), warp = (int)(threadIdx.x / kWarp);
  const float own = a.own(score.bias, b, 0);
  float m = kHidden, l = 0, o[kMostEach];
  TF_UNROLL
  for (int e = 0; e < kMostEach; e++) o[e] = 0;
  __syncthreads();
  for (int64_t j0 = lo; j0 < hi; j0 += kKeys) {
    const int n = (int)(hi - j0 < kKeys ? hi - j0 : kKeys);
    for (int j = warp; j < n; j += kThreads / kWarp) {
      const T *k = a.k.at<T>(b, j0 + j, hk);
      float s = 0;
      for (int64_t i = lane; i < a.d_qk; i += kWarp) s = fmaf(query[i], up(k[i]), s);
      s = warp_reduce<Sum>(s);
      if (lane == 0) ps[j] = !a.key_mask || a.key_mask[b * a.tk + j0 + j] ? score.biased(score(s), j0 + j, own) : kHidden;
    }
    __syncthreads();
    const float s = (int)threadIdx.x < n ? ps[threadIdx.x] : kHidden;
    const float most = fmaxf(m, block_reduce<Max>(s, red)), alpha = expf(m - most), p = s > 0.5f * kHidden ? expf(s - most) : 0.0f;
    ps[threadIdx.x] = p;
    l = l * alpha + block_reduce<Sum>(p, red);
    m = most;
    TF_UNROLL
    for (int e = 0; e < kMostEach; e++) {
      const int64_t i = threadIdx.x + e * kThreads;
      if (i >= a.d_v) break;
      float sum = o[e] * alpha;
      for (int j = 0; j < n; j++) sum = fmaf(ps[j], up(a.v.at<T>(b, j0 + j, hk)[i]), sum);
      o[e] = sum;
    }
    __syncthreads();
  }
  float *to = out + (int64_t)blockIdx.x * (a.d_v + 2);
  if (threadIdx.x == 0) {
    to[0] = m;
    to[1] = l;
  }
  TF_UNROLL
  for (int e = 0; e < kMostEach; e++) {
    const int64_t i = threadIdx.x + e * kThreads;
    if (i < a.d_v) to[2 + i] = o[e];
  }
}

/* A block joins the parts of one head, in their order. */
template <typename T>
__global__ void __launch_bounds__(kThreads) attn_join_kernel(Attn a, int64_t parts, const float *in) {
  const int64_t bh = blockIdx.x, b = bh / a.hq, h = bh % a.hq, ld = a.d_v + 2;
  in += bh * parts * ld;
  float m = a.sinks ? a.sinks[h] : kHidden;
  for (int64_t k = 0; k < parts; k++) m = fmaxf(m, in[k * ld]);
  float l = a.sinks ? expf(a.sinks[h] - m) : 0.0f;
  for (int64_t k = 0; k < parts; k++) l = fmaf(in[k * ld + 1], expf(in[k * ld] - m), l);
  const float inverse = l > 0 ? 1.0f / l : 0.0f;
  T *o = a.o.at<T>(b, 0, h);
  for (int64_t i = threadIdx.x; i < a.d_v; i += kThreads) {
    float sum = 0;
    for (int64_t k = 0; k < parts; k++) sum = fmaf(in[k * ld + 2 + i], expf(in[k * ld] - m), sum);
    o[i] = down<T>(sum * inverse);
  }
  if (a.lse && threadIdx.x == 0) a.lse[bh] = l < 1e-37f ? -INFINITY : m + logf(l);
}

}  // namespace

bool attn_decodes(const tf_attn_fwd *p) {
  return p->q.rank == 4 && p->k.rank == 4 && p->v.rank == 4 && p->q.dim[1] == 1 && p->k.dim[1] > kKeys && p->dropout == 0 && !has(p->cu_seqlens) &&
         p->q.dim[3] <= kLongest && p->v.dim[3] <= kLongest;
}

int64_t attn_decode_bytes(const tf_attn_fwd *p) {
  return p->q.dim[0] * p->q.dim[2] * parts_of(p->k.dim[1]) * (p->v.dim[3] + 2) * (int64_t)sizeof(float);
}

tf_status attn_decode(tf_queue *q, const Attn &a, int32_t dt, float *parts) {
  const int64_t n = parts_of(a.tk), heads = a.batch * a.hq;
  return dispatch(q, dt, [&](auto t) {
    using T = decltype(t);
    TF_TRY(launch(q, "attn_part", attn_part_kernel<T>, dim3((unsigned)(heads * n)), dim3(kThreads), (size_t)a.d_qk * sizeof(float), a, span(a.tk), n, parts));
    return launch(q, "attn_join", attn_join_kernel<T>, dim3((unsigned)heads), dim3(kThreads), 0, a, n, parts);
  });
}

}  // namespace tf
