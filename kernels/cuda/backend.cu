/* The CUDA backend: device, memory, queues, events, copies, and the table of operations. */
#define TF_OP_DECL __attribute__((weak))
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <string>

#include "abi_hash.h"
#include "graph.h"
#include "queue.h"

#ifndef TF_HOST
#define TF_LIBCUDA "libcuda.so.1"
#define TF_BACKEND_NAME "cuda"
#endif

namespace tf {

void close_lt(Lt *) __attribute__((weak));
void close_dnn(Dnn *) __attribute__((weak));
std::string dnn_name() __attribute__((weak));
void comm_table(tf_backend *) __attribute__((weak));

void follow(Losses &to, const Losses &from) {
  for (const Lost &l : from)
    if (std::find(to.begin(), to.end(), l) == to.end()) to.push_back(l);
}

static bool gone(const Losses &losses) {
  return std::any_of(losses.begin(), losses.end(), [](const Lost &l) { return l->load(); });
}

tf_status fail(tf_queue *q, tf_status st, const char *fmt, ...) {
  if (q->st == TF_OK) {
    q->st = st;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(q->why, sizeof q->why, fmt, ap);
    va_end(ap);
  }
  return q->st;
}

static tf_status status_of(cudaError_t e) {
  if (e == cudaSuccess) return TF_OK;
  return e == cudaErrorMemoryAllocation ? TF_ENOMEM : TF_EINTERNAL;
}

tf_status check(tf_queue *q, cudaError_t e, const char *what) {
  if (e == cudaSuccess) return TF_OK;
  return fail(q, status_of(e), "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

/* Puts the operation's name before what went wrong, for who hears of it only when something else is called. */
static tf_status named(tf_queue *q, const char *op, tf_status st) {
  if (st == TF_OK || q->st == TF_OK) return st;
  const std::string why = q->why;
  snprintf(q->why, sizeof q->why, "%s: %.200s", op, why.c_str());
  return st;
}

/* What a kernel found wrong with its data. */
static tf_status troubles(tf_queue *q) {
  switch (*(volatile int32_t *)q->trouble) {
    case kNoTrouble:
      return TF_OK;
    case kBadId:
      return fail(q, TF_EINVALID, "an id is out of range");
    case kBadOffsets:
      return fail(q, TF_EINVALID, "the experts' offsets do not ascend within the rows");
    case kBadStep:
      return fail(q, TF_EINVALID, "the optimizer's step is less than 1");
    case kBadPosition:
      return fail(q, TF_EINVALID, "a position is outside of the tables");
    case kBadDocuments:
      return fail(q, TF_EINVALID, "cu_seqlens does not run from 0 to the number of queries without descending");
    case kBadTarget:
      return fail(q, TF_EINVALID, "a target is outside of the vocabulary");
    case kBadPlace:
      return fail(q, TF_EINVALID, "a place is outside of the rows");
  }
  return fail(q, TF_EINTERNAL, "a kernel reported trouble %d", *q->trouble);
}

}  // namespace tf

using tf::at;
using tf::check;
using tf::fail;
using tf::settle;

/* --- device --------------------------------------------------------------------------------------------------------------------------- */

#define MEMORY_ALIGNMENT 4096
/* What the library was built with: drivers of the same major version load it, and later ones. */
#define CUDA_MAJOR (TF_CUDA_VERSION / 1000)

/* The driver's own library, which the runtime would otherwise only call "insufficient". */
static tf_status driver(char *why, int64_t n) {
  const char *name = TF_LIBCUDA;
  if (*name && !dlopen(name, RTLD_NOW | RTLD_GLOBAL)) {
    snprintf(why, (size_t)n, "no NVIDIA driver on this machine: %s", dlerror());
    return TF_EUNSUPPORTED;
  }
  int version = 0;
  cudaError_t e = cudaDriverGetVersion(&version);
  if (e != cudaSuccess || version == 0) {
    snprintf(why, (size_t)n, "the NVIDIA driver does not tell its version: %s", cudaGetErrorString(e));
    return TF_EUNSUPPORTED;
  }
  if (version / 1000 < CUDA_MAJOR) {
    const char *what = CUDA_MAJOR > 12 ? "use libtunefleet_cuda12.so if that is 12.x, or install driver 580 or later, or on data-center cards the package cuda-compat-13-0"
                                       : "install driver 525 or later";
    snprintf(why, (size_t)n, "the NVIDIA driver is too old: it supports CUDA %d.%d, this library needs %d.0; %s", version / 1000, version % 1000 / 10, CUDA_MAJOR, what);
    return TF_EUNSUPPORTED;
  }
  return TF_OK;
}

static tf_status dev_open(const tf_options *o, tf_device **out, char *why, int64_t n) {
  tf_status st = driver(why, n);
  if (st != TF_OK) return st;
  if (tf::graph_choice() == tf::kBadChoice) {
    snprintf(why, (size_t)n, "TUNEFLEET_CUDA_GRAPHS is \"%s\"; it can be auto, on or off", getenv("TUNEFLEET_CUDA_GRAPHS"));
    return TF_EINVALID;
  }
  int count = 0;
  cudaError_t e = cudaGetDeviceCount(&count);
  if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0)) {
    snprintf(why, (size_t)n, "the NVIDIA driver is there, but no device: see whether nvidia-smi lists one, whether CUDA_VISIBLE_DEVICES hides it, or start the container with --gpus all");
    return TF_EUNSUPPORTED;
  }
  if (e != cudaSuccess) {
    snprintf(why, (size_t)n, "the NVIDIA driver is there, but counting devices failed: %s", cudaGetErrorString(e));
    return TF_EUNSUPPORTED;
  }
  if (o->index < 0 || o->index >= count) {
    snprintf(why, (size_t)n, "there is no device %d, only %d (CUDA_VISIBLE_DEVICES counts)", o->index, count);
    return TF_EINVALID;
  }
  cudaDeviceProp prop;
  /* Properties only: opening takes no memory of the device, so that who merely asks what is there leaves it alone. */
  if ((e = cudaGetDeviceProperties(&prop, o->index)) != cudaSuccess) {
    snprintf(why, (size_t)n, "device %d cannot be used: %s", o->index, cudaGetErrorString(e));
    return tf::status_of(e);
  }
  if (prop.major < 8) {
    snprintf(why, (size_t)n, "device %d (%s) has compute capability %d.%d, 8.0 is the least; use a newer card or --device cpu", o->index, prop.name, prop.major, prop.minor);
    return TF_EUNSUPPORTED;
  }
  tf_device *d = new (std::nothrow) tf_device;
  if (!d) return TF_ENOMEM;
  d->index = o->index;
  d->cc = prop.major * 10 + prop.minor;
  d->sms = prop.multiProcessorCount;
  d->memory = (int64_t)prop.totalGlobalMem;
  snprintf(d->bus, sizeof d->bus, "%04x:%02x:%02x", prop.pciDomainID, prop.pciBusID, prop.pciDeviceID);
  snprintf(d->name, sizeof d->name, "%.63s", prop.name);
  *out = d;
  return TF_OK;
}

