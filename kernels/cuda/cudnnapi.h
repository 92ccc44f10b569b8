/* What we use of cuDNN's backend interface, so that neither its headers nor the library (370 MB) are needed to build. Values are those of
 * cudnn_graph.h; check/declarations.cc holds them against it. */
#ifndef TUNEFLEET_CUDA_CUDNNAPI_H
#define TUNEFLEET_CUDA_CUDNNAPI_H

#include <stddef.h>
#include <stdint.h>

namespace tf {
namespace dnn {

/* 9.15.1: the first whose backward takes any number of keys without a mask of padding around it. */
constexpr int64_t kOldest = 91501;

enum { kSuccess = 0, kBadParam = 2000, kNotSupported = 3000, kExecutionFailed = 5000 };       /* cudnnStatus_t */
enum { kFloat = 0, kHalf = 2, kInt32 = 4, kBfloat16 = 9, kInt64 = 10, kBoolean = 11 };          /* cudnnDataType_t */
enum { kReduceAdd = 0, kReduceMax = 3 };                                                        /* cudnnReduceTensorOp_t */
enum { kHeurModeA = 3 };                                                                        /* cudnnBackendHeurMode_t */
enum { kNoteNondeterministic = 4, kNoteCount = 10 };                                            /* cudnnBackendNumericalNote_t */

enum Pointwise { /* cudnnPointwiseMode_t */
  kAdd = 0,
  kMul = 1,
  kDiv = 6,
  kSub = 9,
  kExp = 13,
  kLog = 15,
  kCmpGt = 302,
  kCmpGe = 303,
  kCmpLt = 304,
  kAnd = 400,
  kGenIndex = 501,
  kSelect = 601
};

enum Kind { /* cudnnBackendDescriptorType_t */
  kPointwiseDesc = 0,
  kEngine = 2,
  kEngineConfig = 3,
  kEngineHeur = 4,
  kPlan = 5,
  kPointwiseOp = 13,
  kOperationGraph = 15,
  kVariantPack = 16,
  kTensor = 17,
  kMatmulDesc = 18,
  kMatmulOp = 19,
  kReductionDesc = 21,
  kReductionOp = 22,
  kReshapeOp = 31,
  kDeviceProp = 38
};

enum Type { /* cudnnBackendAttributeType_t */
  kTypeHandle = 0,
  kTypeDataType = 1,
  kTypeBoolean = 2,
  kTypeInt64 = 3,
  kTypeVoidPtr = 6,
  kTypeHeurMode = 8,
  kTypeNumericalNote = 11,
  kTypePointwiseMode = 14,
  kTypeDescriptor = 15,
  kTypeReduction = 18,
  kTypeChar = 24
};

enum Attribute { /* cudnnBackendAttributeName_t */
  kPointwiseMode = 0,
  kPointwisePrec = 1,
  kPointwiseAxis = 9,
  kHeurMode = 200,
  kHeurGraph = 201,
  kHeurResults = 202,
  kHeurDeviceProp = 204,
  kConfigEngine = 300,
  kPlanHandle = 400,
  kPlanConfig = 401,
  kPlanWorkspace = 402,
  kPlanDeviceProp = 407,
  kPointwiseOpDesc = 750,
  kPointwiseX = 751,
  kPointwiseB = 752,
  kPointwiseY = 753,
  kPointwiseT = 758,
  kGraphHandle = 800,
  kGraphOps = 801,
  kTensorAlignment = 900,
  kTensorType = 901,
  kTensorDims = 902,
  kTensorStrides = 903,
  kTensorId = 906,
  kTensorVirtual = 907,
  kTensorByValue = 908,
  kTensorRagged = 913,
  kPackIds = 1000,
  kPackPointers = 1001,
  kPackWorkspace = 1003,
  kEngineNotes = 1303,
  kMatmulPrec = 1500,
  kMatmulA = 1520,
  kMatmulB = 1521,
  kMatmulC = 1522,
  kMatmulOpDesc = 1523,
  kMatmulM = 1525,
  kMatmulN = 1526,
  kMatmulK = 1527,
  kReductionOperator = 1600,
  kReductionPrec = 1601,
  kReductionX = 1610,
  kReductionY = 1611,
  kReductionOpDesc = 1612,
  kReshapeX = 2200,
  kReshapeY = 2201,
  kDevicePropJson = 2702
};

typedef void *Handle, *Desc;

/* The functions, by the name that follows cudnn. All but the first two and the last two return a status, 0 for success. */
struct Functions {
  size_t (*GetVersion)();
  size_t (*GetCudartVersion)();
  int (*Create)(Handle *);
  int (*Destroy)(Handle);
  int (*SetStream)(Handle, void *stream);
  int (*BackendCreateDescriptor)(int kind, Desc *);
  int (*BackendDestroyDescriptor)(Desc);
  int (*BackendFinalize)(Desc);
  int (*BackendSetAttribute)(Desc, int attribute, int type, int64_t count, const void *);
  int (*BackendGetAttribute)(Desc, int attribute, int type, int64_t wanted, int64_t *count, void *);
  int (*BackendExecute)(Handle, Desc plan, Desc pack);
  const char *(*GetErrorString)(int);
  void (*GetLastErrorString)(char *, size_t);
};

#define TF_DNN_FUNCTIONS(X)                                                                                                           \
  X(GetVersion) X(GetCudartVersion) X(Create) X(Destroy) X(SetStream) X(BackendCreateDescriptor) X(BackendDestroyDescriptor)          \
  X(BackendFinalize)                                                                                                                 \
  X(BackendSetAttribute) X(BackendGetAttribute) X(BackendExecute) X(GetErrorString) X(GetLastErrorString)

}  // namespace dnn
}  // namespace tf

#endif
