/* Matrix products by cuBLASLt (none with TUNEFLEET_CUDA_BLAS=tiles: then our own kernel has them all).
 *
 * It thinks in columns: our c [m,n] by rows is its n x m matrix, so c = a b becomes c^T = b^T a^T: its A is our b, its B our a.
 *
 * The algorithm is the first that its heuristic names for (types, shapes, strides, true alignments, epilogue), which depends on these, the
 * card and the library's version only, and is kept for the device's life. Reductions by atomics are excluded, so the same call gives the same
 * bits every time. A product that the heuristic has nothing for is left to our own kernel. */
#include "lt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>

#include "cublaslt.h"

namespace tf {
namespace {

/* At the beginning of workspace: the bias in c's type. */
constexpr int64_t kBiasBytes = 2 << 20;
constexpr int kBiasAlign = 16;

/* A matrix as cuBLASLt sees it: by columns, transposed or not. */
struct View {
  int32_t op = lt::kOpN;
  uint64_t rows = 0, cols = 0;
  int64_t ld = 0, stride = 0;
};

/* All that the choice of an algorithm depends on; compared as bytes, so it has no padding. */
struct Key {
  int32_t types[3], ops[2], align[3], bias, accumulate, zero[2];
  int64_t m, n, k, batch, ld[3], stride[3];
};
static_assert(sizeof(Key) == 12 * 4 + 10 * 8, "padding would be compared");
struct Less {
  bool operator()(const Key &a, const Key &b) const { return memcmp(&a, &b, sizeof a) < 0; }
};

struct Plan {
  bool usable = false;
  lt::Desc desc = nullptr;
  lt::Layout a = nullptr, b = nullptr, c = nullptr;
  lt::Algo algo = {};
};

}  // namespace

struct Lt {
  std::mutex lock;
  lt::Functions f = {};
  lt::Handle handle = nullptr;
  std::string why; /* not empty: it could not be opened */
  bool unwanted = false;
  std::map<Key, Plan, Less> plans;
};

namespace {

/* Folders of TUNEFLEET_CUDA_DEPS, then where the loader looks. */
void *open_library(std::string *why) {
#ifdef TF_HOST
  std::string name = tfh_cublaslt();
#else
  std::string name = "libcublasLt.so." + std::to_string(TF_CUDA_VERSION / 1000);
#endif
  const char *folders = getenv("TUNEFLEET_CUDA_DEPS");
  for (std::string rest = folders ? folders : ""; !rest.empty();) {
    size_t colon = rest.find(':');
    std::string path = rest.substr(0, colon) + "/" + name;
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
    if (void *so = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return so;
  }
  void *so = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!so) *why = std::string("cuBLASLt cannot be opened: ") + dlerror() + "; install the cuBLAS of CUDA " + std::to_string(TF_CUDA_VERSION / 1000) + ", or name its folder in TUNEFLEET_CUDA_DEPS "
                      "(TUNEFLEET_CUDA_BLAS=tiles does without, many times slower)";
  return so;
}

/* With the device locked. */
Lt *open_lt() {
  Lt *l = new Lt;
  const char *blas = getenv("TUNEFLEET_CUDA_BLAS");
  if (blas && !strcmp(blas, "tiles")) {
    l->unwanted = true;
    return l;
  }
  void *so = open_library(&l->why);
  if (!so) return l;
#define TF_X(name)                                                                                         \
  l->f.name = reinterpret_cast<decltype(l->f.name)>(dlsym(so, "cublasLt" #name));                          \
  if (!l->f.name) {                                                                                        \
    l->why = "cuBLASLt has no cublasLt" #name;                                                             \
    return l;                                                                                              \
  }
  TF_LT_FUNCTIONS(TF_X)
#undef TF_X
  int st = l->f.Create(&l->handle);
  if (st) l->why = "cublasLtCreate failed with status " + std::to_string(st);
  return l;
}

bool type_of(int32_t dt, int *out) {
  switch (dt) {
    case TF_F32:
      *out = lt::kR32F;
      return true;
    case TF_BF16:
      *out = lt::kR16BF;
      return true;
    case TF_F16:
      *out = lt::kR16F;
      return true;
  }
  return false;
}

/* A matrix [r,c] of ours, transposed by being read by columns; false when its strides are none that cuBLASLt takes. */
bool view(int64_t r, int64_t c, int64_t rs, int64_t cs, int64_t stride, View *v) {
  v->stride = stride;
  if ((cs == 1 || c == 1) && (rs >= c || r == 1)) {
    *v = View{lt::kOpN, (uint64_t)c, (uint64_t)r, r == 1 ? c : rs, stride};
    return true;
  }
  if ((rs == 1 || r == 1) && (cs >= r || c == 1)) {
    *v = View{lt::kOpT, (uint64_t)r, (uint64_t)c, c == 1 ? r : cs, stride};
    return true;
  }
  return false;
}

/* What the address and, in a batch, the distance of matrices are multiples of, in bytes: at most 256. */
int32_t alignment(const void *p, int64_t stride, int64_t batch, int32_t dt) {
  uintptr_t v = reinterpret_cast<uintptr_t>(p) | 256;
  if (batch > 1) v |= (uintptr_t)(stride * dtype_size(dt));
  return (int32_t)(v & (~v + 1));
}

template <typename T>
__global__ void __launch_bounds__(256) bias_kernel(const float *bias, T *out, int64_t n) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = down<T>(bias[i]);
}

/* The bias in c's type, as the epilogue takes it. */
tf_status typed_bias(tf_queue *q, const Gemm &g, void *ws, const void **out) {
  *out = g.bias;
  if (g.ct == TF_F32 && reinterpret_cast<uintptr_t>(g.bias) % kBiasAlign == 0) return TF_OK;
  *out = ws;
  return dispatch(q, g.ct, [&](auto t) {
    using T = decltype(t);
    return launch(q, "bias", bias_kernel<T>, dim3((unsigned)ceil_div(g.n, 256)), dim3(256), 0, g.bias, static_cast<T *>(ws), g.n);
  });
}

struct Maker {
  Lt *l;
  int bad = 0;
  void ok(int st) {
    if (!bad) bad = st;
  }
  template <typename T>
  void desc(lt::Desc d, int attribute, T v) {
    ok(l->f.MatmulDescSetAttribute(d, attribute, &v, sizeof v));
  }
  template <typename T>
  void pref(lt::Preference p, int attribute, T v) {
    ok(l->f.MatmulPreferenceSetAttribute(p, attribute, &v, sizeof v));
  }
  lt::Layout layout(int type, const View &v, int64_t batch) {
    lt::Layout out = nullptr;
    ok(l->f.MatrixLayoutCreate(&out, type, v.rows, v.cols, v.ld));
    if (bad || batch == 1) return out;
    int32_t count = (int32_t)batch;
    ok(l->f.MatrixLayoutSetAttribute(out, lt::kLayoutBatchCount, &count, sizeof count));
    ok(l->f.MatrixLayoutSetAttribute(out, lt::kLayoutBatchStride, &v.stride, sizeof v.stride));
    return out;
  }
};

/* Asks the heuristic. An error is as good as no algorithm: our own kernel takes the product. */
Plan make_plan(Lt *l, const Key &k, const View v[3], const void *bias) {
  Maker m{l};
  Plan p;
  lt::Preference pref = nullptr;
  m.ok(l->f.MatmulDescCreate(&p.desc, lt::kCompute32F, lt::kR32F));
  if (m.bad) return p;
  m.desc(p.desc, lt::kDescTransA, k.ops[1]);
  m.desc(p.desc, lt::kDescTransB, k.ops[0]);
  if (bias) {
    m.desc(p.desc, lt::kDescEpilogue, (int32_t)lt::kEpilogueBias);
    m.desc(p.desc, lt::kDescBiasPointer, bias);
  }
  p.a = m.layout(k.types[0], v[0], k.batch);
  p.b = m.layout(k.types[1], v[1], k.batch);
  p.c = m.layout(k.types[2], v[2], k.batch);
  m.ok(l->f.MatmulPreferenceCreate(&pref));
  if (m.bad) return p;
  m.pref(pref, lt::kPrefMaxWorkspace, (uint64_t)(kGemmWorkspace - kBiasBytes));
  m.pref(pref, lt::kPrefReductions, (uint32_t)(lt::kReduceComputeType | lt::kReduceOutputType));
  m.pref(pref, lt::kPrefAlignA, (uint32_t)k.align[1]);
  m.pref(pref, lt::kPrefAlignB, (uint32_t)k.align[0]);
  m.pref(pref, lt::kPrefAlignC, (uint32_t)k.align[2]);
  m.pref(pref, lt::kPrefAlignD, (uint32_t)k.align[2]);
  lt::Heuristic h = {};
  int found = 0;
  m.ok(l->f.MatmulAlgoGetHeuristic(l->handle, p.desc, p.b, p.a, p.c, p.c, pref, 1, &h, &found));
  l->f.MatmulPreferenceDestroy(pref);
  p.usable = !m.bad && found > 0 && h.state == 0 && h.workspace <= (size_t)(kGemmWorkspace - kBiasBytes);
  p.algo = h.algo;
  return p;
}

}  // namespace

tf_status lt_gemm(tf_queue *q, const Gemm &g, void *ws, bool *done) {
  *done = false;
  int ta, tb, tc;
  View v[3];
  if (g.at != g.bt || (g.at == TF_F32 && g.ct != TF_F32) || (g.at != TF_F32 && g.ct != TF_F32 && g.ct != g.at)) return TF_OK;
  if (!type_of(g.at, &ta) || !type_of(g.bt, &tb) || !type_of(g.ct, &tc)) return TF_OK;
  if (g.k == 0 || g.batch > 0x7fffffff || (g.bias && g.n * dtype_size(g.ct) > kBiasBytes)) return TF_OK;
  if (!view(g.m, g.k, g.ars, g.acs, g.as, &v[0]) || !view(g.k, g.n, g.brs, g.bcs, g.bs, &v[1]) || !view(g.m, g.n, g.crs, 1, g.cs, &v[2])) return TF_OK;
  if (v[2].op != lt::kOpN) return TF_OK;
  Lt *l;
  {
    std::lock_guard<std::mutex> hold(q->d->lock);
    if (!q->d->lt) q->d->lt = open_lt();
    l = q->d->lt;
  }
  if (l->unwanted) return TF_OK;
  if (!l->why.empty()) return fail(q, TF_EUNSUPPORTED, "%s", l->why.c_str());
  const void *bias = nullptr;
  if (g.bias) TF_TRY(typed_bias(q, g, ws, &bias));
  const Key k{{ta, tb, tc},
          {v[0].op, v[1].op},
          {alignment(g.a, g.as, g.batch, g.at), alignment(g.b, g.bs, g.batch, g.bt), alignment(g.c, g.cs, g.batch, g.ct)},
          g.bias != nullptr,
          g.accumulate != 0,
          {0, 0},
          g.m,
          g.n,
          g.k,
          g.batch,
          {v[0].ld, v[1].ld, v[2].ld},
          {g.batch > 1 ? g.as : 0, g.batch > 1 ? g.bs : 0, g.batch > 1 ? g.cs : 0}};
  /* Descriptors are shared by the device's queues. */
  std::lock_guard<std::mutex> hold(l->lock);
  auto it = l->plans.find(k);
  if (it == l->plans.end()) it = l->plans.emplace(k, make_plan(l, k, v, bias)).first;
  const Plan &p = it->second;
  if (!p.usable) return TF_OK;
  if (bias && l->f.MatmulDescSetAttribute(p.desc, lt::kDescBiasPointer, &bias, sizeof bias)) return fail(q, TF_EINTERNAL, "cuBLASLt does not take the bias");
  const float beta = g.accumulate ? 1.0f : 0.0f;
  int st = l->f.Matmul(l->handle, p.desc, &g.alpha, g.b, p.b, g.a, p.a, &beta, g.c, p.c, g.c, p.c, &p.algo, static_cast<char *>(ws) + kBiasBytes,
                       (size_t)(kGemmWorkspace - kBiasBytes), q->stream);
  if (st) return fail(q, TF_EINTERNAL, "cublasLtMatmul of %ld x %ld x %ld failed with status %d", (long)g.m, (long)g.n, (long)g.k, st);
  *done = true;
  return TF_OK;
}

/* Declared in backend.cu. */
void close_lt(Lt *l) {
  for (auto &it : l->plans) {
    Plan &p = it.second;
    if (p.desc) l->f.MatmulDescDestroy(p.desc);
    for (lt::Layout x : {p.a, p.b, p.c})
      if (x) l->f.MatrixLayoutDestroy(x);
  }
  if (l->handle) l->f.Destroy(l->handle);
  delete l;
}

}  // namespace tf
