/* Optimizers of whole tensors: sums of squares over rows and columns, Adam-mini, Adafactor, and the parts of GaLore, APOLLO and Muon. Products
 * and sums are rounded one by one and sums have the CPU backend's order. */
#include "optimizer.cuh"

namespace tf {
namespace {

constexpr int kSumChunk = 4096; /* elements of a row that are added at a time */
constexpr int kSumThreads = 256, kSumLanes = 16;

inline int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }
inline int64_t sum_chunks(int64_t m) { return m <= kSumChunk ? 1 : ceil_div(m, kSumChunk); }
inline int64_t sum_part_rows(int64_t n) {
  const int64_t r = ceil_div(n, 128);
  return r < 32 ? 32 : r;
}
inline int64_t sum_parts(int64_t n) { return n <= 32 ? 1 : ceil_div(n, sum_part_rows(n)); }

struct Squares {
  const float *x;
  float scale, eps;
  const float *clip_dev;
  __device__ float factor() const { return clip_dev ? scale * *clip_dev : scale; }
};

__device__ inline double square(float x, float factor, float eps) {
  const float a = __fmul_rn(x, factor);
  return (double)__fadd_rn(__fmul_rn(a, a), eps);
}

/* 16 lanes a chunk of a row, which are added in order. */
__global__ void __launch_bounds__(kSumThreads) sqsum_rows_kernel(Squares s, int64_t m, int64_t chunks, int64_t units, double *partial) {
  TF_SHARED(double, lane, kSumThreads);
  const int64_t u = (int64_t)blockIdx.x * (kSumThreads / kSumLanes) + threadIdx.x / kSumLanes;
  const int l = (int)(threadIdx.x % kSumLanes);
  double t = 0;
  if (u < units) {
    const float factor = s.factor();
    const int64_t lo = u % chunks * kSumChunk, hi = lo + kSumChunk < m ? lo + kSumChunk : m;
    const float *x = s.x + u / chunks * m;
    for (int64_t i = lo + l; i < hi; i += kSumLanes) t += square(x[i], factor, s.eps);
  }
  lane[threadIdx.x] = t;
  __syncthreads();
  if (u >= units || l != 0) return;
  t = 0;
  for (int i = 0; i < kSumLanes; i++) t += lane[threadIdx.x + i];
  partial[u] = t;
}

/* A block a row: all load, the first thread adds in order. */
__global__ void __launch_bounds__(128) join_rows_kernel(const double *partial, int64_t chunks, double *out) {
  TF_SHARED(double, part, 128);
  const double *x = partial + (int64_t)blockIdx.x * chunks;
  double s = 0;
  for (int64_t i = 0; i < chunks; i += 128) {
    __syncthreads();
    if (i + threadIdx.x < chunks) part[threadIdx.x] = x[i + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int64_t k = 0; k < 128 && i + k < chunks; k++) s += part[k];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = s;
}

/* A thread has one column of a part of a matrix's rows. */
__global__ void __launch_bounds__(128) sqsum_cols_kernel(Squares s, int64_t n, int64_t m, int64_t part, double *partial) {
  const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= m) return;
  const float factor = s.factor();
  const int64_t first = blockIdx.y * part, last = first + part < n ? first + part : n;
  const float *x = s.x + (int64_t)blockIdx.z * n * m + c;
  double t = 0;
  for (int64_t r = first; r < last; r++) t += square(x[r * m], factor, s.eps);
  partial[((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * m + c] = t;
}

__global__ void __launch_bounds__(128) join_cols_kernel(const double *partial, int64_t parts, int64_t m, double *out) {
  const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= m) return;
  double s = 0;
  for (int64_t p = 0; p < parts; p++) s += partial[(blockIdx.z * parts + p) * m + c];
  out[(int64_t)blockIdx.z * m + c] = s;
}

inline int64_t row_sums_bytes(int64_t rows, int64_t m) { return sum_chunks(m) > 1 ? align(rows * sum_chunks(m) * 8) : 0; }

/* out[r] = the sum of squares of row r, with row_sums_bytes of workspace. */
tf_status row_sums(tf_queue *q, const Squares &s, int64_t rows, int64_t m, double *ws, double *out) {
  const int64_t chunks = sum_chunks(m), units = rows * chunks;
  TF_TRY(launch(q, "sqsum_rows", sqsum_rows_kernel, dim3((unsigned)ceil_div(units, kSumThreads / kSumLanes)), dim3(kSumThreads), 0, s, m, chunks, units,
                chunks > 1 ? ws : out));
  if (chunks == 1) return TF_OK;
  return launch(q, "join_rows", join_rows_kernel, dim3((unsigned)rows), dim3(128), 0, ws, chunks, out);
}

inline int64_t col_sums_bytes(int64_t b, int64_t n, int64_t m) { return sum_parts(n) > 1 ? align(b * sum_parts(n) * m * 8) : 0; }

/* out[k*m+c] = the sum of squares of column c of matrix k, with col_sums_bytes of workspace. */
tf_status col_sums(tf_queue *q, const Squares &s, int64_t b, int64_t n, int64_t m, double *ws, double *out) {
  const int64_t count = sum_parts(n);
  const dim3 grid((unsigned)ceil_div(m, 128), (unsigned)count, (unsigned)b);
  TF_TRY(launch(q, "sqsum_cols", sqsum_cols_kernel, grid, dim3(128), 0, s, n, m, sum_part_rows(n), count > 1 ? ws : out));
  if (count == 1) return TF_OK;
  return launch(q, "join_cols", join_cols_kernel, dim3(grid.x, 1, grid.z), dim3(128), 0, ws, count, m, out);
}

/* --- Adam-mini --------------------------------------------------------------------------------------------------------------------- */

struct Mini {
  float *p, *m, *v;
  const float *g;
  int64_t size, blocks, step;
  double beta1, beta2, eps;
  Factors f;
  const int64_t *step_dev;
  const int32_t *skip_dev;
};

/* Second moments from the sums, and the step's factor of each block. */
__global__ void __launch_bounds__(256) mini_blocks_kernel(Mini a, const double *sums, float *sizes, int32_t *trouble) {
  TF_SHARED(float, factor, 2);
  if (a.skip_dev && *a.skip_dev) return;
  const int64_t step = a.step_dev ? *a.step_dev : a.step;
  if (step < 1) {
    report(trouble, kBadStep);
    return;
  }
  if (threadIdx.x == 0) {
    factor[0] = (float)(1 / (1 - power(a.beta1, step)));
    factor[1] = (float)sqrt(1 - power(a.beta2, step));
  }
  __syncthreads();
  const int64_t b = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (b >= a.blocks) return;
  const float v = __fadd_rn(__fmul_rn(a.v[b], (float)a.beta2), __fmul_rn((float)(sums[b] / (double)a.size), (float)(1 - a.beta2)));
  a.v[b] = v;
  sizes[b] = factor[0] / __fadd_rn(sqrtf(v) / factor[1], (float)a.eps);
}

/* A block has a chunk of elements that share a moment. */
__global__ void __launch_bounds__(256) mini_kernel(Mini a, const float *sizes, int64_t chunks) {
  if (a.skip_dev && *a.skip_dev) return;
  if ((a.step_dev ? *a.step_dev : a.step) < 1) return;
  const double lr = a.f.rate();
  const float decay = (float)(1 - __dmul_rn(lr, a.f.weight_decay)), rate = (float)lr, scale = a.f.scale(), b1c = (float)(1 - a.beta1);
  const int64_t b = blockIdx.x / chunks, lo = blockIdx.x % chunks * kSumChunk, hi = lo + kSumChunk < a.size ? lo + kSumChunk : a.size;
  const float size = sizes[b];
  for (int64_t i = b * a.size + lo + threadIdx.x; i < b * a.size + hi; i += 256) {
    const float g = __fmul_rn(a.g[i], scale), m = __fadd_rn(a.m[i], __fmul_rn(b1c, __fadd_rn(g, -a.m[i])));
    a.m[i] = m;
    a.p[i] = __fadd_rn(__fmul_rn(a.p[i], decay), -__fmul_rn(__fmul_rn(m, size), rate));
  }
}

/* --- Adafactor --------------------------------------------------------------------------------------------------------------------- */

struct Ada {
  float *p, *g, *row, *col, *v, *m;
  int64_t b, rows, cols, n;
  double beta1, beta2, eps1, eps2, clip_threshold;
  Factors f;
  int32_t scale_parameter;
  const int32_t *skip_dev;
  double *sum_rows, *sum_cols, *sum_u, *sum_p; /* of squares: of rows and columns, of all of u, of all of p */
  float *r, *c;
};

/* A block a matrix: row means, their mean in 256 lanes, and each row's factor. */
__global__ void __launch_bounds__(256, 2) ada_rows_kernel(Ada a) {
  TF_SHARED(double, lane, 256);
  if (a.skip_dev && *a.skip_dev) return;
  const float b2 = (float)a.beta2, b2c = (float)(1 - a.beta2);
  const int64_t first = (int64_t)blockIdx.x * a.rows, last = first + a.rows;
  double s = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += 256) {
    const float v = __fadd_rn(__fmul_rn(a.row[i], b2), __fmul_rn((float)(a.sum_rows[i] / (double)a.cols), b2c));
    a.row[i] = v;
    s += (double)v;
  }
  lane[threadIdx.x] = s;
  __syncthreads();
  double mean = 0;
  for (int i = 0; i < 256; i++) mean += lane[i];
  mean /= (double)a.rows;
  for (int64_t i = first + threadIdx.x; i < last; i += 256) a.r[i] = (float)(1 / sqrt((double)a.row[i] / mean));
}

__global__ void __launch_bounds__(256) ada_cols_kernel(Ada a) {
  if (a.skip_dev && *a.skip_dev) return;
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.b * a.cols) return;
  const float v = __fadd_rn(__fmul_rn(a.col[i], (float)a.beta2), __fmul_rn((float)(a.sum_cols[i] / (double)a.rows), (float)(1 - a.beta2)));
  a.col[i] = v;
  a.c[i] = (float)(1 / sqrt((double)v));
}

