/* Attention as a graph of cuDNN's backend interface. Its engines know attention by the pattern of nodes, so the nodes and their order are those
 * of FlashAttention as NVIDIA documents them, with K (and V, in the backward) seen transposed: that costs nothing, strides are exchanged. */
#include "cudnn_graph.h"

#include <string.h>

namespace tf {
namespace dnn {
namespace {

/* A tensor of the graph: [batch, heads, rows, columns]. */
struct Tensor {
  Desc d = nullptr;
  int64_t dim[4] = {}, stride[4] = {};
};

struct Builder {
  const Functions &f;
  const Sdpa &s;
  std::vector<Desc> owned, ops;
  std::vector<Id> operands;
  std::string why;
  int64_t next_id = 1000; /* of tensors without memory */
  Tensor vectors[kIds];

  Builder(const Functions &f_, const Sdpa &s_) : f(f_), s(s_) {}

  bool ok(int st, const char *what) {
    if (!st || !why.empty()) return why.empty();
    char last[256] = "";
    f.GetLastErrorString(last, sizeof last);
    why = std::string(what) + ": " + f.GetErrorString(st) + (*last ? std::string(", ") + last : "");
    return false;
  }
  Desc make(Kind kind) {
    Desc d = nullptr;
    if (why.empty() && ok(f.BackendCreateDescriptor(kind, &d), "cudnnBackendCreateDescriptor")) owned.push_back(d);
    return d;
  }
  void set(Desc d, Attribute a, Type t, int64_t n, const void *v) {
    if (why.empty()) ok(f.BackendSetAttribute(d, a, t, n, v), ("attribute " + std::to_string(a)).c_str());
  }
  void set(Desc d, Attribute a, Desc v) { set(d, a, kTypeDescriptor, 1, &v); }
  void finish(Desc d, const char *what) {
    if (why.empty()) ok(f.BackendFinalize(d), what);
  }

  Tensor tensor(int64_t id, int type, const int64_t dim[4], const int64_t stride[4], bool is_virtual, bool by_value, Desc ragged) {
    Tensor t;
    memcpy(t.dim, dim, sizeof t.dim);
    memcpy(t.stride, stride, sizeof t.stride);
    t.d = make(kTensor);
    const int64_t align = 16;
    set(t.d, kTensorType, kTypeDataType, 1, &type);
    set(t.d, kTensorDims, kTypeInt64, 4, dim);
    set(t.d, kTensorStrides, kTypeInt64, 4, stride);
    set(t.d, kTensorId, kTypeInt64, 1, &id);
    set(t.d, kTensorAlignment, kTypeInt64, 1, &align);
    if (is_virtual) set(t.d, kTensorVirtual, kTypeBoolean, 1, &is_virtual);
    if (by_value) set(t.d, kTensorByValue, kTypeBoolean, 1, &by_value);
    if (ragged) set(t.d, kTensorRagged, ragged);
    finish(t.d, "tensor");
    return t;
  }
  Tensor with_memory(Id id, int type, const int64_t dim[4], const int64_t stride[4], bool by_value = false, Id from = kNone) {
    Desc ragged = nullptr;
    if (from && s.ragged) ragged = vector(from, kInt64, s.b + 1).d;
    operands.push_back(id);
    return tensor(id, type, dim, stride, false, by_value, ragged);
  }
  /* One number a sequence; the same tensor whenever it is asked for. */
  Tensor vector(Id id, int type, int64_t n) {
    const int64_t dim[4] = {n, 1, 1, 1}, stride[4] = {1, 1, 1, 1};
    if (!vectors[id].d) vectors[id] = with_memory(id, type, dim, stride);
    return vectors[id];
  }
  Tensor number(Id id) {
    const int64_t dim[4] = {1, 1, 1, 1};
    return with_memory(id, kFloat, dim, dim, true);
  }
  /* An operand [b,t,h,d] of ours. */
  Tensor operand(Id id, int64_t h, int64_t t, int64_t d, const Strides &st, Id from) {
    const int64_t dim[4] = {s.b, h, t, d}, stride[4] = {st.b, st.h, st.t, 1};
    return with_memory(id, s.type, dim, stride, false, from);
  }
  /* The same, its rows and columns exchanged. */
  Tensor transposed(Id id, int64_t h, int64_t t, int64_t d, const Strides &st, Id from) {
    const int64_t dim[4] = {s.b, h, d, t}, stride[4] = {st.b, st.h, 1, st.t};
    return with_memory(id, s.type, dim, stride, false, from);
  }
  /* f32 [b,hq,tq], or [t,hq]. */
  Tensor of_queries(Id id, Id from) {
    const int64_t dim[4] = {s.b, s.hq, s.tq, 1}, dense[4] = {s.hq * s.tq, s.tq, 1, 1}, by_token[4] = {s.hq * s.tq, 1, s.hq, 1};
    return with_memory(id, kFloat, dim, s.ragged && from ? by_token : dense, false, from);
  }
  /* A tensor without memory, rows without gaps. */
  Tensor between(int type, int64_t h, int64_t rows, int64_t cols) {
    const int64_t dim[4] = {s.b, h, rows, cols}, stride[4] = {h * rows * cols, rows * cols, cols, 1};
    return tensor(next_id++, type, dim, stride, true, false, nullptr);
  }
  Tensor like(const Tensor &t, int type) { return tensor(next_id++, type, t.dim, t.stride, true, false, nullptr); }

