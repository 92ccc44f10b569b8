/* The hostile test backend: the CPU backend behind an interface as unfriendly as a real device's.
 *
 *  - Addresses that the caller sees are never readable: they lie in a reservation that stays PROT_NONE for ever. The memory itself lies
 *    at a fixed distance from them, and the words of an operation's parameters that are such addresses are moved when it runs. So a
 *    caller that touches device memory dies at once, on any thread, at any time.
 *  - Every queue is a thread of its own that runs behind the caller, with pauses of random length: a forgotten synchronization or event
 *    gives wrong results or a crash.
 *  - New memory is filled with 0xff (NaN) at its beginning, freed memory is unmapped and its address never given out again, and pages
 *    before and after each allocation are never readable.
 *  - Errors appear late, as on a device.
 *
 * Built with the CPU backend's own sources into one shared object; nothing of it is in the product. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "abi_hash.h"
#include "tunefleet.h"

const tf_backend *tf_cpu_backend(void);

#define PAGE 4096
#define POISON_BYTES (8 << 20)
#define MAX_QUEUED 1024

/* --- memory ---------------------------------------------------------------------------------------------------------------------- */

static struct {
  pthread_mutex_t lock;
  uint64_t face, size, next; /* what callers see: [face, face + size) */
  uint64_t delta;            /* real address - face address */
} space = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int reserve(void) {
  for (uint64_t size = (uint64_t)1 << 44; size >= (uint64_t)1 << 36; size >>= 2) {
    void *face = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *real = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (face != MAP_FAILED && real != MAP_FAILED) {
      space.face = (uint64_t)(uintptr_t)face;
      space.delta = (uint64_t)(uintptr_t)real - space.face;
      space.size = size;
      space.next = PAGE;
      return 1;
    }
    if (face != MAP_FAILED) munmap(face, size);
    if (real != MAP_FAILED) munmap(real, size);
  }
  return 0;
}

static uint64_t pages(int64_t bytes) { return ((uint64_t)bytes + PAGE - 1) / PAGE * PAGE; }

static int ours(uint64_t word) { return word - space.face < space.size; }

static void *real(tf_ptr p) { return (void *)(uintptr_t)(p + space.delta); }

/* Moves every word of the parameters that is one of our addresses. No shape, stride, seed or flag lies in that range. */
static void translate(void *params, int64_t bytes) {
  uint64_t *w = params;
  for (int64_t i = 0; i < bytes / 8; i++)
    if (ours(w[i])) w[i] += space.delta;
}

/* --- objects --------------------------------------------------------------------------------------------------------------------- */

typedef struct {
  tf_device *cpu;
} device;

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t done_cond;
  uint64_t recorded, done;
  tf_status st;
  int refs;
} event;

enum { JOB_OP, JOB_UPLOAD, JOB_FROM_HOST, JOB_TO_HOST, JOB_MARK, JOB_WAIT, JOB_WORKSPACE };

typedef struct job {
  struct job *next;
  int kind;
  int32_t op;
  event *e;
  uint64_t n; /* of the event, or bytes */
  tf_ptr at;
  int64_t bytes;
  void *host;
  uint64_t data[]; /* parameters or bytes of an upload */
} job;

typedef struct {
  device *d;
  tf_queue *cpu;   /* used by the thread only */
  tf_queue *asker; /* for questions about workspace: never runs anything */
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  job *head, *tail;
  int queued, busy, stop;
  tf_status st;
  char why[256];
  uint64_t rng;
} queue;

static device *D(tf_device *d) { return (device *)(void *)d; }
static queue *Q(tf_queue *q) { return (queue *)(void *)q; }
static event *E(tf_event *e) { return (event *)(void *)e; }

