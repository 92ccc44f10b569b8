/* Runs kernels on the host, see shim.h. One block at a time; each thread of the block has a stack and runs until it waits.
 *
 * What a GPU leaves open is made as unlucky as it can be: blocks and threads run in ascending order in one launch and in descending order in
 * the next, shared memory is NaN at the beginning of a block, and its arrays are fenced. Refused are a barrier that not all threads reach,
 * collectives with lanes that are not there or that call different ones, and writes beyond a shared array. */
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <string>
#include <vector>

#include "emulate.h"
#include "shim.h"
#include "watch.h"

namespace tfh {

Index self_now;

namespace {

/* kAsk, kMost: kAskShared and kMaxShared of device.cuh. */
constexpr size_t kStack = 128 << 10, kShared = 227 << 10, kStatic = 48 << 10, kAsk = 32 << 10, kMost = 99 << 10, kFence = watch::kGap, kArrays = 64;
constexpr unsigned char kPoison = 0xff, kFenceByte = 0xa5;

/* A collective of the lanes in mask that not all have reached, or whose values not all have taken. */
struct Meeting {
  unsigned mask = 0, arrived = 0, left = 0;
  const char *what = "";
  uint64_t v[32];
  bool open = false;
};

enum State { kReady, kAtBarrier, kAtMeeting, kDone };

/* An asynchronous copy of 16 bytes that nothing has waited for. */
struct Copy {
  void *to;
  const void *from;
  int bytes;
};

struct Fiber {
  ucontext_t start;
  jmp_buf at;
  void *stack = nullptr;
  State state = kDone;
  bool started = false;
  dim3 thread;
  std::vector<Copy> copies;
};

struct Array {
  const void *tag;
  char *p;
  size_t bytes;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<std::vector<Meeting>> meetings; /* a warp */
  jmp_buf scheduler, failed;
  unsigned current = 0, threads = 0, waiting = 0, done = 0, launches = 0;
  const std::function<void()> *body = nullptr;
  char *mem = nullptr;
  size_t used = 0, dynamic = 0;
  std::vector<Array> arrays;
  std::vector<const void *> places; /* where the threads that wait at the barrier do */
  std::string why;
};

constexpr size_t kMemory = kShared + kArrays * (kFence + 16);

Machine m;

void enter() {
  for (;;) {
    (*m.body)();
    Fiber &f = m.fibers[m.current];
    if (!f.copies.empty()) stop("a thread ends while an asynchronous copy of it is under way");
    f.state = kDone;
    m.done++;
    if (_setjmp(f.at) == 0) _longjmp(m.scheduler, 1);
  }
}

void wait(State s) {
  Fiber &f = m.fibers[m.current];
  f.state = s;
  if (_setjmp(f.at) == 0) _longjmp(m.scheduler, 1);
}

/* Stacks are made once; a fiber whose kernel was stopped midway begins anew. */
void prepare(unsigned threads) {
  if (m.fibers.size() < 1024) m.fibers.resize(1024);
  for (unsigned i = 0; i < threads; i++) {
    Fiber &f = m.fibers[i];
    if (f.stack) continue;
    f.stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f.stack == MAP_FAILED) abort();
    mprotect(f.stack, 4096, PROT_NONE);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack;
    f.start.uc_stack.ss_size = kStack;
    f.start.uc_link = nullptr;
    makecontext(&f.start, enter, 0);
    f.started = false;
  }
}

/* Runs a fiber until it waits or is done. */
void resume(unsigned i) {
  m.current = i;
  Fiber &f = m.fibers[i];
  self_now.thread = f.thread;
  watch::thread_runs(i, static_cast<char *>(f.stack), kStack);
  if (_setjmp(m.scheduler)) {
    watch::thread_rests();
    return;
  }
  if (f.started) _longjmp(f.at, 1);
  f.started = true;
  setcontext(&f.start);
}

void check_fences() {
  for (const Array &a : m.arrays)
    for (size_t i = 0; i < kFence; i++)
      if ((unsigned char)a.p[a.bytes + i] != kFenceByte) stop("shared memory was written beyond the end of an array");
}

char *take(const void *tag, size_t bytes, const char *name) {
  size_t at = (m.used + 15) / 16 * 16;
  size_t all = bytes;
  for (const Array &a : m.arrays) all += a.bytes;
  if (all > kShared || m.arrays.size() == kArrays) stop("more shared memory than a block can have");
  m.used = at + bytes + kFence;
  memset(m.mem + at, kPoison, bytes);
  memset(m.mem + at + bytes, kFenceByte, kFence);
  m.arrays.push_back({tag, m.mem + at, bytes});
  watch::array(m.mem + at, bytes, name);
  return m.mem + at;
}

void run_block(unsigned threads, bool descending) {
  m.waiting = m.done = 0;
  m.used = 0;
  m.arrays.clear();
  m.places.resize(threads);
  watch::block_begins(m.mem, kMemory);
  take(nullptr, m.dynamic, "memory of the launch");
  for (auto &w : m.meetings) w.clear();
  for (unsigned i = 0; i < threads; i++) {
    m.fibers[i].state = kReady;
    m.fibers[i].copies.clear();
  }
  unsigned warps = (threads + 31) / 32;
  while (m.done < threads) {
    bool ran = false;
    for (unsigned k = 0; k < warps; k++) {
      unsigned w = descending ? warps - 1 - k : k;
      for (bool again = true; again;) {
        again = false;
        for (unsigned l = 0; l < 32; l++) {
          unsigned i = w * 32 + (descending ? 31 - l : l);
          if (i >= threads || m.fibers[i].state != kReady) continue;
          resume(i);
          again = ran = true;
        }
      }
    }
    if (m.waiting == threads) {
      m.waiting = 0;
      watch::barrier(m.places.data(), threads);
      for (unsigned i = 0; i < threads; i++) m.fibers[i].state = kReady;
    } else if (!ran) {
      stop(m.waiting ? "some threads wait at __syncthreads and others never get there" : "lanes of a warp wait for others that never come");
    }
  }
  check_fences();
}

}  // namespace

