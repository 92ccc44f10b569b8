/* Stands in for cuDNN in the emulation: it keeps descriptors as strictly as the real one may, knows attention by the pattern of its nodes, and
 * computes node by node in double what the graph says. So the way cudnn_graph.cu describes attention is tested; which engine the real one takes,
 * and how fast, is not.
 *
 * TUNEFLEET_FAKE_CUDNN names another library, TUNEFLEET_FAKE_CUDNN_VERSION another version (91900), TUNEFLEET_FAKE_CUDNN_CUDART another CUDA
 * that it is made for, TUNEFLEET_FAKE_CUDNN_FAULT what goes wrong: create (no handle), engine (none), varies (no engine gives the same bits twice),
 * plan (none can be built), execute, wrong-o, wrong-lse, wrong-dq, wrong-dk, wrong-dv (that result is), drift (results differ from call to call);
 * several are separated by commas. TUNEFLEET_FAKE_CUDNN_WORKSPACE is what a piece of a backward may take (1 GiB). TUNEFLEET_FAKE_CUDNN_LOG names a file to which each execution adds a line: forward or backward. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "../cudnn_graph.h"
#include "../device.cuh"
#include "emulate.h"

using namespace tf;

namespace {

enum { kOk = 0, kBad = dnn::kBadParam, kUnsupported = dnn::kNotSupported };

thread_local std::string last;

int refuse(int st, const std::string &why) {
  last = why;
  return st;
}

bool fault(const std::string &name) {
  const char *v = getenv("TUNEFLEET_FAKE_CUDNN_FAULT");
  return (std::string(",") + (v ? v : "") + ",").find("," + name + ",") != std::string::npos;
}

int64_t environment(const char *name, int64_t otherwise) {
  const char *v = getenv(name);
  return v && *v ? atoll(v) : otherwise;
}

/* --- descriptors ------------------------------------------------------------------------------------------------------------------------- */

struct Value {
  int type;
  int64_t count;
  std::vector<char> bytes;
};

struct Fake {
  int kind;
  bool finished = false;
  std::map<int, Value> attributes;
  /* of configurations, engines and plans: the graph, and whether results differ from call to call */
  Fake *graph = nullptr;
  bool varies = false;

  bool has(int a) const { return attributes.count(a) != 0; }
  template <typename T>
  T one(int a, T otherwise = T()) const {
    auto it = attributes.find(a);
    if (it == attributes.end()) return otherwise;
    T v;
    memcpy(&v, it->second.bytes.data(), sizeof v);
    return v;
  }
  template <typename T>
  std::vector<T> all(int a) const {
    auto it = attributes.find(a);
    if (it == attributes.end()) return {};
    std::vector<T> v((size_t)it->second.count);
    memcpy(v.data(), it->second.bytes.data(), v.size() * sizeof(T));
    return v;
  }
  Fake *ref(int a) const { return one<Fake *>(a); }
};

size_t size_of(int type) {
  switch (type) {
    case dnn::kTypeInt64:
    case dnn::kTypeHandle:
    case dnn::kTypeVoidPtr:
    case dnn::kTypeDescriptor:
      return 8;
    case dnn::kTypeBoolean:
    case dnn::kTypeChar:
      return 1;
  }
  return 4;
}

struct Rule {
  int kind, attribute, type;
  bool required;
  int64_t most; /* elements */
  int of;       /* a descriptor of this kind; -1 any */
};