static int64_t op_size(int32_t op) {
  switch (op) {
#define TF_X(name)   \
  case TF_OP_##name: \
    return (int64_t)sizeof(tf_##name);
    TF_OPS(TF_X)
#undef TF_X
  }
  return 0;
}

static tf_status run_op(tf_queue *q, int32_t op, const void *p) {
  switch (op) {
#define TF_X(name)   \
  case TF_OP_##name: \
    return tf_cpu_backend()->name(q, p);
    TF_OPS(TF_X)
#undef TF_X
  }
  return TF_EINVALID;
}

static void unref(event *e) {
  pthread_mutex_lock(&e->lock);
  int left = --e->refs;
  pthread_mutex_unlock(&e->lock);
  if (left) return;
  pthread_mutex_destroy(&e->lock);
  pthread_cond_destroy(&e->done_cond);
  free(e);
}

/* --- queues ---------------------------------------------------------------------------------------------------------------------- */

/* One operation in 16 is preceded by a pause of up to 300 microseconds. */
static void dawdle(queue *q) {
  q->rng ^= q->rng << 13;
  q->rng ^= q->rng >> 7;
  q->rng ^= q->rng << 17;
  if (q->rng % 16) return;
  struct timespec t = {.tv_nsec = (long)(q->rng / 16 % 300) * 1000};
  nanosleep(&t, NULL);
}

static void stick(queue *q, tf_status st, const char *why) {
  pthread_mutex_lock(&q->lock);
  if (q->st == TF_OK) {
    q->st = st;
    snprintf(q->why, sizeof q->why, "%s", why);
  }
  pthread_mutex_unlock(&q->lock);
}

static void run_job(queue *q, job *j) {
  const tf_backend *cpu = tf_cpu_backend();
  dawdle(q);
  switch (j->kind) {
    case JOB_OP:
      if (q->st == TF_OK) {
        translate(j->data, op_size(j->op));
        tf_status st = run_op(q->cpu, j->op, j->data);
        if (st != TF_OK) {
          char why[256] = "";
          cpu->queue_error(q->cpu, why, sizeof why);
          stick(q, st, why);
        }
      }
      break;
    case JOB_UPLOAD:
      if (q->st == TF_OK) memcpy(real(j->at), j->data, (size_t)j->bytes);
      break;
    case JOB_FROM_HOST: /* read when it runs: what the caller writes too early shows */
      if (q->st == TF_OK) memcpy(real(j->at), j->host, (size_t)j->bytes);
      break;
    case JOB_TO_HOST:
      if (q->st == TF_OK) memcpy(j->host, real(j->at), (size_t)j->bytes);
      break;
    case JOB_WORKSPACE:
      cpu->set_workspace(q->cpu, j->at ? j->at + space.delta : 0, j->bytes);
      break;
    case JOB_MARK:
      pthread_mutex_lock(&j->e->lock);
      j->e->st = q->st;
      if (j->n > j->e->done) j->e->done = j->n;
      pthread_cond_broadcast(&j->e->done_cond);
      pthread_mutex_unlock(&j->e->lock);
      unref(j->e);
      break;
    case JOB_WAIT: {
      pthread_mutex_lock(&j->e->lock);
      while (j->e->done < j->n) pthread_cond_wait(&j->e->done_cond, &j->e->lock);
      tf_status st = j->e->st;
      pthread_mutex_unlock(&j->e->lock);
      unref(j->e);
      if (st != TF_OK) stick(q, st, "the queue of an event waited for had failed");
    }
  }
}

static void *work(void *arg) {
  queue *q = arg;
  pthread_mutex_lock(&q->lock);
  for (;;) {
    while (!q->head && !q->stop) pthread_cond_wait(&q->changed, &q->lock);
    job *j = q->head;
    if (!j) break;
    q->head = j->next;
    if (!q->head) q->tail = NULL;
    q->queued--;
    q->busy = 1;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    run_job(q, j);
    free(j);
    pthread_mutex_lock(&q->lock);
    q->busy = 0;
    pthread_cond_broadcast(&q->changed);
  }
  pthread_mutex_unlock(&q->lock);
  return NULL;
}

static job *new_job(int kind, int64_t bytes) {
  job *j = calloc(1, sizeof *j + (size_t)(bytes + 7) / 8 * 8);
  if (j) j->kind = kind;
  return j;
}

/* Appends a job and returns the status known so far. */
static tf_status push(queue *q, job *j) {
  if (!j) {
    stick(q, TF_ENOMEM, "no memory for a job");
    return TF_ENOMEM;
  }
  pthread_mutex_lock(&q->lock);
  while (q->queued >= MAX_QUEUED) pthread_cond_wait(&q->changed, &q->lock);
  if (q->tail)
    q->tail->next = j;
  else
    q->head = j;
  q->tail = j;
  q->queued++;
  tf_status st = q->st;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
  return st;
}

static tf_status drain(queue *q) {
  pthread_mutex_lock(&q->lock);
  while (q->head || q->busy) pthread_cond_wait(&q->changed, &q->lock);
  tf_status st = q->st;
  pthread_mutex_unlock(&q->lock);
  return st;
}

static void queue_close(tf_queue *tq) {
  queue *q = Q(tq);
  pthread_mutex_lock(&q->lock);
  q->stop = 1;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
  pthread_join(q->thread, NULL);
  tf_cpu_backend()->queue_close(q->cpu);
  tf_cpu_backend()->queue_close(q->asker);
  pthread_mutex_destroy(&q->lock);
  pthread_cond_destroy(&q->changed);
  free(q);
}

static tf_status queue_open(tf_device *d, int32_t kind, tf_queue **out) {
  static uint64_t opened;
  const tf_backend *cpu = tf_cpu_backend();
  queue *q = calloc(1, sizeof *q);
  if (!q) return TF_ENOMEM;
  q->d = D(d);
  q->rng = 0x9e3779b97f4a7c15u * ++opened | 1;
  tf_status st = cpu->queue_open(q->d->cpu, kind, &q->cpu);
  if (st == TF_OK) st = cpu->queue_open(q->d->cpu, kind, &q->asker);
  if (st == TF_OK) {
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    if (pthread_create(&q->thread, NULL, work, q)) st = TF_ENOMEM;
  }
  if (st != TF_OK) {
    if (q->cpu) cpu->queue_close(q->cpu);
    if (q->asker) cpu->queue_close(q->asker);
    free(q);
    return st;
  }
  *out = (tf_queue *)(void *)q;
  return TF_OK;
}

static tf_status queue_sync(tf_queue *q) { return drain(Q(q)); }

static tf_status queue_error(tf_queue *tq, char *why, int64_t n) {
  queue *q = Q(tq);
  pthread_mutex_lock(&q->lock);
  tf_status st = q->st;
  snprintf(why, (size_t)n, "%s", q->why);
  pthread_mutex_unlock(&q->lock);
  return st;
}

/* --- events ---------------------------------------------------------------------------------------------------------------------- */

static tf_status event_open(tf_device *d, tf_event **out) {
  (void)d;
  event *e = calloc(1, sizeof *e);
  if (!e) return TF_ENOMEM;
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->done_cond, NULL);
  e->refs = 1;
  *out = (tf_event *)(void *)e;
  return TF_OK;
}

