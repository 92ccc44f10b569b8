/* Attention forward: checks, which keys a query sees, and the kernel. */
#include "attn.cuh"

#include <algorithm>

#include "attn_decode.cuh"
#include "attn_mma.cuh"
#include "cudnn.h"

namespace tf {
namespace {

/* lo and hi of each query. */
__global__ void __launch_bounds__(256) seen_kernel(Attn a, int32_t *trouble) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= a.batch * a.tq) return;
  const int64_t b = at / a.tq, i = at % a.tq, pos = (a.q_start ? a.q_start[b] : a.q_start0) + i;
  int64_t lo = 0, hi = a.tk;
  if (a.causal && pos + 1 < hi) hi = pos + 1;
  if (a.window_left >= 0 && pos - a.window_left > lo) lo = pos - a.window_left;
  if (a.window_right >= 0 && pos + a.window_right + 1 < hi) hi = pos + a.window_right + 1;
  if (a.kv_first && a.kv_first[b] > lo) lo = a.kv_first[b];
  if (a.kv_last && a.kv_last[b] < hi) hi = a.kv_last[b];
  if (a.documents) {
    const int32_t *c = a.documents;
    const int64_t n = a.n_documents;
    if (c[0] != 0 || c[n] != a.tq) report(trouble, kBadDocuments);
    /* The last document that begins at or before i; empty ones are passed over. */
    int64_t x = 0, y = n;
    while (y - x > 1) {
      const int64_t m = (x + y) / 2;
      if (c[m] <= i)
        x = m;
      else
        y = m;
    }
    if (c[x] > i || c[x + 1] <= i || (at < n && c[at] > c[at + 1])) report(trouble, kBadDocuments);
    if (c[x] > lo) lo = c[x];
    if (c[x + 1] < hi) hi = c[x + 1];
  }
  if (lo > a.tk) lo = a.tk;
  if (lo < 0) lo = 0;
  if (hi > a.tk) hi = a.tk;
  a.lo[at] = (int32_t)lo;
  a.hi[at] = (int32_t)(hi < lo ? lo : hi);
}

/* A block has 64 queries of one head, and NJ chunks of its output. Tiles: the queries (all chunks, or a pair), a pair for chunks of keys and
 * values, of which one is worked on while the other is loaded, the probabilities. */