/* g = u before it is clipped. A block has a chunk of a row. */
__global__ void __launch_bounds__(256) ada_scale_kernel(Ada a, int64_t chunks) {
  if (a.skip_dev && *a.skip_dev) return;
  const int64_t row = blockIdx.x / chunks, lo = blockIdx.x % chunks * kSumChunk, hi = lo + kSumChunk < a.cols ? lo + kSumChunk : a.cols;
  const float r = a.r[row], scale = a.f.scale(), *c = a.c + row / a.rows * a.cols;
  float *g = a.g + row * a.cols;
  for (int64_t i = lo + threadIdx.x; i < hi; i += 256) g[i] = __fmul_rn(__fmul_rn(r, c[i]), __fmul_rn(g[i], scale));
}

__global__ void __launch_bounds__(256) ada_vector_kernel(Ada a) {
  if (a.skip_dev && *a.skip_dev) return;
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.n) return;
  const float g = __fmul_rn(a.g[i], a.f.scale());
  const float v = __fadd_rn(__fmul_rn(a.v[i], (float)a.beta2), __fmul_rn(__fadd_rn(__fmul_rn(g, g), (float)a.eps1), (float)(1 - a.beta2)));
  a.v[i] = v;
  a.g[i] = __fmul_rn((float)(1 / sqrt((double)v)), g);
}