static void dev_close(tf_device *d) {
  if (!d) return;
  if (d->used) cudaSetDevice(d->index);
  if (d->lt && tf::close_lt) tf::close_lt(d->lt);
  if (d->dnn && tf::close_dnn) tf::close_dnn(d->dnn);
  for (auto &b : d->bases) cudaFree(b.second);
  delete d;
}

static tf_status dev_info(tf_device *d, tf_device_info *i) {
  memset(i, 0, sizeof *i);
  snprintf(i->name, sizeof i->name, "%.40s%s", d->name, tf::dnn_name ? tf::dnn_name().c_str() : "");
  /* Another compiler and another cuBLAS: not the same bits. */
  if (CUDA_MAJOR == 13) snprintf(i->isa, sizeof i->isa, "sm_%d", d->cc);
  else snprintf(i->isa, sizeof i->isa, "sm_%d cuda%d", d->cc % 1000, CUDA_MAJOR % 100);
  snprintf(i->bus, sizeof i->bus, "%s", d->bus);
  i->memory_total = d->memory;
  if (!d->used) return TF_OK; /* what is free is known with a context only */
  size_t left = 0, total = 0;
  cudaSetDevice(d->index);
  cudaError_t e = cudaMemGetInfo(&left, &total);
  i->memory_free = (int64_t)left;
  return tf::status_of(e);
}

