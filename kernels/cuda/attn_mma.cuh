/* The tensor cores' engine of attention: mma.sync m16n8k16 with f32 sums, fragments loaded by ldmatrix. The emulation has plain twins of the
 * two instructions that follow the PTX manual's figures of who holds what, so that all index arithmetic here is tested without a GPU; that the
 * instructions do what the twins do is not. */
#ifndef TUNEFLEET_CUDA_ATTN_MMA_CUH
#define TUNEFLEET_CUDA_ATTN_MMA_CUH

#include "attn.cuh"

namespace tf {

#ifdef TF_HOST

/* Lane l gives the address of row l % 8 of matrix l / 8, 8 x 8 elements of 16 bits. r[i]: of matrix i, elements (l/4, 2(l%4)) and the one
 * after it; of its transpose when trans. */
template <bool trans>
inline void ldmatrix(uint32_t r[4], const void *row) {
  uint64_t rows[32], ignored[32];
  tfh::warp_meet(kAll, "ldmatrix", (uint64_t)(uintptr_t)row, rows);
  const int lane = (int)tfh::lane(), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++) {
    uint16_t half[2];
    for (int h = 0; h < 2; h++) {
      const int y = trans ? 2 * t + h : g, x = trans ? g : 2 * t + h;
      if (rows[8 * i + y] % 16) tfh::stop("ldmatrix from an address that is no multiple of 16");
      half[h] = reinterpret_cast<const uint16_t *>((uintptr_t)rows[8 * i + y])[x];
    }
    r[i] = half[0] | (uint32_t)half[1] << 16;
  }
  tfh::warp_meet(kAll, "ldmatrix", 0, ignored); /* no lane writes on before all have read */
}

/* c [16,8] += a [16,16] b [16,8]. With g = lane / 4, t = lane % 4: a[i] has row g + 8 (i % 2), columns 2t + 8 (i / 2) and the next; b[i] column
 * g, rows 2t + 8 i and the next; c0, c1 row g, columns 2t and the next, c2, c3 row g + 8. */
template <typename T>
inline void mma(float &c0, float &c1, float &c2, float &c3, const uint32_t a[4], const uint32_t b[2]) {
  uint64_t a01[32], a23[32], bs[32];
  tfh::warp_meet(kAll, "mma", a[0] | (uint64_t)a[1] << 32, a01);
  tfh::warp_meet(kAll, "mma", a[2] | (uint64_t)a[3] << 32, a23);
  tfh::warp_meet(kAll, "mma", b[0] | (uint64_t)b[1] << 32, bs);
  const int lane = (int)tfh::lane(), g = lane / 4, t = lane % 4;
  float *c[4] = {&c0, &c1, &c2, &c3};
  for (int i = 0; i < 4; i++) {
    const int row = g + (i >= 2 ? 8 : 0), col = 2 * t + i % 2;
    float s = *c[i];
    for (int k = 0; k < 16; k++) {
      const int holder = k % 8 / 2;
      const uint64_t x = (k >= 8 ? a23 : a01)[row % 8 * 4 + holder], y = bs[col * 4 + holder];
      const T av = {(uint16_t)(x >> (row >= 8 ? 32 : 0) >> (k % 2 * 16))}, bv = {(uint16_t)(y >> (k >= 8 ? 32 : 0) >> (k % 2 * 16))};
      s = fmaf(up(av), up(bv), s);
    }
    *c[i] = s;
  }
}

#else

template <bool trans>
__device__ inline void ldmatrix(uint32_t r[4], const void *row) {
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  if (trans)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

template <typename T>
__device__ inline void mma(float &c0, float &c1, float &c2, float &c3, const uint32_t a[4], const uint32_t b[2]) {
  if (sizeof(T) == 2 && dtype_of<T>() == TF_BF16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

/* Four warps of 16 rows, times W groups of columns. A thread has rows g and g + 8 of its warp's and, of each 8 columns, 2t and the next. */
template <typename E, int W>
struct MmaEngine {
  typedef E T;
  typedef E Cell;
  static constexpr int kThreads = 128 * W, R = 2, C = 16 / W, kLd = kAttn + 8; /* 8 rows begin in different banks */
  static constexpr int kPeers = 4;
  static constexpr int kCols = kAttn / W;

  static __device__ int lane() { return (int)(threadIdx.x % kWarp); }
  static __device__ int row0() { return (int)(threadIdx.x / kWarp) % 4 * 16; }
  static __device__ int col0() { return (int)(threadIdx.x / kWarp) / 4 * kCols; }
  static __device__ int row(int r) { return row0() + lane() / 4 + 8 * r; }
  static __device__ int score_col(int c) { return col0() + c / 2 * 8 + lane() % 4 * 2 + c % 2; }
  static __device__ int out_col(int c) { return score_col(c); }

  static __device__ void two(float (&acc)[R][C], int n, const uint32_t a[4], const uint32_t b[4]) {
    TF_UNROLL
    for (int t = 0; t < 2; t++) {
      const int c = n / 4 + 2 * t; /* of the 8 columns from n + 8 t on */
      mma<T>(acc[0][c], acc[0][c + 1], acc[1][c], acc[1][c + 1], a, b + 2 * t);
    }
  }

  static __device__ void nt(float (&acc)[R][C], const T *a, const T *b, int depth) {
    const int l = lane();
    TF_UNROLL_1
    for (int k = 0; k < depth; k += 16) {
      uint32_t fa[4], fb[4];
      ldmatrix<false>(fa, a + (row0() + l % 16) * kLd + k + l / 16 * 8);
      TF_UNROLL
      for (int n = 0; n < kCols; n += 16) {
        ldmatrix<false>(fb, b + (col0() + n + l % 8 + l / 16 * 8) * kLd + k + l / 8 % 2 * 8);
        two(acc, n, fa, fb);
      }
    }
  }
  static __device__ void nn(float (&acc)[R][C], const T *p, const T *x, int width) {
    const int l = lane();
    TF_UNROLL_2
    for (int k = 0; k < kAttn; k += 16) {
      uint32_t fa[4], fb[4];
      ldmatrix<false>(fa, p + (row0() + l % 16) * kLd + k + l / 16 * 8);
      TF_UNROLL
      for (int n = 0; n < kCols; n += 16) {
        if (col0() + n >= width) continue;
        ldmatrix<true>(fb, x + (k + l % 16) * kLd + col0() + n + l / 16 * 8);
        two(acc, n, fa, fb);
      }
    }
  }
  static __device__ void tn(float (&acc)[R][C], const T *p, const T *x, int width) {
    const int l = lane();
    TF_UNROLL_2
    for (int k = 0; k < kAttn; k += 16) {
      uint32_t fa[4], fb[4];
      ldmatrix<true>(fa, p + (k + l % 8 + l / 16 * 8) * kLd + row0() + l / 8 % 2 * 8);
      TF_UNROLL
      for (int n = 0; n < kCols; n += 16) {
        if (col0() + n >= width) continue;
        ldmatrix<true>(fb, x + (k + l % 16) * kLd + col0() + n + l / 16 * 8);
        two(acc, n, fa, fb);
      }
    }
  }
};

}  // namespace tf

#endif
