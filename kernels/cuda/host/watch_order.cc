/* The order of jobs of several streams, for watch.cc: by events, and by the host, which waits for one before it queues another. */
#ifdef TF_WATCH
#include <algorithm>

#include "watch_cells.h"

namespace tfh {
namespace watch {

namespace {

constexpr size_t kKept = 4096; /* jobs of a stream that are remembered; of older ones it is not noticed that nothing orders them */

void join(Clock *to, const Clock &from) {
  if (to->size() < from.size()) to->resize(from.size());
  for (size_t i = 0; i < from.size(); i++) (*to)[i] = std::max((*to)[i], from[i]);
}

uint32_t at(const Clock &c, size_t i) { return i < c.size() ? c[i] : 0; }

void raise(Clock *c, size_t i, uint32_t to) {
  if (c->size() <= i) c->resize(i + 1);
  (*c)[i] = std::max((*c)[i], to);
}

/* The number of the first job that a stream remembers. */
uint32_t first_kept(const Stream &x) { return x.begun - (uint32_t)x.clocks.size() + 1; }

void begin(Stream *x) {
  x->begun++;
  raise(&x->now, x->id, x->begun);
  x->clocks.push_back(x->now);
  x->firsts.push_back(++s.interval); /* so that each job has one of its own */
  x->names.push_back("");
  if (x->clocks.size() > kKept) {
    x->clocks.pop_front();
    x->firsts.pop_front();
    x->names.pop_front();
  }
  s.stream = x;
  s.floor = ~0u;
  for (const Stream *y : s.streams) {
    if (!y || y == x || y->clocks.empty()) continue;
    const uint32_t next = std::max(at(x->now, y->id) + 1, first_kept(*y));
    if (next <= y->begun) s.floor = std::min(s.floor, y->firsts[next - first_kept(*y)]);
  }
}

}  // namespace

void opened(Stream *x) {
  size_t i = 0;
  while (i < s.streams.size() && s.streams[i]) i++;
  if (i == s.streams.size()) {
    s.streams.push_back(nullptr);
    s.retired.push_back(0);
  }
  s.streams[i] = x;
  x->id = (unsigned)i;
  x->base = x->begun = s.retired[i];
  join(&x->now, s.host);
}

void closed(Stream *x) {
  raise(&s.host, x->id, x->begun);
  s.retired[x->id] = x->begun;
  s.streams[x->id] = nullptr;
}

std::function<void()> job(Stream *x, std::function<void()> f, std::function<void(const std::string &)> failed) {
  const Clock queued = s.host;
  return [=]() {
    join(&x->now, queued);
    begin(x);
    f();
    s.stream = nullptr;
    if (s.found.empty()) return;
    failed(s.found);
    s.found.clear();
  };
}

void waits(Stream *x, const Stream *on, uint32_t jobs) {
  if (jobs == 0 || on->clocks.empty()) return;
  jobs += on->base;
  const uint32_t first = first_kept(*on);
  join(&x->now, on->clocks[std::min(std::max(jobs, first), on->begun) - first]);
  raise(&x->now, on->id, jobs);
}

void host_waited(const Stream *on, uint32_t jobs) {
  if (jobs == 0) return;
  jobs += on->base;
  raise(&s.host, on->id, jobs);
  if (on->clocks.empty()) return;
  const uint32_t first = first_kept(*on);
  join(&s.host, on->clocks[std::min(std::max(jobs, first), on->begun) - first]);
}

Ran ran_in(uint32_t interval) {
  Ran r = {nullptr, 0, ""};
  uint32_t best = 0;
  for (const Stream *y : s.streams) {
    if (!y) continue;
    auto it = std::upper_bound(y->firsts.begin(), y->firsts.end(), interval);
    if (it == y->firsts.begin() || *--it < best) continue;
    const size_t i = (size_t)(it - y->firsts.begin());
    best = *it;
    r = Ran{y, first_kept(*y) + (uint32_t)i, y->names[i]};
  }
  return r;
}

bool ordered(uint32_t interval) {
  const Ran r = ran_in(interval);
  return !r.on || !s.stream || r.on == s.stream || at(s.stream->now, r.on->id) >= r.index;
}

}  // namespace watch
}  // namespace tfh
#endif
