/* What watch.cc found, in words: who, where in memory, and at which lines. */
#ifdef TF_WATCH
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "emulate.h"
#include "watch_cells.h"

extern "C" {
extern char __ehdr_start __attribute__((visibility("hidden")));
}

namespace tfh {
namespace watch {

namespace {

std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char *format, ...) {
  char out[1024];
  va_list ap;
  va_start(ap, format);
  vsnprintf(out, sizeof out, format, ap);
  va_end(ap);
  return out;
}

/* The lines of a place, the innermost first, as binutils' addr2line finds them: "device.cuh:178 < rmsnorm.cu:40". */
const std::string &lines(uint32_t place) {
  static std::map<uint32_t, std::string> known;
  auto it = known.find(place);
  if (it != known.end()) return it->second;
  std::string &out = known[place];
  if (!place) return out = "a copy";
  out = text("+0x%x", place);
  Dl_info info;
  if (!dladdr(&__ehdr_start, &info) || !info.dli_fname) return out;
  /* A call's place is where it returns to. */
  FILE *f = popen(text("addr2line -i -e '%s' 0x%x 2>/dev/null", info.dli_fname, place - 1).c_str(), "r");
  if (!f) return out;
  char line[4096];
  std::string found;
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, " \n")] = 0; /* "(discriminator 2)" */
    const char *slash = strrchr(line, '/');
    const char *name = slash ? slash + 1 : line;
    if (strstr(name, "??") || !strncmp(name, "shim.h", 6) || !strncmp(name, "std_function.h", 14) || !strncmp(name, "invoke.h", 8) || !strncmp(name, "queue.h", 7)) continue;
    found += (found.empty() ? "" : " < ") + std::string(name);
  }
  pclose(f);
  return found.empty() ? out : out = found;
}

std::string thread_name(unsigned i) {
  const dim3 d = s.block_dim;
  return text("thread (%u,%u,%u)", i % d.x, i / d.x % d.y, i / d.x / d.y);
}

std::string block_name(dim3 b) { return text("block (%u,%u,%u)", b.x, b.y, b.z); }

std::string me() { return s.library ? s.name : std::string(s.name) + ": " + block_name(s.blocks.back().at) + ", " + thread_name(s.thread); }

std::string where(Space space, uintptr_t p) {
  if (space == kShared) {
    for (const Array &a : s.arrays) {
      const uintptr_t begin = reinterpret_cast<uintptr_t>(a.p);
      if (p >= begin && p < begin + a.bytes) return text("byte %zu of shared %s", (size_t)(p - begin), a.name);
    }
    return "shared memory";
  }
  const uint32_t i = s.owner[(p - s.device.begin) / kPage];
  if (!i) return "memory";
  const Allocation &a = s.allocations[i - 1];
  return text("byte %zu of an allocation of %zu", (size_t)(p - a.begin), (size_t)(a.end - a.begin));
}

/* Who made the other access of a cell. */
std::string other(Space space, Other kind, const Cell &c) {
  uint32_t interval = kind == kWriter ? c.wrote : c.read;
  uint32_t place = kind == kWriter ? c.wrote_at : c.read_at;
  const char *verb = kind == kWriter ? "wrote" : "read";
  if (kind == kReader && space == kDevice && c.others >= s.launch && !(interval >= s.launch && interval < s.block) && interval >= s.block) {
    interval = c.others;
    place = 0;
  }
  const std::string at = place ? " at " + lines(place) : "";
  unsigned by = (kind == kWriter ? c.writer : c.reader) & kThread;
  if (kind == kReader && (c.reader & kReaders) == kLanes && by == s.thread) by = by / 32 * 32 + (unsigned)__builtin_ctz(c.lanes & ~(1u << by % 32));
  if (interval >= s.block) return thread_name(by) + " " + verb + " it" + at + ", with no barrier between them";
  if (interval >= s.launch) {
    auto it = std::upper_bound(s.blocks.begin(), s.blocks.end(), interval, [](uint32_t i, const Block &b) { return i < b.first; });
    return block_name((it - 1)->at) + " " + verb + " it" + at + ", and blocks are in no order";
  }
  return text("%s on another stream %s it", ran_in(interval).name, verb) + at + ", and no event orders them";
}

