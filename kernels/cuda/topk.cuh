/* An order of values and their places in one number: greater values are greater, equal ones by lower place. */
#ifndef TUNEFLEET_CUDA_TOPK_CUH
#define TUNEFLEET_CUDA_TOPK_CUH

#include "device.cuh"

namespace tf {

/* A NaN comes last. No key is 0 or ~0, so those bound them. */
__device__ inline uint64_t rank_key(float v, uint32_t id) {
  if (v != v) return (uint64_t)1 << 32 | (uint32_t)~id;
  const uint32_t u = float_bits(v + 0.0f); /* -0 is 0 */
  return (uint64_t)(u >> 31 ? ~u : u | 0x80000000u) << 32 | (uint32_t)~id;
}
__device__ inline uint32_t rank_id(uint64_t key) { return ~(uint32_t)key; }

}  // namespace tf

#endif
