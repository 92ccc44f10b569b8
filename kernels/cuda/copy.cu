/* Copies with conversion, and fills, of any strides. */
#include <string.h>

#include "rows.cuh"

namespace tf {
namespace {

/* A shape with the strides of two tensors; dimensions that continue each other are one. */
struct Walk {
  int64_t n, dim[TF_MAX_RANK], xs[TF_MAX_RANK], ys[TF_MAX_RANK];
  int rank;

  /* Element i of both. */
  __device__ void at(int64_t i, int64_t *x, int64_t *y) const {
    int64_t xo = 0, yo = 0;
    for (int k = rank - 1; k > 0; k--) {
      const int64_t c = i % dim[k];
      i /= dim[k];
      xo += c * xs[k];
      yo += c * ys[k];
    }
    *x = xo + i * xs[0];
    *y = yo + i * ys[0];
  }
};

Walk walk(const tf_tensor &y, const int64_t *xstride) {
  Walk w = {};
  w.n = 1;
  w.rank = 1;
  w.dim[0] = 1;
  for (int k = 0; k < y.rank; k++) {
    const int64_t d = y.dim[k], xs = xstride ? xstride[k] : 0, ys = y.stride[k];
    w.n *= d;
    if (d == 1) continue;
    const int l = w.rank - 1;
    if (w.dim[l] == 1) {
      w.dim[l] = d;
      w.xs[l] = xs;
      w.ys[l] = ys;
    } else if (w.xs[l] == d * xs && w.ys[l] == d * ys) {
      w.dim[l] *= d;
      w.xs[l] = xs;
      w.ys[l] = ys;
    } else {
      w.dim[l + 1] = d;
      w.xs[l + 1] = xs;
      w.ys[l + 1] = ys;
      w.rank++;
    }
  }
  return w;
}

__device__ inline float from(double v) { return (float)v; }
__device__ inline float from(float v) { return v; }
__device__ inline float from(bf16 v) { return up(v); }
__device__ inline float from(f16 v) { return up(v); }

template <typename D>
struct To {
  __device__ static D as(float v) { return down<D>(v); }
};
template <>
struct To<double> {
  __device__ static double as(float v) { return (double)v; }
};

template <typename S, typename D>
__global__ void __launch_bounds__(256) convert_kernel(const S *x, D *y, Walk w) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= w.n) return;
  int64_t xi, yi;
  w.at(i, &xi, &yi);
  y[yi] = To<D>::as(from(x[xi]));
}

/* Contiguous ones, 4 elements a thread. */
template <typename S, typename D>
__global__ void __launch_bounds__(256) convert4_kernel(const S *x, D *y, int64_t n) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n / 4) return;
  const vec<S, 4> a = reinterpret_cast<const vec<S, 4> *>(x)[i];
  vec<D, 4> b;
  for (int k = 0; k < 4; k++) b.v[k] = To<D>::as(from(a.v[k]));
  reinterpret_cast<vec<D, 4> *>(y)[i] = b;
}

template <typename S>
__global__ void __launch_bounds__(256) move_kernel(const S *x, S *y, Walk w) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= w.n) return;
  int64_t xi, yi;
  w.at(i, &xi, &yi);
  y[yi] = x[xi];
}

template <typename S>
__global__ void __launch_bounds__(256) fill_kernel(S value, S *y, Walk w) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= w.n) return;
  int64_t xi, yi;
  w.at(i, &xi, &yi);
  y[yi] = value;
}

dim3 blocks(int64_t n) { return dim3((unsigned)ceil_div(n, 256)); }

/* Calls f with an unsigned number of so many bytes. */
template <typename F>
tf_status by_size(tf_queue *q, int64_t size, F f) {
  switch (size) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    case 8:
      return f(uint64_t{});
  }
  return fail(q, TF_EUNSUPPORTED, "elements of %ld bytes", (long)size);
}

template <typename F>
tf_status by_float(tf_queue *q, int32_t dt, F f) {
  if (dt == TF_F64) return f(double{});
  return dispatch(q, dt, f);
}

bool is_float(int32_t dt) { return dt >= TF_F32 && dt <= TF_F16; }

