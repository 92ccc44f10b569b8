/* Matrices in few bits: expansion, and products that expand a part of the matrix at a time to the activations' type. */
#include "gemm.h"

namespace tf {
namespace {

constexpr int64_t kNF4Block = 64, kScaleBlock = 256;
/* Of an expanded part. */
constexpr int64_t kPartBytes = 64 << 20;

struct Packed {
  const uint8_t *codes, *scale_codes;
  const float *scales;
  int64_t rows, cols, blocks;
  int32_t kind;

  __device__ float nf4_scale(int64_t block) const {
    if (!scale_codes) return scales[block];
    /* Rounded after each step, as on the CPU. */
    return __fadd_rn(__fmul_rn(scales[scale_codes[block]], scales[256 + block / kScaleBlock]), scales[256 + (blocks + kScaleBlock - 1) / kScaleBlock]);
  }
};

/* The quantiles of the normal distribution of arXiv:2305.14314, appendix E. */
__device__ inline float nf4_value(int code) {
  const float table[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
                           -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                           0.44070982933044434f, 0.5626170036176941f, 0.7229568362236023f, 1.0f};
  return table[code];
}

/* y[r][c] = w[row0 + r][col0 + c], N neighbours of a row a thread. N is 1, or 8 and then lengths and col0 are multiples of 8. */
template <typename T, int N>
__global__ void __launch_bounds__(256) unpack_kernel(Packed w, int64_t row0, int64_t col0, T *y, int64_t ld, int64_t n, int64_t d) {
  TF_SHARED(float, table, 16);
  if (threadIdx.x < 16) table[threadIdx.x] = nf4_value((int)threadIdx.x);
  __syncthreads();
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, per_row = d / N, r = i / per_row, c = i % per_row * N;
  if (r >= n) return;
  const int64_t from = (row0 + r) * w.cols + col0 + c;
  vec<T, N> out;
  if (w.kind == TF_PACKED_INT8) {
    const float scale = w.scales[row0 + r];
    for (int k = 0; k < N; k++) out.v[k] = down<T>(__fmul_rn(__fmul_rn((float)(int8_t)w.codes[from + k], scale), 0.007874015718698502f));
  } else {
    const float scale = w.nf4_scale(from / kNF4Block); /* eight at a multiple of eight share it */
    for (int k = 0; k < N; k++) {
      const int64_t e = from + k;
      const uint8_t pair = w.codes[e / 2];
      out.v[k] = down<T>(__fmul_rn(table[e % 2 ? pair & 15 : pair >> 4], scale));
    }
  }
  *reinterpret_cast<vec<T, N> *>(y + r * ld + c) = out;
}

tf_status as_packed(tf_queue *q, const tf_packed &p, Packed *w) {
  if (p.rows < 1 || p.cols < 1) return fail(q, TF_EINVALID, "a packed matrix of %ld rows and %ld columns", (long)p.rows, (long)p.cols);
  if (p.kind != TF_PACKED_INT8 && p.kind != TF_PACKED_NF4) return fail(q, TF_EINVALID, "unknown kind of packed matrix %d", p.kind);
  const int64_t n = p.rows * p.cols, blocks = ceil_div(n, kNF4Block);
  *w = Packed{};
  w->rows = p.rows;
  w->cols = p.cols;
  w->blocks = blocks;
  w->kind = p.kind;
  const bool int8 = p.kind == TF_PACKED_INT8;
  uint8_t *codes, *scale_codes = nullptr;
  float *scales;
  TF_TRY(flat(q, p.codes, "codes", TF_U8, int8 ? n : ceil_div(n, 2), &codes));
  if (!int8) TF_TRY(maybe_flat(q, p.scale_codes, "scale codes", TF_U8, blocks, &scale_codes));
  TF_TRY(flat(q, p.scales, "scales", TF_F32, int8 ? p.rows : scale_codes ? 256 + ceil_div(blocks, kScaleBlock) + 1 : blocks, &scales));
  w->codes = codes;
  w->scale_codes = scale_codes;
  w->scales = scales;
  return TF_OK;
}

/* Rows row0.. and columns col0.. into y [n,d] of type dt. */
tf_status unpack(tf_queue *q, const Packed &w, int64_t row0, int64_t col0, void *y, int32_t dt, int64_t ld, int64_t n, int64_t d) {
  const bool wide = w.cols % 8 == 0 && col0 % 8 == 0 && d % 8 == 0 && ld % 8 == 0 && reinterpret_cast<uintptr_t>(y) % 32 == 0;
  return dispatch(q, dt, [&](auto t) {
    using T = decltype(t);
    const dim3 grid((unsigned)ceil_div(n * (wide ? d / 8 : d), 256));
    if (wide) return launch(q, "unpack", unpack_kernel<T, 8>, grid, dim3(256), 0, w, row0, col0, static_cast<T *>(y), ld, n, d);
    return launch(q, "unpack", unpack_kernel<T, 1>, grid, dim3(256), 0, w, row0, col0, static_cast<T *>(y), ld, n, d);
  });
}

/* How many of n rows (or columns), each of so many elements, are expanded at once. */
int64_t part(int64_t n, int64_t elements, int32_t dt) {
  int64_t fit = kPartBytes / (elements * dtype_size(dt)) / 64 * 64;
  if (fit < 64) fit = 64;
  return n < fit ? n : fit;
}

}  // namespace
}  // namespace tf

