/* Sums over rows in a fixed order: rows are cut into parts by their number only, a part's sum goes to workspace, parts are added in order. */
#ifndef TUNEFLEET_CUDA_COLSUM_CUH
#define TUNEFLEET_CUDA_COLSUM_CUH

#include "queue.h"

namespace tf {

/* How many rows a part has; at most 128 parts. */
inline int64_t part_rows(int64_t rows) {
  int64_t n = ceil_div(rows, 128);
  return n < 32 ? 32 : n;
}
inline int64_t parts(int64_t rows) { return ceil_div(rows, part_rows(rows)); }

/* out[j] (+)= partial[0][j] + partial[1][j] + ...; partial [n][ld], out [d]. */
static __global__ void __launch_bounds__(256) add_parts_kernel(const float *partial, int64_t n, int64_t ld, float *out, int64_t d, int32_t accumulate) {
  int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= d) return;
  float s = accumulate ? out[j] : 0.0f;
  for (int64_t i = 0; i < n; i++) s += partial[i * ld + j];
  out[j] = s;
}

inline tf_status add_parts(tf_queue *q, const float *partial, int64_t n, int64_t ld, float *out, int64_t d, int32_t accumulate) {
  return launch(q, "add_parts", add_parts_kernel, dim3((unsigned)ceil_div(d, 256)), dim3(256), 0, partial, n, ld, out, d, accumulate);
}

/* partial[part][j] = the sum of the part's rows. A thread has one column, a block 128 of them in one part. */
template <typename T>
__global__ void __launch_bounds__(128) colsum_kernel(Rows x, int64_t part, float *partial) {
  const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= x.d) return;
  const int64_t first = blockIdx.y * part, last = first + part < x.n ? first + part : x.n;
  float s = 0;
  for (int64_t r = first; r < last; r++) s += up(x.row<T>(r)[j]);
  partial[blockIdx.y * x.d + j] = s;
}

inline int64_t colsum_bytes(int64_t rows, int64_t d) { return parts(rows) * d * (int64_t)sizeof(float); }

/* y [d] (+)= the sum of x's rows, with colsum_bytes of workspace. */
inline tf_status colsum(tf_queue *q, const Rows &x, float *ws, float *y, int32_t accumulate) {
  if (x.d == 0) return TF_OK;
  TF_TRY(dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    const dim3 grid((unsigned)ceil_div(x.d, 128), (unsigned)parts(x.n));
    return launch(q, "colsum", colsum_kernel<T>, grid, dim3(128), 0, x, part_rows(x.n), ws);
  }));
  return add_parts(q, ws, parts(x.n), x.d, y, x.d, accumulate);
}

}  // namespace tf

#endif