constexpr Rule kRules[] = {
    {dnn::kTensor, dnn::kTensorType, dnn::kTypeDataType, true, 1, -1},
    {dnn::kTensor, dnn::kTensorDims, dnn::kTypeInt64, true, 4, -1},
    {dnn::kTensor, dnn::kTensorStrides, dnn::kTypeInt64, true, 4, -1},
    {dnn::kTensor, dnn::kTensorId, dnn::kTypeInt64, true, 1, -1},
    {dnn::kTensor, dnn::kTensorAlignment, dnn::kTypeInt64, true, 1, -1},
    {dnn::kTensor, dnn::kTensorVirtual, dnn::kTypeBoolean, false, 1, -1},
    {dnn::kTensor, dnn::kTensorByValue, dnn::kTypeBoolean, false, 1, -1},
    {dnn::kTensor, dnn::kTensorRagged, dnn::kTypeDescriptor, false, 1, dnn::kTensor},
    {dnn::kPointwiseDesc, dnn::kPointwiseMode, dnn::kTypePointwiseMode, true, 1, -1},
    {dnn::kPointwiseDesc, dnn::kPointwisePrec, dnn::kTypeDataType, true, 1, -1},
    {dnn::kPointwiseDesc, dnn::kPointwiseAxis, dnn::kTypeInt64, false, 1, -1},
    {dnn::kPointwiseOp, dnn::kPointwiseOpDesc, dnn::kTypeDescriptor, true, 1, dnn::kPointwiseDesc},
    {dnn::kPointwiseOp, dnn::kPointwiseX, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kPointwiseOp, dnn::kPointwiseB, dnn::kTypeDescriptor, false, 1, dnn::kTensor},
    {dnn::kPointwiseOp, dnn::kPointwiseT, dnn::kTypeDescriptor, false, 1, dnn::kTensor},
    {dnn::kPointwiseOp, dnn::kPointwiseY, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kReductionDesc, dnn::kReductionOperator, dnn::kTypeReduction, true, 1, -1},
    {dnn::kReductionDesc, dnn::kReductionPrec, dnn::kTypeDataType, true, 1, -1},
    {dnn::kReductionOp, dnn::kReductionOpDesc, dnn::kTypeDescriptor, true, 1, dnn::kReductionDesc},
    {dnn::kReductionOp, dnn::kReductionX, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kReductionOp, dnn::kReductionY, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kMatmulDesc, dnn::kMatmulPrec, dnn::kTypeDataType, true, 1, -1},
    {dnn::kMatmulOp, dnn::kMatmulOpDesc, dnn::kTypeDescriptor, true, 1, dnn::kMatmulDesc},
    {dnn::kMatmulOp, dnn::kMatmulA, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kMatmulOp, dnn::kMatmulB, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kMatmulOp, dnn::kMatmulC, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kMatmulOp, dnn::kMatmulM, dnn::kTypeDescriptor, false, 1, dnn::kTensor},
    {dnn::kMatmulOp, dnn::kMatmulN, dnn::kTypeDescriptor, false, 1, dnn::kTensor},
    {dnn::kMatmulOp, dnn::kMatmulK, dnn::kTypeDescriptor, false, 1, dnn::kTensor},
    {dnn::kReshapeOp, dnn::kReshapeX, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kReshapeOp, dnn::kReshapeY, dnn::kTypeDescriptor, true, 1, dnn::kTensor},
    {dnn::kOperationGraph, dnn::kGraphHandle, dnn::kTypeHandle, true, 1, -1},
    {dnn::kOperationGraph, dnn::kGraphOps, dnn::kTypeDescriptor, true, 100, -1},
    {dnn::kEngineHeur, dnn::kHeurGraph, dnn::kTypeDescriptor, true, 1, dnn::kOperationGraph},
    {dnn::kEngineHeur, dnn::kHeurMode, dnn::kTypeHeurMode, true, 1, -1},
    {dnn::kPlan, dnn::kPlanHandle, dnn::kTypeHandle, true, 1, -1},
    {dnn::kPlan, dnn::kPlanConfig, dnn::kTypeDescriptor, true, 1, dnn::kEngineConfig},
    {dnn::kVariantPack, dnn::kPackPointers, dnn::kTypeVoidPtr, true, 100, -1},
    {dnn::kVariantPack, dnn::kPackIds, dnn::kTypeInt64, true, 100, -1},
    {dnn::kVariantPack, dnn::kPackWorkspace, dnn::kTypeVoidPtr, true, 1, -1},
};

const Rule *rule(int kind, int attribute) {
  for (const Rule &r : kRules)
    if (r.kind == kind && r.attribute == attribute) return &r;
  return nullptr;
}

/* --- the graph --------------------------------------------------------------------------------------------------------------------------- */