using namespace tf;

tf_status cuda_unpack(tf_queue *q, const tf_unpack *p) {
  Packed w;
  Rows y;
  TF_TRY(as_packed(q, p->w, &w));
  TF_TRY(rows(q, p->y, "y", &y));
  if (y.d != w.cols || y.ld < 0 || p->row0 < 0 || p->row0 + y.n > w.rows)
    return fail(q, TF_EINVALID, "rows %ld to %ld of %ld elements, w has %ld of %ld", (long)p->row0, (long)(p->row0 + y.n), (long)y.d, (long)w.rows, (long)w.cols);
  return unpack(q, w, p->row0, 0, y.p, y.dt, y.ld, y.n, y.d);
}

int64_t cuda_packed_gemm_ws(const tf_device *, const tf_packed_gemm *p) {
  if (p->w.rows < 1 || p->w.cols < 1 || !dtype_size(p->a.dtype)) return 0;
  const int64_t n = p->transposed ? p->w.cols : p->w.rows, elements = p->transposed ? p->w.rows : p->w.cols;
  return kGemmWorkspace + part(n, elements, p->a.dtype) * elements * dtype_size(p->a.dtype);
}

/* The parts are columns of c, whichever way w is taken, so that no sum is cut. */
tf_status cuda_packed_gemm(tf_queue *q, const tf_packed_gemm *p) {
  Packed w;
  Rows a, c;
  TF_TRY(as_packed(q, p->w, &w));
  TF_TRY(rows(q, p->a, "a", &a));
  TF_TRY(rows(q, p->c, "c", &c));
  const int64_t k = p->transposed ? w.rows : w.cols, n = p->transposed ? w.cols : w.rows;
  if (a.d != k || c.d != n || a.n != c.n || a.ld < 0 || c.ld < 0)
    return fail(q, TF_EINVALID, "a [%ld,%ld] and w [%ld,%ld] do not give c [%ld,%ld]", (long)a.n, (long)a.d, (long)w.rows, (long)w.cols, (long)c.n, (long)c.d);
  if (has(p->bias) && p->transposed) return fail(q, TF_EINVALID, "a product with the transposed matrix has no bias");
  float *bias;
  TF_TRY(maybe_flat(q, p->bias, "bias", TF_F32, n, &bias));
  const int64_t step = part(n, k, a.dt);
  void *expanded = work<void>(q, kGemmWorkspace);
  for (int64_t j = 0; j < n; j += step) {
    const int64_t here = n - j < step ? n - j : step;
    const int64_t ld = p->transposed ? here : k;
    TF_TRY(p->transposed ? unpack(q, w, 0, j, expanded, a.dt, ld, k, here) : unpack(q, w, j, 0, expanded, a.dt, ld, here, k));
    Gemm g;
    g.a = a.p;
    g.b = expanded;
    g.c = static_cast<char *>(c.p) + j * dtype_size(c.dt);
    g.at = g.bt = a.dt;
    g.ct = c.dt;
    g.m = a.n;
    g.n = here;
    g.k = k;
    g.ars = a.ld;
    g.acs = 1;
    g.brs = p->transposed ? ld : 1;
    g.bcs = p->transposed ? 1 : ld;
    g.crs = c.ld;
    g.bias = bias ? bias + j : nullptr;
    g.alpha = p->alpha;
    g.accumulate = p->accumulate;
    TF_TRY(gemm(q, g, work<void>(q)));
  }
  return TF_OK;
}