  void pointwise_to(Pointwise mode, int prec, const Tensor &x, const Tensor *b, const Tensor *t, const Tensor &y, int64_t axis = -1) {
    Desc d = make(kPointwiseDesc), op = make(kPointwiseOp);
    const int m = mode;
    set(d, kPointwiseMode, kTypePointwiseMode, 1, &m);
    set(d, kPointwisePrec, kTypeDataType, 1, &prec);
    if (axis >= 0) set(d, kPointwiseAxis, kTypeInt64, 1, &axis);
    finish(d, "pointwise");
    set(op, kPointwiseOpDesc, d);
    set(op, kPointwiseX, x.d);
    if (b) set(op, kPointwiseB, b->d);
    if (t) set(op, kPointwiseT, t->d);
    set(op, kPointwiseY, y.d);
    finish(op, "pointwise operation");
    ops.push_back(op);
  }
  Tensor pointwise(Pointwise mode, const Tensor &x, const Tensor &b, int type = kFloat, int prec = kFloat) {
    Tensor y = like(x, type);
    pointwise_to(mode, prec, x, &b, nullptr, y);
    return y;
  }
  Tensor pointwise(Pointwise mode, const Tensor &x) {
    Tensor y = like(x, kFloat);
    pointwise_to(mode, kFloat, x, nullptr, nullptr, y);
    return y;
  }
  Tensor index(const Tensor &x, int64_t axis, int type, int prec) {
    Tensor y = like(x, type);
    pointwise_to(kGenIndex, prec, x, nullptr, nullptr, y, axis);
    return y;
  }
  Tensor select(const Tensor &yes, const Tensor &no, const Tensor &which) {
    Tensor y = like(yes, kFloat);
    pointwise_to(kSelect, kFloat, yes, &no, &which, y);
    return y;
  }
  void reduce_to(int how, const Tensor &x, const Tensor &y) {
    Desc d = make(kReductionDesc), op = make(kReductionOp);
    const int prec = kFloat;
    set(d, kReductionPrec, kTypeDataType, 1, &prec);
    set(d, kReductionOperator, kTypeReduction, 1, &how);
    finish(d, "reduction");
    set(op, kReductionOpDesc, d);
    set(op, kReductionX, x.d);
    set(op, kReductionY, y.d);
    finish(op, "reduction operation");
    ops.push_back(op);
  }
  /* a b; m, n, k: how many rows, columns and products there are in each sequence, where they are given. */
  void matmul_to(const Tensor &a, const Tensor &b, const Tensor &c, const Tensor *m, const Tensor *n, const Tensor *k) {
    Desc d = make(kMatmulDesc), op = make(kMatmulOp);
    const int prec = kFloat;
    set(d, kMatmulPrec, kTypeDataType, 1, &prec);
    finish(d, "matmul");
    set(op, kMatmulA, a.d);
    set(op, kMatmulB, b.d);
    set(op, kMatmulC, c.d);
    set(op, kMatmulOpDesc, d);
    if (s.lengths && m) set(op, kMatmulM, m->d);
    if (s.lengths && n) set(op, kMatmulN, n->d);
    if (s.lengths && k) set(op, kMatmulK, k->d);
    finish(op, "matmul operation");
    ops.push_back(op);
  }
  void reshape_to(const Tensor &x, const Tensor &y) {
    Desc op = make(kReshapeOp);
    set(op, kReshapeX, x.d);
    set(op, kReshapeY, y.d);
    finish(op, "reshape operation");
    ops.push_back(op);
  }

