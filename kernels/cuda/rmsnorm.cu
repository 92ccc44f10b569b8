/* RMS normalization, with the residual's addition before it. The example that README.md explains. */
#include "colsum.cuh"
#include "rows.cuh"

namespace tf {
namespace {

/* One block a row. N elements at a time; d is a multiple of N. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, 2) rmsnorm_fwd_kernel(Rows x, Rows res, Rows sum, Rows y, const float *w, float *rstd, float eps, float w_offset) {
  TF_SHARED(float, red, kWarp);
  typedef vec<T, N> V;
  const int64_t r = blockIdx.x, d = x.d;
  const V *px = reinterpret_cast<const V *>(x.row<T>(r));
  const V *pres = res ? reinterpret_cast<const V *>(res.row<T>(r)) : nullptr;
  V *psum = sum ? reinterpret_cast<V *>(sum.row<T>(r)) : nullptr;
  float sq = 0;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V v = px[i];
    if (pres) {
      V b = pres[i];
      for (int k = 0; k < N; k++) v.v[k] = down<T>(up(v.v[k]) + up(b.v[k]));
      if (psum) psum[i] = v;
    }
    for (int k = 0; k < N; k++) sq = fmaf(up(v.v[k]), up(v.v[k]), sq);
  }
  const float rs = 1.0f / sqrtf(block_reduce<Sum>(sq, red) / (float)d + eps);
  if (threadIdx.x == 0 && rstd) rstd[r] = rs;
  /* A thread reads again what it wrote itself; x may have been overwritten with the sum. */
  const bool summed = pres && psum;
  V *py = reinterpret_cast<V *>(y.row<T>(r));
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V v = summed ? psum[i] : px[i];
    if (pres && !psum) {
      V b = pres[i];
      for (int k = 0; k < N; k++) v.v[k] = down<T>(up(v.v[k]) + up(b.v[k]));
    }
    for (int k = 0; k < N; k++) v.v[k] = down<T>(up(v.v[k]) * rs * (w ? w[i * N + k] + w_offset : 1.0f));
    py[i] = v;
  }
}

/* dx = rstd * (g - xhat * mean(g * xhat)) + dsum, with g = dy * w and xhat = x * rstd. One block a row. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, 2)
    rmsnorm_dx_kernel(Rows x, Rows dy, Rows dsum, Rows dx, const float *w, const float *rstd, float w_offset, int32_t accumulate) {
  TF_SHARED(float, red, kWarp);
  typedef vec<T, N> V;
  const int64_t r = blockIdx.x, d = x.d;
  const float rs = rstd[r];
  const V *px = reinterpret_cast<const V *>(x.row<T>(r)), *pdy = reinterpret_cast<const V *>(dy.row<T>(r));
  const V *pds = dsum ? reinterpret_cast<const V *>(dsum.row<T>(r)) : nullptr;
  V *pdx = reinterpret_cast<V *>(dx.row<T>(r));
  float dot = 0;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V a = px[i], g = pdy[i];
    for (int k = 0; k < N; k++) dot = fmaf(up(g.v[k]) * (w ? w[i * N + k] + w_offset : 1.0f), up(a.v[k]) * rs, dot);
  }
  const float mean = block_reduce<Sum>(dot, red) / (float)d;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V a = px[i], g = pdy[i], s = pds ? pds[i] : V{}, old = accumulate ? pdx[i] : V{};
    for (int k = 0; k < N; k++) {
      float v = rs * (up(g.v[k]) * (w ? w[i * N + k] + w_offset : 1.0f) - up(a.v[k]) * rs * mean);
      if (pds) v += up(s.v[k]);
      if (accumulate) v += up(old.v[k]);
      a.v[k] = down<T>(v);
    }
    pdx[i] = a;
  }
}

/* partial[part][j] = sum over the part's rows of dy * xhat. A thread has one column, a block 128 of them in one part. */
template <typename T>
__global__ void __launch_bounds__(128) rmsnorm_dw_kernel(Rows x, Rows dy, const float *rstd, int64_t part, float *partial) {
  const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= x.d) return;
  const int64_t first = blockIdx.y * part, last = first + part < x.n ? first + part : x.n;
  float s = 0;
  for (int64_t r = first; r < last; r++) s = fmaf(up(dy.row<T>(r)[j]), up(x.row<T>(r)[j]) * rstd[r], s);
  partial[blockIdx.y * x.d + j] = s;
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_rmsnorm_fwd(tf_queue *q, const tf_rmsnorm_fwd *p) {
  Rows x, res, sum, y;
  float *w, *rstd;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(maybe_rows_of(q, p->res, "res", x.n, x.d, x.dt, &res));
  TF_TRY(maybe_rows_of(q, p->sum, "sum", x.n, x.d, x.dt, &sum));
  TF_TRY(rows_of(q, p->y, "y", x.n, x.d, x.dt, &y));
  TF_TRY(maybe_flat(q, p->w, "w", TF_F32, x.d, &w));
  TF_TRY(maybe_flat(q, p->rstd, "rstd", TF_F32, x.n, &rstd));
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    return widest<T>(x.d, fits(x) && fits(res) && fits(sum) && fits(y), [&](auto v) {
      constexpr int n = (int)(sizeof(v) / sizeof(T));
      return launch(q, "rmsnorm_fwd", rmsnorm_fwd_kernel<T, n>, dim3((unsigned)x.n), dim3(row_threads(x.d / n)), 0, x, res, sum, y, w, rstd, p->eps, p->w_offset);
    });
  });
}

