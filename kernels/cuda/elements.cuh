/* Elementwise operations: a function of up to I values to O values, over operands of one shape. */
#ifndef TUNEFLEET_CUDA_ELEMENTS_CUH
#define TUNEFLEET_CUDA_ELEMENTS_CUH

#include "rows.cuh"

namespace tf {

/* Contiguous operands are cut anew into rows of so many elements, so that their own rows do not matter. */
constexpr int64_t kFlatRow = 4096;

template <int I, int O>
struct Elems {
  Rows in[I], out[O]; /* an absent input is 0 */
  int32_t accumulate[O];
  int64_t last; /* elements of the last row */
};

/* F: begin() once a thread, then f(x, y, column) for each element. A thread reads an element of all operands before it writes it, so outputs
 * may be inputs. One block a row. */
template <typename T, int N, int I, int O, typename F>
__global__ void __launch_bounds__(kRowThreads) elements_kernel(Elems<I, O> e, F f) {
  typedef vec<T, N> V;
  const int64_t r = blockIdx.x, d = r == e.out[0].n - 1 ? e.last : e.out[0].d;
  const V *in[I];
  V *out[O];
  for (int k = 0; k < I; k++) in[k] = e.in[k] ? reinterpret_cast<const V *>(e.in[k].template row<T>(r)) : nullptr;
  for (int k = 0; k < O; k++) out[k] = reinterpret_cast<V *>(e.out[k].template row<T>(r));
  f.begin();
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    V a[I], b[O];
    for (int k = 0; k < I; k++) a[k] = in[k] ? in[k][i] : V{};
    for (int k = 0; k < O; k++) b[k] = e.accumulate[k] ? out[k][i] : V{};
    for (int n = 0; n < N; n++) {
      float x[I], y[O];
      for (int k = 0; k < I; k++) x[k] = up(a[k].v[n]);
      f(x, y, i * N + n);
      for (int k = 0; k < O; k++) b[k].v[n] = down<T>(e.accumulate[k] ? up(b[k].v[n]) + y[k] : y[k]);
    }
    for (int k = 0; k < O; k++) out[k][i] = b[k];
  }
}

inline bool is_flat(const Rows &r) { return !r || r.n <= 1 || r.ld == r.d; }

inline void cut_anew(Rows *r, int64_t n, int64_t d) {
  if (!*r) return;
  r->n = n;
  r->d = r->ld = d;
}

/* columns: f needs to know the column, so rows stay as they are. */
template <int I, int O, typename F>
tf_status elements(tf_queue *q, const char *name, Elems<I, O> e, bool columns, F f) {
  int64_t total = e.out[0].n * e.out[0].d, d = e.out[0].d;
  if (total == 0) return TF_OK;
  bool flat = !columns, aligned = true;
  for (int k = 0; k < I; k++) flat = flat && is_flat(e.in[k]);
  for (int k = 0; k < O; k++) flat = flat && is_flat(e.out[k]);
  e.last = d;
  if (flat) {
    int64_t width = total < kFlatRow ? total : kFlatRow, n = ceil_div(total, width);
    for (int k = 0; k < I; k++) cut_anew(&e.in[k], n, width);
    for (int k = 0; k < O; k++) cut_anew(&e.out[k], n, width);
    e.last = total - (n - 1) * width;
    d = total;
  }
  for (int k = 0; k < I; k++) aligned = aligned && fits(e.in[k]);
  for (int k = 0; k < O; k++) aligned = aligned && fits(e.out[k]);
  return dispatch(q, e.out[0].dt, [&](auto t) {
    using T = decltype(t);
    return widest<T>(d, aligned, [&](auto v) {
      constexpr int n = (int)(sizeof(v) / sizeof(T));
      return launch(q, name, elements_kernel<T, n, I, O, F>, dim3((unsigned)e.out[0].n), dim3(row_threads(ceil_div(e.out[0].d, n))), 0, e, f);
    });
  });
}

}  // namespace tf

#endif