/* Once a place, on standard error; all of them fail the job, whose error names the first few. */
template <typename F>
void report(const char *check, uint32_t a, uint32_t b, F what) {
  static std::set<std::tuple<std::string, uint32_t, uint32_t>> seen;
  const bool first = seen.insert(std::make_tuple(std::string(check), a, b)).second;
  if (!first && !s.found.empty()) return;
  const std::string full = std::string(check) + ": " + what();
  if (s.found.size() < 4096) s.found += (s.found.empty() ? "" : "; ") + full;
  if (first) fprintf(stderr, "watch: %s\n", full.c_str());
}

}  // namespace

void report_race(Space space, uintptr_t p, bool write, uint32_t place, Other kind, const Cell &c) {
  report("racecheck", place, kind == kWriter ? c.wrote_at : c.read_at, [&]() {
    return me() + (write ? " writes " : " reads ") + where(space, p) + " at " + lines(place) + "; " + other(space, kind, c);
  });
}

void report_pending(uintptr_t p, bool write, uint32_t place, const Cell &c) {
  report("racecheck", place, c.wrote_at, [&]() {
    return me() + (write ? " writes " : " reads ") + where(kShared, p) + " at " + lines(place) + " while the copy of " + thread_name(c.writer & kThread) + " at " +
             lines(c.wrote_at) + " is under way";
  });
}

void report_unwritten(Space space, uintptr_t p, uint32_t place) {
  report("initcheck", place, 0, [&]() { return me() + " reads " + where(space, p) + " at " + lines(place) + ", which nothing has written"; });
}

void report_barrier(unsigned a, const void *place_a, unsigned b, const void *place_b) {
  const uint32_t x = place_of(place_a), y = place_of(place_b);
  if (lines(x) == lines(y)) return; /* g++ made two of it */
  report("synccheck", x, y, [&]() {
    return std::string(s.name) + ": " + block_name(s.blocks.back().at) + ": " + thread_name(a) + " waits at the barrier of " + lines(x) + ", " + thread_name(b) + " at that of " + lines(y);
  });
}

namespace {

std::string illegal(uintptr_t p, size_t n, bool write, uint32_t place) {
  std::string what = "which is not the device's";
  if (p - s.device.begin < s.device.size) {
    what = "which is not allocated";
    /* The allocation that it is beyond, or before. */
    for (const Allocation &a : s.allocations)
      if (a.pages && p + n + kPage > a.begin && p < a.begin + (a.pages + 1) * kPage)
        what = p < a.begin ? text("%zu before an allocation of %zu", (size_t)(a.begin - p), (size_t)(a.end - a.begin))
                           : text("at byte %zu of an allocation of %zu", (size_t)(p - a.begin), (size_t)(a.end - a.begin));
  }
  return text("memcheck: %s %zu bytes at %s, ", write ? "writes" : "reads", n, lines(place).c_str()) + what;
}

std::string outside(uintptr_t p, size_t n, bool write, uint32_t place) {
  std::string what = "where no array is";
  for (const Array &a : s.arrays) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(a.p);
    if (p + kGap / 2 > begin && p < begin + a.bytes + kGap / 2) what = text("at byte %ld of %s, which has %zu", (long)(p - begin), a.name, a.bytes);
  }
  return text("memcheck: %s %zu bytes of shared memory at %s, ", write ? "writes" : "reads", n, lines(place).c_str()) + what;
}

std::string said; /* stop does not come back, so nothing that has to be destroyed may be alive when it is called */

}  // namespace

void report_illegal(uintptr_t p, size_t n, bool write, uint32_t place) {
  said = illegal(p, n, write, place);
  if (s.library) return report("memcheck", place, 0, []() { return s.name + std::string(" ") + said.substr(strlen("memcheck: ")); });
  stop(said.c_str());
}

void report_outside(uintptr_t p, size_t n, bool write, uint32_t place) {
  said = outside(p, n, write, place);
  stop(said.c_str());
}

void report_misaligned(uintptr_t p, const char *file, unsigned line) {
  const char *slash = strrchr(file, '/');
  said = text("memcheck: a misaligned access at %s:%u, to an address that ends in 0x%02x", slash ? slash + 1 : file, line, (unsigned)(p & 255));
  stop(said.c_str());
}

}  // namespace watch
}  // namespace tfh
#endif
