/* Watches each access of kernels to memory, see watch.h: g++ calls __tsan_read4(p) and the like before it.
 *
 * Two accesses to a byte, one of them a write, are a race unless one of these orders them:
 *  - a barrier of the block between them, for its threads;
 *  - __syncwarp, for its lanes. Shuffles and votes order nothing, as CUDA says, nor do ldmatrix and mma;
 *  - both are atomic;
 *  - one launch comes after the other: on the same stream, or by an event, or because the host waited for the one before it queued the other.
 * Blocks of a launch are ordered by nothing. A copy by cp.async is under way until its thread waits for it; from then on it is that thread's.
 *
 * The emulation runs a block at a time, so it is enough to know of each byte who wrote it last and who has read it since, and when. */
#ifdef TF_WATCH
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>

#include "watch_cells.h"

extern "C" {
extern char __ehdr_start __attribute__((visibility("hidden")));
extern char _end __attribute__((visibility("hidden")));
}

namespace tfh {
namespace watch {

State s;
__thread bool active;

uint32_t place_of(const void *p) { return (uint32_t)(static_cast<const char *>(p) - &__ehdr_start); }

namespace {

constexpr size_t kReserved = (size_t)256 << 30, kSharedBytes = 2 << 20;

/* Address space whose pages are there, and zero, when they are touched. */
void *reserve(size_t n, int protection) {
  void *p = mmap(nullptr, n, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    perror("cannot reserve address space for the emulated device");
    abort();
  }
  return p;
}

template <typename T>
T *zeros(size_t n) {
  return static_cast<T *>(reserve(n * sizeof(T), PROT_READ | PROT_WRITE));
}

/* Whole pages are given back, so that what is large and untouched stays so. */
void zero(void *at, size_t n) {
  const uintptr_t p = reinterpret_cast<uintptr_t>(at), first = (p + kPage - 1) / kPage * kPage, last = (p + n) / kPage * kPage;
  if (first >= last) {
    memset(at, 0, n);
    return;
  }
  memset(at, 0, first - p);
  madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
  memset(reinterpret_cast<void *>(last), 0, p + n - last);
}

void cells_for(Memory *m, uintptr_t begin, size_t size) {
  *m = Memory{begin, size, zeros<Cell>(size), zeros<uint8_t>(size / 4)};
}

void prepare() {
  if (s.device.size) return;
  cells_for(&s.device, reinterpret_cast<uintptr_t>(reserve(kReserved, PROT_NONE)), kReserved);
  s.owner = zeros<uint32_t>(kReserved / kPage);
  cells_for(&s.shared, 0, kSharedBytes);
  for (bool &w : s.warp_met) w = true; /* so that clocks begin */
}

/* Whether what a lane of this thread's warp did at its clock comes before what this thread does now. */
inline bool after(unsigned other, unsigned clock) { return other / 32 == s.thread / 32 && s.clock[s.thread][other % 32] >= clock; }

void note_read(Cell *c, uint32_t place) {
  const unsigned me = s.thread, clock = s.clock[me][me % 32];
  if (c->read != s.interval) {
    if (c->read >= s.launch && c->read < s.block) c->others = c->read;
    c->read = s.interval;
  } else if ((c->reader & kReaders) == kMany) {
    return;
  } else {
    const unsigned by = c->reader & kThread;
    uint32_t lanes = (c->reader & kReaders) == kLanes ? c->lanes : 1u << by % 32;
    if (by / 32 != me / 32) {
      c->reader = (uint16_t)(by | kMany);
      return;
    }
    /* Those that come before this read need not be known any more: what comes after it comes after them. */
    lanes &= ~(1u << me % 32);
    for (unsigned i = 0; i < 32; i++)
      if (lanes >> i & 1 && s.clock[me][i] >= c->read_clock) lanes &= ~(1u << i);
    if (lanes) {
      c->lanes = lanes | 1u << me % 32;
      c->reader = (uint16_t)(me | kLanes);
      if (clock > c->read_clock) c->read_clock = (uint16_t)clock;
      return;
    }
  }
  c->reader = (uint16_t)(me | kOne);
  c->read_clock = (uint16_t)clock;
  c->read_at = place;
}

/* Whether reads of a cell in this interval are by this thread, or come before it. */
bool reads_are_before(const Cell &c) {
  const unsigned by = c.reader & kThread;
  switch (c.reader & kReaders) {
    case kOne:
      return by == s.thread || after(by, c.read_clock);
    case kLanes:
      if (by / 32 != s.thread / 32) return false;
      for (unsigned i = 0; i < 32; i++)
        if (c.lanes >> i & 1 && i != s.thread % 32 && s.clock[s.thread][i] < c.read_clock) return false;
      return true;
  }
  return false;
}

/* One access to a cell, by the thread that runs now. flags: kAtomic, or kPending for a copy that begins. */
template <Space space, bool write>
inline void touch(Cell *c, uintptr_t p, unsigned flags, uint32_t place) {
  const uint32_t now = s.interval, wrote = c->wrote;
  if (space == kShared && wrote < s.block) {
    if (!write || flags & kAtomic) report_unwritten(space, p, place);
  } else if (space == kShared && c->writer & kPending) {
    report_pending(p, write, place, *c);
  } else if (wrote == now) {
    const unsigned by = c->writer & kThread;
    if (by != s.thread && !(flags & c->writer & kAtomic) && !after(by, c->write_clock)) report_race(space, p, write, place, kWriter, *c);
  } else if (space == kDevice) {
    if (wrote >= s.launch) {
      if (wrote < s.block && !(flags & c->writer & kAtomic)) report_race(space, p, write, place, kWriter, *c);
    } else if (wrote >= s.floor) {
      if (!ordered(wrote)) report_race(space, p, write, place, kWriter, *c);
    } else if (wrote == 0 && (!write || flags & kAtomic)) {
      report_unwritten(space, p, place);
    }
  }
  if (!write) {
    note_read(c, place);
    return;
  }
  if (c->read == now) {
    if (!reads_are_before(*c)) report_race(space, p, write, place, kReader, *c);
  } else if (space == kDevice) {
    if ((c->read >= s.launch && c->read < s.block) || c->others >= s.launch)
      report_race(space, p, write, place, kReader, *c);
    else if (c->read < s.launch && c->read >= s.floor && !ordered(c->read))
      report_race(space, p, write, place, kReader, *c);
  }
  c->wrote = now;
  c->wrote_at = place;
  c->writer = (uint16_t)(s.thread | flags);
  c->write_clock = s.clock[s.thread][s.thread % 32];
}

template <Space space, bool write>
void touch_all(const Memory &m, uintptr_t p, size_t n, unsigned flags, uint32_t place) {
  for (size_t at = p - m.begin, end = at + n; at < end;) {
    const size_t word = at / 4 * 4, stop = std::min(word + 4, end);
    Cell *c = m.cells + word;
    uint8_t *bytes = m.bytes + word / 4;
    if (stop - at == 4 && !*bytes) {
      touch<space, write>(c, m.begin + word, flags, place);
    } else {
      if (!*bytes) {
        *bytes = 1;
        for (int i = 1; i < 4; i++) c[i] = c[0];
      }
      for (size_t i = at; i < stop; i++) touch<space, write>(m.cells + i, m.begin + i, flags, place);
      if (write && stop - at == 4) *bytes = 0;
    }
    at = stop;
  }
}

void check_shared(uintptr_t p, size_t n, bool write, uint32_t place) {
  for (const Array &a : s.arrays) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(a.p);
    if (p >= begin && p + n <= begin + a.bytes) return;
  }
  report_outside(p, n, write, place);
}

/* Whether the bytes are the device's and to be watched. Those that no allocation has end the kernel. */
bool watched(uintptr_t p, size_t n, bool write, uint32_t place) {
  const uint32_t i = s.owner[(p - s.device.begin) / kPage];
  if (i && p + n <= s.allocations[i - 1].end) return !s.allocations[i - 1].host;
  report_illegal(p, n, write, place);
  return false;
}

bool in_device(uintptr_t p) { return p - s.device.begin < s.device.size; }
bool in_shared(uintptr_t p) { return p - s.shared.begin < s.shared.size; }

template <bool write>
void access(const void *address, size_t n, unsigned flags, const void *from) {
  const uintptr_t p = reinterpret_cast<uintptr_t>(address);
  if (p - s.stack < s.stack_bytes) return;
  const uint32_t place = from ? place_of(from) : 0;
  if (in_shared(p)) {
    check_shared(p, n, write, place);
    touch_all<kShared, write>(s.shared, p, n, flags, place);
  } else if (in_device(p)) {
    if (watched(p, n, write, place)) touch_all<kDevice, write>(s.device, p, n, flags, place);
  } else if (!s.library && (write || p < reinterpret_cast<uintptr_t>(&__ehdr_start) || p >= reinterpret_cast<uintptr_t>(&_end))) {
    report_illegal(p, n, write, place); /* constants may be read */
  }
}

/* A new interval, in which no thread knows of another. */
void next_interval() {
  if (++s.interval == ~0u) {
    fprintf(stderr, "watch: too many intervals for one process\n");
    abort();
  }
  for (unsigned w = 0; w < 32; w++) {
    if (!s.warp_met[w]) continue;
    s.warp_met[w] = false;
    memset(s.clock[w * 32], 0, sizeof s.clock[0] * 32);
    for (unsigned i = 0; i < 32; i++) s.clock[w * 32 + i][i] = 1;
  }
}

void begin_alone(const char *name) {
  prepare();
  launch_begins(name, dim3(1), dim3(1));
  s.arrays.clear();
  block_begins(nullptr, 0);
  s.thread = 0;
}

}  // namespace

/* --- memory ------------------------------------------------------------------------------------------------------------------------------ */

void *map(size_t n, bool host) {
  prepare();
  const size_t pages = (n + kPage - 1) / kPage;
  /* The lowest place where it fits, with a page before and after it that cannot be touched. */
  std::vector<const Allocation *> taken;
  for (const Allocation &a : s.allocations)
    if (a.pages) taken.push_back(&a);
  std::sort(taken.begin(), taken.end(), [](const Allocation *x, const Allocation *y) { return x->begin < y->begin; });
  uintptr_t at = s.device.begin + kPage;
  for (const Allocation *a : taken) {
    if (at + (pages + 1) * kPage <= a->begin) break;
    at = a->begin + (a->pages + 1) * kPage;
  }
  if (at + (pages + 1) * kPage > s.device.begin + s.device.size || mprotect(reinterpret_cast<void *>(at), pages * kPage, PROT_READ | PROT_WRITE)) return nullptr;
  size_t i = 0;
  while (i < s.allocations.size() && s.allocations[i].pages) i++;
  if (i == s.allocations.size()) s.allocations.emplace_back();
  s.allocations[i] = Allocation{at, at + n, pages, host};
  std::fill_n(s.owner + (at - s.device.begin) / kPage, pages, (uint32_t)(i + 1));
  return reinterpret_cast<void *>(at);
}

void unmap(void *p) {
  const size_t off = reinterpret_cast<uintptr_t>(p) - s.device.begin;
  Allocation &a = s.allocations[s.owner[off / kPage] - 1];
  const size_t bytes = a.pages * kPage;
  std::fill_n(s.owner + off / kPage, a.pages, 0);
  a.pages = 0;
  mprotect(p, bytes, PROT_NONE);
  madvise(p, bytes, MADV_DONTNEED);
  madvise(s.device.cells + off, bytes * sizeof(Cell), MADV_DONTNEED);
  madvise(s.device.bytes + off / 4, bytes / 4, MADV_DONTNEED);
}

bool copied(void *dst, const void *src, size_t n) {
  Quiet quiet;
  const uintptr_t to = reinterpret_cast<uintptr_t>(dst), from = reinterpret_cast<uintptr_t>(src);
  begin_alone("a copy");
  s.library = true;
  if (in_device(from) && watched(from, n, false, 0)) {
    /* What is copied may be unwritten in parts: padding. */
    const Memory &m = s.device;
    for (size_t at = from - m.begin, end = at + n; at < end; at++)
      if ((at % 4 == 0 || m.bytes[at / 4]) && m.cells[at].wrote) touch<kDevice, false>(m.cells + at, m.begin + at, 0, 0);
  }
  if (in_device(to) && watched(to, n, true, 0)) touch_all<kDevice, true>(s.device, to, n, 0, 0);
  s.library = false;
  return s.found.empty();
}

void extent(const void *p, size_t n) {
  const uint32_t i = s.owner[(reinterpret_cast<uintptr_t>(p) - s.device.begin) / kPage];
  if (i) s.allocations[i - 1].end = reinterpret_cast<uintptr_t>(p) + n;
}

void received(void *p, size_t n) {
  const size_t at = reinterpret_cast<uintptr_t>(p) - s.device.begin;
  for (size_t i = at; i < at + n; i++) s.device.cells[i].wrote = 1;
}

void forget(void *p, size_t n) {
  const size_t at = reinterpret_cast<uintptr_t>(p) - s.device.begin;
  zero(s.device.cells + at, n * sizeof(Cell));
  zero(s.device.bytes + at / 4, (n + 3) / 4);
}

Library::Library() {
  begin_alone("a library's kernel");
  s.library = true;
  s.stack_bytes = 0;
  active = true;
}

Library::~Library() {
  active = false;
  s.library = false;
}

/* --- kernels ----------------------------------------------------------------------------------------------------------------------------- */

void launch_begins(const char *name, dim3, dim3 block) {
  prepare();
  s.launch = s.interval + 1;
  s.name = name;
  if (s.stream) s.stream->names.back() = name;
  s.block_dim = block;
  s.blocks.clear();
}

void block_begins(const char *shared, size_t shared_bytes) {
  next_interval();
  s.block = s.interval;
  s.blocks.push_back(Block{s.interval, self_now.block});
  if (!shared) return;
  if (shared_bytes > kSharedBytes) abort();
  s.shared.begin = reinterpret_cast<uintptr_t>(shared);
  s.shared.size = shared_bytes;
  s.arrays.clear();
}

void array(const char *p, size_t bytes, const char *name) { s.arrays.push_back(Array{p, bytes, name}); }

void thread_runs(unsigned i, const char *stack, size_t stack_bytes) {
  s.thread = i;
  s.stack = reinterpret_cast<uintptr_t>(stack);
  s.stack_bytes = stack_bytes;
}

void thread_rests() { active = false; }
void thread_starts() { active = true; }
void thread_ends() { active = false; }
Quiet::Quiet() : was(active) { active = false; }
Quiet::~Quiet() { active = was; }

void barrier(const void *const *places, unsigned threads) {
  for (unsigned i = 1; i < threads; i++)
    if (places[i] != places[0]) report_barrier(0, places[0], i, places[i]);
  next_interval();
}

void warp_barrier(unsigned warp, unsigned mask) {
  s.warp_met[warp] = true;
  uint16_t(*clock)[32] = s.clock + warp * 32;
  uint16_t all[32] = {};
  for (unsigned i = 0; i < 32; i++)
    if (mask >> i & 1)
      for (unsigned l = 0; l < 32; l++) all[l] = std::max(all[l], clock[i][l]);
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    memcpy(clock[i], all, sizeof all);
    if (++clock[i][i] == 0) stop("more warp barriers between two of the block than the emulation counts");
  }
}

