/* What compute-sanitizer looks for on a GPU, looked for on the emulation: memory that is not the kernel's (memcheck), accesses that nothing
 * orders (racecheck), reads of what nothing has written (initcheck), barriers that are not one (synccheck).
 *
 * With TF_WATCH the kernels are compiled with -fsanitize=thread, so that g++ puts a call before each access to memory; watch.cc is what it
 * calls, in place of g++'s own library. Without TF_WATCH all of this is nothing. How accesses are ordered is said at the head of watch.cc. */
#ifndef TUNEFLEET_CUDA_HOST_WATCH_H
#define TUNEFLEET_CUDA_HOST_WATCH_H

#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "shim.h"

namespace tfh {
namespace watch {

/* How many jobs of each stream are known to have run. */
typedef std::vector<uint32_t> Clock;

/* A stream's place in the order of all jobs. */
struct Stream {
  unsigned id = 0;
  uint32_t base = 0;            /* jobs of streams that had the id before */
  uint32_t begun = 0;           /* jobs, with those */
  Clock now;                    /* what its next job comes after */
  std::deque<Clock> clocks;     /* of its last jobs */
  std::deque<uint32_t> firsts;  /* and the intervals they began with */
  std::deque<const char *> names;
};

#ifdef TF_WATCH

constexpr bool kOn = true;

/* Memory of the device, or of the host where kernels may reach it; NULL when there is no more. */
void *map(size_t n, bool host);
void unmap(void *p);

/* Order of streams; runtime.cc's lock is held. */
void opened(Stream *);
void closed(Stream *); /* all its jobs have run */
/* A job that is queued now, to be run once; failed(text) is called when something was found. */
std::function<void()> job(Stream *, std::function<void()>, std::function<void(const std::string &)> failed);
void waits(Stream *, const Stream *on, uint32_t jobs); /* what follows on it comes after so many jobs of the other */
void host_waited(const Stream *, uint32_t jobs);
/* Of what was mapped, only n bytes from p on may be used. */
void extent(const void *p, size_t n);
/* A copy by the job that runs now, before it is made; src is NULL for a fill. False: it must not be. */
bool copied(void *dst, const void *src, size_t n);
/* What another process wrote, or what nothing has written any more. */
void received(void *p, size_t n);
void forget(void *p, size_t n);
/* While it lives, what a library does on the device is watched, as a kernel of one thread. */
struct Library {
  Library();
  ~Library();
};

/* Kernels, from emulate.cc. */
constexpr size_t kGap = 16 << 10; /* between arrays of shared memory */
void launch_begins(const char *name, dim3 grid, dim3 block);
void block_begins(const char *shared, size_t shared_bytes);
void array(const char *p, size_t bytes, const char *name);
void thread_runs(unsigned i, const char *stack, size_t stack_bytes);
void thread_rests();
/* Around a kernel's own code, and within it around the emulation's. */
void thread_starts();
void thread_ends();
struct Quiet {
  bool was;
  Quiet();
  ~Quiet();
};
void barrier(const void *const *places, unsigned threads); /* all are there, each at its place in the code */
void warp_barrier(unsigned warp, unsigned mask);
void async_issued(void *to, const void *from, int bytes, const void *place);
void async_arrives(void *to, const void *from, int bytes, const void *place);

#else

constexpr bool kOn = false;
constexpr size_t kGap = 64;

inline void opened(Stream *) {}
inline void closed(Stream *) {}
inline std::function<void()> job(Stream *, std::function<void()> f, const std::function<void(const std::string &)> &) { return f; }
inline void waits(Stream *, const Stream *, uint32_t) {}
inline void host_waited(const Stream *, uint32_t) {}
inline void extent(const void *, size_t) {}
inline bool copied(void *, const void *, size_t) { return true; }
inline void received(void *, size_t) {}
inline void forget(void *, size_t) {}
struct Library {
  Library() {}
};
inline void launch_begins(const char *, dim3, dim3) {}
inline void block_begins(const char *, size_t) {}
inline void array(const char *, size_t, const char *) {}
inline void thread_runs(unsigned, const char *, size_t) {}
inline void thread_rests() {}
struct Quiet {
  Quiet() {}
};
inline void barrier(const void *const *, unsigned) {}
inline void warp_barrier(unsigned, unsigned) {}
inline void async_issued(void *, const void *, int, const void *) {}
inline void async_arrives(void *, const void *, int, const void *) {}

#endif

}  // namespace watch
}  // namespace tfh

#endif
