/* Linear layer and loss over a vocabulary, by chunks of rows, so that the logits of a batch never exist at once. Logits and statistics are
 * f32; the logits' gradient has the type of x and w where they agree, so that its products run on tensor cores. */
#include <float.h>

#include "colsum.cuh"
#include "gemm.h"
#include "rows.cuh"

namespace tf {
namespace {

constexpr int kLossThreads = 512;

enum { kNoGrad = 0, kXent = 1, kDLogp = 2 };

/* Of a chunk: logits z [rows, v] with rows of ld floats. */
struct Loss {
  const float *z;
  void *dz;
  int64_t ld, v;
  const int32_t *targets;
  const float *weights; /* kXent: of the tokens; kDLogp: dlogp */
  float *logp, *lse, *entropy, *zsum;
  const float *lse_in, *scale_dev;
  float logit_scale, softcap, scale, smooth, z_loss;
  int grad;

  __device__ float logit(float a) const {
    a *= logit_scale;
    return softcap > 0 ? softcap * tanhf(a / softcap) : a;
  }
  /* What the gradient of a logit is multiplied by to be that of the product. */
  __device__ float slope(float a) const {
    const float u = softcap > 0 ? a / softcap : 0.0f;
    return logit_scale * fmaf(-u, u, 1.0f);
  }
};

/* The i-th four of a row of v elements. What lies behind the row nobody has written: it is not read. */
__device__ inline vec<float, 4> four(const float *z, int64_t i, int64_t v) {
  if (4 * i + 4 <= v) return reinterpret_cast<const vec<float, 4> *>(z)[i];
  vec<float, 4> x = {};
  for (int k = 0; 4 * i + k < v; k++) x.v[k] = z[4 * i + k];
  return x;
}

/* One block a row: maximum and sums in one pass over it, the gradient in a second. Rows have padding to a multiple of 8; dz may be z. */
template <typename T>
__global__ void __launch_bounds__(kLossThreads) loss_kernel(Loss p, int32_t *trouble) {
  TF_SHARED(float, red, kWarp);
  const int64_t r = blockIdx.x;
  const float *z = p.z + r * p.ld;
  int64_t target = p.targets[r];
  if (target >= p.v) {
    report(trouble, kBadTarget);
    target = -1;
  }
  /* s: the sum of exp(a - m) with the greatest a so far as m; h: that of exp(a - m) * (a - m). */
  float m = -FLT_MAX, s = 0, h = 0, zs = 0;
  for (int64_t i = threadIdx.x; 4 * i < p.v; i += blockDim.x) {
    const vec<float, 4> raw = four(z, i, p.v);
    for (int k = 0; k < 4; k++) {
      if (4 * i + k >= p.v) break;
      const float a = p.logit(raw.v[k]);
      zs += a;
      const float d = a - m, e = expf(-fabsf(d));
      if (d > 0) {
        h = e * fmaf(-s, d, h);
        s = fmaf(s, e, 1.0f);
        m = a;
      } else {
        s += e;
        h = fmaf(e, d, h);
      }
    }
  }
  const float chosen = target >= 0 ? p.logit(z[target]) : 0.0f;
  const float most = block_reduce<Max>(m, red), f = expf(m - most);
  h = f * fmaf(s, m - most, h);
  s = block_reduce<Sum>(s * f, red);
  if (p.entropy) h = block_reduce<Sum>(h, red);
  if (p.zsum) zs = block_reduce<Sum>(zs, red);
  const float ln = logf(s), lse = p.lse_in ? p.lse_in[r] : most + ln;
  if (threadIdx.x == 0) {
    if (p.lse) p.lse[r] = lse;
    if (p.logp) p.logp[r] = target >= 0 ? chosen - lse : 0.0f;
    if (p.entropy) p.entropy[r] = ln - h / s;
    if (p.zsum) p.zsum[r] = zs;
  }
  if (p.grad == kNoGrad) return;
  float w = p.scale * (p.weights ? p.weights[r] : 1.0f);
  if (p.scale_dev) w *= *p.scale_dev;
  const bool none = target < 0 || (p.weights && p.weights[r] == 0);
  float each, one, all = 0;
  if (p.grad == kXent) {
    each = w * fmaf(2.0f * p.z_loss, lse, 1.0f);
    one = -w * (1.0f - p.smooth);
    all = -w * p.smooth / (float)p.v;
  } else {
    each = -w;
    one = w;
  }
  vec<T, 4> *dz = reinterpret_cast<vec<T, 4> *>(static_cast<T *>(p.dz) + r * p.ld);
  for (int64_t i = threadIdx.x; 4 * i < p.v; i += blockDim.x) {
    const vec<float, 4> raw = four(z, i, p.v);
    vec<T, 4> out;
    for (int k = 0; k < 4; k++) {
      float g = 0;
      if (!none && 4 * i + k < p.v) {
        const float a = p.logit(raw.v[k]);
        g = fmaf(each, expf(a - lse), all);
        if (4 * i + k == target) g += one;
        g *= p.slope(a);
      }
      out.v[k] = down<T>(g);
    }
    dz[i] = out;
  }
}

struct Operands {
  const tf_tensor *x, *w, *bias, *targets, *dx, *dw, *dbias;
  int32_t dx_acc, dw_acc, dbias_acc;
};

bool wanted(const tf_tensor *t) { return t && has(*t); }

/* The weights' gradient is read and written once a chunk, so that its chunks are larger. */
int64_t chunk_rows(int64_t n, int64_t v, bool dw) {
  int64_t rows = ((int64_t)(dw ? 128 : 32) << 20) / (v > 1 ? v : 1);
  rows = rows < 128 ? 128 : rows > 2048 ? 2048 : rows;
  return rows < n ? rows : n > 1 ? n : 1;
}

struct Layout {
  int64_t chunk, ld, z, dz, part, total; /* bytes; gemm's workspace is at the beginning */
  int32_t grad_type;
};

int64_t up256(int64_t n) { return ceil_div(n, 256) * 256; }

Layout layout(const tf_tensor &x, const tf_tensor &w, bool grad, bool dw, bool dbias) {
  Layout l = {};
  if (x.rank != 2 || w.rank != 2) return l;
  const int64_t v = w.dim[0];
  l.chunk = chunk_rows(x.dim[0], v, dw);
  l.ld = ceil_div(v, 8) * 8;
  l.grad_type = x.dtype == w.dtype ? x.dtype : (int32_t)TF_F32;
  l.z = kGemmWorkspace;
  l.dz = l.z + up256(l.chunk * l.ld * (int64_t)sizeof(float));
  l.part = l.dz;
  if (grad && l.grad_type != TF_F32)
    l.part += up256(l.chunk * l.ld * dtype_size(l.grad_type));
  else
    l.dz = l.z; /* in place */
  l.total = l.part + (dbias ? colsum_bytes(l.chunk, v) : 0);
  return l;
}

tf_status check_operands(tf_queue *q, const Operands &o, Loss *j) {
  Rows r;
  float *v;
  int32_t *targets;
  if (o.x->rank != 2 || o.w->rank != 2 || o.x->dim[1] != o.w->dim[1]) return fail(q, TF_EINVALID, "x and w have to be [n,d] and [v,d]");
  TF_TRY(rows(q, *o.x, "x", &r));
  TF_TRY(rows(q, *o.w, "w", &r));
  const int64_t n = o.x->dim[0], d = o.x->dim[1], vocabulary = o.w->dim[0];
  if (vocabulary < 1) return fail(q, TF_EINVALID, "the vocabulary is empty");
  TF_TRY(flat(q, *o.targets, "targets", TF_I32, n, &targets));
  if (has(*o.bias)) TF_TRY(flat(q, *o.bias, "bias", TF_F32, vocabulary, &v));
  if (wanted(o.dx)) TF_TRY(rows_of(q, *o.dx, "dx", n, d, o.x->dtype, &r));
  if (wanted(o.dw)) TF_TRY(rows_of(q, *o.dw, "dw", vocabulary, d, TF_F32, &r));
  if (wanted(o.dbias)) TF_TRY(flat(q, *o.dbias, "dbias", TF_F32, vocabulary, &v));
  j->targets = targets;
  j->v = vocabulary;
  if (j->logit_scale == 0) j->logit_scale = 1;
  return TF_OK;
}

const void *row_of(const tf_tensor &t, int64_t r) { return at<const char>(t.data) + r * t.stride[0] * dtype_size(t.dtype); }

tf_status run(tf_queue *q, const Operands &o, Loss j) {
  const int64_t n = o.x->dim[0], d = o.x->dim[1], v = j.v, xs = o.x->stride[0], ws = o.w->stride[0];
  const Layout l = layout(*o.x, *o.w, j.grad != kNoGrad, wanted(o.dw), wanted(o.dbias));
  void *gemm_ws = work<void>(q);
  float *z = work<float>(q, l.z);
  j.z = z;
  j.dz = work<void>(q, l.dz);
  j.ld = l.ld;
  for (int64_t r = 0; r < n; r += l.chunk) {
    const int64_t m = n - r < l.chunk ? n - r : l.chunk;
    Gemm g = {row_of(*o.x, r), at<const void>(o.w->data), z, o.x->dtype, o.w->dtype, TF_F32, m, v, d, 1, xs, 1, 1, ws, l.ld};
    g.bias = at<const float>(o.bias->data);
    TF_TRY(gemm(q, g, gemm_ws));
    Loss c = j;
    c.targets += r;
    if (c.weights) c.weights += r;
    if (c.lse_in) c.lse_in += r;
    if (c.logp) c.logp += r;
    if (c.lse) c.lse += r;
    if (c.entropy) c.entropy += r;
    if (c.zsum) c.zsum += r;
    int64_t threads = ceil_div(ceil_div(v, 4), kWarp) * kWarp;
    if (threads > kLossThreads) threads = kLossThreads;
    TF_TRY(dispatch(q, l.grad_type, [&](auto t) {
      return launch(q, "loss", loss_kernel<decltype(t)>, dim3((unsigned)m), dim3((unsigned)threads), 0, c, q->trouble);
    }));
    if (wanted(o.dx)) {
      Gemm b = {j.dz, at<const void>(o.w->data), const_cast<void *>(row_of(*o.dx, r)), l.grad_type, o.w->dtype, o.dx->dtype, m, d, v, 1, l.ld, 1, ws, 1,
                o.dx->stride[0]};
      b.accumulate = o.dx_acc;
      TF_TRY(gemm(q, b, gemm_ws));
    }
    if (wanted(o.dw)) {
      Gemm b = {j.dz, row_of(*o.x, r), at<void>(o.dw->data), l.grad_type, o.x->dtype, TF_F32, v, d, m, 1, 1, l.ld, xs, 1, o.dw->stride[0]};
      b.accumulate = r > 0 || o.dw_acc;
      TF_TRY(gemm(q, b, gemm_ws));
    }
    if (wanted(o.dbias)) {
      Rows s = {};
      s.p = j.dz;
      s.n = m;
      s.d = v;
      s.ld = l.ld;
      s.dt = l.grad_type;
      TF_TRY(colsum(q, s, work<float>(q, l.part), at<float>(o.dbias->data), r > 0 || o.dbias_acc));
    }
  }
  return TF_OK;
}

}  // namespace
}  // namespace tf

