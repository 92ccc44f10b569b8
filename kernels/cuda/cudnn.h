/* Attention by cuDNN, opened when the first call asks for it; see cudnn.cu. */
#ifndef TUNEFLEET_CUDA_CUDNN_H
#define TUNEFLEET_CUDA_CUDNN_H

#include "queue.h"

namespace tf {

/* Bytes of workspace that cuDNN needs for the call; 0 when it does not take it. */
int64_t dnn_fwd_bytes(const tf_device *d, const tf_attn_fwd *p);
int64_t dnn_bwd_bytes(const tf_device *d, const tf_attn_bwd *p);

/* Queues the call with cuDNN when it takes it; done says whether it did. Operands have been checked. */
tf_status dnn_fwd(tf_queue *q, const tf_attn_fwd *p, bool *done);
tf_status dnn_bwd(tf_queue *q, const tf_attn_bwd *p, bool *done);

/* The same calls by our own kernels alone (attn.cu, attn_bwd.cu), and their workspace. */
tf_status own_fwd(tf_queue *q, const tf_attn_fwd *p);
tf_status own_bwd(tf_queue *q, const tf_attn_bwd *p);
int64_t own_fwd_bytes(const tf_attn_fwd *p);
int64_t own_bwd_bytes(const tf_attn_bwd *p);

}  // namespace tf

#endif
