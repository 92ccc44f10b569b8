/* Stands in for cuBLASLt in the emulation: it computes what the descriptors say, and checks them as strictly as the real one may. So the way
 * lt.cu describes products is tested; which algorithm the real one takes, and how fast, is not. */
#include "../cublaslt.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../device.cuh"
#include "emulate.h"

using namespace tf;

namespace {

enum { kOk = 0, kInvalid = 7, kUnsupported = 15 };

struct FakeLayout {
  int type;
  uint64_t rows, cols;
  int64_t ld, stride;
  int32_t batch;
};
struct FakeDesc {
  int32_t trans_a, trans_b, epilogue;
  const void *bias;
};
struct FakePref {
  uint64_t workspace;
  uint32_t reductions, align[4];
};

size_t size_of(int type) { return type == lt::kR32F ? 4 : 2; }

float get(const void *p, int type, int64_t i) {
  if (type == lt::kR32F) return static_cast<const float *>(p)[i];
  if (type == lt::kR16BF) return up(static_cast<const bf16 *>(p)[i]);
  return up(static_cast<const f16 *>(p)[i]);
}
void set(void *p, int type, int64_t i, float v) {
  if (type == lt::kR32F)
    static_cast<float *>(p)[i] = v;
  else if (type == lt::kR16BF)
    static_cast<bf16 *>(p)[i] = down<bf16>(v);
  else
    static_cast<f16 *>(p)[i] = down<f16>(v);
}

template <typename T>
int take(T *to, const void *from, size_t n) {
  if (n != sizeof *to) return kInvalid;
  memcpy(to, from, n);
  return kOk;
}

/* Alignments that an algorithm was chosen for travel in it. */
bool aligned(const void *p, const FakeLayout &l, uint64_t to) {
  return reinterpret_cast<uintptr_t>(p) % to == 0 && (l.batch == 1 || (uint64_t)l.stride * size_of(l.type) % to == 0);
}

void multiply(const FakeDesc &d, float alpha, const void *a, const FakeLayout &la, const void *b, const FakeLayout &lb, float beta, void *c, const FakeLayout &lc) {
  const uint64_t k = d.trans_a ? la.rows : la.cols;
  for (int64_t i = 0; i < lc.batch; i++)
    for (uint64_t col = 0; col < lc.cols; col++)
      for (uint64_t row = 0; row < lc.rows; row++) {
        float s = 0;
        for (uint64_t x = 0; x < k; x++) {
          int64_t ai = i * la.stride + (int64_t)(d.trans_a ? row : x) * la.ld + (int64_t)(d.trans_a ? x : row);
          int64_t bi = i * lb.stride + (int64_t)(d.trans_b ? x : col) * lb.ld + (int64_t)(d.trans_b ? col : x);
          s = fmaf(get(a, la.type, ai), get(b, lb.type, bi), s);
        }
        int64_t ci = i * lc.stride + (int64_t)col * lc.ld + (int64_t)row;
        s *= alpha;
        if (beta != 0) s += beta * get(c, lc.type, ci);
        if (d.epilogue == lt::kEpilogueBias) s += get(d.bias, lc.type, (int64_t)row);
        set(c, lc.type, ci, s);
      }
}

}  // namespace

/* The object that this file is in, as a path that dlopen takes; TUNEFLEET_FAKE_CUBLASLT names another for tests. */
const char *tfh_cublaslt() {
  const char *v = getenv("TUNEFLEET_FAKE_CUBLASLT");
  if (v && *v) return v;
  static Dl_info info;
  return dladdr(reinterpret_cast<void *>(tfh_cublaslt), &info) ? info.dli_fname : "";
}

