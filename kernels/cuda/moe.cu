/* Mixture of experts: routing, order by expert, combination, load balancing. */
#include "rows.cuh"
#include "sort.cuh"
#include "topk.cuh"

namespace tf {
namespace {

constexpr int kMostExperts = 1024, kMostGroups = 64;
constexpr int kRouteWarps = 4; /* a warp has a token */
constexpr int kAuxRows = 256;  /* tokens whose load is added up before the sums are */

/* What a warp's token needs of shared memory: choice or gradient [e], weights [k], ids [k]. */
inline size_t route_shared(int64_t e, int64_t k) { return (size_t)(kRouteWarps * (e + 2 * k)) * sizeof(float); }

/* Softmax of x [n], by a warp, into p (which may be x). */
__device__ inline void warp_softmax(const float *x, float *p, int n) {
  const int lane = (int)(threadIdx.x % kWarp);
  float m = -INFINITY, s = 0;
  for (int i = lane; i < n; i += kWarp) m = fmaxf(m, x[i]);
  m = warp_reduce<Max>(m);
  for (int i = lane; i < n; i += kWarp) s += expf(x[i] - m);
  s = warp_reduce<Sum>(s);
  for (int i = lane; i < n; i += kWarp) p[i] = expf(x[i] - m) / s;
}

/* The k greatest of x [n], by a warp; put(rank, id) by the first lane. */
template <typename P>
__device__ inline void warp_choose(const float *x, int n, int k, P put) {
  const int lane = (int)(threadIdx.x % kWarp);
  uint64_t last = ~(uint64_t)0;
  for (int c = 0; c < k; c++) {
    uint64_t best = 0;
    for (int i = lane; i < n; i += kWarp) {
      const uint64_t key = rank_key(x[i], (uint32_t)i);
      if (key < last && key > best) best = key;
    }
    last = warp_reduce<Max>(best);
    if (lane == 0) put(c, (int)rank_id(last));
  }
}

struct Route {
  Rows x;
  const float *bias;
  float *scores, *weights;
  int32_t *ids;
  int64_t n;
  int e, k, groups, topk_groups, group_top, score, normalize;
  float norm_eps, norm_min, scale;
};

/* Clears the choices of all but the best groups; sums and kept are kMostGroups of shared memory. */
__device__ inline void limit_groups(const Route &r, float *choice, float *sums, int32_t *kept) {
  const int lane = (int)(threadIdx.x % kWarp), per = r.e / r.groups;
  for (int g = lane; g < r.groups; g += kWarp) {
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < per; i++) {
      const float v = choice[g * per + i];
      if (v > first) {
        second = first;
        first = v;
      } else if (v > second) {
        second = v;
      }
    }
    sums[g] = r.group_top == 2 ? first + second : first;
    kept[g] = 0;
  }
  __syncwarp();
  warp_choose(sums, r.groups, r.topk_groups, [=](int, int g) { kept[g] = 1; });
  __syncwarp();
  for (int i = lane; i < r.e; i += kWarp)
    if (!kept[i / per]) choice[i] = 0;
  __syncwarp();
}

__global__ void __launch_bounds__(kRouteWarps *kWarp) route_fwd_kernel(Route r) {
  TF_SHARED_DYNAMIC(float, mem);
  TF_SHARED2(float, sums, kRouteWarps, kMostGroups);
  TF_SHARED2(int32_t, kept, kRouteWarps, kMostGroups);
  const int warp = (int)(threadIdx.x / kWarp), lane = (int)(threadIdx.x % kWarp), e = r.e, k = r.k;
  const int64_t token = (int64_t)blockIdx.x * kRouteWarps + warp;
  if (token >= r.n) return; /* whole warps, and no barrier of the block follows */
  float *choice = mem + warp * (e + 2 * k), *w = choice + e;
  int32_t *ids = reinterpret_cast<int32_t *>(w + k);
  const float *x = r.x.row<float>(token);
  float *s = r.scores + token * e;
  if (r.score == TF_ROUTE_SOFTMAX)
    warp_softmax(x, s, e);
  else if (r.score == TF_ROUTE_SIGMOID)
    for (int i = lane; i < e; i += kWarp) s[i] = 1.0f / (1.0f + expf(-x[i]));
  /* A lane reads the scores that it wrote. */
  for (int i = lane; i < e; i += kWarp) choice[i] = (r.score == TF_ROUTE_SOFTMAX_TOPK ? x[i] : s[i]) + (r.bias ? r.bias[i] : 0.0f);
  __syncwarp();
  if (r.groups > 1) limit_groups(r, choice, sums[warp], kept[warp]);
  warp_choose(choice, e, k, [=](int c, int id) { ids[c] = id; });
  __syncwarp();
  if (r.score == TF_ROUTE_SOFTMAX_TOPK) {
    for (int c = lane; c < k; c += kWarp) w[c] = x[ids[c]];
    __syncwarp();
    warp_softmax(w, w, k);
    for (int i = lane; i < e; i += kWarp) s[i] = 0;
    __syncwarp();
    for (int c = lane; c < k; c += kWarp) s[ids[c]] = w[c];
  } else {
    for (int c = lane; c < k; c += kWarp) w[c] = s[ids[c]];
  }
  __syncwarp();
  float sum = 0;
  for (int c = 0; c < k; c++) sum += w[c];
  float den = sum + r.norm_eps;
  if (den < r.norm_min) den = r.norm_min;
  for (int c = lane; c < k; c += kWarp) {
    r.ids[token * k + c] = ids[c];
    r.weights[token * k + c] = (r.normalize ? w[c] / den : w[c]) * r.scale;
  }
}

struct RouteBwd {
  const float *scores, *dweights, *dscores;
  const int32_t *ids;
  Rows dx;
  int64_t n;
  int e, k, score, normalize;
  float norm_eps, norm_min, scale;
  int32_t accumulate;
};

__global__ void __launch_bounds__(kRouteWarps *kWarp) route_bwd_kernel(RouteBwd r, int32_t *trouble) {
  TF_SHARED_DYNAMIC(float, mem);
  const int warp = (int)(threadIdx.x / kWarp), lane = (int)(threadIdx.x % kWarp), e = r.e, k = r.k;
  const int64_t token = (int64_t)blockIdx.x * kRouteWarps + warp;
  if (token >= r.n) return;
  float *ds = mem + warp * (e + 2 * k);
  const float *s = r.scores + token * e;
  const int32_t *ids = r.ids + token * k;
  for (int i = lane; i < e; i += kWarp) ds[i] = r.dscores ? r.dscores[token * e + i] : 0.0f;
  bool bad = false;
  for (int c = 0; c < k; c++) bad = bad || ids[c] < 0 || ids[c] >= e;
  __syncwarp();
  if (bad) {
    if (lane == 0) report(trouble, kBadId);
  } else if (r.dweights) {
    const float *dw = r.dweights + token * k;
    float sum = 0, dot = 0, through = 1;
    for (int c = 0; c < k; c++) {
      sum += s[ids[c]];
      dot = fmaf(dw[c], s[ids[c]], dot);
    }
    float den = sum + r.norm_eps;
    if (den < r.norm_min) {
      den = r.norm_min;
      through = 0;
    }
    /* w = scale * s / den, den = sum of s. */
    for (int c = lane; c < k; c += kWarp) ds[ids[c]] += (r.normalize ? (dw[c] - through * (dot / den)) / den : dw[c]) * r.scale;
  }
  __syncwarp();
  /* The scores that were not chosen are 0 with SOFTMAX_TOPK, so one formula serves both. */
  float dot = 0;
  if (r.score != TF_ROUTE_SIGMOID)
    for (int i = lane; i < e; i += kWarp) dot = fmaf(s[i], ds[i], dot);
  dot = warp_reduce<Sum>(dot);
  float *dx = r.dx.row<float>(token);
  for (int i = lane; i < e; i += kWarp) {
    const float g = r.score == TF_ROUTE_SIGMOID ? ds[i] * s[i] * (1.0f - s[i]) : s[i] * (ds[i] - dot);
    dx[i] = r.accumulate ? dx[i] + g : g;
  }
}

/* --- order ---------------------------------------------------------------------------------------------------------------------------- */

/* A wrong id counts as expert 0, so that all places are written. */
struct ExpertDigit {
  const int32_t *ids;
  int32_t experts, *trouble;
  __device__ int operator()(int64_t i) const {
    const int32_t id = ids[i];
    if (id >= 0 && id < experts) return id;
    report(trouble, kBadId);
    return 0;
  }
};
struct PutExpert {
  int32_t *order, *place, *tokens;
  int64_t k;
  __device__ void operator()(int64_t i, int64_t at) const {
    order[at] = (int32_t)i;
    place[i] = (int32_t)at;
    tokens[at] = (int32_t)(i / k);
  }
};

/* --- combination ------------------------------------------------------------------------------------------------------------------------ */

struct Combine {
  Rows x, y, dy, dx;
  const int32_t *place;
  const float *weights;
  float *dweights;
  int64_t k, m; /* m rows of x */
  int32_t accumulate, dweights_accumulate;
};

/* One block a token. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads) combine_fwd_kernel(Combine p, int32_t *trouble) {
  typedef vec<T, N> V;
  const int64_t t = blockIdx.x, d = p.y.d;
  if (p.place)
    for (int64_t c = 0; c < p.k; c++)
      if (p.place[t * p.k + c] < 0 || p.place[t * p.k + c] >= p.m) {
        report(trouble, kBadPlace);
        return;
      }
  V *y = reinterpret_cast<V *>(p.y.row<T>(t));
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    float s[N];
    const V old = p.accumulate ? y[i] : V{};
    for (int n = 0; n < N; n++) s[n] = p.accumulate ? up(old.v[n]) : 0.0f;
    for (int64_t c = 0; c < p.k; c++) {
      const V a = reinterpret_cast<const V *>(p.x.row<T>(p.place ? p.place[t * p.k + c] : t))[i];
      const float w = p.weights ? p.weights[t * p.k + c] : 1.0f;
      for (int n = 0; n < N; n++) s[n] = fmaf(w, up(a.v[n]), s[n]);
    }
    V out;
    for (int n = 0; n < N; n++) out.v[n] = down<T>(s[n]);
    y[i] = out;
  }
}

/* One block a slot. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads) combine_bwd_kernel(Combine p, int32_t *trouble) {
  TF_SHARED(float, red, kWarp);
  typedef vec<T, N> V;
  const int64_t slot = blockIdx.x, t = slot / p.k, d = p.dy.d, row = p.place ? p.place[slot] : t;
  if (row < 0 || row >= p.m) {
    report(trouble, kBadPlace);
    return;
  }
  const V *dy = reinterpret_cast<const V *>(p.dy.row<T>(t)), *x = p.dweights ? reinterpret_cast<const V *>(p.x.row<T>(row)) : nullptr;
  V *dx = p.dx ? reinterpret_cast<V *>(p.dx.row<T>(row)) : nullptr;
  const float w = p.weights ? p.weights[slot] : 1.0f;
  float dot = 0;
  for (int64_t i = threadIdx.x; i < d / N; i += blockDim.x) {
    const V e = dy[i];
    if (x) {
      const V a = x[i];
      for (int n = 0; n < N; n++) dot = fmaf(up(e.v[n]), up(a.v[n]), dot);
    }
    if (dx) {
      V g = p.accumulate ? dx[i] : V{};
      for (int n = 0; n < N; n++) g.v[n] = down<T>(p.accumulate ? fmaf(w, up(e.v[n]), up(g.v[n])) : w * up(e.v[n]));
      dx[i] = g;
    }
  }
  if (!p.dweights) return;
  dot = block_reduce<Sum>(dot, red);
  if (threadIdx.x == 0) p.dweights[slot] = p.dweights_accumulate ? p.dweights[slot] + dot : dot;
}

/* --- load balancing ----------------------------------------------------------------------------------------------------------------------- */

/* probs [n,e], and 1 in chosen [n,e] for the k greatest; a row that does not count is all 0. A warp has a token. */
__global__ void __launch_bounds__(kRouteWarps *kWarp) aux_rows_kernel(Rows x, const uint8_t *mask, float *probs, uint8_t *chosen, int k) {
  const int lane = (int)(threadIdx.x % kWarp), e = (int)x.d;
  const int64_t token = (int64_t)blockIdx.x * kRouteWarps + threadIdx.x / kWarp;
  if (token >= x.n) return;
  float *p = probs + token * e;
  uint8_t *c = chosen + token * e;
  for (int i = lane; i < e; i += kWarp) {
    c[i] = 0;
    p[i] = 0;
  }
  if (mask && !mask[token]) return;
  warp_softmax(x.row<float>(token), p, e);
  __syncwarp();
  warp_choose(p, e, k, [=](int, int id) { c[id] = 1; });
}

/* partial[part] = the part's sums of chosen [e], then of probs [e], in order. */
__global__ void __launch_bounds__(128) aux_part_kernel(const float *probs, const uint8_t *chosen, int64_t n, int64_t e, double *partial) {
  const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= e) return;
  const int64_t first = (int64_t)blockIdx.y * kAuxRows, last = first + kAuxRows < n ? first + kAuxRows : n;
  double c = 0, s = 0;
  for (int64_t r = first; r < last; r++) {
    c += chosen[r * e + j];
    s += (double)probs[r * e + j];
  }
  partial[blockIdx.y * 2 * e + j] = c;
  partial[blockIdx.y * 2 * e + e + j] = s;
}