  /* Scores whose keys a sequence has not. */
  Tensor hide_absent(const Tensor &x, const Tensor &queries, const Tensor &keys, const Tensor &hidden) {
    Tensor row = index(x, 2, kInt32, kInt32), col = index(x, 3, kInt32, kInt32);
    Tensor in_rows = pointwise(kCmpLt, row, queries, kBoolean, kBoolean), in_cols = pointwise(kCmpLt, col, keys, kBoolean, kBoolean);
    return select(x, hidden, pointwise(kAnd, in_rows, in_cols, kBoolean, kBoolean));
  }
  /* Scores of later keys, and of those before the window. */
  Tensor hide_unseen(Tensor x, const Tensor &hidden, const Tensor *window) {
    if (s.causal) {
      Tensor row = index(x, 2, kInt32, kFloat), col = index(x, 3, kInt32, kFloat);
      x = select(x, hidden, pointwise(kCmpGe, row, col, kBoolean, kBoolean));
    }
    if (window) {
      Tensor row = index(x, 2, kFloat, kFloat), col = index(x, 3, kFloat, kFloat);
      x = select(x, hidden, pointwise(kCmpGt, pointwise(kAdd, col, *window), row, kBoolean, kBoolean));
    }
    return x;
  }

  void forward() {
    Tensor q = operand(kQ, s.hq, s.tq, s.d_qk, s.q, kFromQ), k = transposed(kK, s.hk, s.tk, s.d_qk, s.k, kFromK);
    Tensor v = operand(kV, s.hk, s.tk, s.d_v, s.v, kFromV), o = operand(kO, s.hq, s.tq, s.d_v, s.o, kFromO), lse = of_queries(kLse, kFromLse);
    Tensor queries, keys, hidden, window, scale = number(kScale);
    if (s.lengths) {
      queries = vector(kQueries, kInt32, s.b);
      keys = vector(kKeys, kInt32, s.b);
    }
    if (s.lengths || s.causal || s.window) hidden = number(kMinusInfinity);
    if (s.window) window = number(kWindow);
    Tensor x = between(kFloat, s.hq, s.tq, s.tk);
    matmul_to(q, k, x, &queries, &keys, nullptr);
    x = pointwise(kMul, x, scale);
    if (s.lengths) x = hide_absent(x, queries, keys, hidden);
    x = hide_unseen(x, hidden, s.window ? &window : nullptr);
    Tensor most = between(kFloat, s.hq, s.tq, 1), sum = between(kFloat, s.hq, s.tq, 1);
    reduce_to(kReduceMax, x, most);
    x = pointwise(kExp, pointwise(kSub, x, most));
    reduce_to(kReduceAdd, x, sum);
    Tensor log = pointwise(kLog, sum);
    pointwise_to(kAdd, kFloat, most, &log, nullptr, lse);
    Tensor p = like(x, s.type);
    pointwise_to(kDiv, kFloat, x, &sum, nullptr, p);
    matmul_to(p, v, o, &queries, nullptr, &keys);
  }

  /* The sum over the query heads of each kv head of what a product gives, in y. */
  void product_by_kv_head(const Tensor &a, const Tensor &b, const Tensor &y, const Tensor *m, const Tensor *k) {
    if (s.hq == s.hk) return matmul_to(a, b, y, m, nullptr, k);
    Tensor all = between(s.type, s.hq, y.dim[2], y.dim[3]);
    matmul_to(a, b, all, m, nullptr, k);
    reduce_to(kReduceAdd, all, y);
  }
  Tensor flipped(const Tensor &x) {
    const int64_t dim[4] = {x.dim[0], x.dim[1], x.dim[3], x.dim[2]}, stride[4] = {x.stride[0], x.stride[1], x.stride[3], x.stride[2]};
    Tensor y = tensor(next_id++, s.type, dim, stride, true, false, nullptr);
    reshape_to(x, y);
    return y;
  }

