/* Attention of sequences that begin and end within their rows, for cuDNN: packed documents, padding, and rows that are no whole tiles. */
#ifndef TUNEFLEET_CUDA_CUDNN_RANGES_H
#define TUNEFLEET_CUDA_CUDNN_RANGES_H

#include "attn.cuh"
#include "cudnn_graph.h"

namespace tf {

/* What cuDNN is told of sequences, in workspace: how many queries and keys each has, and where each begins in every operand. Of the queries and
 * keys of a row that are in none, the results are 0 (-infinity for lse), as our own kernels have it: no query of a sequence sees no key. */
struct Ranges {
  int64_t n, batch, t;              /* sequences for cuDNN; rows, and their length */
  int32_t *queries, *keys;          /* [n] */
  int32_t *first_query, *first_key; /* [n], in a row of the batch */
  struct Operand {
    int64_t *from; /* [n+1] in elements */
    int64_t b, t;  /* strides */
    int32_t keys;  /* 1: rows are keys */
  } operand[9];
  int32_t operands;
  const int32_t *documents, *kv_first, *kv_last;
  int64_t n_documents, window;
  int32_t causal;
};

/* Bytes that ranges_place takes from memory that begins at a multiple of 256. */
int64_t ranges_bytes(int64_t n);
/* Places the arrays of r, which has n, in memory, and those of operands into where. lse is [tokens,heads]. */
void ranges_place(Ranges *r, char *memory, const dnn::Sdpa &s, const tf_attn_fwd *p, const tf_attn_bwd *g, void *where[dnn::kIds]);
/* Queues what fills them. */
tf_status ranges_fill(tf_queue *q, const Ranges &r);

/* lse [b,hq,t] of heads h0 to h0 + heads as cuDNN has it, [b * t,heads], and back. */
tf_status ranges_pack(tf_queue *q, const Ranges &r, const float *lse, int64_t hq, int64_t h0, int64_t heads, float *packed);
tf_status ranges_unpack(tf_queue *q, const Ranges &r, const float *packed, int64_t hq, float *lse);
/* 0 where x has rows of no sequence; keys: its rows are keys. */
tf_status ranges_clear(tf_queue *q, const Ranges &r, const tf_tensor &x, bool keys);

}  // namespace tf

#endif
