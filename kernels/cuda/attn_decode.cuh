/* Attention of one query a sequence over many keys; see attn_decode.cu. */
#ifndef TUNEFLEET_CUDA_ATTN_DECODE_CUH
#define TUNEFLEET_CUDA_ATTN_DECODE_CUH

#include "attn.cuh"

namespace tf {

/* Whether attn_decode takes the call, by shapes only. */
bool attn_decodes(const tf_attn_fwd *p);
/* Bytes of workspace for its parts. */
int64_t attn_decode_bytes(const tf_attn_fwd *p);
/* After attn_prepare. */
tf_status attn_decode(tf_queue *q, const Attn &a, int32_t dt, float *parts);

}  // namespace tf

#endif
