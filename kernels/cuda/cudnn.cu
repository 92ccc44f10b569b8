/* Attention by cuDNN where it can be trusted (none with TUNEFLEET_CUDA_ATTENTION=tiles: then our own kernels have it all; with =cudnn a library
 * that is missing or fails its test is an error, so that a check of it cannot pass without it).
 *
 * A call is cuDNN's when all of this holds, and ours otherwise. What decides are shapes, masks, the card and the library's version, never
 * contents or times, so the same call gives the same bits every time:
 *  - bf16 or f16, heads of a multiple of 8 elements, up to 256; rows of 16 bytes' alignment; no softcap, sinks, bias, dropout, key mask or
 *    positions of a cache; causal, a window of it, or neither; 128 queries and keys or more.
 *  - their numbers are multiples of 128, and nothing but the mask hides keys; or, on cards from 9.0 on, the row holds sequences that begin and end
 *    somewhere: up to 64 packed documents (cu_seqlens), padding (kv_first, kv_last), or a row that is no multiple of 128. cuDNN is then given the
 *    next multiple and the lengths: a plan is compiled for each shape, which takes a second, and this way there are few. For the same reason the
 *    number of documents is rounded up to a power of two, with empty ones.
 *  - backward: all three gradients are wanted, none is added to what is there, and the card is older than 10.0, where cuDNN gives the same bits
 *    with an engine of its own only.
 *  - the library is new enough, and one of its engines builds a plan that it does not call nondeterministic. Gradients of queries are then
 *    written, not added up in the order of whoever comes: that takes b * heads * queries * keys * 2 bytes of workspace, so the call is cut into
 *    kv heads until a piece needs at most a GiB.
 *  - for this (type, head, mask), a small random problem gave what our own kernel gives, within the limits of the operation suite, twice the
 *    same bits. This is tried once, before the first use.
 *
 * The statistics of the forward pass are the same in both, the natural logarithm of the sum of exponents, [b,hq,tq]. So each pass is chosen for
 * itself: cuDNN's backward takes what our forward left, and the other way round. */
#include "cudnn.h"

#include <dirent.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>

#include "attn.cuh"
#include "cudnn_graph.h"
#include "cudnn_ranges.h"