static tf_status dev_alloc(tf_device *d, int64_t bytes, tf_ptr *p) {
  if (bytes <= 0) return TF_EINVALID;
  void *base = nullptr;
  d->used = true;
  cudaSetDevice(d->index);
  cudaError_t e = cudaMalloc(&base, (size_t)bytes + MEMORY_ALIGNMENT);
  if (e != cudaSuccess) {
    cudaGetLastError(); /* a failed allocation is no failure of the next call */
    return tf::status_of(e);
  }
  *p = ((tf_ptr)(uintptr_t)base + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
#ifdef TF_HOST
  tfh::extent(at<void>(*p), (size_t)bytes);
#endif
  std::lock_guard<std::mutex> hold(d->lock);
  d->bases[*p] = base;
  return TF_OK;
}

static void dev_release(tf_device *d, tf_ptr p, int64_t) {
  void *base = nullptr;
  {
    std::lock_guard<std::mutex> hold(d->lock);
    auto it = d->bases.find(p);
    if (it == d->bases.end()) return;
    base = it->second;
    d->bases.erase(it);
  }
  cudaSetDevice(d->index);
  cudaFree(base);
}

/* --- queues --------------------------------------------------------------------------------------------------------------------------- */

static void queue_close(tf_queue *q) {
  cudaSetDevice(q->d->index);
  tf::close_graphs(q->graphs); /* what is held back has nobody who looks at it */
  if (q->stream) cudaStreamSynchronize(q->stream);
  for (tf::Stage &s : q->stage) {
    if (s.done) cudaEventDestroy(s.done);
    if (s.p) cudaFreeHost(s.p);
  }
  if (q->trouble) cudaFreeHost(q->trouble);
  if (q->stream) cudaStreamDestroy(q->stream);
  delete q;
}

static tf_status queue_open(tf_device *d, int32_t kind, tf_queue **out) {
  if (kind < TF_QUEUE_COMPUTE || kind > TF_QUEUE_COMM) return TF_EINVALID;
  tf_queue *q = new (std::nothrow) tf_queue;
  if (!q) return TF_ENOMEM;
  q->d = d;
  q->kind = kind;
  d->used = true;
  cudaSetDevice(d->index);
  int least = 0, greatest = 0;
  cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  /* Communication goes first: others wait for it. */
  if (e == cudaSuccess) e = cudaStreamCreateWithPriority(&q->stream, cudaStreamNonBlocking, kind == TF_QUEUE_COMM ? greatest : least);
  if (e == cudaSuccess) e = cudaHostAlloc(reinterpret_cast<void **>(&q->trouble), sizeof(int32_t), cudaHostAllocPortable);
  if (e == cudaSuccess) *q->trouble = tf::kNoTrouble;
  if (e == cudaSuccess && kind == TF_QUEUE_COMPUTE) q->graphs = tf::open_graphs(tf::graph_choice());
  if (e != cudaSuccess) {
    queue_close(q);
    return tf::status_of(e);
  }
  *out = q;
  return TF_OK;
}

static tf_status queue_sync(tf_queue *q) {
  cudaSetDevice(q->d->index);
  settle(q);
  cudaError_t e = cudaStreamSynchronize(q->stream); /* also after an error: memory may be released next */
  if (q->st != TF_OK) return q->st;
  TF_TRY(check(q, e, "what was queued"));
  if (tf::gone(q->losses)) return fail(q, TF_ELOST, "another rank did not take part in what was computed from");
  return tf::troubles(q);
}

static void queue_graphs(tf_queue *q, tf_graph_counts *c) { tf::count_graphs(q->graphs, c); }

static tf_status queue_error(tf_queue *q, char *why, int64_t n) {
  snprintf(why, (size_t)n, "%s", q->why);
  return q->st;
}

/* --- events --------------------------------------------------------------------------------------------------------------------------- */

static tf_status event_open(tf_device *d, tf_event **out) {
  tf_event *e = new (std::nothrow) tf_event;
  if (!e) return TF_ENOMEM;
  e->d = d;
  cudaSetDevice(d->index);
  cudaError_t err = cudaEventCreateWithFlags(&e->e, cudaEventDisableTiming);
  if (err != cudaSuccess) {
    delete e;
    return tf::status_of(err);
  }
  *out = e;
  return TF_OK;
}

static void event_close(tf_event *e) {
  cudaSetDevice(e->d->index);
  cudaEventDestroy(e->e);
  delete e;
}

static tf_status event_record(tf_event *e, tf_queue *q) {
  e->st = settle(q);
  if (q->st != TF_OK) return q->st;
  e->losses = q->losses;
  cudaSetDevice(q->d->index);
  TF_TRY(check(q, cudaEventRecord(e->e, q->stream), "event_record"));
  e->recorded = true;
  return TF_OK;
}

static tf_status event_wait(tf_event *e, tf_queue *q) {
  settle(q);
  if (q->st != TF_OK) return q->st;
  if (e->st != TF_OK) return fail(q, e->st, "the queue of an event waited for had failed");
  if (!e->recorded) return TF_OK;
  tf::follow(q->losses, e->losses);
  cudaSetDevice(q->d->index);
  return check(q, cudaStreamWaitEvent(q->stream, e->e, 0), "event_wait");
}

static tf_status event_sync(tf_event *e) {
  if (e->st != TF_OK || !e->recorded) return e->st;
  cudaSetDevice(e->d->index);
  cudaError_t err = cudaEventSynchronize(e->e);
  if (err == cudaSuccess && tf::gone(e->losses)) return TF_ELOST;
  return tf::status_of(err);
}

static tf_status event_done(tf_event *e) {
  if (e->st != TF_OK || !e->recorded) return e->st;
  cudaSetDevice(e->d->index);
  cudaError_t err = cudaEventQuery(e->e);
  return err == cudaErrorNotReady ? (tf_status)TF_EAGAIN : tf::status_of(err);
}

/* --- copies ----------------------------------------------------------------------------------------------------------------------------- */

/* The next staging buffer, when what went through it before has arrived. */
static tf_status stage(tf_queue *q, tf::Stage **out) {
  tf::Stage *s = &q->stage[q->next_stage];
  q->next_stage = (q->next_stage + 1) % tf::kStages;
  if (!s->p) {
    TF_TRY(check(q, cudaHostAlloc(&s->p, tf::kStageBytes, cudaHostAllocPortable), "pinned memory"));
    TF_TRY(check(q, cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming), "event"));
  }
  if (s->busy) TF_TRY(check(q, cudaEventSynchronize(s->done), "upload"));
  s->busy = false;
  *out = s;
  return TF_OK;
}

