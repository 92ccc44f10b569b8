/* cuBLASLt, opened when it is first needed. */
#ifndef TUNEFLEET_CUDA_LT_H
#define TUNEFLEET_CUDA_LT_H

#include "gemm.h"

namespace tf {

/* Queues the product with cuBLASLt when it takes it; done says whether it did. */
tf_status lt_gemm(tf_queue *q, const Gemm &g, void *ws, bool *done);

}  // namespace tf

#endif
