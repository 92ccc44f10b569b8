/* What we use of NCCL's interface, so that neither its header nor the library (200 MB) is needed to build. Values are those of nccl.h;
 * check/declarations.cc holds them against it. */
#ifndef TUNEFLEET_CUDA_NCCLAPI_H
#define TUNEFLEET_CUDA_NCCLAPI_H

#include <stddef.h>
#include <stdint.h>

namespace tf {
namespace nccl {

enum { kSuccess = 0, kUnhandledCudaError = 1, kSystemError = 2, kInvalidUsage = 5, kRemoteError = 6, kInProgress = 7 }; /* ncclResult_t */
enum { kInt8 = 0 };                                                                                                    /* ncclDataType_t */
constexpr int kUndefined = (int)0x80000000; /* NCCL_CONFIG_UNDEF_INT */
constexpr unsigned kMagic = 0xcafebeef;

struct Id {
  char bytes[128];
};

/* ncclConfig_t as of NCCL 2.14, which had non-blocking communicators first. A newer library takes the fields that it names from it, and its
 * defaults for the rest. */
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = kMagic, version = 21400;
  int blocking = 0, cga_cluster_size = kUndefined;
};
constexpr int kOldest = 21400;

typedef void *Comm;

/* The functions, by the name that follows nccl. */
struct Functions {
  int (*GetVersion)(int *);
  int (*GetUniqueId)(Id *);
  int (*CommInitRankConfig)(Comm *, int ranks, Id, int rank, Config *);
  int (*CommFinalize)(Comm);
  int (*CommDestroy)(Comm);
  int (*CommAbort)(Comm);
  int (*CommGetAsyncError)(Comm, int *result);
  const char *(*GetErrorString)(int);
  const char *(*GetLastError)(Comm);
  int (*Send)(const void *, size_t count, int type, int peer, Comm, void *stream);
  int (*Recv)(void *, size_t count, int type, int peer, Comm, void *stream);
  int (*Broadcast)(const void *src, void *dst, size_t count, int type, int root, Comm, void *stream);
  int (*GroupStart)();
  int (*GroupEnd)();
};

#define TF_NCCL_FUNCTIONS(X)                                                                                                      \
  X(GetVersion) X(GetUniqueId) X(CommInitRankConfig) X(CommFinalize) X(CommDestroy) X(CommAbort) X(CommGetAsyncError)             \
  X(GetErrorString) X(GetLastError) X(Send) X(Recv) X(Broadcast) X(GroupStart) X(GroupEnd)

}  // namespace nccl
}  // namespace tf

#endif