__device__ inline float rms(double sum, int64_t n) { return (float)((double)(float)sqrt(sum) / sqrt((double)n)); }

constexpr int kApplyEach = 8; /* a block's first thread works out the factors for so many elements a thread */

__global__ void __launch_bounds__(256) ada_apply_kernel(Ada a) {
  TF_SHARED(float, factor, 2);
  if (a.skip_dev && *a.skip_dev) return;
  if (threadIdx.x == 0) {
    const float over = rms(*a.sum_u, a.n) / (float)a.clip_threshold;
    double lr = a.f.rate();
    if (a.scale_parameter) {
      const double size = (double)rms(*a.sum_p, a.n);
      lr = __dmul_rn(lr, size < a.eps2 ? a.eps2 : size);
    }
    factor[0] = over < 1 ? 1 : over;
    factor[1] = (float)lr;
  }
  __syncthreads();
  const float shrink = factor[0], lr = factor[1], decay = __fmul_rn((float)-a.f.weight_decay, lr), b1 = (float)a.beta1, b1c = (float)(1 - a.beta1);
  int64_t i = (int64_t)blockIdx.x * 256 * kApplyEach + threadIdx.x;
  for (int k = 0; k < kApplyEach && i < a.n; k++, i += 256) {
    float u = __fmul_rn(a.g[i] / shrink, lr), p = a.p[i];
    if (a.m) {
      u = __fadd_rn(__fmul_rn(a.m[i], b1), __fmul_rn(u, b1c));
      a.m[i] = u;
    }
    if (decay != 0) p = __fadd_rn(p, __fmul_rn(p, decay));
    a.p[i] = __fadd_rn(p, -u);
  }
}

