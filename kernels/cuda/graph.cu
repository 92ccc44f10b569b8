/* CUDA graphs. Where kernels are short, as in small models, a card waits for whoever launches them; a recorded graph is launched as one.
 *
 * Nobody has to mark what is to be recorded. A compute queue holds its operations back until something looks at their results (a
 * synchronization, an event, a copy from or to the host) or kMost are waiting, and then runs the sequence. The identity of a sequence is every
 * byte of the parameters of its operations: addresses, shapes and numbers. So a graph can only be launched in place of the very calls that it
 * was recorded from, and there is nothing to keep up to date. A training step with the shapes of an earlier one has the same sequences, since
 * arenas hand out the same addresses; what differs from step to step (learning rates, seeds of dropout) is never held back.
 *
 * A sequence that comes again is measured: kTries times one by one, kTries times as a graph, each by what the device and what the caller
 * took, whichever was more. The graph stays if its least is kWorth of the other's or less. What cannot be recorded goes on one by one.
 * Launched either way, kernels and their order are the same, and so are the bits.
 *
 * TUNEFLEET_CUDA_GRAPHS=auto is the above (the default), =on launches graphs without measuring, =off holds nothing back. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <new>
#include <unordered_map>

namespace tf {

namespace {

constexpr int kLeast = 4, kMost = 128; /* operations of a sequence: fewer are not worth a graph, more let the device wait for their recording */
constexpr int kTries = 3;
constexpr double kWorth = 0.97;
constexpr size_t kSequences = 512;    /* remembered with their parameters; about 40 KiB of the host's memory each, at most */
constexpr size_t kOnce = 4096;        /* digests of sequences that came once */
constexpr int kStrangers = 512;       /* sequences in a row that never came before: what runs does not repeat itself ... */
constexpr int64_t kRest = 1000000;    /* ... and so many operations are then not held back */

struct Digest {
  uint64_t a = 0x9e3779b97f4a7c15ull, b = 0xc2b2ae3d27d4eb4full;
  void add(uint64_t v) {
    a = (a ^ v) * 0xff51afd7ed558ccdull;
    a ^= a >> 32;
    b = (b + v) * 0x9ddfea08eb382d69ull;
    b ^= b >> 29;
  }
  bool operator==(const Digest &o) const { return a == o.a && b == o.b; }
};

struct Place {
  size_t operator()(const Digest &d) const { return (size_t)d.a; }
};

enum Way { kOneByOne, kAsGraph };

/* A sequence that came more than once. */
struct Sequence {
  std::vector<unsigned char> bytes; /* what makes it this one */
  cudaGraphExec_t graph = nullptr;
  bool settled = false; /* way is final */
  Way way = kOneByOne;
  int tries[2] = {0, 0};
  double least[2] = {0, 0}; /* microseconds */
  /* The measurement that is under way. */
  bool measuring = false;
  Way measured = kOneByOne;
  double issue = 0;
  cudaEvent_t begin = nullptr, end = nullptr;
  uint64_t last = 0; /* when it came last, for the choice of what is forgotten */
};

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

int64_t size_of(int32_t op) {
  switch (op) {
#define TF_X(name)   \
  case TF_OP_##name: \
    return (int64_t)sizeof(tf_##name);
    TF_OPS(TF_X)
#undef TF_X
  }
  return 0;
}

/* Operations with numbers that no two steps share: a sequence with one of them would never come again. */
bool varies(int32_t op, const void *p) {
  switch (op) {
    case TF_OP_random:
    case TF_OP_adamw:
    case TF_OP_adamw8:
    case TF_OP_lion:
    case TF_OP_adam_mini:
    case TF_OP_adafactor:
    case TF_OP_adam_dir:
      return true;
    case TF_OP_dropout:
      return static_cast<const tf_dropout *>(p)->p > 0;
    case TF_OP_attn_fwd:
      return static_cast<const tf_attn_fwd *>(p)->dropout > 0;
    case TF_OP_attn_bwd:
      return static_cast<const tf_attn_bwd *>(p)->f.dropout > 0;
  }
  return false;
}

void forget_events(Sequence &s) {
  if (s.begin) cudaEventDestroy(s.begin);
  if (s.end) cudaEventDestroy(s.end);
  s.begin = s.end = nullptr;
  s.measuring = false;
}

/* A graph that still runs is freed by the runtime once it has. */
void forget_graph(Sequence &s) {
  if (s.graph) cudaGraphExecDestroy(s.graph);
  s.graph = nullptr;
}

}  // namespace

