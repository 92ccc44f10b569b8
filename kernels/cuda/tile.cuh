/* Our own matrix product: tiles of 64 x 64 in f32 arithmetic, for what cuBLASLt does not take (alignment, types, groups whose sizes only the
 * device knows). An element is one chain of fma over ascending k that begins with what c held, or 0; then comes the bias. So bits depend
 * neither on the tile nor on the card. */
#ifndef TUNEFLEET_CUDA_TILE_CUH
#define TUNEFLEET_CUDA_TILE_CUH

#include "queue.h"

namespace tf {

constexpr int kTile = 64;  /* rows and columns of a tile */
constexpr int kDepth = 16; /* steps of k in shared memory at a time */
constexpr int kTileThreads = 256;
constexpr int kMicro = 4; /* a thread has 4 x 4 elements, 16 apart: its neighbours read neighbouring words */
constexpr int kMicroStep = kTile / kMicro;

/* One element of f32, bf16 or f16 memory. */
struct Cell {
  void *p;
  int32_t dt;
  __device__ float get(int64_t i) const {
    if (dt == TF_F32) return static_cast<const float *>(p)[i];
    if (dt == TF_BF16) return up(static_cast<const bf16 *>(p)[i]);
    return up(static_cast<const f16 *>(p)[i]);
  }
  __device__ void set(int64_t i, float v) const {
    if (dt == TF_F32)
      static_cast<float *>(p)[i] = v;
    else if (dt == TF_BF16)
      static_cast<bf16 *>(p)[i] = down<bf16>(v);
    else
      static_cast<f16 *>(p)[i] = down<f16>(v);
  }
};

/* What a block computes: rows m0.. and columns n0.. of a product c [m,n] = a [m,k] b [k,n], each matrix at an offset with two strides. */
struct Product {
  Cell a, b, c;
  int64_t a0, ars, acs, b0, brs, bcs, c0, crs;
  int64_t m, n, k, m0, n0;
  const float *bias; /* [n] or NULL */
  float alpha;
  int32_t accumulate;
};

/* Where says which product a block has: __device__ bool operator()(Product *) const; false: none. The answer is the same in all threads. */
template <typename Where>
__global__ void __launch_bounds__(kTileThreads, 2) tile_kernel(Where where) {
  TF_SHARED2(float, sa, kDepth, kTile + 1);
  TF_SHARED2(float, sb, kDepth, kTile + 1);
  Product p;
  if (!where(&p)) return;
  const int t = (int)threadIdx.x, ty = t / kMicroStep, tx = t % kMicroStep;
  float acc[kMicro][kMicro];
  for (int i = 0; i < kMicro; i++)
    for (int j = 0; j < kMicro; j++) {
      int64_t r = p.m0 + ty + i * kMicroStep, c = p.n0 + tx + j * kMicroStep;
      acc[i][j] = p.accumulate && r < p.m && c < p.n ? p.c.get(p.c0 + r * p.crs + c) : 0.0f;
    }
  for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
    /* Neighbouring threads load along the operand's unit stride. */
    for (int e = t; e < kTile * kDepth; e += kTileThreads) {
      int kk = p.acs == 1 ? e % kDepth : e / kTile, i = p.acs == 1 ? e / kDepth : e % kTile;
      int64_t r = p.m0 + i, k = k0 + kk;
      sa[kk][i] = r < p.m && k < p.k ? p.alpha * p.a.get(p.a0 + r * p.ars + k * p.acs) : 0.0f;
    }
    for (int e = t; e < kTile * kDepth; e += kTileThreads) {
      int kk = p.bcs == 1 ? e / kTile : e % kDepth, j = p.bcs == 1 ? e % kTile : e / kDepth;
      int64_t c = p.n0 + j, k = k0 + kk;
      sb[kk][j] = c < p.n && k < p.k ? p.b.get(p.b0 + k * p.brs + c * p.bcs) : 0.0f;
    }
    __syncthreads();
    const int depth = (int)(p.k - k0 < kDepth ? p.k - k0 : kDepth);
    for (int kk = 0; kk < depth; kk++) {
      float av[kMicro], bv[kMicro];
      for (int i = 0; i < kMicro; i++) av[i] = sa[kk][ty + i * kMicroStep];
      for (int j = 0; j < kMicro; j++) bv[j] = sb[kk][tx + j * kMicroStep];
      for (int i = 0; i < kMicro; i++)
        for (int j = 0; j < kMicro; j++) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < kMicro; i++)
    for (int j = 0; j < kMicro; j++) {
      int64_t r = p.m0 + ty + i * kMicroStep, c = p.n0 + tx + j * kMicroStep;
      if (r < p.m && c < p.n) p.c.set(p.c0 + r * p.crs + c, acc[i][j] + (p.bias ? p.bias[c] : 0.0f));
    }
}

}  // namespace tf

#endif
