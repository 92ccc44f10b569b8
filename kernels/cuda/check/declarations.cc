/* Holds our declarations of NVIDIA's interfaces against their headers. Compiled, and never run, by deploy/setup/cuda-build.sh where
 * `deploy/setup/cuda.sh --headers` has put them. */
#include <cublasLt.h>
#include <nccl.h>

#include "../cublaslt.h"
#include "../ncclapi.h"

#define SAME(ours, theirs) static_assert((long)(ours) == (long)(theirs), #theirs)

using namespace tf::lt;

SAME(kR32F, CUDA_R_32F);
SAME(kR16F, CUDA_R_16F);
SAME(kR16BF, CUDA_R_16BF);
SAME(kCompute32F, CUBLAS_COMPUTE_32F);
SAME(kOpN, CUBLAS_OP_N);
SAME(kOpT, CUBLAS_OP_T);
SAME(kLayoutBatchCount, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(kLayoutBatchStride, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(kDescTransA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(kDescTransB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(kDescEpilogue, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(kDescBiasPointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(kEpilogueDefault, CUBLASLT_EPILOGUE_DEFAULT);
SAME(kEpilogueBias, CUBLASLT_EPILOGUE_BIAS);
SAME(kPrefMaxWorkspace, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(kPrefReductions, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(kPrefAlignA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(kPrefAlignB, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(kPrefAlignC, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(kPrefAlignD, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(kReduceInPlace, CUBLASLT_REDUCTION_SCHEME_INPLACE);
SAME(kReduceComputeType, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(kReduceOutputType, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE);
SAME(sizeof(Algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(Heuristic), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(Heuristic, workspace), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(Heuristic, state), offsetof(cublasLtMatmulHeuristicResult_t, state));

/* Argument by argument: of the same size, and both pointers or both not. */
template <typename A, typename B>
constexpr bool alike = sizeof(A) == sizeof(B) && std::is_pointer<A>::value == std::is_pointer<B>::value;
template <typename A, typename B>
struct Same;
template <typename RA, typename... A, typename RB, typename... B>
struct Same<RA (*)(A...), RB (*)(B...)> {
  template <typename X, typename Y>
  static constexpr bool arguments() {
    return alike<X, Y>;
  }
  static constexpr bool count = sizeof...(A) == sizeof...(B);
  static constexpr bool value = alike<RA, RB> && (alike<A, B> && ...);
};
#define TF_X(name)                                                                                  \
  static_assert(Same<decltype(Functions::name), decltype(&cublasLt##name)>::count, "cublasLt" #name); \
  static_assert(Same<decltype(Functions::name), decltype(&cublasLt##name)>::value, "cublasLt" #name);
TF_LT_FUNCTIONS(TF_X)
#undef TF_X

namespace nc = tf::nccl;
SAME(nc::kSuccess, ncclSuccess);
SAME(nc::kUnhandledCudaError, ncclUnhandledCudaError);
SAME(nc::kSystemError, ncclSystemError);
SAME(nc::kInvalidUsage, ncclInvalidUsage);
SAME(nc::kRemoteError, ncclRemoteError);
SAME(nc::kInProgress, ncclInProgress);
SAME(nc::kInt8, ncclInt8);
SAME(nc::kUndefined, NCCL_CONFIG_UNDEF_INT);
SAME(nc::kOldest, NCCL_VERSION(2, 14, 0));
SAME(sizeof(nc::Id), sizeof(ncclUniqueId));
SAME(offsetof(nc::Config, magic), offsetof(ncclConfig_t, magic));
SAME(offsetof(nc::Config, version), offsetof(ncclConfig_t, version));
SAME(offsetof(nc::Config, blocking), offsetof(ncclConfig_t, blocking));
SAME(offsetof(nc::Config, cga_cluster_size), offsetof(ncclConfig_t, cgaClusterSize));
#define TF_X(name)                                                                                            \
  static_assert(Same<decltype(nc::Functions::name), decltype(&nccl##name)>::count, "nccl" #name);             \
  static_assert(Same<decltype(nc::Functions::name), decltype(&nccl##name)>::value, "nccl" #name);
TF_NCCL_FUNCTIONS(TF_X)
#undef TF_X
