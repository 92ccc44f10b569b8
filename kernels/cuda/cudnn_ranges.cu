/* Where sequences begin and end, for cuDNN, and what it leaves of rows that are in none. */
#include "cudnn_ranges.h"

namespace tf {
namespace {

constexpr int kThreads = 256;

__device__ inline int64_t within(int64_t x, int64_t lo, int64_t hi) { return x < lo ? lo : x > hi ? hi : x; }

/* A sequence a thread, and one more for the end. Documents that are out of order are noted, and stay within their row. */
__global__ void __launch_bounds__(kThreads) ranges_kernel(Ranges r, int32_t *trouble) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i > r.n) return;
  int64_t row, first_query, first_key, queries, keys;
  if (r.documents) {
    const int32_t *c = r.documents;
    const int64_t at = i < r.n_documents ? i : r.n_documents, next = i < r.n_documents ? i + 1 : r.n_documents;
    if ((i == 0 && (c[0] != 0 || c[r.n_documents] != r.t)) || c[at] > c[next]) report(trouble, kBadDocuments);
    row = 0;
    first_query = first_key = within(c[at], 0, r.t);
    queries = keys = within(c[next], first_key, r.t) - first_key;
  } else {
    row = i;
    first_key = i < r.batch && r.kv_first ? within(r.kv_first[i], 0, r.t) : 0;
    keys = (i < r.batch && r.kv_last ? within(r.kv_last[i], first_key, r.t) : r.t) - first_key;
    /* Causal: queries before the first key see none, nor do those that the window has left behind. Otherwise all see what there is. */
    first_query = r.causal ? first_key : 0;
    const int64_t end = r.window ? within(first_key + keys + r.window - 1, 0, r.t) : r.t;
    queries = keys ? end - first_query : 0;
  }
  for (int k = 0; k < r.operands; k++) {
    const Ranges::Operand &o = r.operand[k];
    o.from[i] = row * o.b + (i == r.n && !r.documents ? 0 : o.keys ? first_key : first_query) * o.t;
  }
  if (i == r.n) return;
  r.queries[i] = (int32_t)queries;
  r.keys[i] = (int32_t)keys;
  r.first_query[i] = (int32_t)first_query;
  r.first_key[i] = (int32_t)first_key;
}

/* Whether position t of row b is in its sequence; documents have all. */
__device__ inline bool inside(const Ranges &r, int64_t b, int64_t t, bool keys) {
  if (r.documents) return true;
  const int64_t first = keys ? r.first_key[b] : r.first_query[b];
  return t >= first && t < first + (keys ? r.keys[b] : r.queries[b]);
}

__global__ void __launch_bounds__(kThreads) pack_kernel(Ranges r, const float *lse, int64_t hq, int64_t h0, int64_t heads, float *packed) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= r.batch * r.t * heads) return;
  const int64_t row = i / heads, h = i % heads, b = row / r.t, t = row % r.t;
  packed[i] = lse[(b * hq + h0 + h) * r.t + t];
}

__global__ void __launch_bounds__(kThreads) unpack_kernel(Ranges r, const float *packed, int64_t hq, float *lse) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= r.batch * r.t * hq) return;
  const int64_t t = i % r.t, bh = i / r.t, b = bh / hq, h = bh % hq;
  lse[i] = inside(r, b, t, false) ? packed[(b * r.t + t) * hq + h] : -INFINITY;
}

/* A block has a row of all heads. */
template <typename T>
__global__ void __launch_bounds__(kThreads) clear_kernel(Ranges r, Heads x, int64_t h, int64_t d, bool keys) {
  const int64_t b = blockIdx.x / r.t, t = blockIdx.x % r.t;
  if (inside(r, b, t, keys)) return;
  for (int64_t i = threadIdx.x; i < h * d; i += blockDim.x) x.at<T>(b, t, i / d)[i % d] = down<T>(0.0f);
}

