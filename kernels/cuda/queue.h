/* Host side of the backend: device, queue, sticky errors, launches. */
#ifndef TUNEFLEET_CUDA_QUEUE_H
#define TUNEFLEET_CUDA_QUEUE_H

#include <stdint.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device.cuh"

namespace tf {

struct Lt;  /* cuBLASLt, opened when it is first needed (lt.cu) */
struct Dnn; /* cuDNN, the same (cudnn.cu) */
struct Graphs; /* sequences of operations that are held back and recorded (graph.cu) */

/* The communicators that results on a queue depend on: true once one was given up (nccl.cu). What is computed from what such a one left
 * unfinished is worthless, though no stream says so. */
typedef std::shared_ptr<std::atomic<bool>> Lost;
typedef std::vector<Lost> Losses;
void follow(Losses &to, const Losses &from);

/* Staging: two pinned buffers that host memory goes through, so that upload may return before the copy has run. */
constexpr int kStages = 2;
constexpr int64_t kStageBytes = 4 << 20;

struct Stage {
  void *p = nullptr;
  cudaEvent_t done = nullptr;
  bool busy = false;
};

}  // namespace tf

struct tf_device {
  int index = 0;
  char name[64] = "";
  int cc = 0;  /* compute capability, 90 for 9.0 */
  int sms = 0; /* multiprocessors */
  int64_t memory = 0;
  char bus[32] = "";
  std::atomic<bool> used{false}; /* it has a context, which takes memory */
  std::mutex lock;
  std::map<tf_ptr, void *> bases; /* of allocations: what cudaMalloc gave */
  tf::Lt *lt = nullptr;
  tf::Dnn *dnn = nullptr;
};

struct tf_queue {
  tf_device *d = nullptr;
  int32_t kind = 0;
  cudaStream_t stream = nullptr;
  tf_status st = TF_OK;
  char why[256] = "";
  tf_ptr ws = 0;
  int64_t ws_bytes = 0;
  tf::Stage stage[tf::kStages];
  int next_stage = 0;
  int32_t *trouble = nullptr; /* pinned, written by kernels (tf::report) */
  tf::Losses losses;
  tf::Graphs *graphs = nullptr; /* NULL: nothing is held back */
};

struct tf_event {
  tf_device *d = nullptr;
  cudaEvent_t e = nullptr;
  tf_status st = TF_OK;
  bool recorded = false;
  tf::Losses losses;
};

namespace tf {

/* Makes st the queue's sticky status, if it has none. */
tf_status fail(tf_queue *q, tf_status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* fail for a result of the CUDA runtime; TF_OK for cudaSuccess. what names the call. */
tf_status check(tf_queue *q, cudaError_t e, const char *what);

#define TF_TRY(call)                \
  do {                              \
    tf_status st_ = (call);         \
    if (st_ != TF_OK) return st_;   \
  } while (0)

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <typename T>
inline T *at(tf_ptr p) {
  return reinterpret_cast<T *>(static_cast<uintptr_t>(p));
}
/* Memory of the queue's workspace, which cuda_<op>_ws has asked for; offset in bytes, a multiple of 256. */
template <typename T>
inline T *work(tf_queue *q, int64_t offset = 0) {
  return at<T>(q->ws + (uint64_t)offset);
}

/* Runs kernel<<<grid, block, shared>>>(args...) on the queue. A grid without blocks is nothing to do. */
template <typename... P, typename... A>
tf_status launch(tf_queue *q, const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return TF_OK;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || block.x * block.y * block.z > 1024 || shared > kMaxShared)
    return fail(q, TF_EINVALID, "%s: a grid of %u x %u x %u blocks with %zu bytes of shared memory cannot be launched", name, grid.x, grid.y, grid.z, shared);
#ifdef TF_HOST
  return check(q, tfh::launch(q->stream, name, grid, block, shared, TF_KERNEL(kernel(static_cast<P>(args)...))), name);
#else
  if (shared > kAskShared)
    TF_TRY(check(q, cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared), name));
  kernel<<<grid, block, shared, q->stream>>>(static_cast<P>(args)...);
  return check(q, cudaGetLastError(), name);
#endif
}

/* Calls f with a value of the element type of dt: dispatch(q, x.dt, [&](auto t) { using T = decltype(t); ... return launch(...); }). */
template <typename F>
tf_status dispatch(tf_queue *q, int32_t dt, F f) {
  switch (dt) {
    case TF_F32:
      return f(float{});
    case TF_BF16:
      return f(bf16{});
    case TF_F16:
      return f(f16{});
  }
  return fail(q, TF_EUNSUPPORTED, "element type %d is not f32, bf16 or f16", dt);
}

/* --- checks of operands (check.cu) ------------------------------------------------------------------------------------------------------- */

inline bool has(const tf_tensor &t) { return t.data != 0 || t.rank < 0; }
int64_t numel(const tf_tensor &t);
bool contiguous(const tf_tensor &t);
int64_t dtype_size(int32_t dtype);

/* Fills r from t: f32, bf16 or f16, rank >= 1, a last stride of 1 (dimension 1 takes any). name is for the message. */
tf_status rows(tf_queue *q, const tf_tensor &t, const char *name, Rows *r);
/* As rows, of n rows of d elements of type dt. */
tf_status rows_of(tf_queue *q, const tf_tensor &t, const char *name, int64_t n, int64_t d, int32_t dt, Rows *r);
/* As rows_of when the tensor is there; otherwise r is absent. */
tf_status maybe_rows_of(tf_queue *q, const tf_tensor &t, const char *name, int64_t n, int64_t d, int32_t dt, Rows *r);
/* Requires a contiguous tensor with this type and number of elements (n < 0: any), and gives its address. */
tf_status flat_bytes(tf_queue *q, const tf_tensor &t, const char *name, int32_t dtype, int64_t n, void **p);
template <typename T>
tf_status flat(tf_queue *q, const tf_tensor &t, const char *name, int32_t dtype, int64_t n, T **p) {
  void *v = nullptr;
  TF_TRY(flat_bytes(q, t, name, dtype, n, &v));
  *p = static_cast<T *>(v);
  return TF_OK;
}
/* As flat when the tensor is there; otherwise p is NULL. */
template <typename T>
tf_status maybe_flat(tf_queue *q, const tf_tensor &t, const char *name, int32_t dtype, int64_t n, T **p) {
  *p = nullptr;
  return has(t) ? flat(q, t, name, dtype, n, p) : (tf_status)TF_OK;
}

}  // namespace tf

/* The operations: cuda_<op>, and cuda_<op>_ws for those that need workspace (bytes, from shapes only). One that is not defined is
 * unsupported, or needs none: backend.cu looks for them as weak symbols. */
#ifndef TF_OP_DECL
#define TF_OP_DECL
#endif
extern "C" {
#define TF_X(name)                                                        \
  TF_OP_DECL tf_status cuda_##name(tf_queue *, const tf_##name *);        \
  TF_OP_DECL int64_t cuda_##name##_ws(const tf_device *, const tf_##name *);
TF_OPS(TF_X)
#undef TF_X
}

#endif