template <typename E, int NJ>
__global__ void __launch_bounds__(E::kThreads, 1) attn_fwd_kernel(Attn a, int64_t tiles, int slices) {
  typedef typename E::T T;
  typedef typename E::Cell Cell;
  constexpr int R = E::R, C = E::C, kTileCells = tile_cells<E>();
  TF_SHARED_DYNAMIC(Cell, mem);
  /* Later queries see more keys: they begin first. */
  const int slice = (int)(blockIdx.x % slices);
  const int64_t u = blockIdx.x / slices, tile = tiles - 1 - u % tiles, bh = u / tiles, b = bh / a.hq, h = bh % a.hq, hk = h / a.group();
  const int64_t q0 = tile * kAttn, n = a.tq - q0 < kAttn ? a.tq - q0 : kAttn;
  const int nk = chunks(a.d_qk), nv = chunks(a.d_v);
  Cell *qs = mem, *xs = qs + (a.resident ? nk : 2) * kTileCells, *ps = xs + 2 * kTileCells;
  const Scoring score = scoring(a, b, h);
  const T *q = a.q.at<T>(b, q0, h);
  int64_t first, last;
  seen_keys(a.lo + b * a.tq + q0, a.hi + b * a.tq + q0, n, &first, &last);
  int now = 0; /* which of the pair is worked on */
  auto fetch_keys = [&](int64_t j0, int c, int to) {
    load_tile<E>(xs + to * kTileCells, a.k.at<T>(b, j0, hk), a.k.s[1], a.tk - j0, a.d_qk, c, a.wide);
    if (!a.resident) load_tile<E>(qs + to * kTileCells, q, a.q.s[1], n, a.d_qk, c, a.wide);
  };
  auto fetch_values = [&](int64_t j0, int c, int to) {
    load_tile<E>(xs + to * kTileCells, a.v.at<T>(b, j0, hk), a.v.s[1], a.tk - j0, a.d_v, c, a.wide);
  };
  if (a.resident)
    for (int c = 0; c < nk; c++) load_tile<E>(qs + c * kTileCells, q, a.q.s[1], n, a.d_qk, c, a.wide);
  if (first < last) fetch_keys(first, 0, now);

  int lo[R], hi[R];
  float m[R], l[R], o[NJ][R][C];
  const float sink = a.sinks ? a.sinks[h] : kHidden;
  TF_UNROLL
  for (int r = 0; r < R; r++) {
    const int64_t i = E::row(r);
    lo[r] = i < n ? a.lo[b * a.tq + q0 + i] : 0;
    hi[r] = i < n ? a.hi[b * a.tq + q0 + i] : 0;
    m[r] = sink;
    l[r] = a.sinks && threadIdx.x % E::kPeers == 0 ? 1.0f : 0.0f; /* a lane's part of the sum */
    TF_UNROLL
    for (int j = 0; j < NJ; j++)
      TF_UNROLL
      for (int c = 0; c < C; c++) o[j][r][c] = 0;
  }
  for (int64_t j0 = first; j0 < last; j0 += kAttn) {
    const uint8_t *mask = a.key_mask ? a.key_mask + b * a.tk + j0 : nullptr;
    float s[R][C] = {};
    for (int c = 0; c < nk; c++) {
      arrived();
      if (c + 1 < nk)
        fetch_keys(j0, c + 1, 1 - now);
      else
        fetch_values(j0, slice * NJ, 1 - now);
      E::nt(s, qs + (a.resident ? c : now) * kTileCells, xs + now * kTileCells, chunk_width(a.d_qk, c));
      now = 1 - now;
    }
    TF_UNROLL
    for (int r = 0; r < R; r++) {
      const float own = a.own(score.bias, b, q0 + E::row(r));
      float most = kHidden;
      TF_UNROLL
      for (int c = 0; c < C; c++) {
        const int i = E::score_col(c);
        const int64_t key = j0 + i;
        const bool seen = key >= lo[r] && key < hi[r] && (!mask || mask[i]);
        s[r][c] = seen ? score.biased(score(s[r][c]), key, own) : kHidden;
        most = fmaxf(most, s[r][c]);
      }
      most = fmaxf(m[r], peer_reduce<Max, E::kPeers>(most));
      const float alpha = expf(m[r] - most);
      m[r] = most;
      l[r] *= alpha;
      TF_UNROLL
      for (int c = 0; c < C; c++) {
        const float p = s[r][c] > 0.5f * kHidden ? expf(s[r][c] - most) : 0.0f;
        l[r] += p;
        ps[E::row(r) * E::kLd + E::score_col(c)] = down<Cell>(p);
      }
      TF_UNROLL
      for (int j = 0; j < NJ; j++)
        TF_UNROLL
        for (int c = 0; c < C; c++) o[j][r][c] *= alpha;
    }
    if (a.drop) {
      TF_UNROLL_1 /* in memory, and one by one: there are no registers to spare */
      for (int i = 0; i < R * C; i++) {
        const int row = E::row(i / C), col = E::score_col(i % C);
        Cell *p = ps + row * E::kLd + col;
        *p = down<Cell>(up(*p) * kept(a, b, h, q0 + row, j0 + col));
      }
    }
    TF_UNROLL
    for (int j = 0; j < NJ; j++) {
      const int c = slice * NJ + j;
      if (c >= nv) continue;
      arrived();
      if (j + 1 < NJ && c + 1 < nv)
        fetch_values(j0, c + 1, 1 - now);
      else if (j0 + kAttn < last)
        fetch_keys(j0 + kAttn, 0, 1 - now);
      E::nn(o[j], ps, xs + now * kTileCells, chunk_width(a.d_v, c));
      now = 1 - now;
    }
  }
  async_wait(); /* where nothing was seen */
  float inverse[R];
  TF_UNROLL
  for (int r = 0; r < R; r++) {
    l[r] = peer_reduce<Sum, E::kPeers>(l[r]);
    inverse[r] = l[r] > 0 ? 1.0f / l[r] : 0.0f;
    if (a.lse && slice == 0 && E::row(r) < n && threadIdx.x % E::kPeers == 0)
      a.lse[bh * a.tq + q0 + E::row(r)] = l[r] < 1e-37f ? -INFINITY : m[r] + logf(l[r]);
  }
  TF_UNROLL
  for (int j = 0; j < NJ; j++)
    store_rows<E>(o[j], inverse, a.o.at<T>(b, q0, h), a.o.s[1], n, a.d_v, slice * NJ + j, false);
}

