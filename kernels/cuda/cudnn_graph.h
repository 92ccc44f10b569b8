/* Attention as a graph of cuDNN's backend interface, and the plan that it makes of one. */
#ifndef TUNEFLEET_CUDA_CUDNN_GRAPH_H
#define TUNEFLEET_CUDA_CUDNN_GRAPH_H

#include <string>
#include <vector>

#include "cudnnapi.h"

namespace tf {
namespace dnn {

/* Strides of [b,t,h,d] in elements, without that of d, which is 1. */
struct Strides {
  int64_t b, t, h;
};

/* All that a plan depends on; compared as bytes, so it has no padding. Sequences are of up to tq queries and tk keys. */
struct Sdpa {
  int32_t type; /* kBfloat16 or kHalf */
  int32_t backward, causal;
  int32_t lengths; /* the number of queries and of keys of each sequence is given ([b] of int32) */
  int32_t ragged;  /* with lengths: where each sequence begins is given too ([b+1] of int64, in elements of each operand); lse is [t,hq] then */
  int32_t zero;
  int64_t window; /* 0, or the keys that a query sees at most, its own position included */
  int64_t b, tq, tk, hq, hk, d_qk, d_v;
  Strides q, k, v, o, d_o, dq, dk, dv; /* those after o: with backward */
};
static_assert(sizeof(Sdpa) == 6 * 4 + 8 * 8 + 8 * 24, "padding would be compared");

/* What operands are called in a graph: the unique ids of its tensors that have memory. */
enum Id {
  kNone,
  kQ,
  kK,
  kV,
  kO,
  kLse, /* f32 [b,hq,tq]: the logarithm of the sum of exponents, as ours */
  kDO,
  kDQ,
  kDK,
  kDV,
  kDelta, /* f32 [b,hq,tq]: workspace of the backward */
  kQueries,
  kKeys, /* lengths */
  kFromQ,
  kFromK,
  kFromV,
  kFromO,
  kFromLse,
  kFromDO,
  kFromDQ,
  kFromDK,
  kFromDV, /* where sequences begin */
  kScale,
  kOne,
  kMinusInfinity,
  kWindow, /* numbers */
  kIds
};

/* A plan, or why there is none. Its numbers are those that the kernels compute with: only scale may differ from call to call. */
struct Plan {
  std::string why; /* not empty: there is none */
  Desc plan = nullptr;
  int64_t workspace = 0;
  std::vector<Id> operands; /* that the graph has, numbers included */
  std::vector<Desc> owned;  /* plan too */
};

/* The graph of s given to the heuristic, and the first of its engines that gives the same bits every time, takes at most so many bytes of
 * workspace, and can be finished. Without a handle, for the device that device_prop describes (kDeviceProp). */
Plan make_plan(const Functions &f, Handle handle, Desc device_prop, const Sdpa &s, int64_t most_workspace);
void free_plan(const Functions &f, Plan *p);

/* The graph's numbers. */
struct Numbers {
  float scale, one, minus_infinity, window;
};

/* Queues the plan: at gives the address of each operand, numbers those of the host. */
int execute(const Functions &f, Handle handle, const Plan &p, void *const at[kIds], const Numbers &n, void *workspace);

}  // namespace dnn
}  // namespace tf

#endif