const char *pointwise_name(int mode) {
  switch (mode) {
    case dnn::kAdd:
      return "add ";
    case dnn::kMul:
      return "mul ";
    case dnn::kDiv:
      return "div ";
    case dnn::kSub:
      return "sub ";
    case dnn::kExp:
      return "exp ";
    case dnn::kLog:
      return "log ";
    case dnn::kCmpGt:
      return "gt ";
    case dnn::kCmpGe:
      return "ge ";
    case dnn::kCmpLt:
      return "lt ";
    case dnn::kAnd:
      return "and ";
    case dnn::kGenIndex:
      return "index ";
    case dnn::kSelect:
      return "select ";
  }
  return "unknown ";
}

int mode_of(const Fake *op) { return op->ref(dnn::kPointwiseOpDesc)->one<int>(dnn::kPointwiseMode); }

std::string name_of(const Fake *op) {
  switch (op->kind) {
    case dnn::kMatmulOp:
      return "matmul ";
    case dnn::kReshapeOp:
      return "reshape ";
    case dnn::kReductionOp:
      return op->ref(dnn::kReductionOpDesc)->one<int>(dnn::kReductionOperator) == dnn::kReduceMax ? "max " : "sum ";
  }
  return pointwise_name(mode_of(op));
}

std::vector<Fake *> inputs(const Fake *op) {
  std::vector<Fake *> out;
  for (int a : {dnn::kPointwiseX, dnn::kPointwiseB, dnn::kPointwiseT, dnn::kReductionX, dnn::kMatmulA, dnn::kMatmulB, dnn::kMatmulM, dnn::kMatmulN, dnn::kMatmulK, dnn::kReshapeX})
    if (op->has(a)) out.push_back(op->ref(a));
  return out;
}
Fake *output(const Fake *op) {
  for (int a : {dnn::kPointwiseY, dnn::kReductionY, dnn::kMatmulC, dnn::kReshapeY})
    if (op->has(a)) return op->ref(a);
  return nullptr;
}
int64_t id_of(const Fake *t) { return t->one<int64_t>(dnn::kTensorId); }
bool is_virtual(const Fake *t) { return t->one<char>(dnn::kTensorVirtual) != 0; }
bool by_value(const Fake *t) { return t->one<char>(dnn::kTensorByValue) != 0; }

/* All tensors of a graph by id, those that say where sequences begin too. */
bool tensors(const Fake *graph, std::map<int64_t, Fake *> *out) {
  for (Fake *op : graph->all<Fake *>(dnn::kGraphOps)) {
    std::vector<Fake *> in = inputs(op);
    in.push_back(output(op));
    for (size_t i = 0; i < in.size(); i++) {
      Fake *&t = (*out)[id_of(in[i])];
      if (t && t != in[i]) return false;
      t = in[i];
      if (t->has(dnn::kTensorRagged)) in.push_back(t->ref(dnn::kTensorRagged));
    }
  }
  return true;
}

int check_graph(const Fake *graph) {
  std::map<int64_t, Fake *> all, made;
  if (!tensors(graph, &all)) return refuse(kBad, "two tensors have the same id");
  for (Fake *op : graph->all<Fake *>(dnn::kGraphOps)) {
    for (Fake *t : inputs(op))
      if (is_virtual(t) && !made.count(id_of(t))) return refuse(kBad, "a node takes what no node before it gives");
    Fake *y = output(op);
    if (made.count(id_of(y)) || by_value(y)) return refuse(kBad, "two nodes give the same tensor");
    made[id_of(y)] = y;
  }
  return kOk;
}

/* The patterns of nodes that there are engines for. */
bool known(const std::string &names, bool *backward) {
  static const std::string absent = "(index index lt lt and select )?", later = "(index index ge select )?", before = "(index index add gt select )?";
  static const std::regex forward("matmul mul " + absent + later + before + "max sub exp sum log add div matmul ");
  static const std::regex back("mul sum mul matmul mul " + absent + "sub " + later + before +
                               "exp reshape matmul (sum )?matmul sub mul mul reshape matmul (sum )?reshape matmul ");
  *backward = std::regex_match(names, back);
  return *backward || std::regex_match(names, forward);
}

std::string names_of(const Fake *graph) {
  std::string names;
  for (Fake *op : graph->all<Fake *>(dnn::kGraphOps)) names += name_of(op);
  return names;
}

/* --- computing --------------------------------------------------------------------------------------------------------------------------- */

