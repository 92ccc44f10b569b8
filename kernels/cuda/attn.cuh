/* Attention by tiles of 64 queries and 64 keys (FlashAttention, arXiv:2205.14135; the backward recomputes probabilities from the logarithm of
 * the sum). Heads of any size go in chunks of 64 elements.
 *
 * An engine multiplies tiles: ScalarEngine in f32, for any type; MmaEngine (attn_mma.cuh) on tensor cores. Accumulators are acc[R][C] a
 * thread, for the rows row(r), and the columns score_col(c) of a tile of scores or out_col(c) of a chunk of an output. */
#ifndef TUNEFLEET_CUDA_ATTN_CUH
#define TUNEFLEET_CUDA_ATTN_CUH

#include "philox.cuh"
#include "queue.h"

namespace tf {

constexpr int kAttn = 64;         /* queries, keys, or elements of a head in a tile */
constexpr float kHidden = -1e30f; /* the score of a key that a query does not see */

/* [b,t,h,d] with any strides but the last. */
struct Heads {
  void *p;
  int64_t s[3];
  template <typename T>
  __device__ T *at(int64_t b, int64_t t, int64_t h) const {
    return static_cast<T *>(p) + b * s[0] + t * s[1] + h * s[2];
  }
};

struct Attn {
  Heads q, k, v, o, d_o, dq, dk, dv;
  int32_t *lo, *hi; /* [b,tq]: the keys that a query sees are lo <= j < hi, without those of key_mask */
  const int32_t *q_start, *kv_first, *kv_last, *documents;
  const uint8_t *key_mask;
  const float *bias, *sinks;
  int64_t bias_b, bias_h; /* strides of bias */
  const int64_t *row_ids;
  float *lse, *delta, *sink_parts;
  int64_t q_start0, batch, tq, tk, hq, hk, d_qk, d_v, n_documents;
  float scale, softcap;
  int32_t causal, window_left, window_right, dq_accumulate, dk_accumulate, dv_accumulate;
  Key key;            /* of dropout */
  uint32_t threshold; /* numbers below it drop a probability; 0 with dropout 0 */
  float keep;         /* what the others are multiplied with */
  bool drop;
  bool wide;     /* rows may be loaded 16 bytes at a time */
  bool resident; /* the block's own operands stay in shared memory; otherwise they are loaded again for each tile */