static void event_close(tf_event *e) { unref(E(e)); }

static tf_status event_record(tf_event *te, tf_queue *q) {
  event *e = E(te);
  job *j = new_job(JOB_MARK, 0);
  if (!j) return push(Q(q), NULL);
  pthread_mutex_lock(&e->lock);
  j->e = e;
  j->n = ++e->recorded;
  e->refs++;
  pthread_mutex_unlock(&e->lock);
  return push(Q(q), j);
}

static tf_status event_wait(tf_event *te, tf_queue *q) {
  event *e = E(te);
  job *j = new_job(JOB_WAIT, 0);
  if (!j) return push(Q(q), NULL);
  pthread_mutex_lock(&e->lock);
  j->e = e;
  j->n = e->recorded;
  e->refs++;
  pthread_mutex_unlock(&e->lock);
  return push(Q(q), j);
}

static tf_status event_sync(tf_event *te) {
  event *e = E(te);
  pthread_mutex_lock(&e->lock);
  uint64_t n = e->recorded;
  while (e->done < n) pthread_cond_wait(&e->done_cond, &e->lock);
  tf_status st = e->st;
  pthread_mutex_unlock(&e->lock);
  return st;
}

static tf_status event_done(tf_event *te) {
  event *e = E(te);
  pthread_mutex_lock(&e->lock);
  tf_status st = e->done < e->recorded ? TF_EAGAIN : e->st;
  pthread_mutex_unlock(&e->lock);
  return st;
}

/* --- device ---------------------------------------------------------------------------------------------------------------------- */

static tf_status dev_open(const tf_options *o, tf_device **out, char *why, int64_t n) {
  pthread_mutex_lock(&space.lock);
  int ok = space.size || reserve();
  pthread_mutex_unlock(&space.lock);
  if (!ok) {
    snprintf(why, (size_t)n, "no address space for the hostile backend");
    return TF_ENOMEM;
  }
  device *d = calloc(1, sizeof *d);
  if (!d) return TF_ENOMEM;
  tf_status st = tf_cpu_backend()->open(o, &d->cpu, why, n);
  if (st != TF_OK) {
    free(d);
    return st;
  }
  *out = (tf_device *)(void *)d;
  return TF_OK;
}

static void dev_close(tf_device *d) {
  tf_cpu_backend()->close(D(d)->cpu);
  free(D(d));
}

static tf_status dev_info(tf_device *d, tf_device_info *i) {
  tf_status st = tf_cpu_backend()->info(D(d)->cpu, i);
  snprintf(i->name, sizeof i->name, "hostile");
  return st;
}