struct Array {
  int64_t dim[4] = {};
  std::vector<double> v;
  double &at(int64_t b, int64_t h, int64_t r, int64_t c) { return v[(size_t)(((b * dim[1] + h) * dim[2] + r) * dim[3] + c)]; }
  /* Of a dimension of 1 there is the same everywhere, of fewer heads those of groups. */
  double get(int64_t b, int64_t h, int64_t r, int64_t c, int64_t heads) {
    return at(dim[0] == 1 ? 0 : b, dim[1] == heads ? h : h / (heads / dim[1]), dim[2] == 1 ? 0 : r, dim[3] == 1 ? 0 : c);
  }
};

double round_to(int type, double x) {
  if (type == dnn::kBfloat16) return up(down<bf16>((float)x));
  if (type == dnn::kHalf) return up(down<f16>((float)x));
  if (type == dnn::kFloat) return (double)(float)x;
  return x;
}

double load(const void *p, int type, int64_t i) {
  switch (type) {
    case dnn::kBfloat16:
      return up(static_cast<const bf16 *>(p)[i]);
    case dnn::kHalf:
      return up(static_cast<const f16 *>(p)[i]);
    case dnn::kInt32:
      return static_cast<const int32_t *>(p)[i];
    case dnn::kInt64:
      return (double)static_cast<const int64_t *>(p)[i];
  }
  return static_cast<const float *>(p)[i];
}
void store(void *p, int type, int64_t i, double x) {
  if (type == dnn::kBfloat16)
    static_cast<bf16 *>(p)[i] = down<bf16>((float)x);
  else if (type == dnn::kHalf)
    static_cast<f16 *>(p)[i] = down<f16>((float)x);
  else
    static_cast<float *>(p)[i] = (float)x;
}

struct Run {
  const Fake *graph;
  bool backward;
  std::map<int64_t, void *> pointers;
  std::map<int64_t, float> numbers;
  std::map<int64_t, Array> arrays;

  template <typename F>
  static void each(const int64_t *dim, F f) {
    for (int64_t b = 0; b < dim[0]; b++)
      for (int64_t h = 0; h < dim[1]; h++)
        for (int64_t r = 0; r < dim[2]; r++)
          for (int64_t c = 0; c < dim[3]; c++) f(b, h, r, c);
  }

  /* Calls f with the place of each element in memory; -1 beyond the end of a sequence. */
  template <typename F>
  void places(const Fake *t, F f) {
    const std::vector<int64_t> dim = t->all<int64_t>(dnn::kTensorDims), st = t->all<int64_t>(dnn::kTensorStrides);
    const Fake *from = t->ref(dnn::kTensorRagged);
    const int64_t *begin = from ? static_cast<const int64_t *>(pointers[id_of(from)]) : nullptr;
    const int along = dim[3] > 1 && st[3] > st[2] ? 3 : 2;
    each(dim.data(), [&](int64_t b, int64_t h, int64_t r, int64_t c) {
      int64_t i = h * st[1] + r * st[2] + c * st[3];
      if (!begin) return f(b, h, r, c, i + b * st[0]);
      const int64_t row = along == 3 ? c : r;
      f(b, h, r, c, row * st[(size_t)along] < begin[b + 1] - begin[b] ? i + begin[b] : -1);
    });
  }

  Array &in(const Fake *t) {
    Array &a = arrays[id_of(t)];
    if (!a.v.empty()) return a;
    const std::vector<int64_t> dim = t->all<int64_t>(dnn::kTensorDims);
    memcpy(a.dim, dim.data(), sizeof a.dim);
    a.v.assign((size_t)(dim[0] * dim[1] * dim[2] * dim[3]), NAN);
    const int type = t->one<int>(dnn::kTensorType);
    const void *p = by_value(t) ? &numbers[id_of(t)] : pointers[id_of(t)];
    places(t, [&](int64_t b, int64_t h, int64_t r, int64_t c, int64_t i) {
      if (i >= 0) a.at(b, h, r, c) = load(p, type, i);
    });
    return a;
  }
  void out(const Fake *t, Array a) {
    const int type = t->one<int>(dnn::kTensorType);
    for (double &x : a.v) x = round_to(type, x);
    if (!is_virtual(t)) {
      spoil(id_of(t), &a);
      void *p = pointers[id_of(t)];
      places(t, [&](int64_t b, int64_t h, int64_t r, int64_t c, int64_t i) {
        if (i >= 0) store(p, type, i, a.at(b, h, r, c));
      });
    }
    arrays[id_of(t)] = std::move(a);
  }
  static void spoil(int64_t id, Array *a) {
    static int calls = 0;
    const std::map<int64_t, const char *> names = {{dnn::kO, "wrong-o"}, {dnn::kLse, "wrong-lse"}, {dnn::kDQ, "wrong-dq"}, {dnn::kDK, "wrong-dk"}, {dnn::kDV, "wrong-dv"}};
    if (!names.count(id)) return;
    if (fault(names.at(id)))
      for (double &x : a->v) x *= 1.05;
    if (fault("drift")) a->v[0] *= 1 + 0.02 * (calls++ % 7);
  }

