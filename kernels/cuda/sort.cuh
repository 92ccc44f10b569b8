/* A stable counting sort by a digit, in a fixed order and without atomics: three kernels, that count, add up and place. */
#ifndef TUNEFLEET_CUDA_SORT_CUH
#define TUNEFLEET_CUDA_SORT_CUH

#include "queue.h"

namespace tf {

constexpr int kSortBlock = 1024;  /* elements of a block */
constexpr int kMostDigits = 1024; /* one thread each when they are added up */

inline int64_t sort_blocks(int64_t n) { return ceil_div(n, kSortBlock); }
/* Elements of workspace for counts. */
inline int64_t sort_counts(int64_t n, int digits) { return sort_blocks(n) * digits; }

/* D says the digits: __device__ int operator()(int64_t i) const, below the number of digits.
 * counts[block * digits + d] = how many elements of the block have digit d. A thread counts its digits by looking at all elements. */
template <typename D>
__global__ void __launch_bounds__(256) sort_count_kernel(D digit, int64_t n, int digits, int32_t *counts) {
  TF_SHARED(int16_t, of, kSortBlock);
  const int64_t base = (int64_t)blockIdx.x * kSortBlock;
  const int here = (int)(n - base < kSortBlock ? n - base : kSortBlock);
  for (int i = (int)threadIdx.x; i < here; i += (int)blockDim.x) of[i] = (int16_t)digit(base + i);
  __syncthreads();
  for (int d = (int)threadIdx.x; d < digits; d += (int)blockDim.x) {
    int32_t c = 0;
    for (int i = 0; i < here; i++) c += of[i] == d;
    counts[(int64_t)blockIdx.x * digits + d] = c;
  }
}

/* counts become the places where the block's elements of a digit begin; starts (optional) [digits + 1] those of the digits. One block. */
static __global__ void __launch_bounds__(kMostDigits) sort_add_kernel(int32_t *counts, int64_t blocks, int digits, int32_t *starts) {
  TF_SHARED2(int32_t, sum, 2, kMostDigits);
  const int d = (int)threadIdx.x;
  int32_t total = 0;
  if (d < digits)
    for (int64_t b = 0; b < blocks; b++) {
      const int32_t c = counts[b * digits + d];
      counts[b * digits + d] = total;
      total += c;
    }
  sum[0][d] = total;
  int from = 0;
  for (int step = 1; step < kMostDigits; step *= 2) {
    __syncthreads();
    sum[1 - from][d] = sum[from][d] + (d >= step ? sum[from][d - step] : 0);
    from = 1 - from;
  }
  if (d >= digits) return;
  const int32_t begin = sum[from][d] - total;
  for (int64_t b = 0; b < blocks; b++) counts[b * digits + d] += begin;
  if (!starts) return;
  starts[d] = begin;
  if (d == digits - 1) starts[digits] = begin + total;
}

/* P takes each element to its place: __device__ void operator()(int64_t i, int64_t place) const. */
template <typename D, typename P>
__global__ void __launch_bounds__(256) sort_place_kernel(D digit, P put, int64_t n, int digits, const int32_t *counts) {
  TF_SHARED(int16_t, of, kSortBlock);
  const int64_t base = (int64_t)blockIdx.x * kSortBlock;
  const int here = (int)(n - base < kSortBlock ? n - base : kSortBlock);
  for (int i = (int)threadIdx.x; i < here; i += (int)blockDim.x) of[i] = (int16_t)digit(base + i);
  __syncthreads();
  for (int d = (int)threadIdx.x; d < digits; d += (int)blockDim.x) {
    int64_t at = counts[(int64_t)blockIdx.x * digits + d];
    for (int i = 0; i < here; i++)
      if (of[i] == d) put(base + i, at++);
  }
}

template <typename D, typename P>
tf_status sort_pass(tf_queue *q, D digit, P put, int64_t n, int digits, int32_t *counts, int32_t *starts) {
  const dim3 grid((unsigned)sort_blocks(n)), block(256);
  TF_TRY(launch(q, "sort_count", sort_count_kernel<D>, grid, block, 0, digit, n, digits, counts));
  TF_TRY(launch(q, "sort_add", sort_add_kernel, dim3(1), dim3(kMostDigits), 0, counts, sort_blocks(n), digits, starts));
  return launch(q, "sort_place", sort_place_kernel<D, P>, grid, block, 0, digit, put, n, digits, counts);
}

}  // namespace tf

#endif
