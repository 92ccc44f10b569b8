/* Helpers of operations that give each row a block. */
#ifndef TUNEFLEET_CUDA_ROWS_CUH
#define TUNEFLEET_CUDA_ROWS_CUH

#include "queue.h"

namespace tf {

constexpr int kRowThreads = 256; /* the most of a block */

/* Threads of a block for a row of n vectors. */
inline unsigned row_threads(int64_t n) {
  int64_t t = ceil_div(n, kWarp) * kWarp;
  return (unsigned)(t < kRowThreads ? t : kRowThreads);
}

/* Calls f with the widest vector that all rows allow: 16 bytes, else one element. */
template <typename T, typename F>
tf_status widest(int64_t d, bool aligned, F f) {
  constexpr int n = 16 / (int)sizeof(T);
  if (aligned && d % n == 0) return f(vec<T, n>{});
  return f(vec<T, 1>{});
}

/* Whether vectors of 16 bytes may be used on it; an absent one does not matter. */
inline bool fits(const Rows &r) {
  int size = r.dt == TF_F32 ? 4 : 2;
  return !r || r.aligned(16 / size, size);
}

}  // namespace tf

#endif
