/* Stands in for the CUDA runtime, see shim.h. Work of a stream runs only when something waits for it, so that what relies on luck instead
 * of on an event or a synchronization gives wrong results at once. An error of a stream stays, as a device's does. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulate.h"
#include "shim.h"
#include "watch.h"

typedef std::vector<std::function<void()>> Jobs;

struct tfh_graph {
  std::shared_ptr<Jobs> jobs;
};

struct tfh_stream {
  std::unique_ptr<Jobs> capture; /* what is recorded instead of queued */
  bool invalid = false;          /* the capture is */
  double clock = 0;              /* microseconds that what has run would have taken */
  std::deque<std::function<void()>> jobs;
  uint64_t queued = 0, ran = 0;
  bool busy = false; /* a job of it runs: another thread may only come by while the job has let go of the lock (apart) */
  cudaError_t broken = cudaSuccess; /* a device's whole context breaks; here only the stream, so that a test's mistake is its own */
  tfh::watch::Stream watched;
};

struct tfh_event {
  tfh_stream *on = nullptr;
  uint64_t at = 0;
  std::shared_ptr<double> time; /* of the stream's clock when it was reached; only with timing */
};

namespace {

constexpr size_t kPage = 4096, kPoisoned = 1 << 20, kTotal = (size_t)64 << 30;
constexpr unsigned char kPoison = 0xff;

std::recursive_mutex lock;
std::condition_variable_any turned; /* a job has ended */
std::map<void *, size_t> memory;
std::set<tfh_stream *> streams;
size_t used = 0;
std::string why;
thread_local tfh_stream *capturing = nullptr; /* by this thread */

using Hold = std::lock_guard<std::recursive_mutex>;

/* Runs a stream's jobs until so many have run. */
void advance(tfh_stream *s, uint64_t until) {
  while (streams.count(s) && s->ran < until) {
    if (s->busy) {
      turned.wait(lock);
      continue;
    }
    if (s->jobs.empty()) return;
    std::function<void()> job = std::move(s->jobs.front());
    s->jobs.pop_front();
    s->busy = true;
    job();
    s->busy = false;
    s->ran++;
    turned.notify_all();
  }
}

constexpr double kLaunch = 5, kPart = 1; /* microseconds */

void queue(tfh_stream *s, std::function<void()> job) {
  s->jobs.push_back(tfh::watch::job(&s->watched, std::move(job), [s](const std::string &what) {
    why = what;
    s->broken = cudaErrorLaunchFailure;
  }));
  s->queued++;
}

/* The host knows that so many jobs of a stream have run. */
void waited(tfh_stream *s, uint64_t until) { tfh::watch::host_waited(&s->watched, (uint32_t)until); }

void push(tfh_stream *s, std::function<void()> job) {
  if (s->capture) {
    s->capture->push_back(std::move(job));
    return;
  }
  queue(s, [=]() {
    s->clock += kLaunch;
    job();
  });
}

/* What no capture allows: the one of this thread, or of the stream, becomes invalid. */
cudaError_t forbidden(tfh_stream *s = nullptr) {
  if (s && s->capture) {
    s->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  if (!capturing) return cudaSuccess;
  capturing->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

#define TFH_ALLOWED(...)                          \
  do {                                            \
    cudaError_t forbidden_ = forbidden(__VA_ARGS__); \
    if (forbidden_ != cudaSuccess) return forbidden_; \
  } while (0)

size_t rounded(size_t n) { return (n + kPage - 1) / kPage * kPage; }

/* Memory between two pages that cannot be touched. */
void *map(size_t n, bool host) {
#ifdef TF_WATCH
  void *watched = tfh::watch::map(n, host);
  if (watched) memset(watched, kPoison, n < kPoisoned ? n : kPoisoned);
  return watched;
#else
  (void)host;
#endif
  char *p = static_cast<char *>(mmap(nullptr, rounded(n) + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (p == MAP_FAILED) return nullptr;
  if (mprotect(p + kPage, rounded(n), PROT_READ | PROT_WRITE)) return nullptr;
  memset(p + kPage, kPoison, n < kPoisoned ? n : kPoisoned);
  return p + kPage;
}

void unmap(void *p, size_t n) {
#ifdef TF_WATCH
  (void)n;
  tfh::watch::unmap(p);
#else
  munmap(static_cast<char *>(p) - kPage, rounded(n) + 2 * kPage);
#endif
}

int environment(const char *name, int otherwise) {
  const char *v = getenv(name);
  return v && *v ? atoi(v) : otherwise;
}

}  // namespace

namespace tfh {

cudaError_t launch(cudaStream_t s, const char *name, dim3 grid, dim3 block, size_t shared, std::function<void()> body) {
  Hold h(lock);
  push(s, [=]() {
    if (s->broken == cudaSuccess && !run(name, grid, block, shared, body, &why)) s->broken = cudaErrorLaunchFailure;
  });
  return s->broken;
}

cudaError_t enqueue(cudaStream_t s, std::function<void()> job) {
  Hold h(lock);
  push(s, [=]() {
    if (s->broken != cudaSuccess) return;
    watch::Library watched;
    job();
  });
  return s->broken;
}

void apart(const std::function<void()> &f) {
  lock.unlock();
  f();
  lock.lock();
}

void progress(cudaStream_t s) {
  Hold h(lock);
  if (streams.count(s)) advance(s, s->queued);
}

void extent(const void *p, size_t n) {
  Hold h(lock);
  watch::extent(p, n);
}

void new_workspace(cudaStream_t s, void *p, size_t all, size_t needed) {
  Hold h(lock);
  if (!all) return;
  push(s, [=]() {
    watch::forget(p, all);
    watch::extent(p, needed < all ? needed : all);
  });
}

}  // namespace tfh

const char *tfh_libcuda() {
  const char *v = getenv("TUNEFLEET_FAKE_LIBCUDA");
  return v ? v : "";
}

int tfh_cuda_version() { return environment("TUNEFLEET_FAKE_CUDA", 13000); }

cudaError_t cudaDriverGetVersion(int *v) {
  *v = environment("TUNEFLEET_FAKE_DRIVER", 13000);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n) {
  *n = environment("TUNEFLEET_FAKE_DEVICES", 2);
  return *n > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int i) { return i >= 0 && i < environment("TUNEFLEET_FAKE_DEVICES", 2) ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int i) {
  memset(p, 0, sizeof *p);
  p->pciBusID = environment("TUNEFLEET_FAKE_BUS", 0x10) + i;
  snprintf(p->name, sizeof p->name, "emulated");
  p->major = environment("TUNEFLEET_FAKE_CC", 90) / 10;
  p->minor = environment("TUNEFLEET_FAKE_CC", 90) % 10;
  p->multiProcessorCount = 4;
  p->totalGlobalMem = kTotal;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
  Hold h(lock);
  *total = kTotal;
  *left = kTotal - used;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t n) {
  Hold h(lock);
  TFH_ALLOWED();
  if (n > kTotal - used || !(*p = map(n, false))) return cudaErrorMemoryAllocation;
  memory[*p] = n;
  used += n;
  return cudaSuccess;
}

/* As on a device, it waits for all that was queued. */
cudaError_t cudaFree(void *p) {
  Hold h(lock);
  TFH_ALLOWED();
  for (tfh_stream *s : streams) {
    advance(s, s->queued);
    waited(s, s->queued);
  }
  auto it = memory.find(p);
  if (it == memory.end()) return p ? cudaErrorInvalidValue : cudaSuccess;
  unmap(p, it->second);
  used -= it->second;
  memory.erase(it);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) {
  Hold h(lock);
  TFH_ALLOWED();
  if (!(*p = map(n, true))) return cudaErrorMemoryAllocation;
  memory[*p] = n;
  used += n;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int) {
  Hold h(lock);
  *s = new tfh_stream;
  streams.insert(*s);
  tfh::watch::opened(&(*s)->watched);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  Hold h(lock);
  TFH_ALLOWED(s);
  advance(s, s->queued);
  tfh::watch::closed(&s->watched);
  streams.erase(s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  Hold h(lock);
  TFH_ALLOWED(s);
  advance(s, s->queued);
  waited(s, s->queued);
  return s->broken;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  Hold h(lock);
  TFH_ALLOWED(s);
  tfh_stream *on = e->on;
  uint64_t at = e->at;
  if (on && on != s)
    queue(s, [=]() {
      if (!streams.count(on)) return;
      advance(on, at);
      tfh::watch::waits(&s->watched, &on->watched, (uint32_t)at);
    });
  return s->broken;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
  *e = new tfh_event;
  if (!(flags & cudaEventDisableTiming)) (*e)->time = std::make_shared<double>(0);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  Hold h(lock);
  TFH_ALLOWED(s);
  if (e->time) queue(s, [s, time = e->time]() { *time = s->clock; });
  e->on = s;
  e->at = s->queued;
  return s->broken;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  Hold h(lock);
  TFH_ALLOWED();
  if (!e->on || !streams.count(e->on)) return cudaSuccess;
  advance(e->on, e->at);
  waited(e->on, e->at);
  return e->on->broken;
}
/* While a stream is at work, nothing that is asked about has been reached; nothing runs because somebody asks. */
cudaError_t cudaEventQuery(cudaEvent_t e) {
  std::unique_lock<std::recursive_mutex> h(lock, std::try_to_lock);
  if (!h.owns_lock()) return cudaErrorNotReady;
  if (!e->on || !streams.count(e->on)) return cudaSuccess;
  if (e->on->ran < e->at) return cudaErrorNotReady;
  waited(e->on, e->at);
  return e->on->broken;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  Hold h(lock);
  if (!begin->time || !end->time || begin->on != end->on || !begin->on) return cudaErrorInvalidValue;
  if (end->on->ran < end->at) return cudaErrorNotReady;
  *ms = (float)((*end->time - *begin->time) * 1e-3);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  Hold h(lock);
  if (s->capture || capturing) return cudaErrorInvalidValue;
  const char *v = getenv("TUNEFLEET_FAKE_GRAPHS");
  s->capture.reset(new Jobs);
  s->invalid = v && !strcmp(v, "none");
  capturing = s;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
  Hold h(lock);
  *g = nullptr;
  if (!s->capture || capturing != s) return cudaErrorInvalidValue;
  std::shared_ptr<Jobs> jobs(std::move(s->capture));
  capturing = nullptr;
  if (s->invalid) return cudaErrorStreamCaptureInvalidated;
  *g = new tfh_graph{jobs};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long) {
  *x = new tfh_graph{g->jobs};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete g;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) {
  delete x;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) {
  Hold h(lock);
  TFH_ALLOWED(s);
  queue(s, [s, jobs = x->jobs]() {
    s->clock += environment("TUNEFLEET_FAKE_GRAPH_US", 10);
    for (const auto &job : *jobs) {
      s->clock += kPart;
      job();
    }
  });
  return s->broken;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind, cudaStream_t s) {
  Hold h(lock);
  push(s, [=]() {
    if (s->broken == cudaSuccess && tfh::watch::copied(dst, src, n)) memmove(dst, src, n);
  });
  return s->broken;
}
cudaError_t cudaMemsetAsync(void *dst, int value, size_t n, cudaStream_t s) {
  Hold h(lock);
  push(s, [=]() {
    if (s->broken == cudaSuccess && tfh::watch::copied(dst, nullptr, n)) memset(dst, value, n);
  });
  return s->broken;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorLaunchFailure:
      return why.c_str();
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
  }
  return "unknown error";
}
const char *cudaGetErrorName(cudaError_t e) { return e == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError"; }