void async_issued(void *to, const void *from, int bytes, const void *place) {
  Quiet quiet;
  if (bytes) access<false>(from, (size_t)bytes, 0, place);
  access<true>(to, 16, kPending, place);
}

void async_arrives(void *to, const void *from, int bytes, const void *place) {
  Quiet quiet;
  if (bytes) access<false>(from, (size_t)bytes, 0, place);
  const uintptr_t p = reinterpret_cast<uintptr_t>(to) - s.shared.begin;
  for (size_t i = 0; i < 16; i++) {
    Cell *c = s.shared.cells + p + i;
    c->writer &= (uint16_t)~kPending;
    if (i % 4 && !s.shared.bytes[(p + i) / 4]) continue;
    c->wrote = s.interval;
    c->write_clock = s.clock[s.thread][s.thread % 32];
  }
}

void atomic(const void *p, size_t n, const void *place) {
  if (!active) return;
  Quiet quiet;
  access<true>(p, n, kAtomic, place);
}

}  // namespace watch
}  // namespace tfh

/* --- what g++ calls ---------------------------------------------------------------------------------------------------------------------- */

using tfh::watch::active;

#define TF_ACCESS(name, n, write)                                             \
  void name(void *p) {                                                        \
    if (!active) return;                                                      \
    active = false;                                                           \
    tfh::watch::access<write>(p, n, 0, __builtin_return_address(0));          \
    active = true;                                                            \
  }