  /* dQ is written by its product, not added up by whoever comes: that makes the result the same every time. */
  void backward() {
    Tensor q = operand(kQ, s.hq, s.tq, s.d_qk, s.q, kFromQ), k = transposed(kK, s.hk, s.tk, s.d_qk, s.k, kFromK);
    Tensor v = transposed(kV, s.hk, s.tk, s.d_v, s.v, kFromV), o = operand(kO, s.hq, s.tq, s.d_v, s.o, kFromO), lse = of_queries(kLse, kFromLse);
    Tensor d_o = operand(kDO, s.hq, s.tq, s.d_v, s.d_o, kFromDO), dq = operand(kDQ, s.hq, s.tq, s.d_qk, s.dq, kFromDQ);
    Tensor dk = operand(kDK, s.hk, s.tk, s.d_qk, s.dk, kFromDK), dv = operand(kDV, s.hk, s.tk, s.d_v, s.dv, kFromDV);
    Tensor delta = of_queries(kDelta, kNone), scale = number(kScale), one = number(kOne), queries, keys, hidden, window;
    if (s.lengths) {
      queries = vector(kQueries, kInt32, s.b);
      keys = vector(kKeys, kInt32, s.b);
    }
    if (s.lengths || s.causal || s.window) hidden = number(kMinusInfinity);
    if (s.window) window = number(kWindow);
    /* delta = the sum of dO O over a row */
    Tensor x = between(kFloat, s.hq, s.tq, s.d_v), row = between(kFloat, s.hq, s.tq, 1);
    pointwise_to(kMul, kFloat, d_o, &o, nullptr, x);
    reduce_to(kReduceAdd, x, row);
    pointwise_to(kMul, kFloat, row, &one, nullptr, delta);
    /* P = exp(S - lse), dV = P^T dO */
    x = between(kFloat, s.hq, s.tq, s.tk);
    matmul_to(q, k, x, &queries, &keys, nullptr);
    x = pointwise(kMul, x, scale);
    if (s.lengths) x = hide_absent(x, queries, keys, hidden);
    x = pointwise(kSub, x, lse);
    x = hide_unseen(x, hidden, s.window ? &window : nullptr);
    Tensor p = pointwise(kExp, x);
    product_by_kv_head(flipped(p), d_o, dv, &keys, &queries);
    /* dS = P (dO V^T - delta) scale, dK = dS^T Q, dQ = dS K */
    Tensor dp = between(kFloat, s.hq, s.tq, s.tk);
    matmul_to(d_o, v, dp, &queries, &keys, nullptr);
    Tensor ds = pointwise(kMul, pointwise(kMul, pointwise(kSub, dp, delta), p), scale);
    product_by_kv_head(flipped(ds), q, dk, &keys, &queries);
    const int64_t dim[4] = {k.dim[0], k.dim[1], k.dim[3], k.dim[2]}, stride[4] = {k.stride[0], k.stride[1], k.stride[3], k.stride[2]};
    Tensor straight = tensor(next_id++, s.type, dim, stride, true, false, s.ragged ? vector(kFromK, kInt64, s.b + 1).d : nullptr);
    reshape_to(k, straight);
    matmul_to(ds, straight, dq, &queries, nullptr, &keys);
  }
};

/* Whether the engine of a configuration may give other bits the next time. */
bool varies(Builder &b, Desc config) {
  Desc engine = b.make(kEngine);
  int64_t n = 0;
  int notes[kNoteCount] = {};
  if (!b.ok(b.f.BackendGetAttribute(config, kConfigEngine, kTypeDescriptor, 1, &n, &engine), "engine")) return true;
  if (!b.ok(b.f.BackendGetAttribute(engine, kEngineNotes, kTypeNumericalNote, kNoteCount, &n, notes), "notes of an engine")) return true;
  for (int64_t i = 0; i < n && i < kNoteCount; i++)
    if (notes[i] == kNoteNondeterministic) return true;
  return false;
}

constexpr int64_t kMostConfigs = 16;

}  // namespace

Plan make_plan(const Functions &f, Handle handle, Desc device_prop, const Sdpa &s, int64_t most_workspace) {
  Builder b(f, s);
  Plan p;
  if (s.backward)
    b.backward();
  else
    b.forward();
  Desc graph = b.make(kOperationGraph), heur = b.make(kEngineHeur);
  b.set(graph, kGraphOps, kTypeDescriptor, (int64_t)b.ops.size(), b.ops.data());
  if (handle) b.set(graph, kGraphHandle, kTypeHandle, 1, &handle);
  b.finish(graph, "graph of attention");
  const int mode = kHeurModeA;
  b.set(heur, kHeurGraph, graph);
  b.set(heur, kHeurMode, kTypeHeurMode, 1, &mode);
  if (device_prop) b.set(heur, kHeurDeviceProp, device_prop);
  b.finish(heur, "heuristic of attention");
  int64_t found = 0;
  std::vector<Desc> configs;
  for (int64_t i = 0; i < kMostConfigs; i++) configs.push_back(b.make(kEngineConfig));
  if (b.why.empty()) b.ok(f.BackendGetAttribute(heur, kHeurResults, kTypeDescriptor, kMostConfigs, &found, configs.data()), "engines of attention");
  std::string last = "no engine has attention of these shapes";
  for (int64_t i = 0; i < found && i < kMostConfigs && b.why.empty() && !p.plan; i++) {
    Builder one(f, s); /* that an engine cannot is not the end */
    if (varies(one, configs[(size_t)i])) {
      last = one.why.empty() ? "the engines that there are give other bits from call to call" : one.why;
    } else {
      Desc plan = one.make(kPlan);
      int64_t n = 0, bytes = 0;
      if (handle) one.set(plan, kPlanHandle, kTypeHandle, 1, &handle);
      if (device_prop) one.set(plan, kPlanDeviceProp, device_prop);
      one.set(plan, kPlanConfig, configs[(size_t)i]);
      one.finish(plan, "plan");
      if (one.why.empty()) one.ok(f.BackendGetAttribute(plan, kPlanWorkspace, kTypeInt64, 1, &n, &bytes), "workspace of a plan");
      if (!one.why.empty()) {
        last = one.why;
      } else if (bytes > most_workspace) {
        last = "it takes " + std::to_string(bytes >> 20) + " MiB of workspace";
      } else {
        p.plan = plan;
        p.workspace = bytes;
      }
    }
    b.owned.insert(b.owned.end(), one.owned.begin(), one.owned.end());
  }
  p.owned = b.owned;
  p.operands = b.operands;
  if (!p.plan) p.why = b.why.empty() ? last : b.why;
  if (!p.plan) free_plan(f, &p);
  return p;
}

void free_plan(const Functions &f, Plan *p) {
  for (size_t i = p->owned.size(); i-- > 0;) f.BackendDestroyDescriptor(p->owned[i]);
  p->owned.clear();
  p->plan = nullptr;
}

int execute(const Functions &f, Handle handle, const Plan &p, void *const at[kIds], const Numbers &n, void *workspace) {
  std::vector<void *> pointers;
  std::vector<int64_t> ids;
  for (Id id : p.operands) {
    const void *v = at[id];
    if (id == kScale) v = &n.scale;
    if (id == kOne) v = &n.one;
    if (id == kMinusInfinity) v = &n.minus_infinity;
    if (id == kWindow) v = &n.window;
    pointers.push_back(const_cast<void *>(v));
    ids.push_back(id);
  }
  Desc pack = nullptr;
  int st = f.BackendCreateDescriptor(kVariantPack, &pack);
  if (st) return st;
  st = f.BackendSetAttribute(pack, kPackPointers, kTypeVoidPtr, (int64_t)pointers.size(), pointers.data());
  if (!st) st = f.BackendSetAttribute(pack, kPackIds, kTypeInt64, (int64_t)ids.size(), ids.data());
  if (!st) st = f.BackendSetAttribute(pack, kPackWorkspace, kTypeVoidPtr, 1, &workspace);
  if (!st) st = f.BackendFinalize(pack);
  if (!st) st = f.BackendExecute(handle, p.plan, pack);
  f.BackendDestroyDescriptor(pack);
  return st;
}

}  // namespace dnn
}  // namespace tf