/* Workspace of adafactor: partial sums, the four kinds of sums, the factors of rows and columns. */
struct AdaPlace {
  int64_t b = 0, n = 0, m = 0, numel, rows, cols, all, r, c, bytes;
  explicit AdaPlace(const tf_adafactor *p) : numel(tf::numel(p->p)) {
    int64_t part = row_sums_bytes(1, numel);
    if (has(p->row)) {
      b = p->p.dim[0];
      n = p->p.dim[1];
      m = p->p.dim[2];
      const int64_t by_row = row_sums_bytes(b * n, m), by_col = col_sums_bytes(b, n, m);
      part = part > by_row ? part : by_row;
      part = part > by_col ? part : by_col;
    }
    rows = align(part);
    cols = rows + align(b * n * 8);
    all = cols + align(b * m * 8);
    r = all + 256;
    c = r + align(b * n * 4);
    bytes = c + align(b * m * 4);
  }
};

/* --- parts of optimizers in fewer dimensions --------------------------------------------------------------------------------------- */

struct Direction {
  const float *x;
  float *m, *v, *y;
  int64_t n;
  float beta1, beta1c, beta2, beta2c, eps, scale;
};

__global__ void __launch_bounds__(256) adam_dir_kernel(Direction a) {
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.n) return;
  const float g = __fmul_rn(a.x[i], a.scale);
  const float m = __fadd_rn(__fmul_rn(a.m[i], a.beta1), __fmul_rn(g, a.beta1c));
  const float v = __fadd_rn(__fmul_rn(a.v[i], a.beta2), __fmul_rn(__fmul_rn(g, g), a.beta2c));
  a.m[i] = m;
  a.v[i] = v;
  a.y[i] = m / __fadd_rn(sqrtf(v), a.eps);
}

/* A block has a chunk of a row. */
__global__ void __launch_bounds__(256) scale_rows_kernel(const float *x, const float *r, float *y, int64_t m, int64_t chunks) {
  const int64_t row = blockIdx.x / chunks, lo = blockIdx.x % chunks * kSumChunk, hi = lo + kSumChunk < m ? lo + kSumChunk : m;
  const float s = r[row];
  for (int64_t i = row * m + lo + threadIdx.x; i < row * m + hi; i += 256) y[i] = __fmul_rn(s, x[i]);
}

__global__ void __launch_bounds__(256) norm_ratio_kernel(const double *num, const double *den, float *y, int64_t n, float eps, float floor, bool half) {
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  float d = (float)sqrt(den[i]);
  if (half) d = up(down<bf16>(d));
  d = __fadd_rn(d, eps);
  y[i] = (num ? (float)sqrt(num[i]) : 1.0f) / (d < floor ? floor : d);
}

__global__ void norm_limit_kernel(const double *sumsq, float *last, float *y, float growth, float eps) {
  const float norm = (float)sqrt(*sumsq);
  float by = 1;
  if (*last > 0) {
    const float over = norm / __fadd_rn(*last, eps) / growth;
    by = over > 1 ? 1 / over : 1;
  }
  *y = by;
  *last = __fmul_rn(norm, by);
}

/* --- inner products of rows -------------------------------------------------------------------------------------------------------- */

constexpr int kGramTile = 16, kGramDepth = 32;