#pragma GCC visibility push(default)
extern "C" {

size_t cublasLtGetVersion() { return 130000; }
int cublasLtCreate(lt::Handle *h) {
  *h = malloc(1);
  return kOk;
}
int cublasLtDestroy(lt::Handle h) {
  free(h);
  return kOk;
}

int cublasLtMatmulDescCreate(lt::Desc *d, int compute, int scale) {
  if (compute != lt::kCompute32F || scale != lt::kR32F) return kInvalid;
  *d = new FakeDesc{0, 0, lt::kEpilogueDefault, nullptr};
  return kOk;
}
int cublasLtMatmulDescDestroy(lt::Desc d) {
  delete static_cast<FakeDesc *>(d);
  return kOk;
}
int cublasLtMatmulDescSetAttribute(lt::Desc d, int attribute, const void *v, size_t n) {
  FakeDesc *f = static_cast<FakeDesc *>(d);
  switch (attribute) {
    case lt::kDescTransA:
      return take(&f->trans_a, v, n);
    case lt::kDescTransB:
      return take(&f->trans_b, v, n);
    case lt::kDescEpilogue:
      return take(&f->epilogue, v, n);
    case lt::kDescBiasPointer:
      return take(&f->bias, v, n);
  }
  return kInvalid;
}

int cublasLtMatrixLayoutCreate(lt::Layout *l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if ((type != lt::kR32F && type != lt::kR16BF && type != lt::kR16F) || rows == 0 || cols == 0 || ld < (int64_t)rows) return kInvalid;
  *l = new FakeLayout{type, rows, cols, ld, 0, 1};
  return kOk;
}
int cublasLtMatrixLayoutDestroy(lt::Layout l) {
  delete static_cast<FakeLayout *>(l);
  return kOk;
}
int cublasLtMatrixLayoutSetAttribute(lt::Layout l, int attribute, const void *v, size_t n) {
  FakeLayout *f = static_cast<FakeLayout *>(l);
  if (attribute == lt::kLayoutBatchCount) return take(&f->batch, v, n);
  if (attribute == lt::kLayoutBatchStride) return take(&f->stride, v, n);
  return kInvalid;
}

int cublasLtMatmulPreferenceCreate(lt::Preference *p) {
  *p = new FakePref{0, 7, {256, 256, 256, 256}};
  return kOk;
}
int cublasLtMatmulPreferenceDestroy(lt::Preference p) {
  delete static_cast<FakePref *>(p);
  return kOk;
}
int cublasLtMatmulPreferenceSetAttribute(lt::Preference p, int attribute, const void *v, size_t n) {
  FakePref *f = static_cast<FakePref *>(p);
  if (attribute == lt::kPrefMaxWorkspace) return take(&f->workspace, v, n);
  if (attribute == lt::kPrefReductions) return take(&f->reductions, v, n);
  if (attribute >= lt::kPrefAlignA && attribute <= lt::kPrefAlignD) return take(&f->align[attribute - lt::kPrefAlignA], v, n);
  return kInvalid;
}

/* It has no algorithm for addresses that are not multiples of 16 and leaves those to the caller, as the real one may. */
int cublasLtMatmulAlgoGetHeuristic(lt::Handle, lt::Desc dd, lt::Layout a, lt::Layout b, lt::Layout c, lt::Layout d, lt::Preference p, int wanted,
                                   lt::Heuristic *h, int *found) {
  const FakeDesc *f = static_cast<FakeDesc *>(dd);
  const FakeLayout *la = static_cast<FakeLayout *>(a), *lb = static_cast<FakeLayout *>(b), *lc = static_cast<FakeLayout *>(c);
  const FakePref *pref = static_cast<FakePref *>(p);
  *found = 0;
  const uint64_t m = f->trans_a ? la->cols : la->rows, ka = f->trans_a ? la->rows : la->cols;
  const uint64_t n = f->trans_b ? lb->rows : lb->cols, kb = f->trans_b ? lb->cols : lb->rows;
  if (wanted < 1 || m != lc->rows || n != lc->cols || ka != kb || c != d || la->batch != lc->batch || lb->batch != lc->batch) return kInvalid;
  if (la->type != lb->type || (la->type == lt::kR32F && lc->type != lt::kR32F)) return kUnsupported;
  if (f->epilogue == lt::kEpilogueBias && !f->bias) return kInvalid;
  if (pref->reductions & lt::kReduceInPlace) return kInvalid; /* sums would depend on the order of blocks */
  memset(h, 0, sizeof *h);
  for (int i = 0; i < 4; i++) {
    if (pref->align[i] < 16) return kUnsupported;
    h->algo.data[i] = pref->align[i];
  }
  h->workspace = 4096;
  if (h->workspace > pref->workspace) return kUnsupported;
  *found = 1;
  return kOk;
}

int cublasLtMatmul(lt::Handle, lt::Desc desc, const void *alpha, const void *a, lt::Layout pa, const void *b, lt::Layout pb, const void *beta, const void *c,
                   lt::Layout pc, void *d, lt::Layout pd, const lt::Algo *algo, void *ws, size_t ws_bytes, void *stream) {
  const FakeDesc f = *static_cast<FakeDesc *>(desc);
  const FakeLayout la = *static_cast<FakeLayout *>(pa), lb = *static_cast<FakeLayout *>(pb), lc = *static_cast<FakeLayout *>(pc);
  const float al = *static_cast<const float *>(alpha), be = *static_cast<const float *>(beta);
  if (c != d || pc != pd || ws_bytes < 4096 || reinterpret_cast<uintptr_t>(ws) % 256) return kInvalid;
  if (!aligned(a, la, algo->data[0]) || !aligned(b, lb, algo->data[1]) || !aligned(d, lc, algo->data[2])) return kInvalid;
  if (f.bias && reinterpret_cast<uintptr_t>(f.bias) % 16) return kInvalid;
  return tfh::enqueue(static_cast<cudaStream_t>(stream), [=]() {
    memset(ws, 0xff, 4096);
    multiply(f, al, a, la, b, lb, be, d, lc);
  });
}

}  // extern "C"
#pragma GCC visibility pop