static tf_status upload(tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  TF_TRY(settle(q));
  cudaSetDevice(q->d->index);
  for (int64_t off = 0; off < bytes; off += tf::kStageBytes) {
    size_t n = (size_t)(bytes - off < tf::kStageBytes ? bytes - off : tf::kStageBytes);
    tf::Stage *s = nullptr;
    TF_TRY(stage(q, &s));
    memcpy(s->p, static_cast<const char *>(src) + off, n);
    TF_TRY(check(q, cudaMemcpyAsync(at<char>(dst) + off, s->p, n, cudaMemcpyHostToDevice, q->stream), "upload"));
    TF_TRY(check(q, cudaEventRecord(s->done, q->stream), "upload"));
    s->busy = true;
  }
  return TF_OK;
}

/* Two copies are under way at a time: one arrives while the one before it is taken out of its buffer. */
static tf_status download(tf_queue *q, void *dst, tf_ptr src, int64_t bytes) {
  TF_TRY(settle(q));
  cudaSetDevice(q->d->index);
  struct {
    tf::Stage *s;
    int64_t off, n;
  } last = {nullptr, 0, 0};
  for (int64_t off = 0; off < bytes || last.s; off += tf::kStageBytes) {
    tf::Stage *s = nullptr;
    int64_t n = bytes - off < tf::kStageBytes ? bytes - off : tf::kStageBytes;
    if (off < bytes) {
      TF_TRY(stage(q, &s));
      TF_TRY(check(q, cudaMemcpyAsync(s->p, at<const char>(src) + off, (size_t)n, cudaMemcpyDeviceToHost, q->stream), "download"));
      TF_TRY(check(q, cudaEventRecord(s->done, q->stream), "download"));
      s->busy = true;
    }
    if (last.s) {
      TF_TRY(check(q, cudaEventSynchronize(last.s->done), "download"));
      last.s->busy = false;
      TF_TRY(tf::troubles(q));
      memcpy(static_cast<char *>(dst) + last.off, last.s->p, (size_t)last.n);
    }
    last = {s, off, n};
  }
  return queue_sync(q);
}

/* --- copies that nobody waits for ------------------------------------------------------------------------------------------------------ */

static tf_status host_alloc(tf_device *d, int64_t bytes, void **p) {
  if (bytes <= 0) return TF_EINVALID;
  d->used = true;
  cudaSetDevice(d->index);
  cudaError_t e = cudaHostAlloc(p, (size_t)bytes, cudaHostAllocPortable); /* whole pages */
  if (e != cudaSuccess) cudaGetLastError();
  return tf::status_of(e);
}