  __host__ __device__ int64_t group() const { return hq / hk; }
  /* The bias of the keys of a head, or null. */
  __device__ const float *bias_of(int64_t b, int64_t h) const { return bias ? bias + b * bias_b + h * bias_h : nullptr; }
  /* What is taken off the bias for query i: that of the key at its position, so that scores stay small however far the keys go. */
  __device__ float own(const float *keys, int64_t b, int64_t i) const {
    if (!keys) return 0.0f;
    const int64_t p = (q_start ? q_start[b] : q_start0) + i;
    return keys[p < 0 ? 0 : p < tk ? p : tk - 1];
  }
};

/* The factor of dropout of a probability. */
__device__ inline float kept(const Attn &a, int64_t b, int64_t h, int64_t i, int64_t key) {
  const int64_t at = b * a.tq + i;
  uint32_t u[4];
  philox((uint64_t)(key / 4) | (uint64_t)h << 32, (uint64_t)(a.row_ids && i < a.tq ? a.row_ids[at] : at), a.key, u);
  const int k = (int)(key % 4);
  const uint32_t x = k == 0 ? u[0] : k == 1 ? u[1] : k == 2 ? u[2] : u[3];
  return x >= a.threshold ? a.keep : 0.0f;
}

/* How a product of query and key becomes a score, for one head. */
struct Scoring {
  float scale, cap;
  const float *bias; /* of each key, or null */
  /* The score, the bias not yet added. */
  __device__ float operator()(float x) const {
    x *= scale;
    return cap > 0 ? cap * tanhf(x / cap) : x;
  }
  /* The score x with the bias of a key; own as Attn::own gives it. */
  __device__ float biased(float x, int64_t key, float own) const { return bias ? x + (bias[key] - own) : x; }
  /* The derivative of the score x, without the bias, by the product. */
  __device__ float slope_at(float x) const {
    if (!(cap > 0)) return scale;
    const float u = x / cap;
    return scale * fmaf(-u, u, 1.0f);
  }
};

__device__ inline Scoring scoring(const Attn &a, int64_t b, int64_t h) { return Scoring{a.scale, a.softcap, a.bias_of(b, h)}; }

__host__ __device__ inline int chunks(int64_t d) { return (int)((d + kAttn - 1) / kAttn); }
/* Columns of chunk c that are worked on: a multiple of 16, those beyond d are 0. */
__device__ inline int chunk_width(int64_t d, int c) {
  const int64_t w = (d - (int64_t)c * kAttn + 15) / 16 * 16;
  return (int)(w < kAttn ? w : kAttn);
}

/* Copies of 16 bytes to shared memory that run beside other work until async_wait; 0 bytes of source: zeros. The emulation copies when it is
 * waited for, so that a forgotten wait shows. */
#ifdef TF_HOST
inline void async_copy(void *to, const void *from, int bytes) { tfh::async_copy(to, from, bytes); }
inline void async_wait() { tfh::async_wait(); }
#else
__device__ inline void async_copy(void *to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

/* f32 multiply-adds. 256 threads, each 4 x 4 elements. */
template <typename E>
struct ScalarEngine {
  typedef E T;
  typedef float Cell;
  static constexpr int kThreads = 256, R = 4, C = 4, kLd = kAttn + 4; /* rows begin in different banks */
  static constexpr int kPeers = 16; /* lanes that share a row */

  static __device__ int tx() { return (int)(threadIdx.x % 16); }
  static __device__ int ty() { return (int)(threadIdx.x / 16); }
  static __device__ int row(int r) { return ty() * R + r; }
  static __device__ int score_col(int c) { return tx() + 16 * c; }
  static __device__ int out_col(int c) { return tx() * C + c; }

  static __device__ void four(const float *p, float out[4]) {
    const vec<float, 4> v = *reinterpret_cast<const vec<float, 4> *>(p);
    TF_UNROLL
    for (int i = 0; i < 4; i++) out[i] = v.v[i];
  }

  /* acc += a b^T over depth elements. */
  static __device__ void nt(float (&acc)[R][C], const float *a, const float *b, int depth) {
    for (int k = 0; k < depth; k += 4) {
      float x[R][4], y[C][4];
      TF_UNROLL
      for (int r = 0; r < R; r++) four(a + row(r) * kLd + k, x[r]);
      TF_UNROLL
      for (int c = 0; c < C; c++) four(b + score_col(c) * kLd + k, y[c]);
      TF_UNROLL
      for (int i = 0; i < 4; i++)
        TF_UNROLL
        for (int r = 0; r < R; r++)
          TF_UNROLL
          for (int c = 0; c < C; c++) acc[r][c] = fmaf(x[r][i], y[c][i], acc[r][c]);
    }
  }
  /* acc += p x: p [64 rows][64], x [64][width]. */
  static __device__ void nn(float (&acc)[R][C], const float *p, const float *x, int width) {
    if (out_col(0) >= width) return;
    for (int k = 0; k < kAttn; k += 4) {
      float w[R][4], y[4][C];
      TF_UNROLL
      for (int r = 0; r < R; r++) four(p + row(r) * kLd + k, w[r]);
      TF_UNROLL
      for (int i = 0; i < 4; i++) four(x + (k + i) * kLd + out_col(0), y[i]);
      TF_UNROLL
      for (int i = 0; i < 4; i++)
        TF_UNROLL
        for (int r = 0; r < R; r++)
          TF_UNROLL
          for (int c = 0; c < C; c++) acc[r][c] = fmaf(w[r][i], y[i][c], acc[r][c]);
    }
  }
  /* acc += p^T x: p [64][64 rows], x [64][width]. */
  static __device__ void tn(float (&acc)[R][C], const float *p, const float *x, int width) {
    if (out_col(0) >= width) return;
    for (int k = 0; k < kAttn; k++) {
      float w[R], y[C];
      four(p + k * kLd + row(0), w);
      four(x + k * kLd + out_col(0), y);
      TF_UNROLL
      for (int r = 0; r < R; r++)
        TF_UNROLL
        for (int c = 0; c < C; c++) acc[r][c] = fmaf(w[r], y[c], acc[r][c]);
    }
  }
};

template <typename Op, int peers>
__device__ inline float peer_reduce(float v) {
  for (int d = peers / 2; d > 0; d /= 2) v = Op()(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

template <typename E>
constexpr int tile_cells() {
  return kAttn * E::kLd;
}

/* Chunk c of up to 64 rows of a head, the first at src and n of them there, into a tile; the rest is 0. It is there after arrived(). */
template <typename E>
__device__ inline void load_tile(typename E::Cell *dst, const typename E::T *src, int64_t ld, int64_t n, int64_t d, int c, bool wide) {
  typedef typename E::T T;
  typedef typename E::Cell Cell;
  constexpr int N = 16 / (int)sizeof(T);
  const int width = chunk_width(d, c), groups = width / N;
  const int64_t d0 = (int64_t)c * kAttn;
  for (int i = (int)threadIdx.x; i < kAttn * groups; i += E::kThreads) {
    const int r = i / groups, k = i % groups * N;
    const bool there = r < n && d0 + k < d;
    const T *p = src + r * ld + d0 + k;
    if constexpr (sizeof(Cell) == sizeof(T))
      if (wide) {
        async_copy(dst + r * E::kLd + k, there ? p : src, there ? 16 : 0);
        continue;
      }
    vec<T, N> v = {};
    if (there && wide) v = *reinterpret_cast<const vec<T, N> *>(p);
    for (int j = 0; j < N; j++)
      if (there && !wide && d0 + k + j < d) v.v[j] = p[j];
    Cell *to = dst + r * E::kLd + k;
    if constexpr (sizeof(Cell) == sizeof(T)) {
      *reinterpret_cast<vec<T, N> *>(to) = v;
    } else {
      TF_UNROLL
      for (int h = 0; h < N; h += 4) {
        vec<Cell, 4> f;
        TF_UNROLL
        for (int j = 0; j < 4; j++) f.v[j] = up(v.v[h + j]);
        *reinterpret_cast<vec<Cell, 4> *>(to + h) = f;
      }
    }
  }
}

/* Waits for the thread's copies, and for the block: all loads before it are there for all, and all work before it is done. */
__device__ inline void arrived() {
  async_wait();
  __syncthreads();
}

/* Rows of an output chunk: y = acc * factor[r] (+ y). */
template <typename E>
__device__ inline void store_rows(const float (&acc)[E::R][E::C], const float *factor, typename E::T *y, int64_t ld, int64_t n, int64_t d, int c, bool accumulate) {
  typedef typename E::T T;
  TF_UNROLL
  for (int r = 0; r < E::R; r++) {
    if (E::row(r) >= n) continue;
    T *p = y + E::row(r) * ld;
    TF_UNROLL
    for (int i = 0; i < E::C; i++) {
      const int64_t k = (int64_t)c * kAttn + E::out_col(i);
      if (k >= d) continue;
      const float v = factor ? acc[r][i] * factor[r] : acc[r][i];
      p[k] = down<T>(accumulate ? up(p[k]) + v : v);
    }
  }
}

/* The keys that any of up to 64 queries sees; every warp works it out for itself. */
__device__ inline void seen_keys(const int32_t *lo, const int32_t *hi, int64_t n, int64_t *first, int64_t *last) {
  const int lane = (int)(threadIdx.x % kWarp);
  int32_t f = 0x7fffffff, l = 0;
  for (int i = lane; i < kAttn; i += kWarp) {
    if (i >= n || lo[i] >= hi[i]) continue;
    f = f < lo[i] ? f : lo[i];
    l = l > hi[i] ? l : hi[i];
  }
  f = -warp_reduce<Max>(-f);
  *last = warp_reduce<Max>(l);
  *first = f / kAttn * kAttn;
}

/* Calls f(chunks of an output that a block's registers hold) for a head of d elements: at most two, on every card. Of larger heads, blocks make
 * slices, each from the scores anew. */
template <typename F>
tf_status by_chunks(int64_t d, F f) {
  if (chunks(d) <= 1) return f(std::integral_constant<int, 1>{});
  return f(std::integral_constant<int, 2>{});
}

/* Checks and views. */
tf_status attn_check(tf_queue *q, const tf_attn_fwd *p, Attn *a);
/* The same, and the launch that works out lo and hi, at the beginning of the queue's workspace. */
tf_status attn_prepare(tf_queue *q, const tf_attn_fwd *p, Attn *a);
tf_status attn_heads(tf_queue *q, const tf_tensor &t, const char *name, int64_t b, int64_t n, int64_t h, int64_t d, int32_t dt, Heads *out);
/* Bytes of workspace that attn_prepare uses. */
int64_t attn_prepare_bytes(const tf_attn_fwd *p);
/* Whether rows of d elements can be loaded 16 bytes at a time. */
bool attn_wide(const tf_tensor &t);

}  // namespace tf

#endif
