/* Kernels that do what a GPU does not allow, and some that are right: a line each with what the emulation says of them. */
#include <math.h>
#include <stdio.h>

#include "../../../cuda/device.cuh"
#include "../../../cuda/host/emulate.h"

using namespace tf;

static void say(const char *name, dim3 grid, dim3 block, size_t shared, std::function<void()> body) {
  std::string why;
  bool ok = tfh::run(name, grid, block, shared, body, &why);
  printf("%s|%s\n", name, ok ? "ok" : why.c_str());
}

static void verdict(const char *name, bool right) { printf("%s|%s\n", name, right ? "right" : "wrong"); }

int main() {
  const dim3 one(1), warp(32), two(64);
  say("half of a block at a barrier", one, two, 0, [] {
    if (threadIdx.x < 32) __syncthreads();
  });
  say("barriers apart", one, two, 0, [] {
    if (threadIdx.x < 32)
      __syncthreads();
    else
      __syncwarp();
    __syncthreads();
  });
  say("absent lanes", one, dim3(48), 0, [] { warp_reduce<Sum>(1.0f); });
  say("a lane that left", one, warp, 0, [] {
    if (threadIdx.x == 3) return;
    __shfl_xor_sync(kAll, 1, 1);
  });
  say("two collectives", one, warp, 0, [] {
    if (threadIdx.x % 2)
      __syncwarp();
    else
      __ballot_sync(kAll, 1);
  });
  say("outside of the mask", one, warp, 0, [] { __shfl_sync(0xffffu, 1, 0); });
  say("beyond an array", one, warp, 0, [] {
    TF_SHARED(float, a, 32);
    a[threadIdx.x + 1] = 1;
  });
  say("too much static memory", one, warp, 0, [] { TF_SHARED(float, a, 13000); (void)a; });

  /* After all these, right kernels give right results. */
  static float sums[64];
  say("sums", dim3(2), two, 0, [] {
    TF_SHARED(float, red, 32);
    sums[blockIdx.x * 32] = block_reduce<Sum>((float)threadIdx.x, red);
    float m = block_reduce<Max>((float)(threadIdx.x ^ 21), red);
    if (m != 63) sums[blockIdx.x * 32] = -1;
  });
  verdict("their values", sums[0] == 2016 && sums[32] == 2016);
  static int order[2][64], at;
  for (int launch = 0; launch < 2; launch++) {
    at = 0;
    say("order", one, two, 0, [launch] { order[launch][at++] = (int)threadIdx.x; });
  }
  verdict("both orders", order[0][0] != order[1][0] && order[0][0] == order[1][63]);
  static bool poisoned;
  say("new shared memory", one, warp, 256, [] {
    TF_SHARED_DYNAMIC(float, d);
    TF_SHARED(float, a, 4);
    poisoned = isnan(d[63]) && isnan(a[3]);
  });
  verdict("is NaN", poisoned);
  static unsigned ballot[2];
  say("halves of a warp", one, warp, 0, [] {
    bool low = threadIdx.x < 16;
    ballot[low] = __ballot_sync(low ? 0xffffu : 0xffff0000u, threadIdx.x % 2);
  });
  verdict("are apart", ballot[1] == 0xaaaau && ballot[0] == 0xaaaa0000u);

  /* Streams: nothing runs before something waits, events order, and an error stays with its stream. */
  cudaStream_t a, b;
  cudaEvent_t e;
  cudaStreamCreateWithPriority(&a, 0, 0);
  cudaStreamCreateWithPriority(&b, 0, 0);
  cudaEventCreateWithFlags(&e, 0);
  static int x, y;
  tfh::launch(a, "x", one, warp, 0, [] { x = 1; });
  verdict("streams are lazy", x == 0);
  cudaEventRecord(e, a);
  cudaStreamWaitEvent(b, e, 0);
  tfh::launch(b, "y", one, warp, 0, [] { y = x + 1; });
  bool fine = cudaStreamSynchronize(b) == cudaSuccess;
  verdict("events order streams", fine && x == 1 && y == 2);
  tfh::launch(a, "bad", one, two, 0, [] {
    if (threadIdx.x) __syncthreads();
  });
  tfh::launch(a, "after", one, warp, 0, [] { x = 5; });
  verdict("errors stay", cudaStreamSynchronize(a) != cudaSuccess && x == 1 && cudaStreamSynchronize(b) == cudaSuccess);

  /* Halves: every one of them to f32 and back; and what lies between two rounds to the even one. */
  bool same = true;
  for (unsigned h = 0; h < 0x10000; h++) {
    float f = host_f16_to_f32((uint16_t)h);
    if (!isnan(f)) same = same && host_f32_to_f16(f) == h;
  }
  verdict("halves come back", same);
  verdict("halves round to even", host_f32_to_f16(1 + 1.0f / 2048) == 0x3c00 && host_f32_to_f16(1 + 3.0f / 2048) == 0x3c02 && host_f32_to_f16(65519.9f) == 0x7bff &&
                                      host_f32_to_f16(65520) == 0x7c00 && host_f32_to_f16(ldexpf(1, -25)) == 0 && host_f32_to_f16(ldexpf(3, -25)) == 2);
  return 0;
}
