/* What we use of cuBLASLt's interface, so that neither its header (423 MB with the library) nor the library is needed to build. Values are
 * those of cublasLt.h; check/declarations.cc holds them against it. */
#ifndef TUNEFLEET_CUDA_CUBLASLT_H
#define TUNEFLEET_CUDA_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

namespace tf {
namespace lt {

enum { kR32F = 0, kR16F = 2, kR16BF = 14 }; /* cudaDataType */
enum { kCompute32F = 68 };                  /* cublasComputeType_t: f32 without TF32 */
enum { kOpN = 0, kOpT = 1 };                /* cublasOperation_t */
enum { kLayoutBatchCount = 5, kLayoutBatchStride = 6 };
enum { kDescTransA = 3, kDescTransB = 4, kDescEpilogue = 7, kDescBiasPointer = 8 };
enum { kEpilogueDefault = 1, kEpilogueBias = 4 };
enum { kPrefMaxWorkspace = 1, kPrefReductions = 3, kPrefAlignA = 5, kPrefAlignB = 6, kPrefAlignC = 7, kPrefAlignD = 8 };
enum { kReduceInPlace = 1, kReduceComputeType = 2, kReduceOutputType = 4 };

struct Algo {
  uint64_t data[8];
};
struct Heuristic {
  Algo algo;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

typedef void *Handle, *Desc, *Layout, *Preference;

/* The functions, by the name that follows cublasLt. All but GetVersion return a status, 0 for success. */
struct Functions {
  size_t (*GetVersion)();
  int (*Create)(Handle *);
  int (*Destroy)(Handle);
  int (*MatmulDescCreate)(Desc *, int compute, int scale);
  int (*MatmulDescDestroy)(Desc);
  int (*MatmulDescSetAttribute)(Desc, int attribute, const void *, size_t);
  int (*MatrixLayoutCreate)(Layout *, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*MatrixLayoutDestroy)(Layout);
  int (*MatrixLayoutSetAttribute)(Layout, int attribute, const void *, size_t);
  int (*MatmulPreferenceCreate)(Preference *);
  int (*MatmulPreferenceDestroy)(Preference);
  int (*MatmulPreferenceSetAttribute)(Preference, int attribute, const void *, size_t);
  int (*MatmulAlgoGetHeuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Heuristic *, int *found);
  int (*Matmul)(Handle, Desc, const void *alpha, const void *a, Layout, const void *b, Layout, const void *beta, const void *c, Layout, void *d, Layout,
                const Algo *, void *workspace, size_t workspace_bytes, void *stream);
};

#define TF_LT_FUNCTIONS(X)                                                                                                    \
  X(GetVersion) X(Create) X(Destroy) X(MatmulDescCreate) X(MatmulDescDestroy) X(MatmulDescSetAttribute) X(MatrixLayoutCreate) \
  X(MatrixLayoutDestroy) X(MatrixLayoutSetAttribute) X(MatmulPreferenceCreate) X(MatmulPreferenceDestroy)                     \
  X(MatmulPreferenceSetAttribute) X(MatmulAlgoGetHeuristic) X(Matmul)

}  // namespace lt
}  // namespace tf

#endif