/* A block has a square of rows by rows up to the diagonal, and writes what it mirrors as well. A thread's 8 sums are the lanes. */
__global__ void __launch_bounds__(kGramTile *kGramTile) gram_kernel(const float *x, double *y, int64_t n, int64_t m) {
  TF_SHARED(float, a, kGramTile * (kGramDepth + 1));
  TF_SHARED(float, b, kGramTile * (kGramDepth + 1));
  if (blockIdx.x > blockIdx.y) return;
  const int i = (int)(threadIdx.x / kGramTile), j = (int)(threadIdx.x % kGramTile);
  const int64_t row = (int64_t)blockIdx.y * kGramTile, col = (int64_t)blockIdx.x * kGramTile;
  double lane[8] = {};
  for (int64_t k = 0; k < m; k += kGramDepth) {
    __syncthreads();
    for (int e = (int)threadIdx.x; e < kGramTile * kGramDepth; e += kGramTile * kGramTile) {
      const int r = e / kGramDepth, c = e % kGramDepth;
      const bool in = k + c < m;
      a[r * (kGramDepth + 1) + c] = in && row + r < n ? x[(row + r) * m + k + c] : 0;
      b[r * (kGramDepth + 1) + c] = in && col + r < n ? x[(col + r) * m + k + c] : 0;
    }
    __syncthreads();
    const int depth = m - k < kGramDepth ? (int)(m - k) : kGramDepth;
    if (depth == kGramDepth) {
      TF_UNROLL
      for (int c = 0; c < kGramDepth; c++) lane[c % 8] += (double)a[i * (kGramDepth + 1) + c] * (double)b[j * (kGramDepth + 1) + c];
    } else {
      TF_UNROLL
      for (int c = 0; c < kGramDepth; c++)
        if (c < depth) lane[c % 8] += (double)a[i * (kGramDepth + 1) + c] * (double)b[j * (kGramDepth + 1) + c];
    }
  }
  if (row + i >= n || col + j > row + i) return; /* in a square of the diagonal one thread writes both */
  double s = 0;
  TF_UNROLL
  for (int l = 0; l < 8; l++) s += lane[l];
  y[(row + i) * n + col + j] = s;
  y[(col + j) * n + row + i] = s;
}

}  // namespace
}  // namespace tf

using namespace tf;

int64_t cuda_sqsums_ws(const tf_device *, const tf_sqsums *p) {
  const int64_t *d = p->x.dim, rows = has(p->rows) ? row_sums_bytes(d[0] * d[1], d[2]) : 0;
  return rows + (has(p->cols) ? col_sums_bytes(d[0], d[1], d[2]) : 0);
}

tf_status cuda_sqsums(tf_queue *q, const tf_sqsums *p) {
  float *x;
  double *rows, *cols;
  TF_TRY(flat(q, p->x, "x", TF_F32, -1, &x));
  if (p->x.rank != 3) return fail(q, TF_EINVALID, "x has %d dimensions, 3 are needed", p->x.rank);
  const int64_t b = p->x.dim[0], n = p->x.dim[1], m = p->x.dim[2];
  TF_TRY(maybe_flat(q, p->rows, "rows", TF_F64, b * n, &rows));
  TF_TRY(maybe_flat(q, p->cols, "cols", TF_F64, b * m, &cols));
  const Squares s = {x, p->scale == 0 ? 1 : p->scale, p->eps, nullptr};
  if (rows) TF_TRY(row_sums(q, s, b * n, m, work<double>(q), rows));
  if (cols) TF_TRY(col_sums(q, s, b, n, m, work<double>(q, rows ? row_sums_bytes(b * n, m) : 0), cols));
  return TF_OK;
}

int64_t cuda_adam_mini_ws(const tf_device *, const tf_adam_mini *p) {
  const int64_t v = numel(p->v), blocks = v < 1 ? 1 : v;
  return align(blocks * 8) + align(blocks * 4) + row_sums_bytes(blocks, numel(p->p) / blocks);
}

