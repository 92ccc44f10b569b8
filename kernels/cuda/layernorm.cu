/* Layer normalization, with the residual's addition before it; sums over rows. */
#include "colsum.cuh"
#include "rows.cuh"

namespace tf {
namespace {

/* One block a row. N elements at a time; d is a multiple of N. Mean and variance in two passes, so that a large mean costs no digits. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, 2)
    layernorm_fwd_kernel(Rows x, Rows res, Rows sum, Rows y, const float *w, const float *b, float *mean, float *rstd, float eps, float w_offset) {
  TF_SHARED(float, red, kWarp);
  typedef vec<T, N> V;
  const int64_t r = blockIdx.x, d = x.d;
  const V *px = reinterpret_cast<const V *>(x.row<T>(r));
  const V *pres = res ? reinterpret_cast<const V *>(res.row<T>(r)) : nullptr;
  V *psum = sum ? reinterpret_cast<V *>(sum.row<T>(r)) : nullptr;
  float s = 0;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V v = px[i];
    if (pres) {
      const V a = pres[i];
      for (int k = 0; k < N; k++) v.v[k] = down<T>(up(v.v[k]) + up(a.v[k]));
      psum[i] = v;
    }
    for (int k = 0; k < N; k++) s += up(v.v[k]);
  }
  /* A thread reads again what it wrote itself; x may have been overwritten with the sum. */
  const V *ps = pres ? psum : px;
  const float m = block_reduce<Sum>(s, red) / (float)d;
  float sq = 0;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    const V v = ps[i];
    for (int k = 0; k < N; k++) sq = fmaf(up(v.v[k]) - m, up(v.v[k]) - m, sq);
  }
  const float rs = 1.0f / sqrtf(block_reduce<Sum>(sq, red) / (float)d + eps);
  if (threadIdx.x == 0) {
    if (mean) mean[r] = m;
    if (rstd) rstd[r] = rs;
  }
  V *py = reinterpret_cast<V *>(y.row<T>(r));
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V v = ps[i];
    for (int k = 0; k < N; k++) {
      float h = (up(v.v[k]) - m) * rs;
      if (w) h *= w[i * N + k] + w_offset;
      if (b) h += b[i * N + k];
      v.v[k] = down<T>(h);
    }
    py[i] = v;
  }
}

/* dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) + dsum, with g = dy * w and xhat = (x - mean) * rstd. One block a row. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, 2) layernorm_dx_kernel(Rows x, Rows dy, Rows dsum, Rows dx, const float *w, const float *mean,
                                                                   const float *rstd, float w_offset, int32_t accumulate) {
  TF_SHARED(float, red, kWarp);
  typedef vec<T, N> V;
  const int64_t r = blockIdx.x, d = x.d;
  const float rs = rstd[r], m = mean[r];
  const V *px = reinterpret_cast<const V *>(x.row<T>(r)), *pdy = reinterpret_cast<const V *>(dy.row<T>(r));
  const V *pds = dsum ? reinterpret_cast<const V *>(dsum.row<T>(r)) : nullptr;
  V *pdx = reinterpret_cast<V *>(dx.row<T>(r));
  float dot = 0, sum = 0;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    const V a = px[i], g = pdy[i];
    for (int k = 0; k < N; k++) {
      const float e = up(g.v[k]) * (w ? w[i * N + k] + w_offset : 1.0f);
      dot = fmaf(e, (up(a.v[k]) - m) * rs, dot);
      sum += e;
    }
  }
  const float c1 = block_reduce<Sum>(dot, red) / (float)d, c0 = block_reduce<Sum>(sum, red) / (float)d;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V a = px[i];
    const V g = pdy[i], s = pds ? pds[i] : V{}, old = accumulate ? pdx[i] : V{};
    for (int k = 0; k < N; k++) {
      const float e = up(g.v[k]) * (w ? w[i * N + k] + w_offset : 1.0f);
      float v = rs * (e - c0 - (up(a.v[k]) - m) * rs * c1);
      if (pds) v += up(s.v[k]);
      if (accumulate) v += up(old.v[k]);
      a.v[k] = down<T>(v);
    }
    pdx[i] = a;
  }
}

/* partial[part] = the part's sums of dy * xhat, then those of dy. A thread has one column, a block 128 of them in one part. */
template <typename T>
__global__ void __launch_bounds__(128) layernorm_dw_kernel(Rows x, Rows dy, const float *mean, const float *rstd, int64_t part, float *partial) {
  const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= x.d) return;
  const int64_t first = blockIdx.y * part, last = first + part < x.n ? first + part : x.n;
  float sw = 0, sb = 0;
  for (int64_t r = first; r < last; r++) {
    const float e = up(dy.row<T>(r)[j]);
    sw = fmaf((up(x.row<T>(r)[j]) - mean[r]) * rstd[r], e, sw);
    sb += e;
  }
  partial[blockIdx.y * 2 * x.d + j] = sw;
  partial[blockIdx.y * 2 * x.d + x.d + j] = sb;
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_layernorm_fwd(tf_queue *q, const tf_layernorm_fwd *p) {
  Rows x, res, sum, y;
  float *w, *b, *mean, *rstd;
  TF_TRY(rows(q, p->x, "x", &x));
  if (x.d == 0) return fail(q, TF_EINVALID, "rows of x are empty");
  TF_TRY(maybe_rows_of(q, p->res, "res", x.n, x.d, x.dt, &res));
  TF_TRY(maybe_rows_of(q, p->sum, "sum", x.n, x.d, x.dt, &sum));
  if ((bool)res != (bool)sum) return fail(q, TF_EINVALID, "res and sum are given together");
  TF_TRY(rows_of(q, p->y, "y", x.n, x.d, x.dt, &y));
  TF_TRY(maybe_flat(q, p->w, "w", TF_F32, x.d, &w));
  TF_TRY(maybe_flat(q, p->b, "b", TF_F32, x.d, &b));
  TF_TRY(maybe_flat(q, p->mean, "mean", TF_F32, x.n, &mean));
  TF_TRY(maybe_flat(q, p->rstd, "rstd", TF_F32, x.n, &rstd));
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    return widest<T>(x.d, fits(x) && fits(res) && fits(sum) && fits(y), [&](auto v) {
      constexpr int n = (int)(sizeof(v) / sizeof(T));
      return launch(q, "layernorm_fwd", layernorm_fwd_kernel<T, n>, dim3((unsigned)x.n), dim3(row_threads(x.d / n)), 0, x, res, sum, y, w, b, mean, rstd,
                    p->eps, p->w_offset);
    });
  });
}