struct Graphs {
  GraphChoice choice = kGraphsAuto;
  /* What is held back: of each operation its number, then its parameters, in whole words of 8 bytes. */
  std::vector<unsigned char> held;
  int count = 0;
  Digest digest;
  std::unordered_map<Digest, Sequence, Place> known;
  std::vector<Digest> once; /* a ring */
  size_t next = 0;
  std::unordered_map<Digest, int, Place> seen; /* what is in the ring, how often */
  int strangers = 0;
  int64_t rest = 0;
  uint64_t clock = 0;
  tf_graph_counts counts = {};
};

GraphChoice graph_choice() {
  const char *v = getenv("TUNEFLEET_CUDA_GRAPHS");
  if (!v || !*v || !strcmp(v, "auto")) return kGraphsAuto;
  return !strcmp(v, "on") ? kGraphsOn : !strcmp(v, "off") ? kGraphsOff : kBadChoice;
}

Graphs *open_graphs(GraphChoice choice) {
  if (choice == kGraphsOff) return nullptr;
  Graphs *g = new (std::nothrow) Graphs;
  if (g) g->choice = choice;
  return g;
}

void drop_graphs(Graphs *g) {
  if (!g) return;
  for (auto &k : g->known) {
    forget_events(k.second);
    forget_graph(k.second);
  }
  g->known.clear();
  g->once.clear();
  g->seen.clear();
  g->next = 0;
}

void close_graphs(Graphs *g) {
  drop_graphs(g);
  delete g;
}

void count_graphs(const Graphs *g, tf_graph_counts *c) {
  *c = tf_graph_counts{};
  if (g) *c = g->counts;
}

bool take(tf_queue *q, int32_t op, const void *params, tf_status *st) {
  Graphs *g = q->graphs;
  *st = q->st;
  if (!g) return false;
  if (g->rest > 0) {
    g->rest--;
    return false;
  }
  if (varies(op, params)) {
    *st = settle_graphs(q);
    return false;
  }
  const size_t size = (size_t)size_of(op), words = (size + 7) / 8, at = g->held.size();
  g->held.resize(at + 8 + words * 8);
  const uint64_t head = (uint64_t)op;
  memcpy(g->held.data() + at, &head, 8);
  memcpy(g->held.data() + at + 8, params, size);
  for (size_t i = 0; i <= words; i++) {
    uint64_t v;
    memcpy(&v, g->held.data() + at + i * 8, 8);
    g->digest.add(v);
  }
  if (++g->count >= kMost) *st = settle_graphs(q);
  return true;
}

namespace {

tf_status one_by_one(tf_queue *q, const std::vector<unsigned char> &held) {
  for (size_t at = 0; at < held.size();) {
    uint64_t op;
    memcpy(&op, held.data() + at, 8);
    TF_TRY(run_now(q, (int32_t)op, held.data() + at + 8));
    at += 8 + ((size_t)size_of((int32_t)op) + 7) / 8 * 8;
  }
  return q->st;
}

/* Records the sequence. Without a graph at the end it cannot be recorded; nothing has run then, and the queue is as it was. */
cudaGraphExec_t record(tf_queue *q, const std::vector<unsigned char> &held) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  /* Of this thread only: other threads go on allocating. */
  cudaError_t e = cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal);
  if (e == cudaSuccess) {
    const tf_status st = one_by_one(q, held);
    e = cudaStreamEndCapture(q->stream, &graph);
    if (st == TF_OK && e == cudaSuccess && graph) e = cudaGraphInstantiate(&exec, graph, 0);
    if (e != cudaSuccess) exec = nullptr;
    if (graph) cudaGraphDestroy(graph);
    /* These very calls were right when they ran: what failed is the recording. */
    q->st = TF_OK;
    q->why[0] = 0;
  }
  cudaGetLastError();
  return exec;
}