tf_status cuda_adam_mini(tf_queue *q, const tf_adam_mini *p) {
  Mini a = {};
  float *g;
  TF_TRY(flat(q, p->p, "p", TF_F32, -1, &a.p));
  const int64_t n = numel(p->p);
  TF_TRY(flat(q, p->m, "m", TF_F32, n, &a.m));
  TF_TRY(flat(q, p->g, "g", TF_F32, n, &g));
  TF_TRY(flat(q, p->v, "v", TF_F32, -1, &a.v));
  a.blocks = numel(p->v);
  if (n == 0 || a.blocks == 0 || n % a.blocks) return fail(q, TF_EINVALID, "%ld elements cannot be cut into %ld blocks", (long)n, (long)a.blocks);
  if (!p->step_dev && !p->skip_dev && p->step < 1) return fail(q, TF_EINVALID, "step is %ld, the first is 1", (long)p->step);
  a.g = g;
  a.size = n / a.blocks;
  a.step = p->step;
  a.beta1 = p->beta1;
  a.beta2 = p->beta2;
  a.eps = p->eps;
  a.f = factors(p);
  a.step_dev = at<const int64_t>(p->step_dev);
  a.skip_dev = at<const int32_t>(p->skip_dev);
  double *sums = work<double>(q);
  float *sizes = work<float>(q, align(a.blocks * 8));
  const Squares s = {g, a.f.grad_scale, 0, a.f.clip_dev};
  TF_TRY(row_sums(q, s, a.blocks, a.size, work<double>(q, align(a.blocks * 8) + align(a.blocks * 4)), sums));
  TF_TRY(launch(q, "mini_blocks", mini_blocks_kernel, dim3((unsigned)ceil_div(a.blocks, 256)), dim3(256), 0, a, sums, sizes, q->trouble));
  const int64_t chunks = sum_chunks(a.size);
  return launch(q, "adam_mini", mini_kernel, dim3((unsigned)(a.blocks * chunks)), dim3(256), 0, a, sizes, chunks);
}

int64_t cuda_adafactor_ws(const tf_device *, const tf_adafactor *p) { return AdaPlace(p).bytes; }

tf_status cuda_adafactor(tf_queue *q, const tf_adafactor *p) {
  Ada a = {};
  TF_TRY(flat(q, p->p, "p", TF_F32, -1, &a.p));
  a.n = numel(p->p);
  TF_TRY(flat(q, p->g, "g", TF_F32, a.n, &a.g));
  if (has(p->row) == has(p->v)) return fail(q, TF_EINVALID, "either row and col or v are needed");
  if (has(p->row) && p->p.rank != 3) return fail(q, TF_EINVALID, "p has %d dimensions, 3 are needed", p->p.rank);
  const AdaPlace w(p);
  if (has(p->row)) {
    TF_TRY(flat(q, p->row, "row", TF_F32, w.b * w.n, &a.row));
    TF_TRY(flat(q, p->col, "col", TF_F32, w.b * w.m, &a.col));
  } else {
    TF_TRY(flat(q, p->v, "v", TF_F32, a.n, &a.v));
  }
  TF_TRY(maybe_flat(q, p->m, "m", TF_F32, a.n, &a.m));
  if (a.n == 0) return TF_OK;
  a.b = w.b;
  a.rows = w.n;
  a.cols = w.m;
  a.beta1 = p->beta1;
  a.beta2 = p->beta2;
  a.eps1 = p->eps1;
  a.eps2 = p->eps2;
  a.clip_threshold = p->clip_threshold;
  a.f = factors(p);
  a.scale_parameter = p->scale_parameter;
  a.skip_dev = at<const int32_t>(p->skip_dev);
  double *part = work<double>(q);
  a.sum_rows = work<double>(q, w.rows);
  a.sum_cols = work<double>(q, w.cols);
  a.sum_u = work<double>(q, w.all);
  a.sum_p = a.sum_u + 1;
  a.r = work<float>(q, w.r);
  a.c = work<float>(q, w.c);
  if (a.scale_parameter) TF_TRY(row_sums(q, Squares{a.p, 1, 0, nullptr}, 1, a.n, part, a.sum_p));
  if (a.row) {
    const Squares s = {a.g, a.f.grad_scale, (float)a.eps1, a.f.clip_dev};
    TF_TRY(row_sums(q, s, a.b * a.rows, a.cols, part, a.sum_rows));
    TF_TRY(col_sums(q, s, a.b, a.rows, a.cols, part, a.sum_cols));
    TF_TRY(launch(q, "adafactor_rows", ada_rows_kernel, dim3((unsigned)a.b), dim3(256), 0, a));
    TF_TRY(launch(q, "adafactor_cols", ada_cols_kernel, dim3((unsigned)ceil_div(a.b * a.cols, 256)), dim3(256), 0, a));
    const int64_t chunks = sum_chunks(a.cols);
    TF_TRY(launch(q, "adafactor_scale", ada_scale_kernel, dim3((unsigned)(a.b * a.rows * chunks)), dim3(256), 0, a, chunks));
  } else {
    TF_TRY(launch(q, "adafactor_vector", ada_vector_kernel, dim3((unsigned)ceil_div(a.n, 256)), dim3(256), 0, a));
  }
  TF_TRY(row_sums(q, Squares{a.g, 1, 0, nullptr}, 1, a.n, part, a.sum_u));
  return launch(q, "adafactor_apply", ada_apply_kernel, dim3((unsigned)ceil_div(a.n, 256 * kApplyEach)), dim3(256), 0, a);
}

