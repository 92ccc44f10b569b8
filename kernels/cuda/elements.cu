/* Elementwise operations: sums, products, activations, gated units, clamps. */
#include "elements.cuh"

#include "act.cuh"

namespace tf {
namespace {

struct AddF {
  float alpha, beta;
  const float *alpha_dev;
  bool b;
  __device__ void begin() {
    if (alpha_dev) alpha *= *alpha_dev;
  }
  __device__ void operator()(const float *x, float *y, int64_t) const {
    const float t = __fmul_rn(alpha, x[0]);
    y[0] = b ? fmaf(beta, x[1], t) : t;
  }
};

struct MulF {
  const float *w; /* one row for all, instead of the second operand */
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t i) const { y[0] = __fmul_rn(x[0], w ? w[i] : x[1]); }
};

struct ActF {
  int32_t kind;
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t) const {
    float g;
    y[0] = act(kind, x[0], &g);
  }
};

struct ActBwdF {
  int32_t kind;
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t) const {
    float g;
    act(kind, x[0], &g);
    y[0] = __fmul_rn(g, x[1]);
  }
};

struct GluF {
  int32_t kind;
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t) const {
    float g;
    y[0] = act(kind, x[0], &g) * x[1];
  }
};

/* x: gate, up, dy; y: dgate, dup. */
struct GluBwdF {
  int32_t kind;
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t) const {
    float g;
    y[1] = __fmul_rn(act(kind, x[0], &g), x[2]);
    y[0] = __fmul_rn(g * x[1], x[2]);
  }
};

struct ClampF {
  float lo, hi;
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t) const { y[0] = x[0] < lo ? lo : x[0] > hi ? hi : x[0]; }
};

struct ClampBwdF {
  float lo, hi;
  __device__ void begin() {}
  __device__ void operator()(const float *x, float *y, int64_t) const { y[0] = x[0] < lo || x[0] > hi ? 0.0f : x[1]; }
};