using namespace tf;

int64_t cuda_linear_logprob_fwd_ws(const tf_device *, const tf_linear_logprob_fwd *p) { return layout(p->x, p->w, false, false, false).total; }

tf_status cuda_linear_logprob_fwd(tf_queue *q, const tf_linear_logprob_fwd *p) {
  const Operands o = {&p->x, &p->w, &p->bias, &p->targets, nullptr, nullptr, nullptr, 0, 0, 0};
  Loss j = {};
  j.logit_scale = p->logit_scale;
  j.softcap = p->softcap;
  TF_TRY(check_operands(q, o, &j));
  const int64_t n = p->x.dim[0];
  TF_TRY(maybe_flat(q, p->logp, "logp", TF_F32, n, &j.logp));
  TF_TRY(maybe_flat(q, p->lse, "lse", TF_F32, n, &j.lse));
  TF_TRY(maybe_flat(q, p->entropy, "entropy", TF_F32, n, &j.entropy));
  TF_TRY(maybe_flat(q, p->zsum, "zsum", TF_F32, n, &j.zsum));
  return run(q, o, j);
}

int64_t cuda_linear_logprob_bwd_ws(const tf_device *, const tf_linear_logprob_bwd *p) { return layout(p->x, p->w, true, has(p->dw), has(p->dbias)).total; }