tf_status cuda_adam_dir(tf_queue *q, const tf_adam_dir *p) {
  Direction a = {};
  float *x;
  TF_TRY(flat(q, p->x, "x", TF_F32, -1, &x));
  a.n = numel(p->x);
  TF_TRY(flat(q, p->m, "m", TF_F32, a.n, &a.m));
  TF_TRY(flat(q, p->v, "v", TF_F32, a.n, &a.v));
  TF_TRY(flat(q, p->y, "y", TF_F32, a.n, &a.y));
  a.x = x;
  a.beta1 = (float)p->beta1;
  a.beta1c = (float)(1 - p->beta1);
  a.beta2 = (float)p->beta2;
  a.beta2c = (float)(1 - p->beta2);
  a.eps = (float)p->eps;
  a.scale = p->scale == 0 ? 1 : p->scale;
  return launch(q, "adam_dir", adam_dir_kernel, dim3((unsigned)ceil_div(a.n, 256)), dim3(256), 0, a);
}

tf_status cuda_scale_rows(tf_queue *q, const tf_scale_rows *p) {
  float *x, *r, *y;
  TF_TRY(flat(q, p->x, "x", TF_F32, -1, &x));
  if (p->x.rank != 2) return fail(q, TF_EINVALID, "x has %d dimensions, 2 are needed", p->x.rank);
  const int64_t n = p->x.dim[0], m = p->x.dim[1], chunks = sum_chunks(m);
  TF_TRY(flat(q, p->r, "r", TF_F32, n, &r));
  TF_TRY(flat(q, p->y, "y", TF_F32, n * m, &y));
  return launch(q, "scale_rows", scale_rows_kernel, dim3((unsigned)(n * chunks)), dim3(256), 0, x, r, y, m, chunks);
}

tf_status cuda_norm_ratio(tf_queue *q, const tf_norm_ratio *p) {
  double *num, *den;
  float *y;
  TF_TRY(flat(q, p->den, "den", TF_F64, -1, &den));
  const int64_t n = numel(p->den);
  TF_TRY(maybe_flat(q, p->num, "num", TF_F64, n, &num));
  TF_TRY(flat(q, p->y, "y", TF_F32, n, &y));
  if (p->dtype && p->dtype != TF_F32 && p->dtype != TF_BF16) return fail(q, TF_EUNSUPPORTED, "roots of element type %d", p->dtype);
  return launch(q, "norm_ratio", norm_ratio_kernel, dim3((unsigned)ceil_div(n, 256)), dim3(256), 0, num, den, y, n, p->eps, p->floor, p->dtype == TF_BF16);
}

tf_status cuda_norm_limit(tf_queue *q, const tf_norm_limit *p) {
  double *sumsq;
  float *last, *y;
  TF_TRY(flat(q, p->sumsq, "sumsq", TF_F64, 1, &sumsq));
  TF_TRY(flat(q, p->last, "last", TF_F32, 1, &last));
  TF_TRY(flat(q, p->y, "y", TF_F32, 1, &y));
  return launch(q, "norm_limit", norm_limit_kernel, dim3(1), dim3(1), 0, sumsq, last, y, p->growth, p->eps);
}

tf_status cuda_gram(tf_queue *q, const tf_gram *p) {
  float *x;
  double *y;
  TF_TRY(flat(q, p->x, "x", TF_F32, -1, &x));
  if (p->x.rank != 2) return fail(q, TF_EINVALID, "x has %d dimensions, 2 are needed", p->x.rank);
  const int64_t n = p->x.dim[0];
  TF_TRY(flat(q, p->y, "y", TF_F64, n * n, &y));
  if (n == 0) return TF_OK;
  const unsigned tiles = (unsigned)ceil_div(n, kGramTile);
  return launch(q, "gram", gram_kernel, dim3(tiles, tiles), dim3(kGramTile * kGramTile), 0, x, y, n, p->x.dim[1]);
}
