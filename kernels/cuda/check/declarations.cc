/* Holds our declarations of NVIDIA's interfaces against their headers. Compiled, and never run, by deploy/setup/cuda-build.sh where
 * `deploy/setup/cuda.sh --headers` has put them. */
#include <cublasLt.h>
#include <cudnn.h>
#include <nccl.h>

#include "../cublaslt.h"
#include "../cudnnapi.h"
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
template <>
constexpr bool alike<void, void> = true;
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

namespace cd = tf::dnn;
SAME(cd::kSuccess, CUDNN_STATUS_SUCCESS);
SAME(cd::kBadParam, CUDNN_STATUS_BAD_PARAM);
SAME(cd::kNotSupported, CUDNN_STATUS_NOT_SUPPORTED);
SAME(cd::kExecutionFailed, CUDNN_STATUS_EXECUTION_FAILED);
SAME(cd::kFloat, CUDNN_DATA_FLOAT);
SAME(cd::kHalf, CUDNN_DATA_HALF);
SAME(cd::kInt32, CUDNN_DATA_INT32);
SAME(cd::kBfloat16, CUDNN_DATA_BFLOAT16);
SAME(cd::kInt64, CUDNN_DATA_INT64);
SAME(cd::kBoolean, CUDNN_DATA_BOOLEAN);
SAME(cd::kReduceAdd, CUDNN_REDUCE_TENSOR_ADD);
SAME(cd::kReduceMax, CUDNN_REDUCE_TENSOR_MAX);
SAME(cd::kHeurModeA, CUDNN_HEUR_MODE_A);
SAME(cd::kNoteNondeterministic, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
SAME(cd::kNoteCount, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
SAME(cd::kAdd, CUDNN_POINTWISE_ADD);
SAME(cd::kMul, CUDNN_POINTWISE_MUL);
SAME(cd::kDiv, CUDNN_POINTWISE_DIV);
SAME(cd::kSub, CUDNN_POINTWISE_SUB);
SAME(cd::kExp, CUDNN_POINTWISE_EXP);
SAME(cd::kLog, CUDNN_POINTWISE_LOG);
SAME(cd::kCmpGt, CUDNN_POINTWISE_CMP_GT);
SAME(cd::kCmpGe, CUDNN_POINTWISE_CMP_GE);
SAME(cd::kCmpLt, CUDNN_POINTWISE_CMP_LT);
SAME(cd::kAnd, CUDNN_POINTWISE_LOGICAL_AND);
SAME(cd::kGenIndex, CUDNN_POINTWISE_GEN_INDEX);
SAME(cd::kSelect, CUDNN_POINTWISE_BINARY_SELECT);
SAME(cd::kPointwiseDesc, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
SAME(cd::kEngine, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
SAME(cd::kEngineConfig, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
SAME(cd::kEngineHeur, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
SAME(cd::kPlan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
SAME(cd::kPointwiseOp, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
SAME(cd::kOperationGraph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
SAME(cd::kVariantPack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
SAME(cd::kTensor, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
SAME(cd::kMatmulDesc, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
SAME(cd::kMatmulOp, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
SAME(cd::kReductionDesc, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
SAME(cd::kReductionOp, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
SAME(cd::kReshapeOp, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
SAME(cd::kDeviceProp, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
SAME(cd::kTypeHandle, CUDNN_TYPE_HANDLE);
SAME(cd::kTypeDataType, CUDNN_TYPE_DATA_TYPE);
SAME(cd::kTypeBoolean, CUDNN_TYPE_BOOLEAN);
SAME(cd::kTypeInt64, CUDNN_TYPE_INT64);
SAME(cd::kTypeVoidPtr, CUDNN_TYPE_VOID_PTR);
SAME(cd::kTypeHeurMode, CUDNN_TYPE_HEUR_MODE);
SAME(cd::kTypeNumericalNote, CUDNN_TYPE_NUMERICAL_NOTE);
SAME(cd::kTypePointwiseMode, CUDNN_TYPE_POINTWISE_MODE);
SAME(cd::kTypeDescriptor, CUDNN_TYPE_BACKEND_DESCRIPTOR);
SAME(cd::kTypeReduction, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE);
SAME(cd::kTypeChar, CUDNN_TYPE_CHAR);
SAME(cd::kPointwiseMode, CUDNN_ATTR_POINTWISE_MODE);
SAME(cd::kPointwisePrec, CUDNN_ATTR_POINTWISE_MATH_PREC);
SAME(cd::kPointwiseAxis, CUDNN_ATTR_POINTWISE_AXIS);
SAME(cd::kHeurMode, CUDNN_ATTR_ENGINEHEUR_MODE);
SAME(cd::kHeurGraph, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
SAME(cd::kHeurResults, CUDNN_ATTR_ENGINEHEUR_RESULTS);
SAME(cd::kHeurDeviceProp, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
SAME(cd::kConfigEngine, CUDNN_ATTR_ENGINECFG_ENGINE);
SAME(cd::kPlanHandle, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
SAME(cd::kPlanConfig, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
SAME(cd::kPlanWorkspace, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
SAME(cd::kPlanDeviceProp, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
SAME(cd::kPointwiseOpDesc, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
SAME(cd::kPointwiseX, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
SAME(cd::kPointwiseB, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
SAME(cd::kPointwiseY, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
SAME(cd::kPointwiseT, CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
SAME(cd::kGraphHandle, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
SAME(cd::kGraphOps, CUDNN_ATTR_OPERATIONGRAPH_OPS);
SAME(cd::kTensorAlignment, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
SAME(cd::kTensorType, CUDNN_ATTR_TENSOR_DATA_TYPE);
SAME(cd::kTensorDims, CUDNN_ATTR_TENSOR_DIMENSIONS);
SAME(cd::kTensorStrides, CUDNN_ATTR_TENSOR_STRIDES);
SAME(cd::kTensorId, CUDNN_ATTR_TENSOR_UNIQUE_ID);
SAME(cd::kTensorVirtual, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
SAME(cd::kTensorByValue, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
SAME(cd::kTensorRagged, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC);
SAME(cd::kPackIds, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
SAME(cd::kPackPointers, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
SAME(cd::kPackWorkspace, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
SAME(cd::kEngineNotes, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE);
SAME(cd::kMatmulPrec, CUDNN_ATTR_MATMUL_COMP_TYPE);
SAME(cd::kMatmulA, CUDNN_ATTR_OPERATION_MATMUL_ADESC);
SAME(cd::kMatmulB, CUDNN_ATTR_OPERATION_MATMUL_BDESC);
SAME(cd::kMatmulC, CUDNN_ATTR_OPERATION_MATMUL_CDESC);
SAME(cd::kMatmulOpDesc, CUDNN_ATTR_OPERATION_MATMUL_DESC);
SAME(cd::kMatmulM, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC);
SAME(cd::kMatmulN, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC);
SAME(cd::kMatmulK, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC);
SAME(cd::kReductionOperator, CUDNN_ATTR_REDUCTION_OPERATOR);
SAME(cd::kReductionPrec, CUDNN_ATTR_REDUCTION_COMP_TYPE);
SAME(cd::kReductionX, CUDNN_ATTR_OPERATION_REDUCTION_XDESC);
SAME(cd::kReductionY, CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
SAME(cd::kReductionOpDesc, CUDNN_ATTR_OPERATION_REDUCTION_DESC);
SAME(cd::kReshapeX, CUDNN_ATTR_OPERATION_RESHAPE_XDESC);
SAME(cd::kReshapeY, CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
SAME(cd::kDevicePropJson, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION);
#define TF_X(name)                                                                                  \
  static_assert(Same<decltype(cd::Functions::name), decltype(&cudnn##name)>::count, "cudnn" #name); \
  static_assert(Same<decltype(cd::Functions::name), decltype(&cudnn##name)>::value, "cudnn" #name);
TF_DNN_FUNCTIONS(TF_X)
#undef TF_X