template <typename S, typename D>
tf_status convert(tf_queue *q, const tf_copy *p, bool whole) {
  const S *x = at<const S>(p->x.data);
  D *y = at<D>(p->y.data);
  const int64_t n = numel(p->y);
  if (whole && n % 4 == 0 && p->x.data % (4 * sizeof(S)) == 0 && p->y.data % (4 * sizeof(D)) == 0)
    return launch(q, "convert4", convert4_kernel<S, D>, blocks(n / 4), dim3(256), 0, x, y, n);
  return launch(q, "convert", convert_kernel<S, D>, blocks(n), dim3(256), 0, x, y, walk(p->y, p->x.stride));
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_copy(tf_queue *q, const tf_copy *p) {
  const tf_tensor &x = p->x, &y = p->y;
  if (!x.data || !y.data || x.rank < 0 || x.rank != y.rank || memcmp(x.dim, y.dim, (size_t)x.rank * sizeof(int64_t)))
    return fail(q, TF_EINVALID, "x and y differ in their dimensions or are absent");
  if (!dtype_size(x.dtype) || (x.dtype != y.dtype && !(is_float(x.dtype) && is_float(y.dtype))))
    return fail(q, TF_EUNSUPPORTED, "no conversion from type %d to %d", x.dtype, y.dtype);
  const int64_t n = numel(y), size = dtype_size(x.dtype);
  if (n == 0) return TF_OK;
  const bool whole = contiguous(x) && contiguous(y);
  if (x.dtype == y.dtype) {
    if (whole)
      return check(q, cudaMemcpyAsync(at<void>(y.data), at<const void>(x.data), (size_t)(n * size), cudaMemcpyDeviceToDevice, q->stream), "copy");
    return by_size(q, size, [&](auto t) {
      using S = decltype(t);
      return launch(q, "move", move_kernel<S>, blocks(n), dim3(256), 0, at<const S>(x.data), at<S>(y.data), walk(y, x.stride));
    });
  }
  return by_float(q, x.dtype, [&](auto s) {
    using S = decltype(s);
    return by_float(q, y.dtype, [&](auto d) { return convert<S, decltype(d)>(q, p, whole); });
  });
}

static uint16_t bf16_bits(float f) {
  uint32_t u = float_bits(f);
  if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* To nearest even. */
static uint16_t half_bits(float f) {
  uint32_t u = float_bits(f);
  const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return sign | 0x7e00;
  if (u >= 0x477ff000) return sign | 0x7c00;
  /* Subnormal: adding 0.5 leaves the rounded mantissa in the low bits. */
  if (u < 0x38800000) return sign | (uint16_t)(float_bits(bits_float(u) + 0.5f) - 0x3f000000);
  u += 0xc8000fff + (u >> 13 & 1);
  return sign | (uint16_t)(u >> 13);
}

/* The bits of v as an element of this type. */
static uint64_t element_bits(int32_t dtype, double v) {
  uint64_t u = 0;
  switch (dtype) {
    case TF_F32:
      return float_bits((float)v);
    case TF_F64:
      memcpy(&u, &v, 8);
      return u;
    case TF_BF16:
      return bf16_bits((float)v);
    case TF_F16:
      return half_bits((float)v);
    case TF_I32:
      return (uint32_t)(int32_t)v;
    case TF_I64:
      return (uint64_t)(int64_t)v;
    case TF_U8:
      return (uint8_t)v;
    default:
      return (uint8_t)(int8_t)v;
  }
}

tf_status cuda_fill(tf_queue *q, const tf_fill *p) {
  const tf_tensor &y = p->y;
  const int64_t size = dtype_size(y.dtype);
  if (!y.data || y.rank < 0 || !size) return fail(q, TF_EINVALID, "y is absent or not a valid view");
  const int64_t n = numel(y);
  if (n == 0) return TF_OK;
  const uint64_t bits = element_bits(y.dtype, p->value);
  if (bits == 0 && contiguous(y)) return check(q, cudaMemsetAsync(at<void>(y.data), 0, (size_t)(n * size), q->stream), "fill");
  return by_size(q, size, [&](auto t) {
    using S = decltype(t);
    return launch(q, "fill", fill_kernel<S>, blocks(n), dim3(256), 0, (S)bits, at<S>(y.data), walk(y, nullptr));
  });
}
