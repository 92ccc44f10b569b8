/* Products of a mixture of experts. How many rows an expert has is known to the device only: a launch has as many blocks as there may be tiles,
 * and each finds its own by the offsets. */
#include "rows.cuh"
#include "tile.cuh"

namespace tf {
namespace {

/* The experts' matrices: evenly spaced, or at distances (a negative one: left out). */
struct Stack {
  Cell p;
  const int64_t *at;
  int64_t stride, rs, cs;
  __device__ bool begin(int64_t i, int64_t *where) const {
    *where = at ? at[i] : i * stride;
    return !at || at[i] >= 0;
  }
};

struct Groups {
  const int32_t *offsets;
  int64_t e, rows;
  int32_t *trouble;

  /* Rows lo to hi of expert i; false when the offsets lead out of the rows. */
  __device__ bool rows_of(int64_t i, int64_t *lo, int64_t *hi) const {
    *lo = offsets[i];
    *hi = offsets[i + 1];
    return 0 <= *lo && *lo <= *hi && *hi <= rows;
  }
  /* One thread of a launch looks at all of them. */
  __device__ void verify() const {
    if (blockIdx.x || blockIdx.y || threadIdx.x) return;
    bool good = offsets[0] == 0 && offsets[e] == rows;
    for (int64_t i = 0; i < e; i++) good = good && offsets[i] <= offsets[i + 1];
    if (!good) report(trouble, kBadOffsets);
  }
};

/* c[rows of i] = a[rows of i] b[i]. Tiles are counted through the experts; those of a column are neighbours, so that b stays in cache. */
struct Forward {
  Groups g;
  Stack b;
  Product p;
  Rows bias;
  int64_t tiles_n;
  __device__ bool operator()(Product *out) const {
    g.verify();
    *out = p;
    int64_t t = blockIdx.x / tiles_n, lo = 0, hi = 0, i = 0;
    for (;; i++) {
      if (i == g.e || !g.rows_of(i, &lo, &hi)) return false;
      int64_t tiles = (hi - lo + kTile - 1) / kTile;
      if (t < tiles) break;
      t -= tiles;
    }
    if (!b.begin(i, &out->b0)) return false;
    out->a0 = lo * p.ars;
    out->c0 = lo * p.crs;
    out->m = hi - lo;
    out->m0 = t * kTile;
    out->n0 = blockIdx.x % tiles_n * kTile;
    out->bias = bias ? bias.row<float>(i) : nullptr;
    return true;
  }
};

/* c[i] = a_i^T b_i: the rows of an expert are the steps of k. */
struct Weights {
  Groups g;
  Stack c;
  Product p;
  int64_t tiles_n, tiles;
  __device__ bool operator()(Product *out) const {
    g.verify();
    *out = p;
    int64_t i = blockIdx.x / tiles, t = blockIdx.x % tiles, lo, hi;
    if (!g.rows_of(i, &lo, &hi) || !c.begin(i, &out->c0)) return false;
    out->a0 = lo * p.acs;
    out->b0 = lo * p.brs;
    out->k = hi - lo;
    out->m0 = t / tiles_n * kTile;
    out->n0 = t % tiles_n * kTile;
    return true;
  }
};

/* y[i] (+)= the sum of the rows of expert i, in order; a thread has a column. */
__global__ void __launch_bounds__(128) grouped_colsum_kernel(Groups g, Cell x, int64_t ld, Stack y, int64_t d, int32_t accumulate) {
  g.verify();
  const int64_t i = blockIdx.y, j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  int64_t lo, hi, at;
  if (j >= d || !g.rows_of(i, &lo, &hi) || !y.begin(i, &at)) return;
  float s = accumulate ? y.p.get(at + j) : 0.0f;
  for (int64_t r = lo; r < hi; r++) s += x.get(r * ld + j);
  y.p.set(at + j, s);
}

tf_status as_stack(tf_queue *q, const tf_tensor &t, const tf_tensor &at_, const char *name, int64_t e, int64_t m, int64_t n, Stack *s) {
  const bool uneven = has(at_);
  const int r = uneven ? 2 : 3;
  if (!t.data || t.rank != r) return fail(q, TF_EINVALID, "%s has rank %d, %d is needed", name, t.rank, r);
  if (t.dtype != TF_F32 && t.dtype != TF_BF16 && t.dtype != TF_F16)
    return fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32, bf16 or f16 is needed", name, t.dtype);
  const int64_t *d = t.dim + r - 2;
  if ((!uneven && t.dim[0] != e) || d[0] != m || d[1] != n)
    return fail(q, TF_EINVALID, "%s is %ld of [%ld,%ld], %ld of [%ld,%ld] are needed", name, (long)(uneven ? e : t.dim[0]), (long)d[0], (long)d[1], (long)e,
                (long)m, (long)n);
  int64_t *distances;
  TF_TRY(maybe_flat(q, at_, "the table of distances", TF_I64, e, &distances));
  *s = Stack{{at<void>(t.data), t.dtype}, distances, uneven ? 0 : t.stride[0], t.stride[r - 2], t.stride[r - 1]};
  return TF_OK;
}

tf_status groups(tf_queue *q, const tf_tensor &t, int64_t m, Groups *g) {
  int32_t *o;
  TF_TRY(flat(q, t, "offsets", TF_I32, -1, &o));
  *g = Groups{o, numel(t) - 1, m, q->trouble};
  return g->e < 1 ? fail(q, TF_EINVALID, "offsets of %ld experts", (long)g->e) : (tf_status)TF_OK;
}

tf_status matrix(tf_queue *q, const tf_tensor &t, const char *name, Rows *r) {
  TF_TRY(rows(q, t, name, r));
  return t.rank == 2 ? (tf_status)TF_OK : fail(q, TF_EINVALID, "%s has rank %d, 2 is needed", name, t.rank);
}

tf_status blocks(tf_queue *q, int64_t n, dim3 *grid) {
  if (n > 0x7fffffff) return fail(q, TF_EINVALID, "a grouped product of %ld tiles", (long)n);
  *grid = dim3((unsigned)n);
  return TF_OK;
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_grouped_gemm(tf_queue *q, const tf_grouped_gemm *p) {
  Rows a, c;
  Forward w = {};
  TF_TRY(matrix(q, p->a, "a", &a));
  TF_TRY(matrix(q, p->c, "c", &c));
  if (a.n != c.n) return fail(q, TF_EINVALID, "a has %ld rows, c has %ld", (long)a.n, (long)c.n);
  TF_TRY(groups(q, p->offsets, a.n, &w.g));
  TF_TRY(as_stack(q, p->b, p->b_at, "b", w.g.e, a.d, c.d, &w.b));
  TF_TRY(maybe_rows_of(q, p->bias, "bias", w.g.e, c.d, TF_F32, &w.bias));
  if (a.n == 0 || c.d == 0) return TF_OK;
  w.p = Product{{a.p, a.dt}, w.b.p, {c.p, c.dt}, 0, p->a.stride[0], 1, 0, w.b.rs, w.b.cs, 0, p->c.stride[0], 0, c.d, a.d, 0, 0, nullptr, p->alpha, p->accumulate};
  w.tiles_n = ceil_div(c.d, kTile);
  dim3 grid;
  /* Every expert may have one tile that is not full. */
  TF_TRY(blocks(q, (ceil_div(a.n, kTile) + w.g.e) * w.tiles_n, &grid));
  return launch(q, "grouped_gemm", tile_kernel<Forward>, grid, dim3(kTileThreads), 0, w);
}

tf_status cuda_grouped_gemm_dw(tf_queue *q, const tf_grouped_gemm_dw *p) {
  Rows a, b;
  Weights w = {};
  TF_TRY(matrix(q, p->a, "a", &a));
  TF_TRY(matrix(q, p->b, "b", &b));
  if (a.n != b.n) return fail(q, TF_EINVALID, "a has %ld rows, b has %ld", (long)a.n, (long)b.n);
  TF_TRY(groups(q, p->offsets, a.n, &w.g));
  TF_TRY(as_stack(q, p->c, p->c_at, "c", w.g.e, a.d, b.d, &w.c));
  if (p->c.dtype != TF_F32) return fail(q, TF_EUNSUPPORTED, "c has element type %d, f32 is needed", p->c.dtype);
  if (b.d > 1 && w.c.cs != 1) return fail(q, TF_EINVALID, "c has a last stride of %ld", (long)w.c.cs);
  if (a.d == 0 || b.d == 0) return TF_OK;
  w.p = Product{{a.p, a.dt}, {b.p, b.dt}, w.c.p, 0, 1, p->a.stride[0], 0, p->b.stride[0], 1, 0, w.c.rs, a.d, b.d, 0, 0, 0, nullptr, p->alpha, p->accumulate};
  w.tiles_n = ceil_div(b.d, kTile);
  w.tiles = w.tiles_n * ceil_div(a.d, kTile);
  dim3 grid;
  TF_TRY(blocks(q, w.g.e * w.tiles, &grid));
  return launch(q, "grouped_gemm_dw", tile_kernel<Weights>, grid, dim3(kTileThreads), 0, w);
}

tf_status cuda_grouped_colsum(tf_queue *q, const tf_grouped_colsum *p) {
  Rows x;
  Groups g;
  Stack y;
  TF_TRY(matrix(q, p->x, "x", &x));
  if (p->y.dtype != TF_F32) return fail(q, TF_EUNSUPPORTED, "y has element type %d, f32 is needed", p->y.dtype);
  TF_TRY(groups(q, p->offsets, x.n, &g));
  tf_tensor rows = p->y; /* each expert's is a matrix of one row */
  if (rows.rank < 1 || rows.rank > 2) return fail(q, TF_EINVALID, "y has rank %d", rows.rank);
  rows.dim[rows.rank] = rows.dim[rows.rank - 1];
  rows.stride[rows.rank] = rows.stride[rows.rank - 1];
  rows.dim[rows.rank - 1] = 1;
  rows.rank++;
  TF_TRY(as_stack(q, rows, p->y_at, "y", g.e, 1, x.d, &y));
  if (x.d > 1 && y.cs != 1) return fail(q, TF_EINVALID, "y has a last stride of %ld", (long)y.cs);
  if (g.e > 65535) return fail(q, TF_EUNSUPPORTED, "%ld experts, at most 65535", (long)g.e);
  return launch(q, "grouped_colsum", grouped_colsum_kernel, dim3((unsigned)ceil_div(x.d, 128), (unsigned)g.e), dim3(128), 0, g, Cell{x.p, x.dt}, p->x.stride[0], y,
                x.d, p->accumulate);
}
