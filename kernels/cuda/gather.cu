/* Rows by id: gathering, ordered scattering, the greatest of a row. */
#include "rows.cuh"
#include "sort.cuh"
#include "topk.cuh"

namespace tf {
namespace {

template <typename S, typename D, int N>
__global__ void __launch_bounds__(kRowThreads) gather_kernel(Rows x, const int32_t *ids, Rows y, float scale, int32_t *trouble) {
  const int32_t id = ids[blockIdx.x];
  if (id < 0 || id >= x.n) {
    report(trouble, kBadId);
    return;
  }
  const vec<S, N> *px = reinterpret_cast<const vec<S, N> *>(x.row<S>(id));
  vec<D, N> *py = reinterpret_cast<vec<D, N> *>(y.row<D>(blockIdx.x));
  for (int64_t i = threadIdx.x; i < x.d / N; i += blockDim.x) {
    const vec<S, N> a = px[i];
    vec<D, N> b;
    for (int k = 0; k < N; k++) b.v[k] = down<D>(scale * up(a.v[k]));
    py[i] = b;
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) clear_kernel(Rows y) {
  T *py = y.row<T>(blockIdx.x);
  for (int64_t i = threadIdx.x; i < y.d; i += blockDim.x) py[i] = down<T>(0.0f);
}

/* Radix sort of slots by id, 8 bits a pass; ids below 0 come last. */
struct IdDigit {
  const int32_t *ids, *order; /* order is NULL in the first pass */
  int32_t limit;
  int shift;
  int32_t *trouble;
  __device__ int operator()(int64_t i) const {
    const int32_t id = ids[order ? order[i] : i];
    if (id >= limit) report(trouble, kBadId);
    return (int)((uint32_t)(id < 0 || id >= limit ? limit : id) >> shift & 255);
  }
};
struct PutSlot {
  const int32_t *from;
  int32_t *to;
  __device__ void operator()(int64_t i, int64_t place) const { to[place] = from ? from[i] : (int32_t)i; }
};

int id_passes(int64_t rows) {
  int passes = 1;
  while (rows >> 8 * passes) passes++;
  return passes;
}

/* Adds the rows of one id in order. Block x is a place in the sorted order, and has work where a run of equal ids begins; y is 256 columns. */
template <typename S, typename D>
__global__ void __launch_bounds__(kRowThreads) scatter_kernel(Rows x, const int32_t *ids, const int32_t *order, Rows y, float scale) {
  const int64_t at = blockIdx.x, j = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
  const int32_t id = ids[order[at]];
  if (id < 0 || id >= y.n || j >= y.d || (at > 0 && ids[order[at - 1]] == id)) return;
  D *py = y.row<D>(id) + j;
  D s = *py; /* rounded after each addition, as the CPU backend does */
  for (int64_t i = at; i < x.n; i++) {
    const int32_t slot = order[i];
    if (ids[slot] != id) break;
    s = down<D>(up(s) + __fmul_rn(scale, up(x.row<S>(slot)[j])));
  }
  *py = s;
}

/* One block a row; each round takes the greatest of what comes after the one before. */
template <typename T>
__global__ void __launch_bounds__(kRowThreads) topk_kernel(Rows x, float *values, int32_t *ids, int64_t k) {
  TF_SHARED(uint64_t, red, kWarp);
  const T *px = x.row<T>(blockIdx.x);
  uint64_t last = ~(uint64_t)0;
  for (int64_t c = 0; c < k; c++) {
    uint64_t best = 0;
    for (int64_t i = threadIdx.x; i < x.d; i += blockDim.x) {
      const uint64_t key = rank_key(up(px[i]), (uint32_t)i);
      if (key < last && key > best) best = key;
    }
    last = block_reduce<Max>(best, red);
    if (threadIdx.x != 0) continue;
    const uint32_t id = rank_id(last);
    ids[blockIdx.x * k + c] = (int32_t)id;
    if (values) values[blockIdx.x * k + c] = up(px[id]);
  }
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_gather_rows(tf_queue *q, const tf_gather_rows *p) {
  Rows x, y;
  int32_t *ids;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(flat(q, p->ids, "ids", TF_I32, -1, &ids));
  TF_TRY(rows_of(q, p->y, "y", numel(p->ids), x.d, p->y.dtype, &y));
  if (x.d == 0) return TF_OK;
  return dispatch(q, x.dt, [&](auto s) {
    using S = decltype(s);
    return dispatch(q, y.dt, [&](auto d) {
      using D = decltype(d);
      constexpr int n = 16 / (int)(sizeof(S) > sizeof(D) ? sizeof(S) : sizeof(D));
      const bool wide = x.d % n == 0 && x.aligned(n, sizeof(S)) && y.aligned(n, sizeof(D));
      return launch(q, "gather_rows", wide ? gather_kernel<S, D, n> : gather_kernel<S, D, 1>, dim3((unsigned)y.n), dim3(row_threads(wide ? x.d / n : x.d)), 0, x,
                    ids, y, p->scale, q->trouble);
    });
  });
}

int64_t cuda_scatter_add_rows_ws(const tf_device *, const tf_scatter_add_rows *p) {
  const int64_t n = numel(p->ids);
  return (2 * n + sort_counts(n, 256)) * (int64_t)sizeof(int32_t);
}

tf_status cuda_scatter_add_rows(tf_queue *q, const tf_scatter_add_rows *p) {
  Rows x, y;
  int32_t *ids;
  TF_TRY(rows(q, p->y, "y", &y));
  TF_TRY(flat(q, p->ids, "ids", TF_I32, -1, &ids));
  const int64_t n = numel(p->ids);
  TF_TRY(rows_of(q, p->x, "x", n, y.d, p->x.dtype, &x));
  if (y.n >= 0x7fffffff || n > 0x7fffffff) return fail(q, TF_EUNSUPPORTED, "%ld ids of a table of %ld rows", (long)n, (long)y.n);
  if (y.d == 0) return TF_OK;
  if (!p->accumulate) TF_TRY(dispatch(q, y.dt, [&](auto d) {
    return launch(q, "clear", clear_kernel<decltype(d)>, dim3((unsigned)y.n), dim3(row_threads(y.d)), 0, y);
  }));
  if (n == 0) return TF_OK;
  int32_t *order = work<int32_t>(q), *other = order + n, *counts = other + n;
  for (int pass = 0; pass < id_passes(y.n); pass++) {
    const int32_t *from = pass ? order : nullptr;
    TF_TRY(sort_pass(q, IdDigit{ids, from, (int32_t)y.n, 8 * pass, q->trouble}, PutSlot{from, other}, n, 256, counts, nullptr));
    int32_t *t = order;
    order = other;
    other = t;
  }
  return dispatch(q, x.dt, [&](auto s) {
    using S = decltype(s);
    return dispatch(q, y.dt, [&](auto d) {
      using D = decltype(d);
      return launch(q, "scatter_add_rows", scatter_kernel<S, D>, dim3((unsigned)n, (unsigned)ceil_div(y.d, kRowThreads)), dim3(kRowThreads), 0, x, ids, order, y,
                    p->scale);
    });
  });
}

tf_status cuda_row_topk(tf_queue *q, const tf_row_topk *p) {
  Rows x;
  float *values;
  int32_t *ids;
  TF_TRY(rows(q, p->x, "x", &x));
  if (p->k < 1 || p->k > x.d) return fail(q, TF_EINVALID, "k is %ld of %ld columns", (long)p->k, (long)x.d);
  TF_TRY(flat(q, p->ids, "ids", TF_I32, x.n * p->k, &ids));
  TF_TRY(maybe_flat(q, p->values, "values", TF_F32, x.n * p->k, &values));
  return dispatch(q, x.dt, [&](auto t) {
    return launch(q, "row_topk", topk_kernel<decltype(t)>, dim3((unsigned)x.n), dim3(row_threads(x.d)), 0, x, values, ids, p->k);
  });
}