static tf_status dev_alloc(tf_device *d, int64_t bytes, tf_ptr *p) {
  (void)d;
  if (bytes <= 0) return TF_EINVALID;
  uint64_t n = pages(bytes);
  pthread_mutex_lock(&space.lock);
  uint64_t off = space.next;
  int fits = n < space.size && off < space.size - n - PAGE;
  if (fits) space.next = off + n + PAGE;
  pthread_mutex_unlock(&space.lock);
  if (!fits) return TF_ENOMEM;
  tf_ptr at = space.face + off;
  if (mprotect(real(at), n, PROT_READ | PROT_WRITE)) return TF_ENOMEM;
  memset(real(at), 0xff, n < POISON_BYTES ? n : POISON_BYTES);
  *p = at;
  return TF_OK;
}

static void dev_release(tf_device *d, tf_ptr p, int64_t bytes) {
  (void)d;
  /* Mapping anew gives the memory back and leaves nothing to read. */
  mmap(real(p), pages(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static tf_status upload(tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  job *j = new_job(JOB_UPLOAD, bytes);
  if (j) {
    memcpy(j->data, src, (size_t)bytes);
    j->at = dst;
    j->bytes = bytes;
  }
  return push(Q(q), j);
}

static tf_status download(tf_queue *q, void *dst, tf_ptr src, int64_t bytes) {
  tf_status st = drain(Q(q));
  if (st == TF_OK) memcpy(dst, real(src), (size_t)bytes);
  return st;
}

/* Host memory holds NaN at first, as the device's does. */
static tf_status host_alloc(tf_device *d, int64_t bytes, void **p) {
  (void)d;
  if (bytes <= 0) return TF_EINVALID;
  *p = mmap(NULL, pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*p == MAP_FAILED) return TF_ENOMEM;
  memset(*p, 0xff, (size_t)(bytes < POISON_BYTES ? bytes : POISON_BYTES));
  return TF_OK;
}

static void host_release(tf_device *d, void *p, int64_t bytes) {
  (void)d;
  munmap(p, pages(bytes));
}

static tf_status host_copy(tf_queue *q, int kind, void *host, tf_ptr at, int64_t bytes) {
  job *j = new_job(kind, 0);
  if (j) {
    j->host = host;
    j->at = at;
    j->bytes = bytes;
  }
  return push(Q(q), j);
}

static tf_status upload_async(tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  return host_copy(q, JOB_FROM_HOST, (void *)(uintptr_t)src, dst, bytes);
}

static tf_status download_async(tf_queue *q, void *dst, tf_ptr src, int64_t bytes) { return host_copy(q, JOB_TO_HOST, dst, src, bytes); }

/* The question gets the caller's addresses: one that reads device memory to answer dies. */
static tf_status workspace(tf_queue *tq, int32_t op, const void *params, int64_t *bytes) {
  queue *q = Q(tq);
  pthread_mutex_lock(&q->lock);
  tf_status st = q->st;
  pthread_mutex_unlock(&q->lock);
  if (st != TF_OK) return st;
  return tf_cpu_backend()->workspace(q->asker, op, params, bytes);
}

static tf_status set_workspace(tf_queue *q, tf_ptr p, int64_t bytes) {
  job *j = new_job(JOB_WORKSPACE, 0);
  if (j) {
    j->at = p;
    j->bytes = bytes;
  }
  return push(Q(q), j);
}

static tf_status enqueue(tf_queue *q, int32_t op, const void *params, size_t size) {
  job *j = new_job(JOB_OP, (int64_t)size);
  if (j) {
    j->op = op;
    memcpy(j->data, params, size);
  }
  return push(Q(q), j);
}

#define TF_X(name) \
  static tf_status op_##name(tf_queue *q, const tf_##name *p) { return enqueue(q, TF_OP_##name, p, sizeof *p); }
TF_OPS(TF_X)
#undef TF_X

static const tf_backend table = {
    .abi_version = TF_ABI_VERSION,
    .struct_size = sizeof(tf_backend),
    .abi_hash = TF_ABI_HASH,
    .name = "hostile",
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
    .upload_async = upload_async,
    .download_async = download_async,
    .workspace = workspace,
    .set_workspace = set_workspace,
#define TF_X(name) .name = op_##name,
    TF_OPS(TF_X)
#undef TF_X
};

__attribute__((visibility("default"))) const tf_backend *tf_backend_get(void);
const tf_backend *tf_backend_get(void) { return &table; }