/* Takes in a measurement that has come to its end; false while it has not. */
bool measured(Sequence &s) {
  if (!s.measuring) return true;
  cudaError_t e = cudaEventQuery(s.end);
  if (e == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  float ms = 0;
  s.measuring = false;
  if (e != cudaSuccess || cudaEventElapsedTime(&ms, s.begin, s.end) != cudaSuccess) {
    cudaGetLastError();
    return true;
  }
  const double took = std::max(s.issue, (double)ms * 1e3);
  const int w = s.measured;
  s.least[w] = s.tries[w]++ ? std::min(s.least[w], took) : took;
  return true;
}

tf_status issue(tf_queue *q, Graphs *g, Sequence &s, Way way, const std::vector<unsigned char> &held) {
  if (way == kOneByOne) return one_by_one(q, held);
  g->counts.launches++;
  g->counts.operations += g->count;
  return check(q, cudaGraphLaunch(s.graph, q->stream), "a graph of operations");
}

tf_status issue_measured(tf_queue *q, Graphs *g, Sequence &s, Way way, const std::vector<unsigned char> &held) {
  if (!s.begin && cudaEventCreateWithFlags(&s.begin, cudaEventDefault) != cudaSuccess) s.begin = nullptr;
  if (!s.end && cudaEventCreateWithFlags(&s.end, cudaEventDefault) != cudaSuccess) s.end = nullptr;
  if (!s.begin || !s.end) {
    cudaGetLastError();
    return issue(q, g, s, way, held);
  }
  TF_TRY(check(q, cudaEventRecord(s.begin, q->stream), "event"));
  const double start = now();
  TF_TRY(issue(q, g, s, way, held));
  s.issue = now() - start;
  TF_TRY(check(q, cudaEventRecord(s.end, q->stream), "event"));
  s.measuring = true;
  s.measured = way;
  return TF_OK;
}

void finish(Graphs *g, Sequence &s, Way way) {
  if (s.graph && way == kOneByOne) {
    g->counts.slower++;
    forget_graph(s);
  }
  s.settled = true;
  s.way = way;
  forget_events(s);
}

/* Runs a sequence that came before, and finds out which way is faster meanwhile. */
tf_status run_known(tf_queue *q, Graphs *g, Sequence &s, const std::vector<unsigned char> &held) {
  if (s.settled) return issue(q, g, s, s.way, held);
  if (!measured(s)) return issue(q, g, s, s.measured, held); /* the queue is far behind */
  if (g->choice == kGraphsAuto && s.tries[kOneByOne] < kTries) return issue_measured(q, g, s, kOneByOne, held);
  if (!s.graph) {
    s.graph = record(q, held);
    if (!s.graph) {
      g->counts.refused++;
      finish(g, s, kOneByOne);
      return issue(q, g, s, kOneByOne, held);
    }
    g->counts.made++;
    if (g->choice == kGraphsOn) finish(g, s, kAsGraph);
    return issue(q, g, s, kAsGraph, held);
  }
  if (s.tries[kAsGraph] < kTries) return issue_measured(q, g, s, kAsGraph, held);
  finish(g, s, s.least[kAsGraph] <= kWorth * s.least[kOneByOne] ? kAsGraph : kOneByOne);
  return issue(q, g, s, s.way, held);
}

void forget_oldest(Graphs *g) {
  auto oldest = g->known.begin();
  for (auto it = g->known.begin(); it != g->known.end(); ++it)
    if (it->second.last < oldest->second.last) oldest = it;
  forget_events(oldest->second);
  forget_graph(oldest->second);
  g->known.erase(oldest);
}

/* Whether a sequence with this digest came before; notes that it did now. */
bool came_before(Graphs *g, const Digest &d) {
  if (g->seen.count(d)) return true;
  if (g->once.size() < kOnce) {
    g->once.push_back(d);
  } else {
    auto old = g->seen.find(g->once[g->next]);
    if (old != g->seen.end()) g->seen.erase(old);
    g->once[g->next] = d;
    g->next = (g->next + 1) % kOnce;
  }
  g->seen[d] = 1;
  return false;
}

tf_status run_sequence(tf_queue *q, Graphs *g, const Digest &d, const std::vector<unsigned char> &held) {
  auto it = g->known.find(d);
  if (it == g->known.end()) {
    if (!came_before(g, d)) {
      if (++g->strangers >= kStrangers) {
        g->strangers = 0;
        g->rest = kRest;
      }
      return one_by_one(q, held);
    }
    if (g->known.size() >= kSequences) forget_oldest(g);
    it = g->known.emplace(d, Sequence()).first;
    it->second.bytes = held;
  }
  g->strangers = 0;
  it->second.last = ++g->clock;
  if (it->second.bytes != held) return one_by_one(q, held); /* another one with this digest */
  return run_known(q, g, it->second, held);
}

}  // namespace

tf_status settle_graphs(tf_queue *q) {
  Graphs *g = q->graphs;
  if (g->count == 0) return q->st;
  tf_status st = q->st;
  if (st == TF_OK) {
    cudaSetDevice(q->d->index);
    st = g->count < kLeast ? one_by_one(q, g->held) : run_sequence(q, g, g->digest, g->held);
  }
  g->held.clear();
  g->count = 0;
  g->digest = Digest();
  return st;
}

}  // namespace tf
