/* Kernels with a bug each that a GPU may let pass, and their right twins: a line each with what the watch of the emulation says of them. */
#include <stdio.h>

#include "attn.cuh"

using namespace tf;

static cudaStream_t stream;

/* Runs a kernel with this device memory, which holds ones or, with !written, nothing. */
template <typename K>
static void say(const char *name, K kernel, unsigned blocks, unsigned threads, size_t bytes, bool written = true, size_t shared = 0) {
  void *p;
  cudaStreamCreateWithPriority(&stream, 0, 0);
  cudaMalloc(&p, bytes);
  if (written) cudaMemsetAsync(p, 1, bytes, stream);
  tfh::launch(stream, name, dim3(blocks), dim3(threads), shared, TF_KERNEL(kernel(static_cast<int *>(p))));
  cudaError_t e = cudaStreamSynchronize(stream);
  printf("%s|%s\n", name, e == cudaSuccess ? "ok" : cudaGetErrorString(e));
  cudaStreamDestroy(stream);
  cudaFree(p);
}

/* --- racecheck --------------------------------------------------------------------------------------------------------------------------- */

template <bool right>
static void neighbour(int *p) {
  TF_SHARED(int, a, 64);
  a[threadIdx.x] = (int)threadIdx.x;
  if (right) __syncthreads();
  p[threadIdx.x] = a[threadIdx.x ^ 32];
}

/* The reads of one round and the writes of the next. */
template <bool right>
static void rounds(int *p) {
  TF_SHARED(int, a, 64);
  int sum = 0;
  for (int i = 0; i < 3; i++) {
    a[threadIdx.x] = i;
    __syncthreads();
    sum += a[63 - threadIdx.x];
    if (right) __syncthreads();
  }
  p[threadIdx.x] = sum;
}

template <bool right>
static void lanes(int *p) {
  TF_SHARED(int, a, 32);
  a[threadIdx.x] = (int)threadIdx.x;
  if (right)
    __syncwarp();
  else
    __shfl_xor_sync(kAll, 1, 1); /* orders nothing */
  p[threadIdx.x] = a[threadIdx.x ^ 1];
}

/* A barrier of half a warp orders that half. */
template <bool right>
static void halves(int *p) {
  TF_SHARED(int, a, 32);
  a[threadIdx.x] = (int)threadIdx.x;
  __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u);
  p[threadIdx.x] = a[threadIdx.x ^ (right ? 8 : 16)];
}

/* A warp's barrier orders no other warp. */
template <bool right>
static void warps(int *p) {
  TF_SHARED(int, a, 64);
  a[threadIdx.x] = (int)threadIdx.x;
  __syncwarp();
  p[threadIdx.x] = a[threadIdx.x ^ (right ? 16 : 32)];
}

/* Many read, then one writes. */
template <bool right>
static void readers(int *p) {
  TF_SHARED(int, a, 4);
  if (threadIdx.x == 0) a[0] = 1;
  __syncthreads();
  p[threadIdx.x] = a[0];
  if (right) __syncwarp();
  if (threadIdx.x == 5) a[0] = 2;
}

template <bool right>
static void device_memory(int *p) {
  p[threadIdx.x] = (int)threadIdx.x;
  if (right) __syncthreads();
  p[64 + threadIdx.x] = p[63 - threadIdx.x];
}

template <bool right>
static void blocks_write(int *p) {
  p[right ? blockIdx.x : 0] = (int)blockIdx.x;
}

template <bool right>
static void blocks_read(int *p) {
  if (threadIdx.x == 0) p[blockIdx.x] = p[right ? blockIdx.x : blockIdx.x ^ 1];
}

/* A block that reads what it writes hides none of what others read. */
template <bool right>
static void blocks_read_first(int *p) {
  const int v = p[0];
  __syncthreads();
  if (!right && blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) p[0] = v;
  if (threadIdx.x == 0) p[1 + blockIdx.x] = v;
}

template <bool right>
static void count(int *p) {
  if (right)
    atomicAdd(p, 1);
  else
    p[0] += 1;
}

/* Bytes and halves of a word belong to different threads. */
template <bool right>
static void bytes(int *p) {
  reinterpret_cast<unsigned char *>(p)[right ? threadIdx.x : threadIdx.x / 2] = 1;
}

template <bool right>
static void waited(int *p) {
  TF_SHARED(int, a, 128);
  async_copy(a + 4 * threadIdx.x, p + 4 * threadIdx.x, 16);
  if (right) async_wait();
  __syncthreads();
  p[128 + threadIdx.x] = a[127 - 4 * threadIdx.x];
  async_wait();
}

/* After the wait a copy is its thread's; others need a barrier. */
template <bool right>
static void waited_alone(int *p) {
  TF_SHARED(int, a, 128);
  async_copy(a + 4 * threadIdx.x, p + 4 * threadIdx.x, 16);
  async_wait();
  if (right) __syncthreads();
  p[128 + threadIdx.x] = a[127 - 4 * threadIdx.x];
}

static void never_waited(int *p) {
  TF_SHARED(int, a, 128);
  async_copy(a + 4 * threadIdx.x, p + 4 * threadIdx.x, 16);
}

/* --- memcheck ---------------------------------------------------------------------------------------------------------------------------- */

