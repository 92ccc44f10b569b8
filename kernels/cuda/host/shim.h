/* Kernels on the host: with this header the .cu files compile with g++ (-DTF_HOST -x c++) into a backend that needs no GPU.
 *
 *  - emulate.cc runs a kernel block by block, each of its threads on a stack of its own; __syncthreads and the collectives of a warp are
 *    where threads take turns. It refuses what a GPU would hang on or leave undefined.
 *  - runtime.cc stands in for the CUDA runtime: streams run only when something waits for them, new memory is NaN.
 *
 * So launch geometry, index arithmetic and the host side are tested; speed and what only a GPU does (memory order, tensor cores) are not. */
#ifndef TUNEFLEET_CUDA_HOST_SHIM_H
#define TUNEFLEET_CUDA_HOST_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

/* --- the runtime (runtime.cc) ----------------------------------------------------------------------------------------------------------- */

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind { cudaMemcpyHostToHost = 0, cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };

struct tfh_stream;
struct tfh_event;
struct tfh_graph;
typedef tfh_stream *cudaStream_t;
typedef tfh_event *cudaEvent_t;
typedef tfh_graph *cudaGraph_t;
typedef tfh_graph *cudaGraphExec_t;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
  int pciBusID, pciDeviceID, pciDomainID;
};

constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2, cudaHostAllocPortable = 1;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };

cudaError_t cudaDriverGetVersion(int *);
cudaError_t cudaGetDeviceCount(int *);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *, int);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaMemGetInfo(size_t *left, size_t *total);
cudaError_t cudaMalloc(void **, size_t);
cudaError_t cudaFree(void *);
cudaError_t cudaHostAlloc(void **, size_t, unsigned flags);
cudaError_t cudaFreeHost(void *);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventQuery(cudaEvent_t);
/* Milliseconds of the stream's work, by a clock of the emulation: a launch takes 5 us, one of a graph TUNEFLEET_FAKE_GRAPH_US (10) and 1 us for
 * each of its parts. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
/* From the beginning to the end of a capture, what its thread asks of the stream is recorded and does not run, and what a capture forbids makes
 * it invalid. TUNEFLEET_FAKE_GRAPHS=none makes every capture so. */
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t);
/* As on a device, what a graph that still waits to run needs is kept until it has. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void *dst, int value, size_t, cudaStream_t);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t);
const char *cudaGetErrorName(cudaError_t);

/* The driver's library, which the device is opened with only when it has a name: TUNEFLEET_FAKE_LIBCUDA gives one for tests. */
const char *tfh_libcuda();
#define TF_LIBCUDA tfh_libcuda()
/* The CUDA that the library is built with: TUNEFLEET_FAKE_CUDA, 13000 if it is not set. */
int tfh_cuda_version();
#define TF_CUDA_VERSION tfh_cuda_version()
/* What stands for cuBLASLt's library (cublaslt.cc). */
const char *tfh_cublaslt();
/* What stands for cuDNN's library (cudnn.cc). */
const char *tfh_cudnn();
/* What a piece of a backward by cuDNN may take, in bytes: TUNEFLEET_FAKE_CUDNN_WORKSPACE. */
int64_t tfh_cudnn_workspace();
/* What stands for NCCL's library (nccl.cc). */
const char *tfh_nccl();
#define TF_BACKEND_NAME "cuda-host"

/* --- kernels (emulate.cc) ----------------------------------------------------------------------------------------------------------------- */

namespace tfh {

struct Index {
  dim3 thread, block, block_dim, grid_dim;
};
/* Of the thread that runs now. For a kernel it is constant. */
extern const Index self __asm__("tfh_self");
extern Index self_now __asm__("tfh_self"); /* the same, for the emulation */

/* Queues a kernel: body calls it with its arguments, once a thread. */
cudaError_t launch(cudaStream_t, const char *name, dim3 grid, dim3 block, size_t shared, std::function<void()> body);

void sync_threads();
/* All lanes of mask give v and meet; out[lane] then holds what each gave. */
void warp_meet(unsigned mask, const char *what, uint64_t v, uint64_t out[32]);
/* Shared memory of the block that runs now, the same for all its threads that name the same tag; NULL is the dynamic one. */
void *shared(const void *tag, size_t bytes, const char *name);
/* A copy of 16 bytes to shared memory, of which so many are from and the rest zeros. It arrives when its thread waits for it, as late as it may. */
void async_copy(void *to, const void *from, int bytes);
void async_wait();
#ifdef TF_WATCH
/* See watch.h. */
namespace watch {
void atomic(const void *p, size_t n, const void *place);
void thread_starts();
void thread_ends();
}  // namespace watch
#define TF_NEW_WORKSPACE(q, name, p) \
  tfh::new_workspace(q->stream, at<void>(q->ws), (size_t)q->ws_bytes, cuda_##name##_ws ? (size_t)cuda_##name##_ws(q->d, p) : 0)
#define TF_ATOMIC_AT(p) tfh::watch::atomic(p, sizeof *p, __builtin_return_address(0))
/* Calls a kernel; what leads to the call is not watched. */
#define TF_KERNEL(call) [=]() __attribute__((no_sanitize("thread"))) { tfh::watch::thread_starts(); call; tfh::watch::thread_ends(); }
#else
#define TF_ATOMIC_AT(p)
#define TF_KERNEL(call) [=]() { call; }
#endif
/* What only the watch needs to know (watch.h): how much of an allocation may be used, and of a queue's workspace by the next operation. */
void extent(const void *p, size_t n);
void new_workspace(cudaStream_t, void *p, size_t all, size_t needed);
/* Stops the kernel that runs now with an error. */
[[noreturn]] void stop(const char *why);

template <typename T>
uint64_t pack(T v) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "warps exchange values of up to 8 bytes");
  uint64_t u = 0;
  memcpy(&u, &v, sizeof v);
  return u;
}
template <typename T>
T unpack(uint64_t u) {
  T v;
  memcpy(&v, &u, sizeof v);
  return v;
}
unsigned lane();

}  // namespace tfh

