/* Matrix products: checks, and the choice between cuBLASLt and our own kernel. */
#include "gemm.h"

#include "lt.h"
#include "tile.cuh"

namespace tf {
namespace {

/* Block b has tile b of tiles_m x tiles_n x batch, columns fastest. */
struct Batch {
  Product p;
  int64_t tiles_n, tiles, as, bs, cs;
  __device__ bool operator()(Product *out) const {
    *out = p;
    int64_t b = blockIdx.x, i = b / tiles, t = b % tiles;
    out->m0 = t / tiles_n * kTile;
    out->n0 = t % tiles_n * kTile;
    out->a0 = i * as;
    out->b0 = i * bs;
    out->c0 = i * cs;
    return true;
  }
};

}  // namespace

tf_status gemm_tiles(tf_queue *q, const Gemm &g) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return TF_OK;
  Batch w = {};
  w.p = Product{{const_cast<void *>(g.a), g.at}, {const_cast<void *>(g.b), g.bt}, {g.c, g.ct}, 0, g.ars, g.acs, 0, g.brs, g.bcs, 0, g.crs,
                g.m, g.n, g.k, 0, 0, g.bias, g.alpha, g.accumulate};
  w.tiles_n = ceil_div(g.n, kTile);
  w.tiles = w.tiles_n * ceil_div(g.m, kTile);
  w.as = g.as;
  w.bs = g.bs;
  w.cs = g.cs;
  const int64_t blocks = w.tiles * g.batch;
  if (blocks > 0x7fffffff) return fail(q, TF_EINVALID, "a product of %ld x %ld x %ld has too many tiles", (long)g.batch, (long)g.m, (long)g.n);
  return launch(q, "gemm", tile_kernel<Batch>, dim3((unsigned)blocks), dim3(kTileThreads), 0, w);
}

tf_status gemm(tf_queue *q, const Gemm &g, void *ws) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return TF_OK;
  bool done = false;
  TF_TRY(lt_gemm(q, g, ws, &done));
  return done ? (tf_status)TF_OK : gemm_tiles(q, g);
}

}  // namespace tf

using namespace tf;

static tf_status operand(tf_queue *q, const tf_tensor &t, const char *name, int rank) {
  if (!t.data || t.rank != rank) return fail(q, TF_EINVALID, "%s has rank %d, c has %d", name, t.rank, rank);
  if (t.dtype != TF_F32 && t.dtype != TF_BF16 && t.dtype != TF_F16)
    return fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32, bf16 or f16 is needed", name, t.dtype);
  return TF_OK;
}

int64_t cuda_gemm_ws(const tf_device *, const tf_gemm *) { return kGemmWorkspace; }

tf_status cuda_gemm(tf_queue *q, const tf_gemm *p) {
  const int r = p->c.rank;
  if (r != 2 && r != 3) return fail(q, TF_EINVALID, "c has rank %d, 2 or 3 is needed", r);
  TF_TRY(operand(q, p->a, "a", r));
  TF_TRY(operand(q, p->b, "b", r));
  TF_TRY(operand(q, p->c, "c", r));
  const int64_t *ad = p->a.dim + r - 2, *bd = p->b.dim + r - 2, *cd = p->c.dim + r - 2;
  const int64_t batch = r == 3 ? p->c.dim[0] : 1;
  if (ad[0] != cd[0] || bd[1] != cd[1] || ad[1] != bd[0] || (r == 3 && (p->a.dim[0] != batch || p->b.dim[0] != batch)))
    return fail(q, TF_EINVALID, "a [%ld,%ld] b [%ld,%ld] do not give c [%ld,%ld]", (long)ad[0], (long)ad[1], (long)bd[0], (long)bd[1], (long)cd[0], (long)cd[1]);
  if (cd[1] > 1 && p->c.stride[r - 1] != 1) return fail(q, TF_EINVALID, "c has a last stride of %ld", (long)p->c.stride[r - 1]);
  Gemm g;
  g.a = at<void>(p->a.data);
  g.b = at<void>(p->b.data);
  g.c = at<void>(p->c.data);
  g.at = p->a.dtype;
  g.bt = p->b.dtype;
  g.ct = p->c.dtype;
  g.m = cd[0];
  g.n = cd[1];
  g.k = ad[1];
  g.batch = batch;
  g.ars = p->a.stride[r - 2];
  g.acs = p->a.stride[r - 1];
  g.brs = p->b.stride[r - 2];
  g.bcs = p->b.stride[r - 1];
  g.crs = p->c.stride[r - 2];
  if (r == 3) {
    g.as = p->a.stride[0];
    g.bs = p->b.stride[0];
    g.cs = p->c.stride[0];
  }
  g.alpha = p->alpha;
  g.accumulate = p->accumulate;
  float *bias;
  TF_TRY(maybe_flat(q, p->bias, "bias", TF_F32, g.n, &bias));
  g.bias = bias;
  return gemm(q, g, work<void>(q));
}