template <bool right>
static void beyond(int *p) {
  p[threadIdx.x + (right ? 0 : 1)] = 1;
}
template <bool right>
static void before(int *p) {
  if (p[(int)threadIdx.x - (right ? 0 : 1)] == 7) p[0] = 1;
}
template <bool right>
static void beyond_shared(int *p) {
  TF_SHARED(int, a, 32);
  TF_SHARED(int, b, 32);
  b[threadIdx.x] = 1;
  __syncthreads();
  a[threadIdx.x] = b[threadIdx.x + (right ? 0 : 1)];
  p[threadIdx.x] = a[threadIdx.x];
}
template <bool right>
static void beyond_dynamic(int *p) {
  TF_SHARED_DYNAMIC(int, a);
  a[threadIdx.x + (right ? 0 : 1)] = 1;
  p[threadIdx.x] = 1;
}
static volatile int hosts;
static void of_the_host(int *) { hosts = 1; }
template <bool right>
static void aligned(int *p) {
  typedef vec<int, 4> V;
  *reinterpret_cast<V *>(p + 4 * threadIdx.x + (right ? 0 : 1)) = V{};
}

/* --- initcheck --------------------------------------------------------------------------------------------------------------------------- */

template <bool right>
static void unwritten(int *p) {
  if (right) p[threadIdx.x] = 1;
  p[threadIdx.x] += 1;
}
template <bool right>
static void unwritten_shared(int *p) {
  TF_SHARED(int, a, 32);
  if (right || threadIdx.x < 31) a[threadIdx.x] = 1;
  __syncthreads();
  p[threadIdx.x] = a[31 - threadIdx.x];
}

/* --- synccheck --------------------------------------------------------------------------------------------------------------------------- */

template <bool right>
static void barriers(int *p) {
  if (threadIdx.x < 32 && !right)
    __syncthreads();
  else
    __syncthreads();
  if (right) __syncthreads();
  p[threadIdx.x] = 1;
}

/* --- streams ----------------------------------------------------------------------------------------------------------------------------- */

enum Wait { kNothing, kEvent, kEarly, kHost };

/* One stream writes, another reads. */
static void streams(const char *name, Wait wait) {
  cudaStream_t a, b;
  cudaEvent_t e;
  void *v;
  cudaStreamCreateWithPriority(&a, 0, 0);
  cudaStreamCreateWithPriority(&b, 0, 0);
  cudaEventCreateWithFlags(&e, 0);
  cudaMalloc(&v, 256);
  int *p = static_cast<int *>(v);
  cudaMemsetAsync(p, 0, 256, a);
  tfh::launch(a, "writer", dim3(1), dim3(32), 0, TF_KERNEL(lanes<true>(p)));
  cudaEventRecord(e, a);
  if (wait == kEarly) tfh::launch(a, "writer", dim3(1), dim3(32), 0, TF_KERNEL(lanes<true>(p)));
  if (wait == kEvent || wait == kEarly) cudaStreamWaitEvent(b, e, 0);
  if (wait == kHost) cudaEventSynchronize(e);
  tfh::launch(b, name, dim3(1), dim3(32), 0, TF_KERNEL(unwritten<false>(p)));
  cudaStreamSynchronize(a); /* too late: the other was queued before */
  const cudaError_t result = cudaStreamSynchronize(b);
  printf("%s|%s\n", name, result == cudaSuccess ? "ok" : cudaGetErrorString(result));
  cudaStreamDestroy(a);
  cudaStreamDestroy(b);
  cudaEventDestroy(e);
  cudaFree(v);
}

#define BOTH(name, kernel, ...)              \
  say(name, kernel<false>, __VA_ARGS__);     \
  say(name " (right)", kernel<true>, __VA_ARGS__)

int main() {
  BOTH("no barrier", neighbour, 1, 64, 256);
  BOTH("no barrier between rounds", rounds, 1, 64, 256);
  BOTH("a shuffle for a barrier", lanes, 1, 32, 128);
  BOTH("half a warp", halves, 1, 32, 128);
  BOTH("a warp's barrier for a block's", warps, 1, 64, 256);
  BOTH("a write among reads", readers, 1, 32, 128);
  BOTH("device memory without barrier", device_memory, 1, 64, 512);
  BOTH("blocks write one place", blocks_write, 4, 1, 64);
  BOTH("blocks read what others write", blocks_read, 4, 32, 64);
  BOTH("a block writes what others have read", blocks_read_first, 4, 32, 64);
  BOTH("not atomic", count, 2, 32, 64);
  BOTH("bytes of a word", bytes, 1, 64, 64);
  BOTH("a copy not waited for", waited, 1, 32, 1024);
  BOTH("a copy of another thread", waited_alone, 1, 32, 1024);
  say("a copy never waited for", never_waited, 1, 32, 1024);
  BOTH("beyond an allocation", beyond, 1, 33, 132);
  BOTH("before an allocation", before, 1, 1, 4);
  BOTH("beyond shared memory", beyond_shared, 1, 32, 128);
  BOTH("beyond the launch's shared memory", beyond_dynamic, 1, 32, 128, true, 128);
  say("memory of the host", of_the_host, 1, 1, 4);
  BOTH("misaligned", aligned, 1, 4, 80);
  BOTH("never written", unwritten, 1, 32, 128, false);
  BOTH("shared memory never written", unwritten_shared, 1, 32, 128);
  BOTH("two barriers", barriers, 1, 64, 256);
  streams("streams without event", kNothing);
  streams("streams with event, then not", kEarly);
  streams("streams with event (right)", kEvent);
  streams("streams by the host (right)", kHost);
  return 0;
}
