/* cuBLASLt, opened when it is first needed. */
#ifndef TUNEFLEET_CUDA_LT_H
#define TUNEFLEET_CUDA_LT_H

#include "gemm.h"

namespace tf {

/* Queues the product with cuBLASLt when it takes it; done says whether it did. ws as in gemm. A machine without cuBLASLt is an error that says
 * where it was looked for: products by our own kernel alone would be slow beyond use. */
tf_status lt_gemm(tf_queue *q, const Gemm &g, void *ws, bool *done);

}  // namespace tf

#endif