template <typename E>
tf_status forward(tf_queue *q, Attn a) {
  const int64_t tiles = ceil_div(a.tq, kAttn);
  const size_t tile = tile_cells<E>() * sizeof(typename E::Cell);
  a.resident = (size_t)(chunks(a.d_qk) + 3) * tile <= kMaxShared;
  return by_chunks(a.d_v, [&](auto held) {
    constexpr int n = decltype(held)::value;
    const int slices = (int)ceil_div(chunks(a.d_v), n);
    return launch(q, "attn_fwd", attn_fwd_kernel<E, n>, dim3((unsigned)(a.batch * a.hq * tiles * slices)), dim3(E::kThreads),
                  (size_t)((a.resident ? chunks(a.d_qk) : 2) + 3) * tile, a, tiles, slices);
  });
}

int64_t ints(const tf_attn_fwd *p) { return ceil_div(p->q.dim[0] * p->q.dim[1] * (int64_t)sizeof(int32_t), 256) * 256; }

}  // namespace

int64_t attn_prepare_bytes(const tf_attn_fwd *p) { return p->q.rank == 4 ? 2 * ints(p) : 0; }

bool attn_wide(const tf_tensor &t) {
  const int64_t size = dtype_size(t.dtype), n = 16 / size;
  return t.data % 16 == 0 && t.dim[3] % n == 0 && t.stride[0] % n == 0 && t.stride[1] % n == 0 && t.stride[2] % n == 0;
}

tf_status attn_heads(tf_queue *q, const tf_tensor &t, const char *name, int64_t b, int64_t n, int64_t h, int64_t d, int32_t dt, Heads *out) {
  if (!t.data || t.rank != 4) return fail(q, TF_EINVALID, "%s has to be [b,t,h,d]", name);
  if (t.dtype != dt || (dt != TF_F32 && dt != TF_BF16 && dt != TF_F16))
    return fail(q, TF_EUNSUPPORTED, "%s has element type %d; all f32, all bf16 or all f16 are needed", name, t.dtype);
  if (t.dim[0] != b || t.dim[1] != n || t.dim[2] != h || t.dim[3] != d)
    return fail(q, TF_EINVALID, "%s is [%ld,%ld,%ld,%ld], [%ld,%ld,%ld,%ld] is needed", name, (long)t.dim[0], (long)t.dim[1], (long)t.dim[2], (long)t.dim[3],
                (long)b, (long)n, (long)h, (long)d);
  if (d > 1 && t.stride[3] != 1) return fail(q, TF_EINVALID, "%s has a last stride of %ld", name, (long)t.stride[3]);
  out->p = at<void>(t.data);
  for (int i = 0; i < 3; i++) out->s[i] = t.stride[i];
  return TF_OK;
}