__global__ void __launch_bounds__(128) aux_add_kernel(const double *partial, int64_t parts, int64_t e, double *counts, double *probs, int32_t accumulate) {
  const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= e) return;
  double c = accumulate ? counts[j] : 0, s = accumulate ? probs[j] : 0;
  for (int64_t i = 0; i < parts; i++) {
    c += partial[i * 2 * e + j];
    s += partial[i * 2 * e + e + j];
  }
  counts[j] = c;
  probs[j] = s;
}

__global__ void __launch_bounds__(kRouteWarps *kWarp) aux_bwd_kernel(Rows x, const uint8_t *mask, const double *counts, Rows dx, double scale, int32_t accumulate) {
  TF_SHARED_DYNAMIC(float, mem);
  const int warp = (int)(threadIdx.x / kWarp), lane = (int)(threadIdx.x % kWarp), e = (int)x.d;
  const int64_t token = (int64_t)blockIdx.x * kRouteWarps + warp;
  if (token >= x.n) return;
  float *p = mem + warp * e, *g = dx.row<float>(token);
  if (mask && !mask[token]) {
    if (!accumulate)
      for (int i = lane; i < e; i += kWarp) g[i] = 0;
    return;
  }
  warp_softmax(x.row<float>(token), p, e);
  float dot = 0;
  for (int i = lane; i < e; i += kWarp) dot = fmaf(p[i], (float)(scale * counts[i]), dot);
  dot = warp_reduce<Sum>(dot);
  for (int i = lane; i < e; i += kWarp) {
    const float v = __fmul_rn(p[i], (float)(scale * counts[i]) - dot);
    g[i] = accumulate ? g[i] + v : v;
  }
}