#define TF_SIZE(n)                               \
  TF_ACCESS(__tsan_read##n, n, false)            \
  TF_ACCESS(__tsan_write##n, n, true)            \
  TF_ACCESS(__tsan_unaligned_read##n, n, false)  \
  TF_ACCESS(__tsan_unaligned_write##n, n, true)  \
  TF_ACCESS(__tsan_volatile_read##n, n, false)   \
  TF_ACCESS(__tsan_volatile_write##n, n, true)

/* Atomics of the host side's own code. */
#define TF_ATOMIC(bits, T)                                                                                             \
  T __tsan_atomic##bits##_load(const volatile T *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }              \
  void __tsan_atomic##bits##_store(volatile T *p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }              \
  T __tsan_atomic##bits##_exchange(volatile T *p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }    \
  T __tsan_atomic##bits##_fetch_add(volatile T *p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }    \
  T __tsan_atomic##bits##_fetch_sub(volatile T *p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }    \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *want, T v, int, int) {                           \
    return __atomic_compare_exchange_n(p, want, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                             \
  }                                                                                                                    \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *want, T v, int, int) {                             \
    return __atomic_compare_exchange_n(p, want, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                             \
  }

#pragma GCC visibility push(hidden)
extern "C" {

void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}

TF_SIZE(1)
TF_SIZE(2)
TF_SIZE(4)
TF_SIZE(8)
TF_SIZE(16)

void __tsan_read_range(void *p, unsigned long n) {
  if (!active) return;
  active = false;
  tfh::watch::access<false>(p, n, 0, __builtin_return_address(0));
  active = true;
}
void __tsan_write_range(void *p, unsigned long n) {
  if (!active) return;
  active = false;
  tfh::watch::access<true>(p, n, 0, __builtin_return_address(0));
  active = true;
}

TF_ATOMIC(8, uint8_t)
TF_ATOMIC(32, uint32_t)
TF_ATOMIC(64, uint64_t)

/* What -fsanitize=alignment calls instead of a trap. */
struct TypeMismatch {
  const char *file;
  uint32_t line, column;
  const void *type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(TypeMismatch *m, void *p) {
  if (active) tfh::watch::report_misaligned(reinterpret_cast<uintptr_t>(p), m->file, m->line);
  fprintf(stderr, "a misaligned access outside of kernels at %s:%u\n", m->file, m->line);
  abort();
}
}
#pragma GCC visibility pop
#endif