namespace tf {

using dnn::Sdpa;

namespace {

constexpr int64_t kUnit = 128;                    /* lengths are multiples of it */
constexpr int64_t kLongestHead = 256;
constexpr int64_t kMostDocuments = 64;

/* Bytes that one piece of a backward may take. */
int64_t most_workspace() {
#ifdef TF_HOST
  return tfh_cudnn_workspace();
#else
  return (int64_t)1 << 30;
#endif
}

/* What a numeric test is for; compared as bytes. */
struct Kind {
  int32_t type, backward, causal, window;
  int32_t ranges; /* kWhole, kDocuments or kPadded */
  int32_t grouped;
  int64_t d_qk, d_v;
};
enum { kWhole, kDocuments, kPadded };

/* A call, as it is looked up. */
struct Call {
  Sdpa s;
  Kind kind;
};

template <typename T>
struct Less {
  bool operator()(const T &a, const T &b) const { return memcmp(&a, &b, sizeof a) < 0; }
};

}  // namespace

struct Dnn {
  std::mutex lock; /* of all: cuDNN's handle has one stream at a time */
  dnn::Functions f = {};
  dnn::Handle handle = nullptr;
  std::string why; /* not empty: it could not be opened */
  bool unwanted = false, wanted = false;
  std::map<Sdpa, dnn::Plan, Less<Sdpa>> plans;
  std::map<Kind, std::string, Less<Kind>> tests; /* why not; empty: it passed */
};

namespace {

/* --- the library ------------------------------------------------------------------------------------------------------------------------- */

/* Folders of TUNEFLEET_CUDA_DEPS. */
std::vector<std::string> folders() {
  std::vector<std::string> out;
  const char *all = getenv("TUNEFLEET_CUDA_DEPS");
  for (std::string rest = all ? all : ""; !rest.empty();) {
    size_t colon = rest.find(':');
    if (colon) out.push_back(rest.substr(0, colon));
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
  return out;
}

/* There, then where the loader looks. */
void *open_library(const std::string &name, std::string *why) {
  for (const std::string &f : folders())
    if (void *so = dlopen((f + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return so;
  void *so = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!so && why->empty()) *why = std::string("cuDNN cannot be opened: ") + dlerror();
  return so;
}

/* What cuDNN opens by itself and by name alone, from our folders. Without cuBLASLt it ends the process; without its compiler no plan is built. */
bool open_needed(const std::string &major, std::string *why) {
#ifdef TF_HOST
  (void)major;
  (void)why;
  return true;
#else
  for (const std::string &f : folders())
    if (DIR *dir = opendir(f.c_str())) {
      while (dirent *e = readdir(dir))
        if (!strncmp(e->d_name, "libnvrtc-builtins.so.", 21)) dlopen((f + "/" + e->d_name).c_str(), RTLD_NOW | RTLD_LOCAL);
      closedir(dir);
    }
  return open_library("libcublasLt.so." + major, why) && open_library("libnvrtc.so." + major, why);
#endif
}

std::string version_name(int64_t v) { return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100); }

struct Library {
  dnn::Functions f = {};
  int64_t version = 0;
  std::string why;
};

/* The library itself, which is small: its parts are opened when it is used. */
Library load() {
  Library l;
#ifdef TF_HOST
  void *so = open_library(tfh_cudnn(), &l.why);
#else
  void *so = open_library("libcudnn.so.9", &l.why);
#endif
  const std::string cuda = std::to_string(TF_CUDA_VERSION / 1000);
  if (!so) {
    l.why += "; install cuDNN 9 for CUDA " + cuda + " (the wheel nvidia-cudnn-cu" + cuda + "), or name its folder in TUNEFLEET_CUDA_DEPS";
    return l;
  }
#define TF_X(name)                                                               \
  l.f.name = reinterpret_cast<decltype(l.f.name)>(dlsym(so, "cudnn" #name));     \
  if (!l.f.name && l.why.empty()) l.why = "cuDNN has no cudnn" #name;
  TF_DNN_FUNCTIONS(TF_X)
#undef TF_X
  if (!l.why.empty()) return l;
  l.version = (int64_t)l.f.GetVersion();
  const int64_t built = (int64_t)l.f.GetCudartVersion() / 1000;
  if (l.version < dnn::kOldest)
    l.why = "cuDNN " + version_name(l.version) + " is too old, " + version_name(dnn::kOldest) + " is the least";
  else if (built != TF_CUDA_VERSION / 1000)
    l.why = "cuDNN " + version_name(l.version) + " is made for CUDA " + std::to_string(built) + ", not " + cuda;
  return l;
}

const char *choice() {
  const char *v = getenv("TUNEFLEET_CUDA_ATTENTION");
  return v ? v : "";
}

Dnn *open_dnn(const tf_device *d) {
  Dnn *n = new Dnn;
  n->unwanted = !strcmp(choice(), "tiles");
  n->wanted = !strcmp(choice(), "cudnn");
  if (n->unwanted) return n;
  Library l = load();
  n->f = l.f;
  n->why = l.why;
  if (!n->why.empty() || !open_needed(std::to_string(TF_CUDA_VERSION / 1000), &n->why)) return n;
  cudaSetDevice(d->index);
  int st = n->f.Create(&n->handle);
  if (st) n->why = std::string("cudnnCreate: ") + n->f.GetErrorString(st);
  return n;
}

/* The device's, opened if it has not been. Which library there is is asked of a device that is otherwise only looked at. */
Dnn *of(const tf_device *device) {
  tf_device *d = const_cast<tf_device *>(device);
  std::lock_guard<std::mutex> hold(d->lock);
  if (!d->dnn) d->dnn = open_dnn(d);
  return d->dnn;
}

/* --- what a call is ---------------------------------------------------------------------------------------------------------------------- */

bool same_shape(const tf_tensor &t, int32_t dt, int64_t b, int64_t n, int64_t h, int64_t d) {
  return t.rank == 4 && t.dtype == dt && t.dim[0] == b && t.dim[1] == n && t.dim[2] == h && t.dim[3] == d && t.stride[3] == 1 && attn_wide(t);
}

/* Rows that begin and end somewhere are described as the next multiple of kUnit, so that there are few plans. */
dnn::Strides placed(const tf_tensor &t, const Sdpa &s, int64_t n) { return {s.ragged ? n * t.stride[1] : t.stride[0], t.stride[1], t.stride[2]}; }

/* Fills c when shapes and options are such that cuDNN may have the call. */
bool describe(const tf_device *d, const tf_attn_fwd *p, Call *c) {
  memset(c, 0, sizeof *c);
  Sdpa *s = &c->s;
  const tf_tensor &q = p->q, &k = p->k, &v = p->v;
  if (q.rank != 4 || k.rank != 4 || v.rank != 4 || (q.dtype != TF_BF16 && q.dtype != TF_F16)) return false;
  if (has(p->q_start) || has(p->key_mask) || has(p->bias) || has(p->sinks) || p->softcap > 0 || p->dropout > 0 || p->q_start0 || d->cc < 80) return false;
  const int64_t b = q.dim[0], tq = q.dim[1], tk = k.dim[1];
  s->type = q.dtype == TF_BF16 ? dnn::kBfloat16 : dnn::kHalf;
  s->hq = q.dim[2];
  s->d_qk = q.dim[3];
  s->hk = k.dim[2];
  s->d_v = v.dim[3];
  if (b < 1 || s->hk < 1 || s->hq % s->hk || tq < kUnit || tk < kUnit) return false;
  if (s->d_qk % 8 || s->d_v % 8 || s->d_qk > kLongestHead || s->d_v > kLongestHead || s->d_qk < 8 || s->d_v < 8) return false;
  if (p->causal ? tq != tk : p->window_left >= 0 || p->window_right >= 0) return false;
  if (!same_shape(q, q.dtype, b, tq, s->hq, s->d_qk) || !same_shape(k, q.dtype, b, tk, s->hk, s->d_qk) || !same_shape(v, q.dtype, b, tk, s->hk, s->d_v) ||
      !same_shape(p->o, q.dtype, b, tq, s->hq, s->d_v))
    return false;
  const bool documents = has(p->cu_seqlens), padded = has(p->kv_first) || has(p->kv_last);
  s->b = b;
  s->ragged = documents || padded || tq % kUnit || tk % kUnit;
  if (s->ragged && (d->cc < 90 || tq != tk || (documents && (padded || b != 1)))) return false;
  if (documents) {
    const int64_t n = numel(p->cu_seqlens) - 1;
    if (n < 1 || n > kMostDocuments) return false;
    while (s->b < n) s->b *= 2;
  }
  s->lengths = s->ragged;
  s->tq = ceil_div(tq, kUnit) * kUnit;
  s->tk = ceil_div(tk, kUnit) * kUnit;
  s->causal = p->causal != 0;
  if (p->causal && p->window_left >= 0 && p->window_left + 1 < tk) s->window = (int64_t)p->window_left + 1;
  s->q = placed(q, *s, s->tq);
  s->k = placed(k, *s, s->tk);
  s->v = placed(v, *s, s->tk);
  s->o = placed(p->o, *s, s->tq);
  c->kind = {s->type, 0, s->causal, s->window != 0, documents ? kDocuments : s->ragged ? kPadded : kWhole, s->hq != s->hk, s->d_qk, s->d_v};
  return true;
}

bool describe(const tf_device *d, const tf_attn_bwd *p, Call *c) {
  Sdpa *s = &c->s;
  if (!describe(d, &p->f, c) || !has(p->f.lse) || !has(p->dq) || !has(p->dk) || !has(p->dv)) return false;
  if (p->dq_accumulate || p->dk_accumulate || p->dv_accumulate || d->cc >= 100) return false;
  const int32_t dt = p->f.q.dtype;
  const int64_t b = p->f.q.dim[0], tq = p->f.q.dim[1], tk = p->f.k.dim[1];
  if (!same_shape(p->d_o, dt, b, tq, s->hq, s->d_v) || !same_shape(p->dq, dt, b, tq, s->hq, s->d_qk) || !same_shape(p->dk, dt, b, tk, s->hk, s->d_qk) ||
      !same_shape(p->dv, dt, b, tk, s->hk, s->d_v))
    return false;
  s->backward = c->kind.backward = 1;
  s->d_o = placed(p->d_o, *s, s->tq);
  s->dq = placed(p->dq, *s, s->tq);
  s->dk = placed(p->dk, *s, s->tk);
  s->dv = placed(p->dv, *s, s->tk);
  return true;
}

/* The piece of a backward that runs at a time: the whole, or some kv heads, of one sequence where they all lie alike. */
Sdpa piece_of(const Sdpa &s) {
  Sdpa out = s;
  if (!s.backward) return out;
  auto bytes = [&](int64_t b, int64_t hk) { return b * hk * (s.hq / s.hk) * s.tq * s.tk * 2 + (hk * s.tq << 12); }; /* and some to spare */
  if (bytes(s.b, s.hk) <= most_workspace()) return out;
  if (!s.ragged) out.b = 1;
  while (out.hk > 1 && (s.hk % out.hk || bytes(out.b, out.hk) > most_workspace())) out.hk--;
  out.hq = s.hq / s.hk * out.hk;
  return out;
}

int64_t rounded(int64_t bytes) { return ceil_div(bytes, 256) * 256; }
/* An f32 for each query and head. */
int64_t query_bytes(const Sdpa &piece) { return rounded(piece.b * piece.hq * piece.tq * (int64_t)sizeof(float)); }

/* The plan of a piece, made if it has not been. With the lock. */
const dnn::Plan &plan_of(Dnn *n, const Sdpa &piece) {
  auto it = n->plans.find(piece);
  if (it != n->plans.end()) return it->second;
  return n->plans.emplace(piece, dnn::make_plan(n->f, n->handle, nullptr, piece, most_workspace())).first->second;
}

/* The plan's own, then delta, then lse (where it is another or not wanted), then ranges. */
int64_t bytes_of(const Sdpa &piece, const dnn::Plan &plan) {
  return rounded(plan.workspace) + (piece.backward ? 2 : 1) * query_bytes(piece) + (piece.ragged ? ranges_bytes(piece.b) : 0);
}

/* Runs all pieces. ws has bytes_of. With the lock. */
tf_status run(tf_queue *q, Dnn *n, const Sdpa &s, const Sdpa &piece, const dnn::Plan &plan, const tf_attn_fwd *p, const tf_attn_bwd *g, void *ws) {
  const int64_t size = 2, group = s.hq / s.hk, rows = s.ragged ? 1 : s.b; /* of the batch; ranges have all of them */
  const dnn::Numbers numbers = {p->scale, 1.0f, -INFINITY, (float)s.window};
  void *where[dnn::kIds] = {};
  char *rest = static_cast<char *>(ws) + rounded(plan.workspace);
  if (g) {
    where[dnn::kDelta] = rest;
    rest += query_bytes(piece);
  }
  float *lse = reinterpret_cast<float *>(rest);
  Ranges ranges = {};
  if (s.ragged) {
    ranges_place(&ranges, rest + query_bytes(piece), piece, p, g, where);
    TF_TRY(ranges_fill(q, ranges));
  }
  int st = n->f.SetStream(n->handle, q->stream);
  for (int64_t b = 0; b < rows && !st; b += piece.b)
    for (int64_t h = 0; h < s.hk && !st; h += piece.hk) {
      auto part = [&](const tf_tensor &t, int64_t head) { return at<char>(t.data) + (b * t.stride[0] + head * t.stride[2]) * size; };
      where[dnn::kQ] = part(p->q, h * group);
      where[dnn::kK] = part(p->k, h);
      where[dnn::kV] = part(p->v, h);
      where[dnn::kO] = part(p->o, h * group);
      where[dnn::kLse] = has(p->lse) && !s.ragged ? at<float>(p->lse.data) + (b * s.hq + h * group) * s.tq : lse;
      if (g) {
        where[dnn::kDO] = part(g->d_o, h * group);
        where[dnn::kDQ] = part(g->dq, h * group);
        where[dnn::kDK] = part(g->dk, h);
        where[dnn::kDV] = part(g->dv, h);
        if (s.ragged) TF_TRY(ranges_pack(q, ranges, at<float>(p->lse.data), s.hq, h * group, piece.hq, lse));
      }
      st = dnn::execute(n->f, n->handle, plan, where, numbers, ws);
    }
  if (st) {
    char last[128] = "";
    n->f.GetLastErrorString(last, sizeof last);
    return fail(q, TF_EINTERNAL, "cuDNN's attention failed: %s %s", n->f.GetErrorString(st), last);
  }
  if (!s.ragged) return TF_OK;
  if (!g) {
    if (has(p->lse)) TF_TRY(ranges_unpack(q, ranges, lse, s.hq, at<float>(p->lse.data)));
    return ranges_clear(q, ranges, p->o, false);
  }
  TF_TRY(ranges_clear(q, ranges, g->dq, false));
  TF_TRY(ranges_clear(q, ranges, g->dk, true));
  return ranges_clear(q, ranges, g->dv, true);
}

/* --- the numeric test -------------------------------------------------------------------------------------------------------------------- */

/* About normal numbers, from a hash of their place. */
template <typename T>
__global__ void __launch_bounds__(256) noise_kernel(T *out, int64_t n, uint32_t seed) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint32_t u[4];
  philox((uint64_t)i, seed, Key{seed, 0x9e3779b9u}, u);
  const float unit = 1.0f / 4294967296.0f;
  out[i] = down<T>(((float)u[0] + (float)u[1] + (float)u[2] + (float)u[3]) * unit * 1.7320508f - 3.4641016f);
}

/* One block: the squares of a - b and of b (NaN counts), and how many elements of a and c differ. */
template <typename T>
__global__ void __launch_bounds__(256) differ_kernel(const T *a, const T *b, const T *c, int64_t n, float *out) {
  TF_SHARED(float, red, 32);
  float d2 = 0, b2 = 0, other = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float x = up(a[i]), y = up(b[i]), e = x == y ? 0 : x - y; /* infinities may be equal */
    d2 = fmaf(e, e, d2);
    if (fabsf(y) < 1e30f) b2 = fmaf(y, y, b2);
    if (!(x == up(c[i]))) other += 1;
  }
  d2 = block_reduce<Sum>(d2, red);
  b2 = block_reduce<Sum>(b2, red);
  other = block_reduce<Sum>(other, red);
  if (threadIdx.x == 0) {
    out[0] = d2;
    out[1] = b2;
    out[2] = other;
  }
}

/* Memory of a test, in one piece. */
struct Memory {
  char *p = nullptr;
  int64_t used = 0;
  tf_tensor tensor(int32_t dt, int64_t b, int64_t t, int64_t h, int64_t d) {
    tf_tensor x = {};
    x.data = (tf_ptr)(uintptr_t)(p + used);
    x.dtype = dt;
    x.rank = 4;
    const int64_t dim[4] = {b, t, h, d}, stride[4] = {t * h * d, h * d, d, 1};
    for (int i = 0; i < 4; i++) {
      x.dim[i] = dim[i];
      x.stride[i] = stride[i];
    }
    used += rounded(b * t * h * d * dtype_size(dt));
    return x;
  }
};

constexpr float kLimitBf16 = 1e-2f, kLimitF16 = 2e-3f, kLimitLse = 1e-3f; /* relative L2, as in the operation suite; twice that for gradients */

struct Trial {
  tf_queue q;
  Dnn *n;
  Kind k;
  std::string why;
  float *result = nullptr; /* on the device, three for each comparison */
  int compared = 0;

  tf_status same(const tf_tensor &a, const tf_tensor &b, const tf_tensor &c) {
    return dispatch(&q, a.dtype, [&](auto t) {
      using T = decltype(t);
      return launch(&q, "differ", differ_kernel<T>, dim3(1), dim3(256), 0, at<T>(a.data), at<T>(b.data), at<T>(c.data), numel(a), result + 3 * compared++);
    });
  }
  tf_status noise(const tf_tensor &a, uint32_t seed) {
    return dispatch(&q, a.dtype, [&](auto t) {
      using T = decltype(t);
      return launch(&q, "noise", noise_kernel<T>, dim3((unsigned)ceil_div(numel(a), 256)), dim3(256), 0, at<T>(a.data), numel(a), seed);
    });
  }
  tf_status numbers(Memory *m, const int32_t *v, int64_t n, tf_tensor *out) {
    *out = m->tensor(TF_I32, n, 1, 1, 1);
    out->rank = 1;
    return check(&q, cudaMemcpyAsync(at<void>(out->data), v, (size_t)n * sizeof *v, cudaMemcpyHostToDevice, q.stream), "test");
  }
  /* By cuDNN, though no test has passed yet. */
  tf_status theirs(const tf_attn_fwd *p, const tf_attn_bwd *g, Memory *m) {
    Call c;
    if (!(g ? describe(q.d, g, &c) : describe(q.d, p, &c)) || memcmp(&c.kind, &k, sizeof k)) return fail(&q, TF_EINTERNAL, "the test is another call");
    const Sdpa piece = piece_of(c.s);
    const dnn::Plan &plan = plan_of(n, piece);
    if (!plan.why.empty()) return fail(&q, TF_EUNSUPPORTED, "%s", plan.why.c_str());
    if (bytes_of(piece, plan) > kRoom) return fail(&q, TF_EUNSUPPORTED, "the test's plan needs %ld bytes", (long)bytes_of(piece, plan));
    return run(&q, n, c.s, piece, plan, p, g, m->p);
  }
  static constexpr int64_t kRoom = 32 << 20; /* the workspace of cuDNN and of ours */

  tf_status all(Memory *m) {
    const int32_t dt = k.type == dnn::kBfloat16 ? TF_BF16 : TF_F16;
    /* Documents of odd lengths, an empty one among them; or rows that begin and end somewhere, and are no whole tiles. */
    static const int32_t documents[] = {0, 131, 131, 512}, firsts[] = {0, 57}, lasts[] = {190, 201};
    const int64_t b = k.ranges == kDocuments ? 1 : 2, t = k.ranges == kDocuments ? 512 : k.ranges == kPadded ? 201 : 256, hk = 2, hq = k.grouped ? 4 : 2;
    m->used = kRoom;
    q.ws = (tf_ptr)(uintptr_t)m->p;
    q.ws_bytes = kRoom;
    tf_attn_fwd f = {};
    f.q = m->tensor(dt, b, t, hq, k.d_qk);
    f.k = m->tensor(dt, b, t, hk, k.d_qk);
    f.v = m->tensor(dt, b, t, hk, k.d_v);
    f.scale = 1.0f / sqrtf((float)k.d_qk);
    f.causal = k.causal;
    f.window_left = k.window ? 99 : -1;
    f.window_right = -1;
    if (k.ranges == kDocuments) TF_TRY(numbers(m, documents, 4, &f.cu_seqlens));
    if (k.ranges == kPadded) {
      TF_TRY(numbers(m, firsts, 2, &f.kv_first));
      TF_TRY(numbers(m, lasts, 2, &f.kv_last));
    }
    tf_attn_fwd out[3];
    for (tf_attn_fwd &o : out) {
      o = f;
      o.o = m->tensor(dt, b, t, hq, k.d_v);
      o.lse = m->tensor(TF_F32, b, hq, t, 1);
    }
    result = at<float>(m->tensor(TF_F32, 1, 1, 1, 64).data);
    TF_TRY(noise(f.q, 1));
    TF_TRY(noise(f.k, 2));
    TF_TRY(noise(f.v, 3));
    TF_TRY(own_fwd(&q, &out[0]));
    if (!k.backward) {
      TF_TRY(theirs(&out[1], nullptr, m));
      TF_TRY(theirs(&out[2], nullptr, m));
      TF_TRY(same(out[1].o, out[0].o, out[2].o));
      return same(out[1].lse, out[0].lse, out[2].lse);
    }
    tf_attn_bwd g[3];
    const tf_tensor d_o = m->tensor(dt, b, t, hq, k.d_v);
    TF_TRY(noise(d_o, 4));
    for (tf_attn_bwd &x : g) {
      x = {};
      x.f = out[0];
      x.d_o = d_o;
      x.dq = m->tensor(dt, b, t, hq, k.d_qk);
      x.dk = m->tensor(dt, b, t, hk, k.d_qk);
      x.dv = m->tensor(dt, b, t, hk, k.d_v);
    }
    TF_TRY(own_bwd(&q, &g[0]));
    TF_TRY(theirs(&out[0], &g[1], m));
    TF_TRY(theirs(&out[0], &g[2], m));
    TF_TRY(same(g[1].dq, g[0].dq, g[2].dq));
    TF_TRY(same(g[1].dk, g[0].dk, g[2].dk));
    return same(g[1].dv, g[0].dv, g[2].dv);
  }

  void judge(const float *r) {
    const char *forward[] = {"o", "lse"}, *backward[] = {"dq", "dk", "dv"};
    for (int i = 0; i < compared; i++, r += 3) {
      const char *what = k.backward ? backward[i] : forward[i];
      float limit = (k.type == dnn::kBfloat16 ? kLimitBf16 : kLimitF16) * (k.backward ? 2 : 1);
      if (!k.backward && i == 1) limit = kLimitLse;
      const float error = sqrtf(r[0] / r[1]);
      if (!(error <= limit)) why = std::string(what) + " differs from our own by " + std::to_string(error) + ", " + std::to_string(limit) + " are allowed";
      if (r[2] != 0) why = std::string(what) + " has other bits the second time";
      if (!why.empty()) return;
    }
  }
};

/* Why cuDNN is not to be used for the kind; empty: it is. Without the memory to find out, that is full: what is used may not depend on it. With
 * the lock. */
std::string try_out(Dnn *n, const tf_device *d, const Kind &k, bool *full) {
  Trial t;
  t.q.d = const_cast<tf_device *>(d);
  t.n = n;
  t.k = k;
  Memory m;
  float got[64] = {};
  void *p = nullptr;
  const int64_t most = Trial::kRoom + ((int64_t)16 << 20) * (k.d_qk + k.d_v) / 256 + (1 << 20);
  cudaError_t e = cudaStreamCreateWithPriority(&t.q.stream, cudaStreamNonBlocking, 0);
  if (e == cudaSuccess) e = cudaHostAlloc(reinterpret_cast<void **>(&t.q.trouble), sizeof(int32_t), cudaHostAllocPortable);
  if (e == cudaSuccess) e = cudaMalloc(&p, (size_t)most);
  if (e == cudaSuccess) {
    *t.q.trouble = kNoTrouble;
    m.p = static_cast<char *>(p);
    if (t.all(&m) != TF_OK)
      t.why = t.q.why;
    else if ((e = cudaMemcpyAsync(got, t.result, sizeof got, cudaMemcpyDeviceToHost, t.q.stream)) == cudaSuccess && (e = cudaStreamSynchronize(t.q.stream)) == cudaSuccess)
      t.judge(got);
    if (m.used > most) t.why = "the test has too little memory";
  }
  *full = e == cudaErrorMemoryAllocation;
  if (e != cudaSuccess && t.why.empty()) t.why = cudaGetErrorString(e);
  if (*full) cudaGetLastError();
  if (t.q.stream) cudaStreamSynchronize(t.q.stream);
  if (p) cudaFree(p);
  if (t.q.trouble) cudaFreeHost(t.q.trouble);
  if (t.q.stream) cudaStreamDestroy(t.q.stream);
  return t.why;
}

/* The plan for a call that describe likes, or null with why (empty: cuDNN is not wanted, or has no plan). With the lock. */
const dnn::Plan *taken(Dnn *n, const tf_device *d, const Call &c, Sdpa *piece, std::string *why, bool *full) {
  *full = false;
  if (n->unwanted) return nullptr;
  *why = n->why;
  if (!why->empty()) return nullptr;
  *piece = piece_of(c.s);
  cudaSetDevice(d->index);
  const Kind &k = c.kind;
  auto it = n->tests.find(k);
  if (it == n->tests.end()) {
    const std::string result = try_out(n, d, k, full);
    *why = result;
    if (*full) return nullptr;
    it = n->tests.emplace(k, result).first;
    if (!result.empty())
      fprintf(stderr, "tunefleet: attention by our own kernels, not by cuDNN, %s%s for %s heads of %ld and %ld: %s\n", k.backward ? "backward" : "forward",
              k.ranges == kDocuments ? " of documents" : k.ranges == kPadded ? " of padded rows" : "", k.type == dnn::kBfloat16 ? "bf16" : "f16", (long)k.d_qk, (long)k.d_v,
              result.c_str());
  }
  *why = it->second;
  if (!why->empty()) return nullptr;
  const bool first = !n->plans.count(*piece);
  const dnn::Plan &p = plan_of(n, *piece);
  if (p.why.empty()) return &p;
  if (first)
    fprintf(stderr, "tunefleet: attention by our own kernels, not by cuDNN, %s for %ld x %ld x %ld heads: %s\n", k.backward ? "backward" : "forward", (long)piece->b,
            (long)piece->tq, (long)piece->hq, p.why.c_str());
  return nullptr;
}

template <typename P>
int64_t bytes(const tf_device *d, const P *p) {
  Call c;
  Sdpa piece;
  if (!describe(d, p, &c)) return 0;
  Dnn *n = of(d);
  std::lock_guard<std::mutex> hold(n->lock);
  std::string why;
  bool full;
  const dnn::Plan *plan = taken(n, d, c, &piece, &why, &full);
  return plan ? bytes_of(piece, *plan) : 0;
}

template <typename P>
tf_status call(tf_queue *q, const P *p, const tf_attn_fwd *f, const tf_attn_bwd *g, bool *done) {
  *done = false;
  Call c;
  Sdpa piece;
  if (!describe(q->d, p, &c)) return TF_OK;
  Dnn *n = of(q->d);
  std::lock_guard<std::mutex> hold(n->lock);
  std::string why;
  bool full;
  const dnn::Plan *plan = taken(n, q->d, c, &piece, &why, &full);
  if (full || (plan && bytes_of(piece, *plan) > q->ws_bytes)) /* full when workspace was asked for, too */
    return fail(q, TF_ENOMEM, "no memory to try cuDNN's attention (TUNEFLEET_CUDA_ATTENTION=tiles does without): %s", why.c_str());
  if (!plan && n->wanted && !why.empty()) return fail(q, TF_EUNSUPPORTED, "TUNEFLEET_CUDA_ATTENTION=cudnn, and: %s", why.c_str());
  if (!plan) return TF_OK;
  *done = true;
  return run(q, n, c.s, piece, *plan, f, g, work<void>(q));
}

}  // namespace

int64_t dnn_fwd_bytes(const tf_device *d, const tf_attn_fwd *p) { return bytes(d, p); }
int64_t dnn_bwd_bytes(const tf_device *d, const tf_attn_bwd *p) { return bytes(d, p); }
tf_status dnn_fwd(tf_queue *q, const tf_attn_fwd *p, bool *done) { return call(q, p, p, nullptr, done); }
tf_status dnn_bwd(tf_queue *q, const tf_attn_bwd *p, bool *done) { return call(q, p, &p->f, p, done); }

/* Declared in backend.cu. */
void close_dnn(Dnn *n) {
  for (auto &it : n->plans) dnn::free_plan(n->f, &it.second);
  if (n->handle) n->f.Destroy(n->handle);
  delete n;
}

/* Declared in backend.cu: ", cuDNN 9.19.0" where its attention would be tried, since it has other bits. */
std::string dnn_name() {
  if (!strcmp(choice(), "tiles")) return "";
  const Library l = load();
  return l.why.empty() ? ", cuDNN " + version_name(l.version) : "";
}

}  // namespace tf