int64_t cuda_layernorm_bwd_ws(const tf_device *, const tf_layernorm_bwd *p) {
  if ((!has(p->dw) && !has(p->db)) || p->x.rank < 1) return 0;
  const int64_t d = p->x.dim[p->x.rank - 1];
  return d > 0 ? parts(numel(p->x) / d) * 2 * d * (int64_t)sizeof(float) : 0;
}

tf_status cuda_layernorm_bwd(tf_queue *q, const tf_layernorm_bwd *p) {
  Rows x, dy, dsum, dx;
  float *w, *mean, *rstd, *dw, *db;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(maybe_flat(q, p->w, "w", TF_F32, x.d, &w));
  TF_TRY(flat(q, p->mean, "mean", TF_F32, x.n, &mean));
  TF_TRY(flat(q, p->rstd, "rstd", TF_F32, x.n, &rstd));
  TF_TRY(rows_of(q, p->dy, "dy", x.n, x.d, x.dt, &dy));
  TF_TRY(maybe_rows_of(q, p->dsum, "dsum", x.n, x.d, x.dt, &dsum));
  TF_TRY(maybe_rows_of(q, p->dx, "dx", x.n, x.d, x.dt, &dx));
  TF_TRY(maybe_flat(q, p->dw, "dw", TF_F32, x.d, &dw));
  TF_TRY(maybe_flat(q, p->db, "db", TF_F32, x.d, &db));
  if (x.d == 0) return TF_OK;
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    /* The parameters first: dx may overwrite dy. */
    if (dw || db) {
      const int64_t part = part_rows(x.n), n = parts(x.n);
      float *ws = work<float>(q);
      const dim3 grid((unsigned)ceil_div(x.d, 128), (unsigned)n);
      TF_TRY(launch(q, "layernorm_dw", layernorm_dw_kernel<T>, grid, dim3(128), 0, x, dy, mean, rstd, part, ws));
      if (dw) TF_TRY(add_parts(q, ws, n, 2 * x.d, dw, x.d, p->dw_accumulate));
      if (db) TF_TRY(add_parts(q, ws + x.d, n, 2 * x.d, db, x.d, p->db_accumulate));
    }
    if (!dx) return (tf_status)TF_OK;
    return widest<T>(x.d, fits(x) && fits(dy) && fits(dsum) && fits(dx), [&](auto v) {
      constexpr int n = (int)(sizeof(v) / sizeof(T));
      return launch(q, "layernorm_dx", layernorm_dx_kernel<T, n>, dim3((unsigned)x.n), dim3(row_threads(x.d / n)), 0, x, dy, dsum, dx, w, mean, rstd,
                    p->w_offset, p->dx_accumulate);
    });
  });
}

int64_t cuda_colsum_ws(const tf_device *, const tf_colsum *p) {
  if (p->x.rank < 1) return 0;
  const int64_t d = p->x.dim[p->x.rank - 1];
  return d > 0 ? colsum_bytes(numel(p->x) / d, d) : 0;
}

tf_status cuda_colsum(tf_queue *q, const tf_colsum *p) {
  Rows x;
  float *y;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(flat(q, p->y, "y", TF_F32, x.d, &y));
  return colsum(q, x, work<float>(q), y, p->accumulate);
}