tf_status attn_check(tf_queue *q, const tf_attn_fwd *p, Attn *a) {
  if (p->q.rank != 4 || p->k.rank != 4 || p->v.rank != 4) return fail(q, TF_EINVALID, "q, k and v have to be [b,t,h,d]");
  *a = Attn{};
  a->batch = p->q.dim[0];
  a->tq = p->q.dim[1];
  a->hq = p->q.dim[2];
  a->d_qk = p->q.dim[3];
  a->tk = p->k.dim[1];
  a->hk = p->k.dim[2];
  a->d_v = p->v.dim[3];
  const int32_t dt = p->q.dtype;
  if (a->hk < 1 || a->hq % a->hk) return fail(q, TF_EINVALID, "%ld query heads are no multiple of %ld kv heads", (long)a->hq, (long)a->hk);
  if (a->tk >= 1 << 23) return fail(q, TF_EUNSUPPORTED, "more than %d keys", (1 << 23) - 1); /* as on the CPU */
  if (a->d_qk < 1 || a->d_v < 1) return fail(q, TF_EINVALID, "heads of %ld and %ld elements", (long)a->d_qk, (long)a->d_v);
  TF_TRY(attn_heads(q, p->q, "q", a->batch, a->tq, a->hq, a->d_qk, dt, &a->q));
  TF_TRY(attn_heads(q, p->k, "k", a->batch, a->tk, a->hk, a->d_qk, dt, &a->k));
  TF_TRY(attn_heads(q, p->v, "v", a->batch, a->tk, a->hk, a->d_v, dt, &a->v));
  TF_TRY(attn_heads(q, p->o, "o", a->batch, a->tq, a->hq, a->d_v, dt, &a->o));
  int32_t *start, *first, *last, *documents;
  int64_t *ids;
  uint8_t *mask;
  float *sinks;
  TF_TRY(maybe_flat(q, p->lse, "lse", TF_F32, a->batch * a->hq * a->tq, &a->lse));
  TF_TRY(maybe_flat(q, p->q_start, "q_start", TF_I32, a->batch, &start));
  TF_TRY(maybe_flat(q, p->kv_first, "kv_first", TF_I32, a->batch, &first));
  TF_TRY(maybe_flat(q, p->kv_last, "kv_last", TF_I32, a->batch, &last));
  TF_TRY(maybe_flat(q, p->key_mask, "key_mask", TF_U8, a->batch * a->tk, &mask));
  TF_TRY(maybe_flat(q, p->cu_seqlens, "cu_seqlens", TF_I32, -1, &documents));
  if (has(p->bias)) {
    const tf_tensor &t = p->bias;
    if (t.rank != 3 || t.dim[0] != a->batch || t.dim[1] != a->hq || t.dim[2] != a->tk)
      return fail(q, TF_EINVALID, "bias has to be [%ld,%ld,%ld]", (long)a->batch, (long)a->hq, (long)a->tk);
    if (t.dtype != TF_F32) return fail(q, TF_EUNSUPPORTED, "bias has element type %d, f32 is needed", t.dtype);
    if (a->tk > 1 && t.stride[2] != 1) return fail(q, TF_EINVALID, "bias has a last stride of %ld", (long)t.stride[2]);
    a->bias = a->tk ? at<const float>(t.data) : nullptr;
    a->bias_b = t.stride[0];
    a->bias_h = t.stride[1];
  }
  TF_TRY(maybe_flat(q, p->sinks, "sinks", TF_F32, a->hq, &sinks));
  TF_TRY(maybe_flat(q, p->row_ids, "row_ids", TF_I64, a->batch * a->tq, &ids));
  if (!(p->dropout >= 0 && p->dropout < 1)) return fail(q, TF_EINVALID, "dropout is %g", (double)p->dropout);
  a->drop = p->dropout > 0;
  a->key = philox_key(p->seed, p->stream);
  a->threshold = (uint32_t)((double)p->dropout * 4294967296.0);
  a->keep = 1.0f / (1.0f - p->dropout);
  a->row_ids = ids;
  a->n_documents = documents ? numel(p->cu_seqlens) - 1 : 0;
  if (documents && (a->batch != 1 || a->tq != a->tk || a->n_documents < 1))
    return fail(q, TF_EINVALID, "cu_seqlens needs one sequence with as many queries as keys, and two numbers or more");
  a->q_start = start;
  a->kv_first = first;
  a->kv_last = last;
  a->key_mask = mask;
  a->documents = documents;
  a->sinks = sinks;
  a->q_start0 = p->q_start0;
  a->scale = p->scale;
  a->softcap = p->softcap;
  a->causal = p->causal;
  a->window_left = p->window_left;
  a->window_right = p->window_right;
  a->wide = attn_wide(p->q) && attn_wide(p->k) && attn_wide(p->v);
  return TF_OK;
}

tf_status attn_prepare(tf_queue *q, const tf_attn_fwd *p, Attn *a) {
  TF_TRY(attn_check(q, p, a));
  a->lo = work<int32_t>(q);
  a->hi = work<int32_t>(q, ints(p));
  return launch(q, "attn_seen", seen_kernel, dim3((unsigned)ceil_div(a->batch * a->tq, 256)), dim3(256), 0, *a, q->trouble);
}

int64_t own_fwd_bytes(const tf_attn_fwd *p) { return attn_prepare_bytes(p) + (attn_decodes(p) ? attn_decode_bytes(p) : 0); }

tf_status own_fwd(tf_queue *q, const tf_attn_fwd *p) {
  Attn a;
  TF_TRY(attn_prepare(q, p, &a));
  if (attn_decodes(p)) return attn_decode(q, a, p->q.dtype, work<float>(q, attn_prepare_bytes(p)));
  switch (p->q.dtype) {
    case TF_BF16:
      return forward<MmaEngine<bf16, 1>>(q, a);
    case TF_F16:
      return forward<MmaEngine<f16, 1>>(q, a);
  }
  return forward<ScalarEngine<float>>(q, a);
}

}  // namespace tf

using namespace tf;

int64_t cuda_attn_fwd_ws(const tf_device *d, const tf_attn_fwd *p) { return std::max(own_fwd_bytes(p), dnn_fwd_bytes(d, p)); }

tf_status cuda_attn_fwd(tf_queue *q, const tf_attn_fwd *p) {
  Attn a;
  bool done = false;
  TF_TRY(attn_check(q, p, &a));
  TF_TRY(dnn_fwd(q, p, &done));
  return done ? (tf_status)TF_OK : own_fwd(q, p);
}