  Array like(const Fake *t) {
    Array a;
    const std::vector<int64_t> dim = t->all<int64_t>(dnn::kTensorDims);
    memcpy(a.dim, dim.data(), sizeof a.dim);
    a.v.assign((size_t)(dim[0] * dim[1] * dim[2] * dim[3]), 0);
    return a;
  }
  int64_t limit(const Fake *op, int attribute, int64_t b, int64_t all) {
    return op->has(attribute) ? (int64_t)in(op->ref(attribute)).at(b, 0, 0, 0) : all;
  }

  void matmul(const Fake *op) {
    Array &x = in(op->ref(dnn::kMatmulA)), &y = in(op->ref(dnn::kMatmulB)), z = like(op->ref(dnn::kMatmulC));
    const int64_t heads = z.dim[1], inner = x.dim[3];
    for (int64_t b = 0; b < z.dim[0]; b++) {
      const int64_t m = limit(op, dnn::kMatmulM, b, z.dim[2]), n = limit(op, dnn::kMatmulN, b, z.dim[3]), k = limit(op, dnn::kMatmulK, b, inner);
      for (int64_t h = 0; h < heads; h++) {
        const int64_t hx = h / (heads / x.dim[1]), hy = h / (heads / y.dim[1]);
        for (int64_t r = 0; r < m; r++)
          for (int64_t i = 0; i < k; i++) {
            const double f = x.at(b, hx, r, i);
            const double *row = &y.at(b, hy, i, 0);
            double *to = &z.at(b, h, r, 0);
            for (int64_t c = 0; c < n; c++) to[c] += f * row[c];
          }
      }
    }
    out(op->ref(dnn::kMatmulC), std::move(z));
  }
  void reduce(const Fake *op) {
    Array &x = in(op->ref(dnn::kReductionX)), y = like(op->ref(dnn::kReductionY));
    const bool most = name_of(op) == "max ";
    for (double &v : y.v) v = most ? -INFINITY : 0;
    each(x.dim, [&](int64_t b, int64_t h, int64_t r, int64_t c) {
      double &to = y.at(b, y.dim[1] == x.dim[1] ? h : h / (x.dim[1] / y.dim[1]), y.dim[2] == 1 ? 0 : r, y.dim[3] == 1 ? 0 : c), v = x.at(b, h, r, c);
      to = most ? (v > to || isnan(v) ? v : to) : to + v;
    });
    out(op->ref(dnn::kReductionY), std::move(y));
  }
  /* What was [r,c] is [c,r]. */
  void reshape(const Fake *op) {
    Array &x = in(op->ref(dnn::kReshapeX)), y = like(op->ref(dnn::kReshapeY));
    each(x.dim, [&](int64_t b, int64_t h, int64_t r, int64_t c) { y.at(b, h, c, r) = x.at(b, h, r, c); });
    out(op->ref(dnn::kReshapeY), std::move(y));
  }
  void pointwise(const Fake *op) {
    Array *x = &in(op->ref(dnn::kPointwiseX)), *b2 = op->has(dnn::kPointwiseB) ? &in(op->ref(dnn::kPointwiseB)) : nullptr;
    Array *t = op->has(dnn::kPointwiseT) ? &in(op->ref(dnn::kPointwiseT)) : nullptr, y = like(op->ref(dnn::kPointwiseY));
    const int mode = mode_of(op);
    const int64_t axis = op->ref(dnn::kPointwiseOpDesc)->one<int64_t>(dnn::kPointwiseAxis, -1);
    each(y.dim, [&](int64_t b, int64_t h, int64_t r, int64_t c) {
      const double u = x->get(b, h, r, c, y.dim[1]), v = b2 ? b2->get(b, h, r, c, y.dim[1]) : 0;
      double &to = y.at(b, h, r, c);
      switch (mode) {
        case dnn::kAdd:
          to = u + v;
          break;
        case dnn::kMul:
          to = u * v;
          break;
        case dnn::kDiv:
          to = u / v;
          break;
        case dnn::kSub:
          to = u - v;
          break;
        case dnn::kExp:
          to = exp(u);
          break;
        case dnn::kLog:
          to = log(u);
          break;
        case dnn::kCmpGt:
          to = u > v;
          break;
        case dnn::kCmpGe:
          to = u >= v;
          break;
        case dnn::kCmpLt:
          to = u < v;
          break;
        case dnn::kAnd:
          to = u != 0 && v != 0;
          break;
        case dnn::kGenIndex:
          to = (double)(axis == 2 ? r : axis == 3 ? c : NAN);
          break;
        case dnn::kSelect:
          to = t && t->get(b, h, r, c, y.dim[1]) != 0 ? u : v;
          break;
      }
    });
    out(op->ref(dnn::kPointwiseY), std::move(y));
  }