/* Where gate and up of column i of y lie in a row of x. */
__device__ inline void glu_columns(int64_t i, int64_t f, int32_t interleaved, int64_t *g, int64_t *u) {
  *g = interleaved ? 2 * i : i;
  *u = interleaved ? 2 * i + 1 : f + i;
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) glu_clamped_fwd_kernel(Rows x, Rows y, float alpha, float limit, int32_t interleaved) {
  const T *px = x.row<T>(blockIdx.x);
  T *py = y.row<T>(blockIdx.x);
  for (int64_t i = threadIdx.x; i < y.d; i += blockDim.x) {
    int64_t ig, iu;
    glu_columns(i, y.d, interleaved, &ig, &iu);
    float g = up(px[ig]), u = up(px[iu]);
    g = g > limit ? limit : g;
    u = u > limit ? limit : u < -limit ? -limit : u;
    py[i] = down<T>((u + 1.0f) * (g * sigmoid(alpha * g)));
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    glu_clamped_bwd_kernel(Rows x, Rows dy, Rows dx, float alpha, float limit, int32_t interleaved, int32_t accumulate) {
  const T *px = x.row<T>(blockIdx.x), *pdy = dy.row<T>(blockIdx.x);
  T *pdx = dx.row<T>(blockIdx.x);
  for (int64_t i = threadIdx.x; i < dy.d; i += blockDim.x) {
    int64_t ig, iu;
    glu_columns(i, dy.d, interleaved, &ig, &iu);
    const float g0 = up(px[ig]), u0 = up(px[iu]), e = up(pdy[i]);
    const float g = g0 > limit ? limit : g0, u = u0 > limit ? limit : u0 < -limit ? -limit : u0, s = sigmoid(alpha * g);
    /* d(g s)/dg = s * (1 + alpha * g * (1 - s)) */
    float dg = g0 > limit ? 0.0f : e * (u + 1.0f) * (s * fmaf(alpha * g, 1.0f - s, 1.0f));
    float du = u0 > limit || u0 < -limit ? 0.0f : e * (g * s);
    if (accumulate) {
      dg += up(pdx[ig]);
      du += up(pdx[iu]);
    }
    pdx[ig] = down<T>(dg);
    pdx[iu] = down<T>(du);
  }
}

tf_status check_act(tf_queue *q, int32_t kind) {
  if (kind < TF_ACT_SILU || kind > TF_ACT_TANH) return fail(q, TF_EINVALID, "unknown activation %d", kind);
  return TF_OK;
}

tf_status check_clamp(tf_queue *q, float lo, float hi) {
  if (!(lo <= hi)) return fail(q, TF_EINVALID, "limits %g to %g", (double)lo, (double)hi);
  return TF_OK;
}

tf_status check_clamped(tf_queue *q, const tf_tensor &x, const tf_tensor &half, float limit, Rows *rx, Rows *rh) {
  TF_TRY(rows(q, x, "x", rx));
  if (rx->d % 2 || !(limit >= 0)) return fail(q, TF_EINVALID, "rows of x have %ld elements, limit is %g", (long)rx->d, (double)limit);
  return rows_of(q, half, "y or dy", rx->n, rx->d / 2, rx->dt, rh);
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_add(tf_queue *q, const tf_add *p) {
  Elems<2, 1> e = {};
  TF_TRY(rows(q, p->a, "a", &e.in[0]));
  const Rows &a = e.in[0];
  TF_TRY(maybe_rows_of(q, p->b, "b", a.n, a.d, a.dt, &e.in[1]));
  TF_TRY(rows_of(q, p->y, "y", a.n, a.d, a.dt, &e.out[0]));
  e.accumulate[0] = p->accumulate;
  return elements(q, "add", e, false, AddF{p->alpha, p->beta, at<const float>(p->alpha_dev), has(p->b)});
}

tf_status cuda_mul(tf_queue *q, const tf_mul *p) {
  Elems<2, 1> e = {};
  float *w = nullptr;
  TF_TRY(rows(q, p->a, "a", &e.in[0]));
  const Rows &a = e.in[0];
  if (p->b.rank == 1 && p->a.rank > 1)
    TF_TRY(flat(q, p->b, "b", TF_F32, a.d, &w));
  else
    TF_TRY(rows_of(q, p->b, "b", a.n, a.d, a.dt, &e.in[1]));
  TF_TRY(rows_of(q, p->y, "y", a.n, a.d, a.dt, &e.out[0]));
  e.accumulate[0] = p->accumulate;
  return elements(q, "mul", e, w != nullptr, MulF{w});
}

tf_status cuda_act_fwd(tf_queue *q, const tf_act_fwd *p) {
  Elems<1, 1> e = {};
  TF_TRY(check_act(q, p->act));
  TF_TRY(rows(q, p->x, "x", &e.in[0]));
  TF_TRY(rows_of(q, p->y, "y", e.in[0].n, e.in[0].d, e.in[0].dt, &e.out[0]));
  return elements(q, "act_fwd", e, false, ActF{p->act});
}

tf_status cuda_act_bwd(tf_queue *q, const tf_act_bwd *p) {
  Elems<2, 1> e = {};
  TF_TRY(check_act(q, p->act));
  TF_TRY(rows(q, p->x, "x", &e.in[0]));
  const Rows &x = e.in[0];
  TF_TRY(rows_of(q, p->dy, "dy", x.n, x.d, x.dt, &e.in[1]));
  TF_TRY(rows_of(q, p->dx, "dx", x.n, x.d, x.dt, &e.out[0]));
  e.accumulate[0] = p->accumulate;
  return elements(q, "act_bwd", e, false, ActBwdF{p->act});
}

tf_status cuda_glu_fwd(tf_queue *q, const tf_glu_fwd *p) {
  Elems<2, 1> e = {};
  TF_TRY(check_act(q, p->act));
  TF_TRY(rows(q, p->gate, "gate", &e.in[0]));
  const Rows &g = e.in[0];
  TF_TRY(rows_of(q, p->up, "up", g.n, g.d, g.dt, &e.in[1]));
  TF_TRY(rows_of(q, p->y, "y", g.n, g.d, g.dt, &e.out[0]));
  return elements(q, "glu_fwd", e, false, GluF{p->act});
}

tf_status cuda_glu_bwd(tf_queue *q, const tf_glu_bwd *p) {
  Elems<3, 2> e = {};
  TF_TRY(check_act(q, p->act));
  TF_TRY(rows(q, p->gate, "gate", &e.in[0]));
  const Rows &g = e.in[0];
  TF_TRY(rows_of(q, p->up, "up", g.n, g.d, g.dt, &e.in[1]));
  TF_TRY(rows_of(q, p->dy, "dy", g.n, g.d, g.dt, &e.in[2]));
  TF_TRY(rows_of(q, p->dgate, "dgate", g.n, g.d, g.dt, &e.out[0]));
  TF_TRY(rows_of(q, p->dup, "dup", g.n, g.d, g.dt, &e.out[1]));
  e.accumulate[0] = p->dgate_accumulate;
  e.accumulate[1] = p->dup_accumulate;
  return elements(q, "glu_bwd", e, false, GluBwdF{p->act});
}

tf_status cuda_clamp_fwd(tf_queue *q, const tf_clamp_fwd *p) {
  Elems<1, 1> e = {};
  TF_TRY(check_clamp(q, p->lo, p->hi));
  TF_TRY(rows(q, p->x, "x", &e.in[0]));
  TF_TRY(rows_of(q, p->y, "y", e.in[0].n, e.in[0].d, e.in[0].dt, &e.out[0]));
  return elements(q, "clamp_fwd", e, false, ClampF{p->lo, p->hi});
}

tf_status cuda_clamp_bwd(tf_queue *q, const tf_clamp_bwd *p) {
  Elems<2, 1> e = {};
  TF_TRY(check_clamp(q, p->lo, p->hi));
  TF_TRY(rows(q, p->x, "x", &e.in[0]));
  const Rows &x = e.in[0];
  TF_TRY(rows_of(q, p->dy, "dy", x.n, x.d, x.dt, &e.in[1]));
  TF_TRY(rows_of(q, p->dx, "dx", x.n, x.d, x.dt, &e.out[0]));
  e.accumulate[0] = p->accumulate;
  return elements(q, "clamp_bwd", e, false, ClampBwdF{p->lo, p->hi});
}

tf_status cuda_glu_clamped_fwd(tf_queue *q, const tf_glu_clamped_fwd *p) {
  Rows x, y;
  TF_TRY(check_clamped(q, p->x, p->y, p->limit, &x, &y));
  if (y.d == 0) return TF_OK;
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    return launch(q, "glu_clamped_fwd", glu_clamped_fwd_kernel<T>, dim3((unsigned)x.n), dim3(row_threads(y.d)), 0, x, y, p->alpha, p->limit, p->interleaved);
  });
}

tf_status cuda_glu_clamped_bwd(tf_queue *q, const tf_glu_clamped_bwd *p) {
  Rows x, dy, dx;
  TF_TRY(check_clamped(q, p->x, p->dy, p->limit, &x, &dy));
  TF_TRY(rows_of(q, p->dx, "dx", x.n, x.d, x.dt, &dx));
  if (dy.d == 0) return TF_OK;
  return dispatch(q, x.dt, [&](auto t) {
    using T = decltype(t);
    return launch(q, "glu_clamped_bwd", glu_clamped_bwd_kernel<T>, dim3((unsigned)x.n), dim3(row_threads(dy.d)), 0, x, dy, dx, p->alpha, p->limit,
                  p->interleaved, p->accumulate);
  });
}
