/* What watch.cc and watch_report.cc share: what is known of each byte, and what runs now. */
#ifndef TUNEFLEET_CUDA_HOST_WATCH_CELLS_H
#define TUNEFLEET_CUDA_HOST_WATCH_CELLS_H

#include "watch.h"

namespace tfh {
namespace watch {

/* The last accesses to a byte, or to a word of four (State::bytes says which). An interval is what a block does between two barriers; they are
 * numbered from 1 through the life of the process, so a number tells launch and block too. 0: never. */
struct Cell {
  uint32_t wrote, wrote_at; /* interval, and place in the code */
  uint16_t writer, write_clock;
  uint16_t reader, read_clock;
  uint32_t read, read_at;
  uint32_t lanes; /* kWarp: which of the reader's warp */
  uint32_t others; /* the last interval in which another block of a launch read it */
};
static_assert(sizeof(Cell) == 32, "a cell is half a cache line");

/* Of writer: a thread and flags. Of reader: a thread and how many there were. */
constexpr unsigned kThread = 1023, kAtomic = 1 << 10, kPending = 1 << 11;
constexpr unsigned kOne = 0 << 12, kLanes = 1 << 12, kMany = 2 << 12, kReaders = 3 << 12;

struct Array {
  const char *p;
  size_t bytes;
  const char *name;
};

struct Block {
  uint32_t first; /* interval */
  dim3 at;
};

struct Allocation {
  uintptr_t begin, end;
  size_t pages;
  bool host;
};

struct Memory {
  uintptr_t begin = 0;
  size_t size = 0;
  Cell *cells = nullptr;
  uint8_t *bytes = nullptr; /* a word: its bytes have cells of their own */
};

struct State {
  /* What runs now. */
  uint32_t interval = 0, launch = 0, block = 0;
  uint32_t floor = ~0u; /* jobs of other streams from this interval on may not have ended as far as the job that runs now knows */
  unsigned thread = 0;
  uintptr_t stack = 0;
  size_t stack_bytes = 0;
  const char *name = "";
  dim3 block_dim;
  bool library = false;
  std::vector<Block> blocks; /* of the launch */
  std::vector<Array> arrays; /* of the block */
  uint16_t clock[1024][32];  /* what a thread knows of its warp's lanes, in this interval */
  bool warp_met[32];
  /* Memory. */
  Memory device, shared;
  uint32_t *owner = nullptr; /* of the device's pages: 1 + an allocation, or 0 */
  std::vector<Allocation> allocations;
  /* Streams. */
  std::vector<Stream *> streams;
  std::vector<uint32_t> retired; /* jobs of streams that were closed, by id */
  Clock host;
  Stream *stream = nullptr; /* whose job runs */
  std::string found;        /* by it */
};
extern State s;

/* Whether the calling thread is in a kernel's code. */
extern __thread bool active __attribute__((tls_model("initial-exec")));

constexpr size_t kPage = 4096;

/* A place in the code, as it is kept in cells: relative to this library; 0 is a copy. */
uint32_t place_of(const void *);

enum Space { kDevice, kShared };
/* Whose access the other one is. */
enum Other { kWriter, kReader };

/* Two accesses that nothing orders. */
void report_race(Space, uintptr_t p, bool write, uint32_t place, Other, const Cell &);
void report_pending(uintptr_t p, bool write, uint32_t place, const Cell &);
void report_unwritten(Space, uintptr_t p, uint32_t place);
void report_barrier(unsigned a, const void *place_a, unsigned b, const void *place_b);
/* Not the device's: this ends a kernel, but not a copy or what a library does. */
void report_illegal(uintptr_t p, size_t n, bool write, uint32_t place);
[[noreturn]] void report_outside(uintptr_t p, size_t n, bool write, uint32_t place);
[[noreturn]] void report_misaligned(uintptr_t p, const char *file, unsigned line);

/* Of streams (watch_order.cc): the job that has an interval, and whether the one that runs now comes after it. */
struct Ran {
  const Stream *on;
  uint32_t index;
  const char *name;
};
Ran ran_in(uint32_t interval);
bool ordered(uint32_t interval);

}  // namespace watch
}  // namespace tfh

#endif