int64_t cuda_rmsnorm_bwd_ws(const tf_device *, const tf_rmsnorm_bwd *p) {
  if (!has(p->dw) || p->x.rank < 1) return 0;
  int64_t d = p->x.dim[p->x.rank - 1];
  return d > 0 ? parts(numel(p->x) / d) * d * (int64_t)sizeof(float) : 0;
}

tf_status cuda_rmsnorm_bwd(tf_queue *q, const tf_rmsnorm_bwd *p) {
  Rows x, dy, dsum, dx;
  float *w, *rstd, *dw;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(maybe_flat(q, p->w, "w", TF_F32, x.d, &w));
  TF_TRY(flat(q, p->rstd, "rstd", TF_F32, x.n, &rstd));
  TF_TRY(rows_of(q, p->dy, "dy", x.n, x.d, x.dt, &dy));
  TF_TRY(maybe_rows_of(q, p->dsum, "dsum", x.n, x.d, x.dt, &dsum));
  TF_TRY(maybe_rows_of(q, p->dx, "dx", x.n, x.d, x.dt, &dx));
  TF_TRY(maybe_flat(q, p->dw, "dw", TF_F32, x.d, &dw));
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    /* dw first: dx may overwrite dy. */
    if (dw) {
      const int64_t part = part_rows(x.n), n = parts(x.n);
      const dim3 grid((unsigned)ceil_div(x.d, 128), (unsigned)n);
      TF_TRY(launch(q, "rmsnorm_dw", rmsnorm_dw_kernel<T>, grid, dim3(128), 0, x, dy, rstd, part, work<float>(q)));
      TF_TRY(add_parts(q, work<float>(q), n, x.d, dw, x.d, p->dw_accumulate));
    }
    if (!dx) return (tf_status)TF_OK;
    return widest<T>(x.d, fits(x) && fits(dy) && fits(dsum) && fits(dx), [&](auto v) {
      constexpr int n = (int)(sizeof(v) / sizeof(T));
      return launch(q, "rmsnorm_dx", rmsnorm_dx_kernel<T, n>, dim3((unsigned)x.n), dim3(row_threads(x.d / n)), 0, x, dy, dsum, dx, w, rstd, p->w_offset,
                    p->dx_accumulate);
    });
  });
}
