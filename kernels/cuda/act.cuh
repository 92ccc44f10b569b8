/* Activations and their derivatives, in f32. */
#ifndef TUNEFLEET_CUDA_ACT_CUH
#define TUNEFLEET_CUDA_ACT_CUH

#include "device.cuh"

namespace tf {

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* act(x) for TF_ACT_*, and its derivative in *g. */
__device__ inline float act(int32_t kind, float x, float *g) {
  switch (kind) {
    case TF_ACT_SILU: {
      const float s = sigmoid(x);
      *g = s * fmaf(x, 1.0f - s, 1.0f);
      return x * s;
    }
    case TF_ACT_GELU_TANH: {
      const float k = 0.79788456080286536f, c = 0.044715f, x2 = x * x;
      const float t = tanhf(k * fmaf(c * x2, x, x)), h = fmaf(0.5f, t, 0.5f);
      *g = fmaf(0.5f * x * fmaf(-t, t, 1.0f), k * fmaf(3.0f * c, x2, 1.0f), h);
      return x * h;
    }
    case TF_ACT_GELU_ERF: {
      const float h = fmaf(0.5f, erff(x * 0.70710678118654752f), 0.5f);
      *g = fmaf(x, 0.39894228040143268f * expf(-0.5f * x * x), h);
      return x * h;
    }
    case TF_ACT_RELU:
      *g = x > 0 ? 1.0f : 0.0f;
      return x < 0 ? 0.0f : x;
    case TF_ACT_RELU2: {
      const float y = x < 0 ? 0.0f : x;
      *g = y + y;
      return y * y;
    }
    default: {
      const float t = tanhf(x);
      *g = fmaf(-t, t, 1.0f);
      return t;
    }
  }
}

}  // namespace tf

#endif
