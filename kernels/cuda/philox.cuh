/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the numbers of the CPU backend. */
#ifndef TUNEFLEET_CUDA_PHILOX_CUH
#define TUNEFLEET_CUDA_PHILOX_CUH

#include "device.cuh"

namespace tf {

struct Key {
  uint32_t k0, k1;
};

inline uint64_t splitmix(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

inline Key philox_key(uint64_t seed, uint64_t stream) {
  const uint64_t k = splitmix(seed ^ splitmix(stream));
  return Key{(uint32_t)k, (uint32_t)(k >> 32)};
}

__device__ inline void philox(uint64_t low, uint64_t high, Key k, uint32_t out[4]) {
  uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32), c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
  for (int r = 0; r < 10; r++) {
    const uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k.k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k.k1;
    c3 = l0;
    k.k0 += 0x9E3779B9u;
    k.k1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

}  // namespace tf

#endif