tf_status check_experts(tf_queue *q, int64_t e, int64_t k) {
  if (e < 1 || e > kMostExperts) return fail(q, TF_EUNSUPPORTED, "%ld experts, at most %d are supported", (long)e, kMostExperts);
  if (k < 1 || k > e) return fail(q, TF_EINVALID, "k is %ld of %ld experts", (long)k, (long)e);
  return TF_OK;
}

tf_status check_score(tf_queue *q, int32_t s) {
  if (s < TF_ROUTE_SOFTMAX || s > TF_ROUTE_SOFTMAX_TOPK) return fail(q, TF_EINVALID, "unknown score %d", s);
  return TF_OK;
}

tf_status f32_rows(tf_queue *q, const tf_tensor &t, const char *name, Rows *r) {
  if (t.dtype != TF_F32) return fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32 is needed", name, t.dtype);
  return rows(q, t, name, r);
}

dim3 token_blocks(int64_t n) { return dim3((unsigned)ceil_div(n, kRouteWarps)); }
const dim3 token_threads(kRouteWarps *kWarp);

int64_t rows_in(const tf_tensor &t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank - 1; i++) n *= t.dim[i];
  return n;
}

/* The places and weights of n tokens, of rows of which there are c->m. */
tf_status places(tf_queue *q, const tf_tensor &place, const tf_tensor &weights, int64_t n, Combine *c) {
  int32_t *p;
  float *w;
  if (c->k < 1) return fail(q, TF_EINVALID, "k is %ld", (long)c->k);
  TF_TRY(maybe_flat(q, weights, "weights", TF_F32, n * c->k, &w));
  TF_TRY(maybe_flat(q, place, "place", TF_I32, n * c->k, &p));
  if (!p && (c->k != 1 || c->m != n)) return fail(q, TF_EINVALID, "without place, k is 1 and there are as many rows");
  c->weights = w;
  c->place = p;
  return TF_OK;
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_moe_route_fwd(tf_queue *q, const tf_moe_route_fwd *p) {
  Route r = {};
  float *bias;
  TF_TRY(f32_rows(q, p->logits, "logits", &r.x));
  const int64_t n = r.x.n, e = r.x.d, k = p->k;
  TF_TRY(check_experts(q, e, k));
  TF_TRY(check_score(q, p->score));
  if (p->groups > 1 && (p->groups > kMostGroups || e % p->groups || p->topk_groups < 1 || p->topk_groups > p->groups || p->group_top < 1 ||
                        p->group_top > 2 || p->group_top > e / p->groups))
    return fail(q, TF_EINVALID, "%ld of %ld groups by their %ld greatest, %ld experts", (long)p->topk_groups, (long)p->groups, (long)p->group_top, (long)e);
  TF_TRY(maybe_flat(q, p->bias, "bias", TF_F32, e, &bias));
  TF_TRY(flat(q, p->scores, "scores", TF_F32, n * e, &r.scores));
  TF_TRY(flat(q, p->weights, "weights", TF_F32, n * k, &r.weights));
  TF_TRY(flat(q, p->ids, "ids", TF_I32, n * k, &r.ids));
  r.bias = bias;
  r.n = n;
  r.e = (int)e;
  r.k = (int)k;
  r.groups = (int)p->groups;
  r.topk_groups = (int)p->topk_groups;
  r.group_top = (int)p->group_top;
  r.score = p->score;
  r.normalize = p->normalize;
  r.norm_eps = p->norm_eps;
  r.norm_min = p->norm_min;
  r.scale = p->scale == 0 ? 1 : p->scale;
  return launch(q, "moe_route_fwd", route_fwd_kernel, token_blocks(n), token_threads, route_shared(e, k), r);
}

tf_status cuda_moe_route_bwd(tf_queue *q, const tf_moe_route_bwd *p) {
  RouteBwd r = {};
  float *scores, *dweights, *dscores;
  int32_t *ids;
  TF_TRY(f32_rows(q, p->dlogits, "dlogits", &r.dx));
  const int64_t n = r.dx.n, e = r.dx.d, k = p->k;
  TF_TRY(check_experts(q, e, k));
  TF_TRY(check_score(q, p->score));
  TF_TRY(flat(q, p->scores, "scores", TF_F32, n * e, &scores));
  TF_TRY(flat(q, p->ids, "ids", TF_I32, n * k, &ids));
  TF_TRY(maybe_flat(q, p->dweights, "dweights", TF_F32, n * k, &dweights));
  TF_TRY(maybe_flat(q, p->dscores, "dscores", TF_F32, n * e, &dscores));
  r.scores = scores;
  r.ids = ids;
  r.dweights = dweights;
  r.dscores = dscores;
  r.n = n;
  r.e = (int)e;
  r.k = (int)k;
  r.score = p->score;
  r.normalize = p->normalize;
  r.norm_eps = p->norm_eps;
  r.norm_min = p->norm_min;
  r.scale = p->scale == 0 ? 1 : p->scale;
  r.accumulate = p->accumulate;
  return launch(q, "moe_route_bwd", route_bwd_kernel, token_blocks(n), token_threads, route_shared(e, k), r, q->trouble);
}

int64_t cuda_moe_sort_ws(const tf_device *, const tf_moe_sort *p) {
  return sort_counts(numel(p->ids), (int)(p->experts < kMostExperts ? p->experts : kMostExperts)) * (int64_t)sizeof(int32_t);
}

tf_status cuda_moe_sort(tf_queue *q, const tf_moe_sort *p) {
  int32_t *ids, *offsets;
  PutExpert put = {};
  const int64_t m = numel(p->ids), e = p->experts;
  if (p->ids.rank != 2) return fail(q, TF_EINVALID, "ids has rank %d, 2 is needed", p->ids.rank);
  TF_TRY(check_experts(q, e, 1));
  TF_TRY(flat(q, p->ids, "ids", TF_I32, m, &ids));
  TF_TRY(flat(q, p->offsets, "offsets", TF_I32, e + 1, &offsets));
  TF_TRY(flat(q, p->order, "order", TF_I32, m, &put.order));
  TF_TRY(flat(q, p->place, "place", TF_I32, m, &put.place));
  TF_TRY(flat(q, p->tokens, "tokens", TF_I32, m, &put.tokens));
  put.k = p->ids.dim[1] > 0 ? p->ids.dim[1] : 1;
  return sort_pass(q, ExpertDigit{ids, (int32_t)e, q->trouble}, put, m, (int)e, work<int32_t>(q), offsets);
}

tf_status cuda_moe_combine_fwd(tf_queue *q, const tf_moe_combine_fwd *p) {
  Combine c = {};
  c.k = p->k;
  c.accumulate = p->accumulate;
  TF_TRY(rows(q, p->y, "y", &c.y));
  c.m = rows_in(p->x);
  TF_TRY(rows_of(q, p->x, "x", c.m, c.y.d, c.y.dt, &c.x));
  TF_TRY(places(q, p->place, p->weights, c.y.n, &c));
  if (c.y.d == 0) return TF_OK;
  return dispatch(q, c.y.dt, [&](auto t) {
    using T = decltype(t);
    return widest<T>(c.y.d, fits(c.x) && fits(c.y), [&](auto v) {
      constexpr int n = (int)(sizeof(v) / sizeof(T));
      return launch(q, "moe_combine_fwd", combine_fwd_kernel<T, n>, dim3((unsigned)c.y.n), dim3(row_threads(c.y.d / n)), 0, c, q->trouble);
    });
  });
}

tf_status cuda_moe_combine_bwd(tf_queue *q, const tf_moe_combine_bwd *p) {
  Combine c = {};
  c.k = p->k;
  c.accumulate = p->dx_accumulate;
  c.dweights_accumulate = p->dweights_accumulate;
  TF_TRY(rows(q, p->dy, "dy", &c.dy));
  const int64_t n = c.dy.n, d = c.dy.d;
  c.m = has(p->dx) ? rows_in(p->dx) : has(p->dweights) ? rows_in(p->x) : n;
  TF_TRY(maybe_rows_of(q, p->dx, "dx", c.m, d, c.dy.dt, &c.dx));
  TF_TRY(maybe_flat(q, p->dweights, "dweights", TF_F32, n * c.k, &c.dweights));
  if (c.dweights) TF_TRY(rows_of(q, p->x, "x", c.m, d, c.dy.dt, &c.x));
  TF_TRY(places(q, p->place, p->weights, n, &c));
  if (d == 0) return TF_OK;
  return dispatch(q, c.dy.dt, [&](auto t) {
    using T = decltype(t);
    return widest<T>(d, fits(c.x) && fits(c.dy) && fits(c.dx), [&](auto v) {
      constexpr int w = (int)(sizeof(v) / sizeof(T));
      return launch(q, "moe_combine_bwd", combine_bwd_kernel<T, w>, dim3((unsigned)(n * c.k)), dim3(row_threads(d / w)), 0, c, q->trouble);
    });
  });
}

static int64_t aligned(int64_t bytes) { return ceil_div(bytes, 256) * 256; }

int64_t cuda_moe_aux_fwd_ws(const tf_device *, const tf_moe_aux_fwd *p) {
  if (p->x.rank < 1) return 0;
  const int64_t e = p->x.dim[p->x.rank - 1], n = numel(p->x);
  return e < 1 ? 0 : aligned(ceil_div(n / e, kAuxRows) * 2 * e * (int64_t)sizeof(double)) + aligned(n * (int64_t)sizeof(float)) + n;
}

tf_status cuda_moe_aux_fwd(tf_queue *q, const tf_moe_aux_fwd *p) {
  Rows x;
  uint8_t *mask;
  double *counts, *probs;
  TF_TRY(f32_rows(q, p->x, "x", &x));
  TF_TRY(check_experts(q, x.d, p->k));
  TF_TRY(maybe_flat(q, p->mask, "mask", TF_U8, x.n, &mask));
  TF_TRY(flat(q, p->counts, "counts", TF_F64, x.d, &counts));
  TF_TRY(flat(q, p->probs, "probs", TF_F64, x.d, &probs));
  const int64_t parts = ceil_div(x.n, kAuxRows), first = aligned(parts * 2 * x.d * (int64_t)sizeof(double)), second = aligned(x.n * x.d * (int64_t)sizeof(float));
  double *partial = work<double>(q);
  float *all = work<float>(q, first);
  uint8_t *chosen = work<uint8_t>(q, first + second);
  TF_TRY(launch(q, "moe_aux_rows", aux_rows_kernel, token_blocks(x.n), token_threads, 0, x, mask, all, chosen, (int)p->k));
  const unsigned columns = (unsigned)ceil_div(x.d, 128);
  TF_TRY(launch(q, "moe_aux_part", aux_part_kernel, dim3(columns, (unsigned)parts), dim3(128), 0, all, chosen, x.n, x.d, partial));
  return launch(q, "moe_aux_add", aux_add_kernel, dim3(columns), dim3(128), 0, partial, parts, x.d, counts, probs, p->accumulate);
}

tf_status cuda_moe_aux_bwd(tf_queue *q, const tf_moe_aux_bwd *p) {
  Rows x, dx;
  uint8_t *mask;
  double *counts;
  TF_TRY(f32_rows(q, p->x, "x", &x));
  TF_TRY(check_experts(q, x.d, 1));
  TF_TRY(rows_of(q, p->dx, "dx", x.n, x.d, TF_F32, &dx));
  TF_TRY(maybe_flat(q, p->mask, "mask", TF_U8, x.n, &mask));
  TF_TRY(flat(q, p->counts, "counts", TF_F64, x.d, &counts));
  return launch(q, "moe_aux_bwd", aux_bwd_kernel, token_blocks(x.n), token_threads, kRouteWarps * x.d * sizeof(float), x, mask, counts, dx, p->scale,
                p->accumulate);
}