static void host_release(tf_device *d, void *p, int64_t) {
  cudaSetDevice(d->index);
  cudaFreeHost(p);
}

static tf_status upload_async(tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  TF_TRY(settle(q));
  cudaSetDevice(q->d->index);
  return check(q, cudaMemcpyAsync(at<char>(dst), src, (size_t)bytes, cudaMemcpyHostToDevice, q->stream), "upload_async");
}

static tf_status download_async(tf_queue *q, void *dst, tf_ptr src, int64_t bytes) {
  TF_TRY(settle(q));
  cudaSetDevice(q->d->index);
  return check(q, cudaMemcpyAsync(dst, at<const char>(src), (size_t)bytes, cudaMemcpyDeviceToHost, q->stream), "download_async");
}

/* --- operations --------------------------------------------------------------------------------------------------------------------------- */

static tf_status workspace(tf_queue *q, int32_t op, const void *params, int64_t *bytes) {
  if (q->st != TF_OK) return q->st;
  *bytes = 0;
  switch (op) {
#define TF_X(name)                                                                                      \
  case TF_OP_##name:                                                                                    \
    if (cuda_##name##_ws) *bytes = cuda_##name##_ws(q->d, static_cast<const tf_##name *>(params)); \
    break;
    TF_OPS(TF_X)
#undef TF_X
  }
  return TF_OK;
}

static tf_status set_workspace(tf_queue *q, tf_ptr p, int64_t bytes) {
  settle(q);
  tf::drop_graphs(q->graphs); /* they have the old one's address */
  q->ws = p;
  q->ws_bytes = bytes;
  return q->st;
}

#ifndef TF_NEW_WORKSPACE
#define TF_NEW_WORKSPACE(q, name, p)
#endif
#define TF_X(name)                                                                                  \
  static tf_status op_##name(tf_queue *q, const tf_##name *p) {                                     \
    if (q->st != TF_OK) return q->st;                                                               \
    if (!cuda_##name) return fail(q, TF_EUNSUPPORTED, "the CUDA backend has no " #name);            \
    tf_status st = TF_OK;                                                                           \
    if (tf::take(q, TF_OP_##name, p, &st) || st != TF_OK) return st;                                \
    cudaSetDevice(q->d->index);                                                                     \
    TF_NEW_WORKSPACE(q, name, p);                                                                   \
    return cuda_##name(q, p);                                                                       \
  }
TF_OPS(TF_X)
#undef TF_X

tf_status tf::run_now(tf_queue *q, int32_t op, const void *params) {
  switch (op) {
#define TF_X(name)                                                                        \
  case TF_OP_##name:                                                                      \
    TF_NEW_WORKSPACE(q, name, static_cast<const tf_##name *>(params));                    \
    return tf::named(q, #name, cuda_##name(q, static_cast<const tf_##name *>(params)));
    TF_OPS(TF_X)
#undef TF_X
  }
  return fail(q, TF_EINTERNAL, "there is no operation %d", op);
}

static tf_backend make_table() {
  tf_backend t = {};
  t.abi_version = TF_ABI_VERSION;
  t.struct_size = sizeof(tf_backend);
  t.abi_hash = TF_ABI_HASH;
  t.name = TF_BACKEND_NAME;
  t.open = dev_open;
  t.close = dev_close;
  t.info = dev_info;
  t.alloc = dev_alloc;
  t.release = dev_release;
  t.queue_open = queue_open;
  t.queue_close = queue_close;
  t.queue_sync = queue_sync;
  t.queue_error = queue_error;
  t.queue_graphs = queue_graphs;
  t.event_open = event_open;
  t.event_close = event_close;
  t.event_record = event_record;
  t.event_wait = event_wait;
  t.event_sync = event_sync;
  t.event_done = event_done;
  if (tf::comm_table) tf::comm_table(&t);
  t.upload = upload;
  t.download = download;
  t.host_alloc = host_alloc;
  t.host_release = host_release;
  t.upload_async = upload_async;
  t.download_async = download_async;
  t.workspace = workspace;
  t.set_workspace = set_workspace;
#define TF_X(name) t.name = op_##name;
  TF_OPS(TF_X)
#undef TF_X
  return t;
}

/* TF_BACKEND_SYMBOL of tunefleet.h: all that the library exports. */
extern "C" __attribute__((visibility("default"))) const tf_backend *tf_backend_get(void) {
  static const tf_backend table = make_table();
  return &table;
}
