/* Attention backward. Probabilities are recomputed from the logarithm of the sum; dK and dV belong to one block per (sequence, kv head, 64
 * keys), dQ to another kernel, so that every element has one writer and its additions one order. */
#include <algorithm>

#include "attn.cuh"
#include "attn_mma.cuh"
#include "cudnn.h"

namespace tf {
namespace {

/* delta[row] = dO . O. A warp has a row; rows are ordered as lse. */
template <typename T>
__global__ void __launch_bounds__(128) delta_kernel(Attn a) {
  const int lane = (int)(threadIdx.x % kWarp);
  const int64_t row = (int64_t)blockIdx.x * (128 / kWarp) + threadIdx.x / kWarp;
  if (row >= a.batch * a.hq * a.tq) return;
  const int64_t i = row % a.tq, bh = row / a.tq, b = bh / a.hq, h = bh % a.hq;
  const T *o = a.o.at<T>(b, i, h), *g = a.d_o.at<T>(b, i, h);
  float s = 0;
  for (int64_t k = lane; k < a.d_v; k += kWarp) s = fmaf(up(o[k]), up(g[k]), s);
  s = warp_reduce<Sum>(s);
  if (lane == 0) a.delta[row] = s;
}

/* sink_parts[b,h] = minus the sum over queries of the sink's probability times delta. One block a head. */
__global__ void __launch_bounds__(256) sink_kernel(Attn a) {
  TF_SHARED(float, red, kWarp);
  const float sink = a.sinks[blockIdx.x % a.hq];
  float s = 0;
  for (int64_t i = threadIdx.x; i < a.tq; i += blockDim.x) {
    const int64_t at = blockIdx.x * a.tq + i;
    s = fmaf(expf(sink - a.lse[at]), a.delta[at], s);
  }
  s = block_reduce<Sum>(s, red);
  if (threadIdx.x == 0) a.sink_parts[blockIdx.x] = -s;
}

__global__ void __launch_bounds__(128) sink_add_kernel(Attn a, float *dsinks, int32_t accumulate) {
  const int64_t h = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (h >= a.hq) return;
  float s = accumulate ? dsinks[h] : 0.0f;
  for (int64_t b = 0; b < a.batch; b++) s += a.sink_parts[b * a.hq + h];
  dsinks[h] = s;
}

/* From the products s = q.k and e = dO.v of a tile: s becomes the probabilities, e the gradient of the products q.k. */
template <typename E>
__device__ inline void probabilities(const Attn &a, const Scoring &score, float (&s)[E::R][E::C], float (&e)[E::R][E::C], int64_t b, int64_t bh, int64_t q0,
                                     int64_t n, int64_t j0) {
  const uint8_t *mask = a.key_mask ? a.key_mask + b * a.tk + j0 : nullptr;
  TF_UNROLL
  for (int r = 0; r < E::R; r++) {
    const int64_t i = E::row(r);
    const bool there = i < n;
    const int32_t lo = there ? a.lo[b * a.tq + q0 + i] : 0, hi = there ? a.hi[b * a.tq + q0 + i] : 0;
    const float lse = there ? a.lse[bh * a.tq + q0 + i] : 0.0f, delta = there ? a.delta[bh * a.tq + q0 + i] : 0.0f;
    const float own = a.own(score.bias, b, q0 + i);
    TF_UNROLL
    for (int c = 0; c < E::C; c++) {
      const int k = E::score_col(c);
      const int64_t key = j0 + k;
      const bool seen = key >= lo && key < hi && (!mask || mask[k]);
      const float x = score(s[r][c]), p = seen ? expf(score.biased(x, key, own) - lse) : 0.0f;
      const float f = a.drop ? kept(a, b, bh % a.hq, q0 + i, key) : 1.0f;
      s[r][c] = p * f;
      e[r][c] = seen ? p * (e[r][c] * f - delta) * score.slope_at(x) : 0.0f;
    }
  }
}

template <typename E>
__device__ inline void put_tile(typename E::Cell *ps, const float (&s)[E::R][E::C]) {
  TF_UNROLL
  for (int r = 0; r < E::R; r++)
    TF_UNROLL
    for (int c = 0; c < E::C; c++) ps[E::row(r) * E::kLd + E::score_col(c)] = down<typename E::Cell>(s[r][c]);
}

/* The tiles of queries of a kv head's query heads that see any of the keys k0 .. k0 + keys, one after another. */
struct Queries {
  int64_t h, q0;
  __device__ bool seek(const Attn &a, int64_t b, int64_t end, int64_t k0, int64_t keys) {
    for (; h < end; h++, q0 = 0)
      for (; q0 < a.tq; q0 += kAttn) {
        int64_t first, last;
        seen_keys(a.lo + b * a.tq + q0, a.hi + b * a.tq + q0, a.tq - q0, &first, &last);
        if (first < k0 + keys && last > k0) return true; /* the same in all threads */
      }
    return false;
  }
};

/* A block has 64 keys of one kv head, and NJ chunks of dK and dV. Tiles: keys and values (all chunks, or a pair), a pair for chunks of queries
 * and dO, of which one is worked on while the other is loaded, probabilities. */
template <typename E, int NJ>
__global__ void __launch_bounds__(E::kThreads, 1) attn_kv_kernel(Attn a, int64_t tiles, int slices) {
  typedef typename E::T T;
  typedef typename E::Cell Cell;
  constexpr int R = E::R, C = E::C, kTileCells = tile_cells<E>();
  TF_SHARED_DYNAMIC(Cell, mem);
  const int slice = (int)(blockIdx.x % slices);
  const int64_t u = blockIdx.x / slices, tile = u % tiles, bk = u / tiles, b = bk / a.hk, hk = bk % a.hk;
  const int64_t k0 = tile * kAttn, keys = a.tk - k0 < kAttn ? a.tk - k0 : kAttn, end = (hk + 1) * a.group();
  const int nk = chunks(a.d_qk), nv = chunks(a.d_v);
  Cell *ks = mem, *vs = ks + (a.resident ? nk * kTileCells : 0), *xs = ks + (a.resident ? nk + nv : 2) * kTileCells, *ps = xs + 2 * kTileCells;
  const T *k = a.k.at<T>(b, k0, hk), *v = a.v.at<T>(b, k0, hk);
  int now = 0;
  auto fetch_q = [&](const Queries &i, int c, int to, bool again) {
    load_tile<E>(xs + to * kTileCells, a.q.at<T>(b, i.q0, i.h), a.q.s[1], a.tq - i.q0, a.d_qk, c, a.wide);
    if (!a.resident && !again) load_tile<E>(ks + to * kTileCells, k, a.k.s[1], keys, a.d_qk, c, a.wide);
  };
  auto fetch_g = [&](const Queries &i, int c, int to, bool again) {
    load_tile<E>(xs + to * kTileCells, a.d_o.at<T>(b, i.q0, i.h), a.d_o.s[1], a.tq - i.q0, a.d_v, c, a.wide);
    if (!a.resident && !again) load_tile<E>(vs + to * kTileCells, v, a.v.s[1], keys, a.d_v, c, a.wide);
  };
  if (a.resident) {
    for (int c = 0; c < nk; c++) load_tile<E>(ks + c * kTileCells, k, a.k.s[1], keys, a.d_qk, c, a.wide);
    for (int c = 0; c < nv; c++) load_tile<E>(vs + c * kTileCells, v, a.v.s[1], keys, a.d_v, c, a.wide);
  }
  float gk[NJ][R][C], gv[NJ][R][C];
  TF_UNROLL
  for (int j = 0; j < NJ; j++)
    TF_UNROLL
    for (int r = 0; r < R; r++)
      TF_UNROLL
      for (int c = 0; c < C; c++) gk[j][r][c] = gv[j][r][c] = 0;
  Queries it = {hk * a.group(), 0};
  bool more = it.seek(a, b, end, k0, keys);
  if (more) fetch_q(it, 0, now, false);
  while (more) {
    Queries next = {it.h, it.q0 + kAttn};
    more = next.seek(a, b, end, k0, keys);
    const int64_t n = a.tq - it.q0 < kAttn ? a.tq - it.q0 : kAttn, bh = b * a.hq + it.h;
    float s[R][C] = {}, e[R][C] = {};
    for (int c = 0; c < nk; c++) {
      arrived();
      if (c + 1 < nk)
        fetch_q(it, c + 1, 1 - now, false);
      else
        fetch_g(it, 0, 1 - now, false);
      E::nt(s, xs + now * kTileCells, ks + (a.resident ? c : now) * kTileCells, chunk_width(a.d_qk, c));
      now = 1 - now;
    }
    for (int c = 0; c < nv; c++) {
      arrived();
      if (c + 1 < nv)
        fetch_g(it, c + 1, 1 - now, false);
      else if (slice * NJ < nv)
        fetch_g(it, slice * NJ, 1 - now, true);
      else
        fetch_q(it, slice * NJ, 1 - now, true);
      E::nt(e, xs + now * kTileCells, vs + (a.resident ? c : now) * kTileCells, chunk_width(a.d_v, c));
      now = 1 - now;
    }
    probabilities<E>(a, scoring(a, b, it.h), s, e, b, bh, it.q0, n, k0);
    put_tile<E>(ps, s);
    TF_UNROLL
    for (int j = 0; j < NJ; j++) {
      const int c = slice * NJ + j;
      if (c >= nv) continue;
      arrived();
      if (j + 1 < NJ && c + 1 < nv)
        fetch_g(it, c + 1, 1 - now, true);
      else if (slice * NJ < nk)
        fetch_q(it, slice * NJ, 1 - now, true);
      else if (more)
        fetch_q(next, 0, 1 - now, false);
      E::tn(gv[j], ps, xs + now * kTileCells, chunk_width(a.d_v, c));
      now = 1 - now;
    }
    __syncthreads();
    put_tile<E>(ps, e);
    TF_UNROLL
    for (int j = 0; j < NJ; j++) {
      const int c = slice * NJ + j;
      if (c >= nk) continue;
      arrived();
      if (j + 1 < NJ && c + 1 < nk)
        fetch_q(it, c + 1, 1 - now, true);
      else if (more)
        fetch_q(next, 0, 1 - now, false);
      E::tn(gk[j], ps, xs + now * kTileCells, chunk_width(a.d_qk, c));
      now = 1 - now;
    }
    it = next;
  }
  async_wait(); /* where nothing was seen */
  TF_UNROLL
  for (int j = 0; j < NJ; j++) {
    if (a.dk.p) store_rows<E>(gk[j], nullptr, a.dk.at<T>(b, k0, hk), a.dk.s[1], keys, a.d_qk, slice * NJ + j, a.dk_accumulate);
    if (a.dv.p) store_rows<E>(gv[j], nullptr, a.dv.at<T>(b, k0, hk), a.dv.s[1], keys, a.d_v, slice * NJ + j, a.dv_accumulate);
  }
}

/* A block has 64 queries of one head, and NJ chunks of dQ. Tiles: queries and dO (all chunks, or a pair), a pair for chunks of keys and values,
 * gradients of the products. */
template <typename E, int NJ>
__global__ void __launch_bounds__(E::kThreads, 1) attn_q_kernel(Attn a, int64_t tiles, int slices) {
  typedef typename E::T T;
  typedef typename E::Cell Cell;
  constexpr int R = E::R, C = E::C, kTileCells = tile_cells<E>();
  TF_SHARED_DYNAMIC(Cell, mem);
  const int slice = (int)(blockIdx.x % slices);
  const int64_t u = blockIdx.x / slices, tile = tiles - 1 - u % tiles, bh = u / tiles, b = bh / a.hq, h = bh % a.hq, hk = h / a.group();
  const int64_t q0 = tile * kAttn, n = a.tq - q0 < kAttn ? a.tq - q0 : kAttn;
  const int nk = chunks(a.d_qk), nv = chunks(a.d_v);
  Cell *qs = mem, *gs = qs + (a.resident ? nk * kTileCells : 0), *xs = qs + (a.resident ? nk + nv : 2) * kTileCells, *ps = xs + 2 * kTileCells;
  const T *q = a.q.at<T>(b, q0, h), *g = a.d_o.at<T>(b, q0, h);
  int now = 0;
  auto fetch_keys = [&](int64_t j0, int c, int to, bool again) {
    load_tile<E>(xs + to * kTileCells, a.k.at<T>(b, j0, hk), a.k.s[1], a.tk - j0, a.d_qk, c, a.wide);
    if (!a.resident && !again) load_tile<E>(qs + to * kTileCells, q, a.q.s[1], n, a.d_qk, c, a.wide);
  };
  auto fetch_values = [&](int64_t j0, int c, int to) {
    load_tile<E>(xs + to * kTileCells, a.v.at<T>(b, j0, hk), a.v.s[1], a.tk - j0, a.d_v, c, a.wide);
    if (!a.resident) load_tile<E>(gs + to * kTileCells, g, a.d_o.s[1], n, a.d_v, c, a.wide);
  };
  if (a.resident) {
    for (int c = 0; c < nk; c++) load_tile<E>(qs + c * kTileCells, q, a.q.s[1], n, a.d_qk, c, a.wide);
    for (int c = 0; c < nv; c++) load_tile<E>(gs + c * kTileCells, g, a.d_o.s[1], n, a.d_v, c, a.wide);
  }
  float gq[NJ][R][C];
  TF_UNROLL
  for (int j = 0; j < NJ; j++)
    TF_UNROLL
    for (int r = 0; r < R; r++)
      TF_UNROLL
      for (int c = 0; c < C; c++) gq[j][r][c] = 0;
  int64_t first, last;
  seen_keys(a.lo + b * a.tq + q0, a.hi + b * a.tq + q0, n, &first, &last);
  if (first < last) fetch_keys(first, 0, now, false);
  for (int64_t j0 = first; j0 < last; j0 += kAttn) {
    float s[R][C] = {}, e[R][C] = {};
    for (int c = 0; c < nk; c++) {
      arrived();
      if (c + 1 < nk)
        fetch_keys(j0, c + 1, 1 - now, false);
      else
        fetch_values(j0, 0, 1 - now);
      E::nt(s, qs + (a.resident ? c : now) * kTileCells, xs + now * kTileCells, chunk_width(a.d_qk, c));
      now = 1 - now;
    }
    for (int c = 0; c < nv; c++) {
      arrived();
      if (c + 1 < nv)
        fetch_values(j0, c + 1, 1 - now);
      else
        fetch_keys(j0, slice * NJ, 1 - now, true);
      E::nt(e, gs + (a.resident ? c : now) * kTileCells, xs + now * kTileCells, chunk_width(a.d_v, c));
      now = 1 - now;
    }
    probabilities<E>(a, scoring(a, b, h), s, e, b, bh, q0, n, j0);
    put_tile<E>(ps, e);
    TF_UNROLL
    for (int j = 0; j < NJ; j++) {
      const int c = slice * NJ + j;
      if (c >= nk) continue;
      arrived();
      if (j + 1 < NJ && c + 1 < nk)
        fetch_keys(j0, c + 1, 1 - now, true);
      else if (j0 + kAttn < last)
        fetch_keys(j0 + kAttn, 0, 1 - now, false);
      E::nn(gq[j], ps, xs + now * kTileCells, chunk_width(a.d_qk, c));
      now = 1 - now;
    }
  }
  async_wait(); /* where nothing was seen */
  TF_UNROLL
  for (int j = 0; j < NJ; j++)
    store_rows<E>(gq[j], nullptr, a.dq.at<T>(b, q0, h), a.dq.s[1], n, a.d_qk, slice * NJ + j, a.dq_accumulate);
}

template <typename E>
tf_status backward(tf_queue *q, Attn a) {
  const int64_t most = a.d_qk > a.d_v ? a.d_qk : a.d_v;
  const size_t tile = tile_cells<E>() * sizeof(typename E::Cell);
  const int all = chunks(a.d_qk) + chunks(a.d_v);
  a.resident = (size_t)(all + 3) * tile <= kMaxShared;
  const size_t shared = (size_t)((a.resident ? all : 2) + 3) * tile;
  if (a.dk.p || a.dv.p) TF_TRY(by_chunks(most, [&](auto held) {
    constexpr int n = decltype(held)::value;
    const int64_t tiles = ceil_div(a.tk, kAttn);
    const int slices = (int)ceil_div(chunks(most), n);
    return launch(q, "attn_bwd_kv", attn_kv_kernel<E, n>, dim3((unsigned)(a.batch * a.hk * tiles * slices)), dim3(E::kThreads), shared, a, tiles, slices);
  }));
  if (!a.dq.p) return TF_OK;
  return by_chunks(a.d_qk, [&](auto held) {
    constexpr int n = decltype(held)::value;
    const int64_t tiles = ceil_div(a.tq, kAttn);
    const int slices = (int)ceil_div(chunks(a.d_qk), n);
    return launch(q, "attn_bwd_q", attn_q_kernel<E, n>, dim3((unsigned)(a.batch * a.hq * tiles * slices)), dim3(E::kThreads), shared, a, tiles, slices);
  });
}

int64_t deltas(const tf_attn_fwd &f) { return ceil_div(f.q.dim[0] * f.q.dim[1] * f.q.dim[2] * (int64_t)sizeof(float), 256) * 256; }

/* Checks and views; with them dsinks, where it is wanted. */
tf_status operands(tf_queue *q, const tf_attn_bwd *p, Attn *a, float **dsinks) {
  const int32_t dt = p->f.q.dtype;
  if (!a->lse) return fail(q, TF_EINVALID, "lse is needed for the backward");
  TF_TRY(attn_heads(q, p->d_o, "d_o", a->batch, a->tq, a->hq, a->d_v, dt, &a->d_o));
  if (has(p->dq)) TF_TRY(attn_heads(q, p->dq, "dq", a->batch, a->tq, a->hq, a->d_qk, dt, &a->dq));
  if (has(p->dk)) TF_TRY(attn_heads(q, p->dk, "dk", a->batch, a->tk, a->hk, a->d_qk, dt, &a->dk));
  if (has(p->dv)) TF_TRY(attn_heads(q, p->dv, "dv", a->batch, a->tk, a->hk, a->d_v, dt, &a->dv));
  return maybe_flat(q, p->dsinks, "dsinks", TF_F32, a->hq, dsinks);
}

}  // namespace

int64_t own_bwd_bytes(const tf_attn_bwd *p) {
  if (p->f.q.rank != 4) return 0;
  return attn_prepare_bytes(&p->f) + deltas(p->f) + p->f.q.dim[0] * p->f.q.dim[2] * (int64_t)sizeof(float);
}

tf_status own_bwd(tf_queue *q, const tf_attn_bwd *p) {
  Attn a;
  float *dsinks;
  TF_TRY(attn_prepare(q, &p->f, &a));
  TF_TRY(operands(q, p, &a, &dsinks));
  const int32_t dt = p->f.q.dtype;
  a.wide = a.wide && attn_wide(p->d_o);
  a.dq_accumulate = p->dq_accumulate;
  a.dk_accumulate = p->dk_accumulate;
  a.dv_accumulate = p->dv_accumulate;
  a.delta = work<float>(q, attn_prepare_bytes(&p->f));
  a.sink_parts = work<float>(q, attn_prepare_bytes(&p->f) + deltas(p->f));
  TF_TRY(dispatch(q, dt, [&](auto t) {
    return launch(q, "attn_delta", delta_kernel<decltype(t)>, dim3((unsigned)ceil_div(a.batch * a.hq * a.tq, 128 / kWarp)), dim3(128), 0, a);
  }));
  if (dsinks && a.sinks) {
    TF_TRY(launch(q, "attn_sinks", sink_kernel, dim3((unsigned)(a.batch * a.hq)), dim3(256), 0, a));
    TF_TRY(launch(q, "attn_sinks_add", sink_add_kernel, dim3((unsigned)ceil_div(a.hq, 128)), dim3(128), 0, a, dsinks, p->dsinks_accumulate));
  }
  switch (dt) {
    case TF_BF16:
      return backward<MmaEngine<bf16, 2>>(q, a);
    case TF_F16:
      return backward<MmaEngine<f16, 2>>(q, a);
  }
  return backward<ScalarEngine<float>>(q, a);
}

}  // namespace tf

using namespace tf;

int64_t cuda_attn_bwd_ws(const tf_device *d, const tf_attn_bwd *p) { return std::max(own_bwd_bytes(p), dnn_bwd_bytes(d, p)); }

tf_status cuda_attn_bwd(tf_queue *q, const tf_attn_bwd *p) {
  Attn a;
  float *dsinks;
  bool done = false;
  TF_TRY(attn_check(q, &p->f, &a));
  TF_TRY(operands(q, p, &a, &dsinks));
  TF_TRY(dnn_bwd(q, p, &done));
  return done ? (tf_status)TF_OK : own_bwd(q, p);
}