void stop(const char *why) {
  char text[512];
  const Index &at = self_now;
  watch::thread_rests();
  snprintf(text, sizeof text, "block (%u,%u,%u), thread (%u,%u,%u): %s", at.block.x, at.block.y, at.block.z, at.thread.x, at.thread.y, at.thread.z, why);
  m.why = text;
  _longjmp(m.failed, 1);
}

unsigned lane() { return m.current % 32; }

void sync_threads() {
  watch::Quiet quiet;
  m.places[m.current] = __builtin_return_address(0);
  m.waiting++;
  wait(kAtBarrier);
}

void warp_meet(unsigned mask, const char *what, uint64_t v, uint64_t out[32]) {
  watch::Quiet quiet;
  unsigned warp = m.current / 32, me = m.current % 32;
  if (!(mask >> me & 1)) stop("a lane calls a collective of its warp whose mask leaves it out");
  for (unsigned i = 0; i < 32; i++)
    if (mask >> i & 1 && (warp * 32 + i >= m.threads || m.fibers[warp * 32 + i].state == kDone)) stop("the mask of a collective names lanes that are not there");
  auto &list = m.meetings[warp];
  size_t at = list.size();
  for (size_t i = 0; i < list.size(); i++) {
    if (!list[i].open || !(list[i].mask & mask)) continue;
    if (list[i].mask != mask || strcmp(list[i].what, what)) stop("lanes of a warp meet in different collectives");
    at = i;
  }
  if (at == list.size()) {
    for (size_t i = 0; i < list.size() && at == list.size(); i++)
      if (!list[i].open && !list[i].left) at = i;
    if (at == list.size()) list.emplace_back();
    list[at].mask = list[at].left = mask;
    list[at].arrived = 0;
    list[at].what = what;
    list[at].open = true;
  }
  list[at].v[me] = v;
  list[at].arrived |= 1u << me;
  if (list[at].arrived == mask) {
    list[at].open = false;
    if (!strcmp(what, "__syncwarp")) watch::warp_barrier(warp, mask);
    for (unsigned i = 0; i < 32; i++)
      if (mask >> i & 1) m.fibers[warp * 32 + i].state = kReady;
  } else {
    wait(kAtMeeting);
  }
  Meeting &done = m.meetings[warp][at];
  memcpy(out, done.v, sizeof done.v);
  done.left &= ~(1u << me);
}