tf_status cuda_linear_logprob_bwd(tf_queue *q, const tf_linear_logprob_bwd *p) {
  const Operands o = {&p->x, &p->w, &p->bias, &p->targets, &p->dx, &p->dw, &p->dbias, p->dx_accumulate, p->dw_accumulate, p->dbias_accumulate};
  Loss j = {};
  j.logit_scale = p->logit_scale;
  j.softcap = p->softcap;
  j.scale = 1;
  j.grad = kDLogp;
  TF_TRY(check_operands(q, o, &j));
  float *lse, *dlogp;
  TF_TRY(flat(q, p->lse, "lse", TF_F32, p->x.dim[0], &lse));
  TF_TRY(flat(q, p->dlogp, "dlogp", TF_F32, p->x.dim[0], &dlogp));
  j.lse_in = lse;
  j.weights = dlogp;
  return run(q, o, j);
}

static bool xent_grad(const tf_linear_xent *p) { return has(p->dx) || has(p->dw) || has(p->dbias); }

int64_t cuda_linear_xent_ws(const tf_device *, const tf_linear_xent *p) { return layout(p->x, p->w, xent_grad(p), has(p->dw), has(p->dbias)).total; }

tf_status cuda_linear_xent(tf_queue *q, const tf_linear_xent *p) {
  const Operands o = {&p->x, &p->w, &p->bias, &p->targets, &p->dx, &p->dw, &p->dbias, p->dx_accumulate, p->dw_accumulate, p->dbias_accumulate};
  Loss j = {};
  j.logit_scale = p->logit_scale;
  j.softcap = p->softcap;
  j.scale = p->loss_scale;
  j.smooth = p->label_smoothing;
  j.z_loss = p->z_loss;
  j.scale_dev = at<const float>(p->loss_scale_dev);
  j.grad = xent_grad(p) ? kXent : kNoGrad;
  TF_TRY(check_operands(q, o, &j));
  const int64_t n = p->x.dim[0];
  float *weights;
  TF_TRY(maybe_flat(q, p->weights, "weights", TF_F32, n, &weights));
  j.weights = weights;
  TF_TRY(maybe_flat(q, p->logp, "logp", TF_F32, n, &j.logp));
  TF_TRY(maybe_flat(q, p->lse, "lse", TF_F32, n, &j.lse));
  TF_TRY(maybe_flat(q, p->zsum, "zsum", TF_F32, n, &j.zsum));
  return run(q, o, j);
}
