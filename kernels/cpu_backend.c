/* The CPU backend: device, memory, queues and the table. Operations run before the call returns; errors, events and synchronization
 * behave as on an asynchronous device. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi_hash.h"
#include "cpu.h"
#include "cpu_isa.h"

struct tf_event {
  tf_status st;
};

tf_status tf_fail(tf_queue *q, tf_status st, const char *fmt, ...) {
  if (q->st == TF_OK) {
    q->st = st;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(q->why, sizeof q->why, fmt, ap);
    va_end(ap);
  }
  return q->st;
}

void tf_lock(tf_device *d) { pthread_mutex_lock(d->lock); }
void tf_unlock(tf_device *d) { pthread_mutex_unlock(d->lock); }

void tf_run(tf_queue *q, int64_t n, tf_task_fn fn, void *arg) {
  tf_lock(q->d);
  tf_pool_run(q->d->pool, n, fn, arg);
  tf_unlock(q->d);
}

static void *map(int64_t bytes) {
  void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return NULL;
  if (bytes >= 4 << 20) madvise(p, (size_t)bytes, MADV_HUGEPAGE);
  return p;
}

static int cores(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return 1;
}

static void dev_close(tf_device *d) {
  if (!d) return;
  if (d->pool) tf_pool_close(d->pool);
  if (d->scratch) munmap(d->scratch, (size_t)d->threads * TF_SCRATCH_BYTES);
  if (d->lock) pthread_mutex_destroy(d->lock);
  free(d->lock);
  free(d);
}

static tf_status dev_open(const tf_options *o, tf_device **out, char *why, int64_t n) {
  int threads = o->threads > 0 ? o->threads : cores();
  if (threads > 1024 || o->index != 0) {
    snprintf(why, (size_t)n, "the CPU is one device with at most 1024 threads (asked: device %d, %d threads)", o->index, threads);
    return TF_EINVALID;
  }
  int isa = tf_isa_pick(o->isa);
  if (isa == 0) {
    snprintf(why, (size_t)n, "this machine lacks the instruction set asked for (%d)", o->isa);
    return TF_EUNSUPPORTED;
  }
  tf_device *d = calloc(1, sizeof *d);
  if (!d) return TF_ENOMEM;
  d->isa = isa;
  d->k = tf_isa_table(isa, TF_F32);
  d->kb = tf_isa_table(isa, TF_BF16);
  d->kh = tf_isa_table(isa, TF_F16);
  d->dp = tf_isa_dp(isa);
  d->threads = threads;
  d->lock = calloc(1, sizeof(pthread_mutex_t));
  d->scratch = map((int64_t)threads * TF_SCRATCH_BYTES);
  d->pool = tf_pool_open(threads);
  if (!d->lock || !d->scratch || !d->pool || pthread_mutex_init(d->lock, NULL)) {
    dev_close(d);
    snprintf(why, (size_t)n, "no memory or threads for a pool of %d", threads);
    return TF_ENOMEM;
  }
  *out = d;
  return TF_OK;
}

static tf_status dev_info(tf_device *d, tf_device_info *i) {
  memset(i, 0, sizeof *i);
  snprintf(i->name, sizeof i->name, "cpu");
  snprintf(i->isa, sizeof i->isa, "%s%s", tf_isa_name(d->isa), d->dp ? "+bf16" : "");
  i->threads = d->threads;
  long page = sysconf(_SC_PAGESIZE);
  i->memory_total = (int64_t)sysconf(_SC_PHYS_PAGES) * page;
  i->memory_free = (int64_t)sysconf(_SC_AVPHYS_PAGES) * page;
  return TF_OK;
}

static tf_status dev_alloc(tf_device *d, int64_t bytes, tf_ptr *p) {
  (void)d;
  void *m = bytes > 0 ? map(bytes) : NULL;
  if (!m) return TF_ENOMEM;
  *p = (tf_ptr)(uintptr_t)m;
  return TF_OK;
}

static void dev_release(tf_device *d, tf_ptr p, int64_t bytes) {
  (void)d;
  munmap((void *)(uintptr_t)p, (size_t)bytes);
}

static tf_status host_alloc(tf_device *d, int64_t bytes, void **p) {
  (void)d;
  *p = bytes > 0 ? map(bytes) : NULL;
  return *p ? TF_OK : TF_ENOMEM;
}

static void host_release(tf_device *d, void *p, int64_t bytes) {
  (void)d;
  munmap(p, (size_t)bytes);
}

static tf_status queue_open(tf_device *d, int32_t kind, tf_queue **q) {
  if (kind < TF_QUEUE_COMPUTE || kind > TF_QUEUE_COMM) return TF_EINVALID;
  *q = calloc(1, sizeof **q);
  if (!*q) return TF_ENOMEM;
  (*q)->d = d;
  (*q)->kind = kind;
  return TF_OK;
}

static void queue_close(tf_queue *q) { free(q); }
static tf_status queue_sync(tf_queue *q) { return q->st; }

static tf_status queue_error(tf_queue *q, char *why, int64_t n) {
  snprintf(why, (size_t)n, "%s", q->why);
  return q->st;
}

static tf_status event_open(tf_device *d, tf_event **e) {
  (void)d;
  *e = calloc(1, sizeof **e);
  return *e ? TF_OK : TF_ENOMEM;
}

static void event_close(tf_event *e) { free(e); }

static tf_status event_record(tf_event *e, tf_queue *q) {
  e->st = q->st;
  return q->st;
}

static tf_status event_wait(tf_event *e, tf_queue *q) {
  if (q->st == TF_OK && e->st != TF_OK) return tf_fail(q, e->st, "the queue of an event waited for had failed");
  return q->st;
}

static tf_status event_sync(tf_event *e) { return e->st; }
static tf_status event_done(tf_event *e) { return e->st; }

static tf_status upload(tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  if (q->st != TF_OK) return q->st;
  memcpy((void *)(uintptr_t)dst, src, (size_t)bytes);
  return TF_OK;
}

static tf_status download(tf_queue *q, void *dst, tf_ptr src, int64_t bytes) {
  if (q->st != TF_OK) return q->st;
  memcpy(dst, (const void *)(uintptr_t)src, (size_t)bytes);
  return TF_OK;
}

static tf_status workspace(tf_queue *q, int32_t op, const void *params, int64_t *bytes) {
  if (q->st != TF_OK) return q->st;
  switch (op) {
#define WS(name)                           \
  case TF_OP_##name:                       \
    *bytes = cpu_##name##_ws(params);      \
    break;
    TF_CPU_WS_OPS(WS)
#undef WS
    default:
      *bytes = 0;
  }
  return TF_OK;
}

static tf_status set_workspace(tf_queue *q, tf_ptr p, int64_t bytes) {
  q->ws = p;
  q->ws_bytes = bytes;
  return q->st;
}

static const tf_backend table = {
    .abi_version = TF_ABI_VERSION,
    .struct_size = sizeof(tf_backend),
    .abi_hash = TF_ABI_HASH,
    .name = "cpu",
    .open = dev_open,
    .close = dev_close,
    .info = dev_info,
    .alloc = dev_alloc,
    .release = dev_release,
    .queue_open = queue_open,
    .queue_close = queue_close,
    .queue_sync = queue_sync,
    .queue_error = queue_error,
    .event_open = event_open,
    .event_close = event_close,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
    .event_done = event_done,
    .upload = upload,
    .download = download,
    .host_alloc = host_alloc,
    .host_release = host_release,
    .upload_async = upload,
    .download_async = download,
    .workspace = workspace,
    .set_workspace = set_workspace,
#define TF_X(name) .name = cpu_##name,
    TF_OPS(TF_X)
#undef TF_X
};

const tf_backend *tf_cpu_backend(void);
const tf_backend *tf_cpu_backend(void) { return &table; }