#define threadIdx (tfh::self.thread)
#define blockIdx (tfh::self.block)
#define blockDim (tfh::self.block_dim)
#define gridDim (tfh::self.grid_dim)

#define TF_SHARED(type, name, n)     \
  static const char name##_tag = 0;  \
  type *name = static_cast<type *>(tfh::shared(&name##_tag, sizeof(type) * (n), #name))
#define TF_SHARED2(type, name, n, m) \
  static const char name##_tag = 0;  \
  type(*name)[m] = static_cast<type(*)[m]>(tfh::shared(&name##_tag, sizeof(type) * (n) * (m), #name))
#define TF_SHARED_DYNAMIC(type, name) type *name = static_cast<type *>(tfh::shared(nullptr, 0, #name))

/* Within its caller, so that where it returns to says which barrier it is. */
inline __attribute__((always_inline)) void __syncthreads() { tfh::sync_threads(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  uint64_t out[32];
  tfh::warp_meet(mask, "__syncwarp", 0, out);
}
inline void __threadfence() {}

template <typename T>
T tfh_exchange(unsigned mask, const char *what, T v, unsigned from) {
  uint64_t out[32];
  tfh::warp_meet(mask, what, tfh::pack(v), out);
  if (from > 31 || !(mask >> from & 1)) tfh::stop("a lane reads from one that is not in the mask");
  return tfh::unpack<T>(out[from]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int d, int width = 32) {
  unsigned me = tfh::lane(), from = me ^ (unsigned)d;
  if (from / (unsigned)width != me / (unsigned)width) from = me;
  return tfh_exchange(mask, "__shfl_xor_sync", v, from);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) {
  unsigned me = tfh::lane(), from = me + d;
  if (from / (unsigned)width != me / (unsigned)width) from = me;
  return tfh_exchange(mask, "__shfl_down_sync", v, from);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) {
  unsigned me = tfh::lane(), from = me - d;
  if (d > me || from / (unsigned)width != me / (unsigned)width) from = me;
  return tfh_exchange(mask, "__shfl_up_sync", v, from);
}
template <typename T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  unsigned me = tfh::lane(), w = (unsigned)width;
  return tfh_exchange(mask, "__shfl_sync", v, me / w * w + (unsigned)from % w);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  uint64_t out[32];
  tfh::warp_meet(mask, "__ballot_sync", predicate != 0, out);
  unsigned r = 0;
  for (unsigned i = 0; i < 32; i++)
    if (mask >> i & 1 && out[i]) r |= 1u << i;
  return r;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

/* Threads take turns only where they wait, so these are atomic. Integers only: sums of floats would depend on the order. */
template <typename T, typename F>
__attribute__((noinline, no_sanitize("thread"))) T tfh_swap(T *p, F next) {
  static_assert(std::is_integral<T>::value, "no float atomics: results may not depend on the order of threads");
  TF_ATOMIC_AT(p);
  T old = *p;
  *p = next(old);
  return old;
}
template <typename T>
T atomicAdd(T *p, T v) {
  return tfh_swap(p, [=](T old) { return (T)(old + v); });
}
template <typename T>
T atomicMax(T *p, T v) {
  return tfh_swap(p, [=](T old) { return old > v ? old : v; });
}
template <typename T>
T atomicMin(T *p, T v) {
  return tfh_swap(p, [=](T old) { return old < v ? old : v; });
}
template <typename T>
T atomicOr(T *p, T v) {
  return tfh_swap(p, [=](T old) { return (T)(old | v); });
}
template <typename T>
T atomicExch(T *p, T v) {
  return tfh_swap(p, [=](T) { return v; });
}
template <typename T>
T atomicCAS(T *p, T want, T v) {
  return tfh_swap(p, [=](T old) { return old == want ? v : old; });
}

/* --- arithmetic -------------------------------------------------------------------------------------------------------------------------- */

#include <math.h>

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline int __float_as_int(float x) { return tfh::unpack<int>(tfh::pack(x)); }
inline unsigned __float_as_uint(float x) { return tfh::unpack<unsigned>(tfh::pack(x)); }
inline float __int_as_float(int x) { return tfh::unpack<float>(tfh::pack(x)); }
inline float __uint_as_float(unsigned x) { return tfh::unpack<float>(tfh::pack(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <typename T>
T __ldg(const T *p) {
  return *p;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
using std::signbit;

float host_f16_to_f32(uint16_t);
uint16_t host_f32_to_f16(float); /* to nearest even */

#endif
