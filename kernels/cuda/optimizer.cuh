/* What optimizers share. */
#ifndef TUNEFLEET_CUDA_OPTIMIZER_CUH
#define TUNEFLEET_CUDA_OPTIMIZER_CUH

#include "rows.cuh"

namespace tf {

/* b^n by squaring, as the CPU backend does: no product may become part of an fma. */
__device__ inline double power(double b, int64_t n) {
  double r = 1;
  for (; n > 0; n /= 2) {
    if (n & 1) r = __dmul_rn(r, b);
    b = __dmul_rn(b, b);
  }
  return r;
}

/* What the optimizers that round every product and sum share of a step. */
struct Factors {
  double lr, weight_decay;
  float grad_scale;
  const float *lr_dev, *clip_dev;
  __device__ double rate() const { return lr_dev ? lr * (double)*lr_dev : lr; }
  __device__ float scale() const { return clip_dev ? grad_scale * *clip_dev : grad_scale; }
};

/* The factors of a step that they are given alike. */
template <typename P>
inline Factors factors(const P *p) {
  return Factors{p->lr, p->weight_decay, p->grad_scale == 0 ? 1 : p->grad_scale, at<const float>(p->lr_dev), at<const float>(p->clip_dev)};
}

}  // namespace tf

#endif
