/* Matrix products, for the operations that contain some. */
#ifndef TUNEFLEET_CUDA_GEMM_H
#define TUNEFLEET_CUDA_GEMM_H

#include "queue.h"

namespace tf {

/* c [m,n] = (accumulate ? c : 0) + bias[n] + alpha * a b for each of batch matrices. Of a and b one stride each is 1 (or its dimension is 1),
 * of c the second. Types are f32, bf16 or f16, independently; bias is f32 or NULL. */
struct Gemm {
  const void *a, *b;
  void *c;
  int32_t at, bt, ct;              /* element types */
  int64_t m, n, k, batch = 1;      /* sizes */
  int64_t ars, acs, brs, bcs, crs; /* strides of rows and columns, in elements */
  int64_t as = 0, bs = 0, cs = 0;  /* distances of the matrices of a batch */
  const float *bias = nullptr;
  float alpha = 1;
  int32_t accumulate = 0;
};

/* Bytes of workspace that gemm may use, at any shape: an operation that calls it asks for its own and these. */
constexpr int64_t kGemmWorkspace = 32 << 20;

/* Queues the product; ws are kGemmWorkspace bytes of the queue's workspace, aligned to 256. */
tf_status gemm(tf_queue *q, const Gemm &g, void *ws);
/* The same with our own kernel only, which needs no workspace. */
tf_status gemm_tiles(tf_queue *q, const Gemm &g);

}  // namespace tf

#endif
