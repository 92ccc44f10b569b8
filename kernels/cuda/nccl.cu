/* Communicators by NCCL, which is opened when one is first asked for: a machine without it still runs one GPU.
 *
 * Communicators are non-blocking (ncclConfig_t.blocking = 0): joining, queueing and leaving return ncclInProgress and are asked after, so that
 * the caller decides how long it waits. NCCL only moves bytes here: sums are made by slice_add in a fixed order, since NCCL's own order
 * depends on algorithm and size.
 *
 * When a rank is lost, ncclCommAbort ends the kernels that wait for it, and what they should have filled is worthless, but no stream fails:
 * tf::Losses follows results from queue to queue through events. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <new>
#include <string>

#include "ncclapi.h"
#include "graph.h"
#include "queue.h"

namespace {

using namespace tf;

struct Library {
  nccl::Functions f = {};
  int version = 0;
  std::string why; /* not empty: it could not be opened */
};

std::string name_of(int version) {
  if (version < 10000) return std::to_string(version / 1000) + "." + std::to_string(version / 100 % 10) + "." + std::to_string(version % 100);
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

/* Folders of TUNEFLEET_CUDA_DEPS, then where the loader looks. */
void *open_library(std::string *why) {
#ifdef TF_HOST
  std::string name = tfh_nccl();
#else
  std::string name = "libnccl.so.2";
#endif
  const char *folders = getenv("TUNEFLEET_CUDA_DEPS");
  for (std::string rest = folders ? folders : ""; !rest.empty();) {
    size_t colon = rest.find(':');
    std::string path = rest.substr(0, colon) + "/" + name;
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
    if (void *so = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return so;
  }
  void *so = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  const std::string cuda = std::to_string(TF_CUDA_VERSION / 1000);
  if (!so) *why = std::string("NCCL cannot be opened: ") + dlerror() + "; install NCCL 2 for CUDA " + cuda + " (libnccl2, or the wheel nvidia-nccl-cu" + cuda + "), or name its folder in TUNEFLEET_CUDA_DEPS";
  return so;
}

Library load() {
  Library l;
  void *so = open_library(&l.why);
  if (!so) return l;
#define TF_X(name)                                                                 \
  l.f.name = reinterpret_cast<decltype(l.f.name)>(dlsym(so, "nccl" #name));        \
  if (!l.f.name && l.why.empty()) l.why = "NCCL has no nccl" #name ", it is too old (2.14 is the least)";
  TF_NCCL_FUNCTIONS(TF_X)
#undef TF_X
  if (!l.why.empty()) return l;
  int st = l.f.GetVersion(&l.version);
  if (st)
    l.why = std::string("ncclGetVersion: ") + l.f.GetErrorString(st);
  else if (l.version < nccl::kOldest)
    l.why = "NCCL " + name_of(l.version) + " is too old, 2.14 is the least";
  return l;
}

const Library &library() {
  static const Library l = load();
  return l;
}

tf_status say(char *why, int64_t n, tf_status st, const char *what, int result, nccl::Comm c) {
  const nccl::Functions &f = library().f;
  const char *more = c ? f.GetLastError(c) : "";
  snprintf(why, (size_t)n, "%s: %s%s%s", what, f.GetErrorString(result), more && *more ? ": " : "", more ? more : "");
  return st;
}

}  // namespace

struct tf_comm {
  tf_device *d = nullptr;
  nccl::Comm c = nullptr; /* null after ncclCommAbort and ncclCommDestroy */
  int32_t rank = 0, world = 0;
  bool leaving = false;
  Lost lost = std::make_shared<std::atomic<bool>>(false);
};

namespace {

tf_status comm_version(tf_device *, int32_t *version, char *why, int64_t n) {
  const Library &l = library();
  if (!l.why.empty()) {
    snprintf(why, (size_t)n, "%s", l.why.c_str());
    return TF_EUNSUPPORTED;
  }
  *version = l.version;
  return TF_OK;
}

tf_status comm_id(tf_device *d, void *id, char *why, int64_t n) {
  int32_t version = 0;
  TF_TRY(comm_version(d, &version, why, n));
  static_assert(sizeof(nccl::Id) == TF_COMM_ID_BYTES, "the id's size");
  nccl::Id made;
  d->used = true;
  cudaSetDevice(d->index);
  int st = library().f.GetUniqueId(&made);
  if (st) return say(why, n, TF_EINTERNAL, "ncclGetUniqueId", st, nullptr);
  memcpy(id, &made, sizeof made);
  return TF_OK;
}

/* What NCCL says of a communicator, as a status. */
tf_status state(tf_comm *c, const char *what, char *why, int64_t n) {
  int result = 0;
  int st = library().f.CommGetAsyncError(c->c, &result);
  if (st) return say(why, n, TF_EINTERNAL, "ncclCommGetAsyncError", st, c->c);
  if (result == nccl::kInProgress) return TF_EAGAIN;
  if (result == nccl::kSuccess) return TF_OK;
  return say(why, n, TF_ELOST, what, result, c->c);
}

tf_status comm_open(tf_device *d, const void *id, int32_t rank, int32_t world, tf_comm **out, char *why, int64_t n) {
  int32_t version = 0;
  TF_TRY(comm_version(d, &version, why, n));
  if (world < 1 || rank < 0 || rank >= world) {
    snprintf(why, (size_t)n, "there is no rank %d of %d", rank, world);
    return TF_EINVALID;
  }
  tf_comm *c = new (std::nothrow) tf_comm;
  if (!c) return TF_ENOMEM;
  c->d = d;
  c->rank = rank;
  c->world = world;
  nccl::Id unique;
  memcpy(&unique, id, sizeof unique);
  nccl::Config config;
  d->used = true;
  cudaSetDevice(d->index);
  int st = library().f.CommInitRankConfig(&c->c, world, unique, rank, &config);
  *out = c;
  if (st == nccl::kInProgress) return TF_EAGAIN;
  return st ? say(why, n, TF_EINTERNAL, "ncclCommInitRankConfig", st, c->c) : (tf_status)TF_OK;
}

tf_status comm_poll(tf_comm *c, char *why, int64_t n) {
  if (*c->lost) {
    snprintf(why, (size_t)n, "the communicator was given up");
    return TF_ELOST;
  }
  if (!c->c) return TF_OK; /* it has left */
  tf_status st = state(c, "NCCL", why, n);
  if (st != TF_OK || !c->leaving) return st;
  int bad = library().f.CommDestroy(c->c);
  c->c = nullptr;
  return bad ? say(why, n, TF_EINTERNAL, "ncclCommDestroy", bad, nullptr) : (tf_status)TF_OK;
}

/* One transfer; within a group. */
int transfer(tf_comm *c, tf_queue *q, const tf_transfer &t) {
  const nccl::Functions &f = library().f;
  switch (t.kind) {
    case TF_SEND:
      return f.Send(at<void>(t.src), (size_t)t.bytes, nccl::kInt8, t.peer, c->c, q->stream);
    case TF_RECV:
      return f.Recv(at<void>(t.dst), (size_t)t.bytes, nccl::kInt8, t.peer, c->c, q->stream);
  }
  /* Only the root's source is read; the others name their destination. */
  return f.Broadcast(at<void>(t.peer == c->rank ? t.src : t.dst), at<void>(t.dst), (size_t)t.bytes, nccl::kInt8, t.peer, c->c, q->stream);
}

tf_status comm_run(tf_comm *c, tf_queue *q, const tf_transfer *t, int64_t count, char *why, int64_t n) {
  if (settle(q) != TF_OK) {
    snprintf(why, (size_t)n, "%s", q->why);
    return q->st;
  }
  if (*c->lost || !c->c || c->leaving) {
    snprintf(why, (size_t)n, "the communicator was given up");
    return TF_ELOST;
  }
  for (int64_t i = 0; i < count; i++)
    if (t[i].kind < TF_SEND || t[i].kind > TF_BROADCAST || t[i].peer < 0 || t[i].peer >= c->world || t[i].bytes <= 0 ||
        (t[i].kind != TF_BROADCAST && t[i].peer == c->rank)) {
      snprintf(why, (size_t)n, "transfer %ld (kind %d, rank %d, %ld bytes) is none", (long)i, t[i].kind, t[i].peer, (long)t[i].bytes);
      return TF_EINVALID;
    }
  cudaSetDevice(c->d->index);
  follow(q->losses, {c->lost});
  const nccl::Functions &f = library().f;
  int bad = f.GroupStart();
  for (int64_t i = 0; i < count && !bad; i++) {
    bad = transfer(c, q, t[i]);
    if (bad == nccl::kInProgress) bad = 0;
  }
  int end = f.GroupEnd();
  if (!bad) bad = end;
  if (bad == nccl::kInProgress) return TF_EAGAIN;
  return bad ? say(why, n, TF_ELOST, "NCCL does not take the transfers", bad, c->c) : (tf_status)TF_OK;
}

tf_status comm_abort(tf_comm *c, char *why, int64_t n) {
  *c->lost = true; /* before anything that waits can go on */
  if (!c->c) return TF_OK;
  cudaSetDevice(c->d->index);
  nccl::Comm held = c->c;
  c->c = nullptr;
  int st = library().f.CommAbort(held);
  return st && st != nccl::kInProgress ? say(why, n, TF_EINTERNAL, "ncclCommAbort", st, nullptr) : (tf_status)TF_OK;
}

tf_status comm_leave(tf_comm *c, char *why, int64_t n) {
  if (*c->lost || !c->c || c->leaving) return TF_OK;
  cudaSetDevice(c->d->index);
  c->leaving = true;
  int st = library().f.CommFinalize(c->c);
  if (st == nccl::kInProgress) return TF_EAGAIN;
  return st ? say(why, n, TF_EINTERNAL, "ncclCommFinalize", st, c->c) : (tf_status)TF_EAGAIN;
}

void comm_close(tf_comm *c) { delete c; }

}  // namespace

namespace tf {

void comm_table(tf_backend *t) {
  t->comm_version = comm_version;
  t->comm_id = comm_id;
  t->comm_open = comm_open;
  t->comm_poll = comm_poll;
  t->comm_run = comm_run;
  t->comm_abort = comm_abort;
  t->comm_leave = comm_leave;
  t->comm_close = comm_close;
}

}  // namespace tf
