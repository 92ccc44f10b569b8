/* The thread pool: workers take task numbers from a ticket, spin for at most 20 microseconds when there are none, then sleep on a futex. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cpu.h"

#define SPIN_NS 20000

typedef struct {
  tf_pool *p;
  int id;
  pthread_t thread;
} tf_worker;

struct tf_pool {
  /* Job number in the high 32 bits, next task in the low ones: a worker that comes late fails its compare-and-swap. */
  _Alignas(64) _Atomic uint64_t ticket;
  _Alignas(64) _Atomic uint32_t seq; /* the futex of workers: job number */
  _Atomic uint32_t sleepers;
  _Alignas(64) _Atomic int64_t done; /* finished tasks of the job */
  _Alignas(64) _Atomic uint32_t finished; /* the futex of the caller: number of the last finished job */
  _Atomic uint32_t caller_sleeps;
  _Alignas(64) _Atomic int64_t ntasks;
  _Atomic(tf_task_fn) fn;
  _Atomic(void *) arg;
  _Atomic int stop;
  int threads;
  tf_worker *workers;
};

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

static void futex_wait(_Atomic uint32_t *f, uint32_t value) { syscall(SYS_futex, f, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }
static void futex_wake(_Atomic uint32_t *f, int n) { syscall(SYS_futex, f, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0); }

/* Runs tasks of job until there are none left. */
static void work(tf_pool *p, uint32_t job, int thread) {
  uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
  for (;;) {
    if ((uint32_t)(t >> 32) != job) return;
    int64_t n = atomic_load_explicit(&p->ntasks, memory_order_relaxed);
    tf_task_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
    void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);
    int64_t task = (int64_t)(uint32_t)t;
    if (task >= n) return;
    if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t + 1, memory_order_acq_rel, memory_order_acquire)) continue;
    fn(arg, task, thread);
    if (atomic_fetch_add_explicit(&p->done, 1, memory_order_acq_rel) + 1 == n) {
      atomic_store(&p->finished, job);
      if (atomic_load(&p->caller_sleeps)) futex_wake(&p->finished, 1);
    }
    t = atomic_load_explicit(&p->ticket, memory_order_acquire);
  }
}

/* A worker neither allocates nor frees: the C library would give each its own arena. */
static void *worker(void *a) {
  const tf_worker *s = a;
  tf_pool *p = s->p;
  uint32_t seen = 0;
  for (;;) {
    int64_t until = now_ns() + SPIN_NS;
    uint32_t job;
    for (int i = 0; (job = atomic_load(&p->seq)) == seen && !atomic_load(&p->stop); i++) {
      relax();
      if ((i & 63) == 63 && now_ns() > until) {
        atomic_fetch_add(&p->sleepers, 1);
        if (atomic_load(&p->seq) == seen && !atomic_load(&p->stop)) futex_wait(&p->seq, seen);
        atomic_fetch_sub(&p->sleepers, 1);
      }
    }
    if (atomic_load(&p->stop)) return NULL;
    seen = job;
    work(p, job, s->id);
  }
}

tf_pool *tf_pool_open(int threads) {
  tf_pool *p = NULL;
  if (posix_memalign((void **)&p, 64, sizeof *p)) return NULL;
  *p = (tf_pool){.threads = 1};
  p->workers = calloc((size_t)threads, sizeof *p->workers);
  if (!p->workers) {
    free(p);
    return NULL;
  }
  pthread_attr_t attr;
  if (pthread_attr_init(&attr)) {
    tf_pool_close(p);
    return NULL;
  }
  int failed = pthread_attr_setstacksize(&attr, TF_STACK_BYTES);
  for (int i = 1; i < threads && !failed; i++) {
    tf_worker *w = &p->workers[i];
    w->p = p, w->id = i;
    failed = pthread_create(&w->thread, &attr, worker, w);
    p->threads += !failed;
  }
  pthread_attr_destroy(&attr);
  if (!failed) return p;
  tf_pool_close(p);
  return NULL;
}

void tf_pool_close(tf_pool *p) {
  atomic_store(&p->stop, 1);
  atomic_fetch_add(&p->seq, 1);
  futex_wake(&p->seq, p->threads);
  for (int i = 1; i < p->threads; i++) pthread_join(p->workers[i].thread, NULL);
  free(p->workers);
  free(p);
}

int tf_pool_threads(const tf_pool *p) { return p->threads; }

void tf_pool_run(tf_pool *p, int64_t n, tf_task_fn fn, void *arg) {
  if (n <= 0) return;
  if (p->threads == 1 || n == 1) {
    for (int64_t i = 0; i < n; i++) fn(arg, i, 0);
    return;
  }
  uint32_t job = atomic_load_explicit(&p->seq, memory_order_relaxed) + 1;
  /* No ticket is valid while the job's fields change: task numbers stop at 2^31. */
  atomic_store(&p->ticket, (uint64_t)job << 32 | UINT32_MAX);
  atomic_store_explicit(&p->ntasks, n, memory_order_relaxed);
  atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
  atomic_store_explicit(&p->arg, arg, memory_order_relaxed);
  atomic_store_explicit(&p->done, 0, memory_order_relaxed);
  atomic_store(&p->ticket, (uint64_t)job << 32);
  atomic_store(&p->seq, job);
  if (atomic_load(&p->sleepers)) futex_wake(&p->seq, p->threads);
  work(p, job, 0);
  int64_t until = now_ns() + SPIN_NS;
  for (int i = 0; atomic_load_explicit(&p->finished, memory_order_acquire) != job; i++) {
    relax();
    if ((i & 63) == 63 && now_ns() > until) {
      atomic_store(&p->caller_sleeps, 1);
      uint32_t f = atomic_load(&p->finished);
      if (f != job) futex_wait(&p->finished, f);
      atomic_store(&p->caller_sleeps, 0);
    }
  }
}