  void all() {
    for (Fake *op : graph->all<Fake *>(dnn::kGraphOps)) {
      if (op->kind == dnn::kMatmulOp)
        matmul(op);
      else if (op->kind == dnn::kReductionOp)
        reduce(op);
      else if (op->kind == dnn::kReshapeOp)
        reshape(op);
      else
        pointwise(op);
    }
  }
};

struct Context {
  cudaStream_t stream = nullptr;
};

}  // namespace

/* The object that this file is in, as a path that dlopen takes. */
const char *tfh_cudnn() {
  const char *v = getenv("TUNEFLEET_FAKE_CUDNN");
  if (v && *v) return v;
  static Dl_info info;
  return dladdr(reinterpret_cast<void *>(tfh_cudnn), &info) ? info.dli_fname : "";
}

int64_t tfh_cudnn_workspace() { return environment("TUNEFLEET_FAKE_CUDNN_WORKSPACE", (int64_t)1 << 30); }

#pragma GCC visibility push(default)
extern "C" {

size_t cudnnGetVersion() { return (size_t)environment("TUNEFLEET_FAKE_CUDNN_VERSION", 91900); }
size_t cudnnGetCudartVersion() { return (size_t)environment("TUNEFLEET_FAKE_CUDNN_CUDART", tfh_cuda_version()); }
const char *cudnnGetErrorString(int st) { return st == kBad ? "CUDNN_STATUS_BAD_PARAM" : st == kUnsupported ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_EXECUTION_FAILED"; }
void cudnnGetLastErrorString(char *to, size_t n) {
  snprintf(to, n, "%s", last.c_str());
  last.clear();
}

int cudnnCreate(dnn::Handle *h) {
  if (fault("create")) return 1001;
  *h = new Context;
  return kOk;
}
int cudnnDestroy(dnn::Handle h) {
  delete static_cast<Context *>(h);
  return kOk;
}
int cudnnSetStream(dnn::Handle h, void *stream) {
  static_cast<Context *>(h)->stream = static_cast<cudaStream_t>(stream);
  return kOk;
}

int cudnnBackendCreateDescriptor(int kind, dnn::Desc *d) {
  *d = new Fake{kind, false, {}, nullptr, false};
  return kOk;
}
int cudnnBackendDestroyDescriptor(dnn::Desc d) {
  delete static_cast<Fake *>(d);
  return kOk;
}

int cudnnBackendSetAttribute(dnn::Desc d, int attribute, int type, int64_t count, const void *v) {
  Fake *f = static_cast<Fake *>(d);
  const Rule *r = rule(f->kind, attribute);
  const std::string what = "attribute " + std::to_string(attribute) + " of a descriptor " + std::to_string(f->kind);
  if (f->finished) return refuse(kBad, what + " comes after its end");
  if (!r) return refuse(kBad, what + " is none");
  if (r->type != type || count < 1 || count > r->most || !v) return refuse(kBad, what + " has another type or number of elements");
  if (type == dnn::kTypeDescriptor)
    for (int64_t i = 0; i < count; i++) {
      const Fake *x = static_cast<Fake *const *>(v)[i];
      if (!x || !x->finished || (r->of >= 0 && x->kind != r->of)) return refuse(kBad, what + " is not finished, or another kind");
    }
  Value &to = f->attributes[attribute];
  to.type = type;
  to.count = count;
  to.bytes.assign(static_cast<const char *>(v), static_cast<const char *>(v) + (size_t)count * size_of(type));
  return kOk;
}

int cudnnBackendFinalize(dnn::Desc d) {
  Fake *f = static_cast<Fake *>(d);
  if (f->finished) return refuse(kBad, "a descriptor ends twice");
  for (const Rule &r : kRules)
    if (r.kind == f->kind && r.required && !f->has(r.attribute)) return refuse(kBad, "attribute " + std::to_string(r.attribute) + " of a descriptor " + std::to_string(f->kind) + " is missing");
  if (f->kind == dnn::kTensor) {
    const std::vector<int64_t> dim = f->all<int64_t>(dnn::kTensorDims), st = f->all<int64_t>(dnn::kTensorStrides);
    if (dim.size() != 4 || st.size() != 4) return refuse(kBad, "a tensor has not 4 dimensions");
    for (int i = 0; i < 4; i++)
      if (dim[(size_t)i] < 1 || st[(size_t)i] < 1) return refuse(kBad, "a tensor has a dimension or a stride below 1");
    if (is_virtual(f) && by_value(f)) return refuse(kBad, "a tensor is a number and has no memory");
  }
  if (f->kind == dnn::kPointwiseOp) {
    const int mode = mode_of(f), n = f->has(dnn::kPointwiseB) + f->has(dnn::kPointwiseT);
    const int want = mode == dnn::kSelect ? 2 : mode == dnn::kExp || mode == dnn::kLog || mode == dnn::kGenIndex ? 0 : 1;
    if (n != want) return refuse(kBad, "a pointwise node has another number of operands");
  }
  if (f->kind == dnn::kMatmulOp) {
    const std::vector<int64_t> a = f->ref(dnn::kMatmulA)->all<int64_t>(dnn::kTensorDims), b = f->ref(dnn::kMatmulB)->all<int64_t>(dnn::kTensorDims);
    const std::vector<int64_t> c = f->ref(dnn::kMatmulC)->all<int64_t>(dnn::kTensorDims);
    if (a[3] != b[2] || a[2] != c[2] || b[3] != c[3] || c[1] % a[1] || c[1] % b[1]) return refuse(kBad, "the operands of a product do not fit");
  }
  if (f->kind == dnn::kOperationGraph) {
    const int st = check_graph(f);
    if (st) return st;
  }
  if (f->kind == dnn::kEngineHeur) {
    bool backward;
    const std::string names = names_of(f->ref(dnn::kHeurGraph));
    if (fault("engine") || f->one<int>(dnn::kHeurMode) != dnn::kHeurModeA || !known(names, &backward)) return refuse(kUnsupported, "there is no engine for " + names);
    f->graph = f->ref(dnn::kHeurGraph);
  }
  if (f->kind == dnn::kPlan) {
    if (fault("plan")) return refuse(kUnsupported, "the plan cannot be built");
    f->graph = f->ref(dnn::kPlanConfig)->graph;
    f->varies = f->ref(dnn::kPlanConfig)->varies;
  }
  if (f->kind == dnn::kVariantPack) {
    if (f->attributes[dnn::kPackPointers].count != f->attributes[dnn::kPackIds].count) return refuse(kBad, "not as many pointers as ids");
  }
  f->finished = true;
  return kOk;
}

/* The first engine gives other bits from call to call, the second does not. */
int cudnnBackendGetAttribute(dnn::Desc d, int attribute, int type, int64_t wanted, int64_t *count, void *v) {
  Fake *f = static_cast<Fake *>(d);
  if (!f->finished) return refuse(kBad, "a descriptor that has not ended is asked");
  if (f->kind == dnn::kEngineHeur && attribute == dnn::kHeurResults && type == dnn::kTypeDescriptor) {
    *count = 2;
    for (int64_t i = 0; i < 2 && i < wanted; i++) {
      Fake *c = static_cast<Fake **>(v)[i];
      if (c->kind != dnn::kEngineConfig || c->finished) return refuse(kBad, "a result's place is no configuration");
      c->graph = f->graph;
      c->varies = i == 0 || fault("varies");
      c->finished = true;
    }
    return kOk;
  }
  if (f->kind == dnn::kEngineConfig && attribute == dnn::kConfigEngine && type == dnn::kTypeDescriptor && wanted == 1) {
    Fake *e = *static_cast<Fake **>(v);
    if (e->kind != dnn::kEngine) return refuse(kBad, "an engine's place is none");
    e->varies = f->varies;
    e->finished = true;
    *count = 1;
    return kOk;
  }
  if (f->kind == dnn::kEngine && attribute == dnn::kEngineNotes && type == dnn::kTypeNumericalNote) {
    int notes[] = {0, dnn::kNoteNondeterministic};
    *count = f->varies ? 2 : 1;
    memcpy(v, notes, (size_t)(*count < wanted ? *count : wanted) * sizeof(int));
    return kOk;
  }
  if (f->kind == dnn::kPlan && attribute == dnn::kPlanWorkspace && type == dnn::kTypeInt64 && wanted == 1) {
    int64_t bytes = 0;
    bool backward = false;
    known(names_of(f->graph), &backward);
    if (backward)
      for (Fake *op : f->graph->all<Fake *>(dnn::kGraphOps))
        if (op->kind == dnn::kMatmulOp) { /* the first gives the scores */
          const std::vector<int64_t> dim = output(op)->all<int64_t>(dnn::kTensorDims);
          bytes = 2 * dim[0] * dim[1] * dim[2] * dim[3];
          break;
        }
    memcpy(v, &bytes, sizeof bytes);
    *count = 1;
    return kOk;
  }
  return refuse(kBad, "attribute " + std::to_string(attribute) + " cannot be asked for");
}

int cudnnBackendExecute(dnn::Handle h, dnn::Desc plan, dnn::Desc pack) {
  const Fake *p = static_cast<Fake *>(plan), *k = static_cast<Fake *>(pack);
  if (fault("execute")) return refuse(dnn::kExecutionFailed, "the plan does not run");
  if (p->kind != dnn::kPlan || !p->finished || k->kind != dnn::kVariantPack || !k->finished) return refuse(kBad, "what runs has not ended");
  if (p->varies) return refuse(kBad, "an engine runs that gives other bits the next time");
  std::map<int64_t, Fake *> all;
  tensors(p->graph, &all);
  std::map<int64_t, void *> given;
  const std::vector<int64_t> ids = k->all<int64_t>(dnn::kPackIds);
  const std::vector<void *> pointers = k->all<void *>(dnn::kPackPointers);
  for (size_t i = 0; i < ids.size(); i++) {
    if (given.count(ids[i]) || !all.count(ids[i]) || is_virtual(all[ids[i]])) return refuse(kBad, "an id is given twice, or is none of the graph's");
    given[ids[i]] = pointers[i];
  }
  auto run = std::make_shared<Run>();
  run->graph = p->graph;
  known(names_of(p->graph), &run->backward);
  for (auto &it : all) {
    if (is_virtual(it.second)) continue;
    void *at = given.count(it.first) ? given[it.first] : nullptr;
    if (!at) return refuse(kBad, "tensor " + std::to_string(it.first) + " has no memory");
    if (by_value(it.second))
      run->numbers[it.first] = *static_cast<float *>(at); /* now: it is the host's */
    else if (reinterpret_cast<uintptr_t>(at) % (uintptr_t)it.second->one<int64_t>(dnn::kTensorAlignment))
      return refuse(kBad, "tensor " + std::to_string(it.first) + " is not aligned as it says");
    else
      run->pointers[it.first] = at;
  }
  if (const char *log = getenv("TUNEFLEET_FAKE_CUDNN_LOG"))
    if (FILE *to = fopen(log, "a")) {
      fputs(run->backward ? "backward\n" : "forward\n", to);
      fclose(to);
    }
  return tfh::enqueue(static_cast<Context *>(h)->stream, [run]() { run->all(); });
}

}  // extern "C"
#pragma GCC visibility pop