void async_copy(void *to, const void *from, int bytes) {
  watch::Quiet quiet;
  if (reinterpret_cast<uintptr_t>(to) % 16 || (bytes && reinterpret_cast<uintptr_t>(from) % 16)) stop("an asynchronous copy of what is not aligned to 16 bytes");
  watch::async_issued(to, from, bytes, __builtin_return_address(0));
  memset(to, kPoison, 16);
  m.fibers[m.current].copies.push_back(Copy{to, from, bytes});
}

void async_wait() {
  watch::Quiet quiet;
  std::vector<Copy> &copies = m.fibers[m.current].copies;
  for (const Copy &c : copies) {
    watch::async_arrives(c.to, c.from, c.bytes, __builtin_return_address(0));
    memset(c.to, 0, 16);
    memcpy(c.to, c.from, (size_t)c.bytes);
  }
  copies.clear();
}

void *shared(const void *tag, size_t bytes, const char *name) {
  watch::Quiet quiet;
  for (const Array &a : m.arrays)
    if (a.tag == tag) return a.p;
  size_t fixed = bytes;
  for (const Array &a : m.arrays)
    if (a.tag) fixed += a.bytes;
  if (fixed > kStatic) stop("more than 48 KiB of static shared memory");
  if (fixed + m.dynamic > (m.dynamic > kAsk ? kMost : kStatic)) stop("more shared memory, static and dynamic, than the launch may have");
  return take(tag, bytes, name);
}

bool run(const char *name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &body, std::string *why) {
  unsigned threads = block.x * block.y * block.z;
  prepare(threads);
  if (!m.mem) m.mem = static_cast<char *>(aligned_alloc(64, kMemory));
  m.threads = threads;
  m.dynamic = shared_bytes;
  m.body = &body;
  m.meetings.resize(32);
  self_now.block_dim = block;
  self_now.grid_dim = grid;
  watch::launch_begins(name, grid, block);
  for (unsigned i = 0; i < threads; i++) m.fibers[i].thread = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
  const bool descending = m.launches++ % 2;
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  if (_setjmp(m.failed)) {
    /* Its threads stay where they were stopped; they get new stacks. */
    for (unsigned i = 0; i < m.threads; i++) {
      munmap(m.fibers[i].stack, kStack);
      m.fibers[i].stack = nullptr;
    }
    *why = std::string(name) + ": " + m.why;
    return false;
  }
  for (uint64_t b = 0; b < blocks; b++) {
    uint64_t i = descending ? blocks - 1 - b : b;
    self_now.block = dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y));
    run_block(threads, descending);
  }
  return true;
}

}  // namespace tfh

/* --- half precision ---------------------------------------------------------------------------------------------------------------------- */

float host_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, f = h & 0x3ff, u;
  if (e == 31) {
    u = sign | 0x7f800000 | f << 13;
  } else if (e) {
    u = sign | (e + 112) << 23 | f << 13;
  } else {
    float v = ldexpf((float)f, -24);
    memcpy(&u, &v, 4);
    u |= sign;
  }
  float out;
  memcpy(&out, &u, 4);
  return out;
}

uint16_t host_f32_to_f16(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  uint32_t sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
  if (mag > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (mag >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
  if (mag < 0x38800000) {
    /* Below the least normal number: multiples of 2^-24; nearbyint rounds to even. */
    float scaled;
    memcpy(&scaled, &mag, 4);
    return (uint16_t)(sign | (uint32_t)nearbyintf(ldexpf(scaled, 24)));
  }
  uint32_t r = mag - 0x38000000;
  return (uint16_t)(sign | (r + 0xfff + (r >> 13 & 1)) >> 13);
}