constexpr int64_t kAlign = 256;
int64_t rounded(int64_t bytes) { return ceil_div(bytes, kAlign) * kAlign; }
dim3 grid(int64_t n) { return dim3((unsigned)ceil_div(n, kThreads)); }

}  // namespace

int64_t ranges_bytes(int64_t n) { return 4 * rounded(n * (int64_t)sizeof(int32_t)) + 10 * rounded((n + 1) * (int64_t)sizeof(int64_t)); }

void ranges_place(Ranges *r, char *memory, const dnn::Sdpa &s, const tf_attn_fwd *p, const tf_attn_bwd *g, void *where[dnn::kIds]) {
  auto take = [&](int64_t bytes) {
    char *at = memory;
    memory += rounded(bytes);
    return at;
  };
  r->n = s.b;
  r->batch = p->q.dim[0];
  r->t = p->q.dim[1];
  r->causal = s.causal;
  r->window = s.window;
  r->documents = has(p->cu_seqlens) ? at<const int32_t>(p->cu_seqlens.data) : nullptr;
  r->n_documents = r->documents ? numel(p->cu_seqlens) - 1 : 0;
  r->kv_first = has(p->kv_first) ? at<const int32_t>(p->kv_first.data) : nullptr;
  r->kv_last = has(p->kv_last) ? at<const int32_t>(p->kv_last.data) : nullptr;
  for (int32_t **a : {&r->queries, &r->keys, &r->first_query, &r->first_key}) *a = reinterpret_cast<int32_t *>(take(r->n * (int64_t)sizeof(int32_t)));
  where[dnn::kQueries] = r->queries;
  where[dnn::kKeys] = r->keys;
  auto operand = [&](dnn::Id id, int64_t b, int64_t t, bool keys) {
    Ranges::Operand &o = r->operand[r->operands++];
    o = {reinterpret_cast<int64_t *>(take((r->n + 1) * (int64_t)sizeof(int64_t))), b, t, keys};
    where[id] = o.from;
  };
  r->operands = 0;
  auto of = [&](dnn::Id id, const tf_tensor &x, bool keys) { operand(id, x.stride[0], x.stride[1], keys); };
  of(dnn::kFromQ, p->q, false);
  of(dnn::kFromK, p->k, true);
  of(dnn::kFromV, p->v, true);
  of(dnn::kFromO, p->o, false);
  operand(dnn::kFromLse, r->t * s.hq, s.hq, false);
  if (!g) return;
  of(dnn::kFromDO, g->d_o, false);
  of(dnn::kFromDQ, g->dq, false);
  of(dnn::kFromDK, g->dk, true);
  of(dnn::kFromDV, g->dv, true);
}

tf_status ranges_fill(tf_queue *q, const Ranges &r) { return launch(q, "attn_ranges", ranges_kernel, grid(r.n + 1), dim3(kThreads), 0, r, q->trouble); }

tf_status ranges_pack(tf_queue *q, const Ranges &r, const float *lse, int64_t hq, int64_t h0, int64_t heads, float *packed) {
  return launch(q, "attn_lse_pack", pack_kernel, grid(r.batch * r.t * heads), dim3(kThreads), 0, r, lse, hq, h0, heads, packed);
}

tf_status ranges_unpack(tf_queue *q, const Ranges &r, const float *packed, int64_t hq, float *lse) {
  return launch(q, "attn_lse_unpack", unpack_kernel, grid(r.batch * r.t * hq), dim3(kThreads), 0, r, packed, hq, lse);
}

tf_status ranges_clear(tf_queue *q, const Ranges &r, const tf_tensor &x, bool keys) {
  if (r.documents || (!r.kv_first && !r.kv_last)) return TF_OK; /* all rows are in a sequence */
  const Heads view = {at<void>(x.data), {x.stride[0], x.stride[1], x.stride[2]}};
  return dispatch(q, x.dtype, [&](auto t) {
    return launch(q, "attn_clear", clear_kernel<decltype(t)>, dim3((unsigned)(r.batch * r.t)), dim3(kThreads), 0, r, view, x.dim[2], x.dim[3], keys);
  });
}

}  // namespace tf
