/* Rotary positions from tables. */
#include <string.h>

#include "rows.cuh"

namespace tf {
namespace {

struct Rope {
  const void *x;
  void *y;
  int64_t t, h, d, half, xs[3], ys[3], positions, pos0;
  const int32_t *pos;
  const float *cos, *sin;
  int32_t rot, interleaved, inverse, accumulate;
};

/* One block for the heads of a token. A thread has both elements of a pair, so y may be x. */
template <typename T>
__global__ void __launch_bounds__(kRowThreads) rope_kernel(Rope p, int32_t *trouble) {
  const int64_t b = blockIdx.x / p.t, t = blockIdx.x % p.t, at = p.pos ? p.pos[blockIdx.x] : p.pos0 + t;
  if (at < 0 || at >= p.positions) {
    report(trouble, kBadPosition);
    return;
  }
  const T *x = static_cast<const T *>(p.x) + b * p.xs[0] + t * p.xs[1];
  T *y = static_cast<T *>(p.y) + b * p.ys[0] + t * p.ys[1];
  const float *cos = p.cos + at * p.half, *sin = p.sin + at * p.half;
  const uint32_t half = (uint32_t)p.half, pairs = (uint32_t)p.h * half;
  for (uint32_t i = threadIdx.x; i < pairs; i += blockDim.x) {
    const uint32_t head = i / half, k = i % half, first = p.interleaved ? 2 * k : k, second = p.interleaved ? 2 * k + 1 : k + half;
    const T *xi = x + head * p.xs[2];
    T *yi = y + head * p.ys[2];
    const float u = up(xi[first]), v = up(xi[second]), c = cos[k], s = p.inverse ? -sin[k] : sin[k];
    float a = fmaf(u, c, -__fmul_rn(v, s)), e = fmaf(v, c, __fmul_rn(u, s));
    if (p.accumulate) {
      a += up(yi[first]);
      e += up(yi[second]);
    }
    yi[first] = down<T>(a);
    yi[second] = down<T>(e);
  }
  const uint32_t rest = (uint32_t)(p.d - p.rot), others = (uint32_t)p.h * rest;
  if (p.x == p.y && !p.accumulate) return;
  for (uint32_t i = threadIdx.x; i < others; i += blockDim.x) {
    const int64_t head = i / rest, k = p.rot + i % rest;
    const T v = x[head * p.xs[2] + k];
    T *yi = y + head * p.ys[2] + k;
    *yi = p.accumulate ? down<T>(up(*yi) + up(v)) : v;
  }
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_rope(tf_queue *q, const tf_rope *p) {
  Rows x, y;
  Rope r = {};
  int32_t *pos;
  float *cos, *sin;
  TF_TRY(rows(q, p->x, "x", &x));
  TF_TRY(rows_of(q, p->y, "y", x.n, x.d, x.dt, &y));
  if (p->x.rank != 4 || p->y.rank != 4 || memcmp(p->x.dim, p->y.dim, 4 * sizeof(int64_t)))
    return fail(q, TF_EINVALID, "x and y have to be [b,t,h,d] of equal size");
  r.x = x.p;
  r.y = y.p;
  r.t = p->x.dim[1];
  r.h = p->x.dim[2];
  r.d = x.d;
  r.rot = p->rot_dim;
  r.half = p->rot_dim / 2;
  if (p->rot_dim < 2 || p->rot_dim % 2 || p->rot_dim > x.d) return fail(q, TF_EINVALID, "rot_dim is %d, heads have %ld", p->rot_dim, (long)x.d);
  for (int i = 0; i < 3; i++) {
    r.xs[i] = p->x.stride[i];
    r.ys[i] = p->y.stride[i];
  }
  const int64_t tokens = p->x.dim[0] * r.t;
  TF_TRY(flat(q, p->cos, "cos", TF_F32, -1, &cos));
  TF_TRY(flat(q, p->sin, "sin", TF_F32, numel(p->cos), &sin));
  TF_TRY(maybe_flat(q, p->pos, "pos", TF_I32, tokens, &pos));
  r.positions = numel(p->cos) / r.half;
  r.pos0 = p->pos0;
  if (!pos && (p->pos0 < 0 || p->pos0 + r.t > r.positions))
    return fail(q, TF_EINVALID, "positions %ld to %ld are outside of the tables of %ld", (long)p->pos0, (long)(p->pos0 + r.t), (long)r.positions);
  if (r.h * r.d > 0x7fffffff) return fail(q, TF_EUNSUPPORTED, "%ld heads of %ld elements", (long)r.h, (long)r.d);
  r.pos = pos;
  r.cos = cos;
  r.sin = sin;
  r.interleaved = p->interleaved;
  r.inverse = p->inverse;
  r.accumulate = p->accumulate;
  return dispatch(q, x.dt, [&](auto t) {
    return launch(q, "rope", rope_kernel<decltype(t)>, dim3((unsigned)tokens), dim3(row_threads(r.h * r.half)), 0, r, q->trouble);
  });
}
