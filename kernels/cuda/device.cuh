/* What kernels are written with: element types, vectors, rows of a tensor, reductions in a fixed order, shared memory.
 *
 * Everything here compiles with nvcc for the GPU and with g++ for the emulation of host/shim.h, which runs the same kernels thread by
 * thread. See README.md for the conventions. */
#ifndef TUNEFLEET_CUDA_DEVICE_CUH
#define TUNEFLEET_CUDA_DEVICE_CUH

#include <math.h>
#include <stdint.h>

#ifdef TF_HOST
#include "host/shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define TF_CUDA_VERSION CUDART_VERSION

/* Shared memory of a block. TF_SHARED(float, red, 32) is float red[32], TF_SHARED2 has two dimensions, TF_SHARED_DYNAMIC names what the
 * launch asked for. */
#define TF_SHARED(type, name, n) __shared__ __align__(16) type name[n]
#define TF_SHARED2(type, name, n, m) __shared__ __align__(16) type name[n][m]
#define TF_SHARED_DYNAMIC(type, name)                              \
  extern __shared__ __align__(16) unsigned char tf_dynamic_bytes[]; \
  type *name = reinterpret_cast<type *>(tf_dynamic_bytes)
#endif

/* Accumulators are in registers only where loops over them are unrolled. */
#ifdef TF_HOST
#define TF_UNROLL
#define TF_UNROLL_1
#define TF_UNROLL_2
#else
#define TF_UNROLL _Pragma("unroll")
#define TF_UNROLL_1 _Pragma("unroll 1")
#define TF_UNROLL_2 _Pragma("unroll 2") /* more would need registers that hold accumulators */
#endif

#include "tunefleet.h"

namespace tf {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;
/* What every card we build for can give a block (sm_89 has 99 KiB; more than 48 KiB has to be dynamic). */
constexpr size_t kMaxShared = 99 << 10;
/* From so much dynamic memory on a launch says so beforehand, as has to be done for more than 48 KiB with the static arrays: those may have the
 * rest. */
constexpr size_t kAskShared = 32 << 10;

/* --- element types ---------------------------------------------------------------------------------------------------------------- */

struct bf16 {
  uint16_t u;
};
struct f16 {
  uint16_t u;
};

__host__ __device__ inline float bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
__host__ __device__ inline uint32_t float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

/* up: to f32. down<T>: from f32, to nearest even. */
__device__ inline float up(float v) { return v; }
__device__ inline float up(bf16 v) { return bits_float((uint32_t)v.u << 16); }
__device__ inline float up(f16 v);

template <typename T>
__device__ inline T down(float v);
template <>
__device__ inline float down<float>(float v) {
  return v;
}
/* A NaN stays one; the bits of the CPU backend. */
template <>
__device__ inline bf16 down<bf16>(float v) {
  uint32_t u = float_bits(v);
  if ((u & 0x7fffffff) > 0x7f800000) return bf16{(uint16_t)(u >> 16 | 64)};
  return bf16{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

#ifdef TF_HOST
inline float up(f16 v) { return host_f16_to_f32(v.u); }
template <>
inline f16 down<f16>(float v) {
  return f16{host_f32_to_f16(v)};
}
#else
__device__ inline float up(f16 v) {
  __half_raw r;
  r.x = v.u;
  return __half2float(__half(r));
}
template <>
__device__ inline f16 down<f16>(float v) {
  return f16{__half_as_ushort(__float2half_rn(v))};
}
#endif

/* dtype_of<T>: TF_F32, TF_BF16, TF_F16. */
template <typename T>
constexpr int32_t dtype_of();
template <>
constexpr int32_t dtype_of<float>() {
  return TF_F32;
}
template <>
constexpr int32_t dtype_of<bf16>() {
  return TF_BF16;
}
template <>
constexpr int32_t dtype_of<f16>() {
  return TF_F16;
}

/* N elements that are loaded and stored at once; the address has to be a multiple of their size. */
template <typename T, int N>
struct alignas(sizeof(T) * N) vec {
  T v[N];
};

/* --- rows ------------------------------------------------------------------------------------------------------------------------- */

/* A tensor as rows: up to 4 leading dimensions with any strides, the last with stride 1. Made by tf::rows of check.h. */
struct Rows {
  void *p; /* NULL: the tensor is absent */
  int64_t n, d;
  int64_t dim[4], stride[4]; /* leading dimensions, right-aligned; unused ones are 1 */
  int64_t ld;                /* distance of rows when uniform, else -1 */
  int32_t dt;

  __host__ __device__ explicit operator bool() const { return p != nullptr; }
  __host__ __device__ int64_t at(int64_t i) const {
    if (ld >= 0) return i * ld;
    int64_t off = 0;
    for (int k = 3; k >= 0; k--) {
      off += i % dim[k] * stride[k];
      i /= dim[k];
    }
    return off;
  }
  template <typename T>
  __host__ __device__ T *row(int64_t i) const {
    return static_cast<T *>(p) + at(i);
  }
  /* Whether every row begins at a multiple of n elements of this size, so that vec<T, n> may be used. */
  bool aligned(int n, int size) const {
    if (reinterpret_cast<uintptr_t>(p) % (uintptr_t)(n * size)) return false;
    if (ld >= 0) return this->n <= 1 || ld % n == 0;
    for (int k = 0; k < 4; k++)
      if (dim[k] > 1 && stride[k] % n) return false;
    return true;
  }
};

/* --- reductions: a fixed order, the same result in every lane or thread ----------------------------------------------------------------- */

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/* Over the 32 lanes of a full warp. */
template <typename Op, typename T>
__device__ inline T warp_reduce(T v, Op op = Op()) {
  for (int d = kWarp / 2; d > 0; d /= 2) v = op(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

/* Over a block of full warps; every thread calls it and gets the result. red: 32 elements of shared memory, free again on return. */
template <typename Op, typename T>
__device__ inline T block_reduce(T v, T *red, Op op = Op()) {
  int lane = (int)(threadIdx.x % kWarp), warp = (int)(threadIdx.x / kWarp), warps = (int)(blockDim.x / kWarp);
  v = warp_reduce<Op>(v, op);
  if (lane == 0) red[warp] = v;
  __syncthreads();
  v = red[0];
  for (int i = 1; i < warps; i++) v = op(v, red[i]);
  __syncthreads();
  return v;
}

/* --- errors from kernels ------------------------------------------------------------------------------------------------------------ */

enum Trouble { kNoTrouble = 0, kBadId = 1, kBadOffsets = 2, kBadStep = 3, kBadPosition = 4, kBadDocuments = 5, kBadTarget = 6, kBadPlace = 7 };

/* Notes what is wrong with the data; the queue's next synchronization returns it. The kernel goes on without touching memory it may not. */
__device__ inline void report(int32_t *trouble, Trouble what) { *(volatile int32_t *)trouble = what; }

}  // namespace tf

#endif
