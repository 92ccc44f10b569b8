/* Stands in for NCCL in the emulation: ranks are processes that move bytes through sockets of the machine, strictly by NCCL's rules for
 * non-blocking communicators. So the order of calls, deadlines and giving up are tested; how fast the real one is, and which ways it finds
 * between cards, is not.
 *
 * Work that is queued runs by itself, as a card's does, since other processes wait for it. A rank that is gone is an asynchronous error, and
 * what waits for it goes on waiting until the communicator is aborted, as NCCL's kernels do.
 *
 * TUNEFLEET_FAKE_NCCL names another library, TUNEFLEET_FAKE_NCCL_VERSION another version, TUNEFLEET_FAKE_NCCL_FAULT what goes wrong:
 * init-hangs, init-fails, run-hangs, async-error, abort-hangs; several are separated by commas. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../ncclapi.h"
#include "emulate.h"
#include "watch.h"

using namespace tf;

namespace {

bool fault(const char *name) {
  const char *v = getenv("TUNEFLEET_FAKE_NCCL_FAULT");
  std::string all = std::string(",") + (v ? v : "") + ",";
  return all.find(std::string(",") + name + ",") != std::string::npos;
}

struct Op {
  enum Kind { kSend, kRecv, kBroadcast } kind;
  const char *src;
  char *dst;
  size_t bytes;
  int peer;
};

struct Fake {
  int rank, world;
  std::string key;
  std::vector<int> sockets; /* by rank; -1 at the own one */
  std::thread joiner;
  std::atomic<bool> aborted{false};
  std::mutex lock;
  int state = nccl::kInProgress, asked = 0;
  std::string why;
  bool finalizing = false;
  std::vector<Op> waiting; /* a group that is not on its stream yet */
  cudaStream_t stream = nullptr;
  std::atomic<int> running{0};

  void fail(int st, const std::string &text) {
    std::lock_guard<std::mutex> hold(lock);
    if (state != nccl::kSuccess && state != nccl::kInProgress) return;
    state = st;
    why = text;
  }
};
typedef std::shared_ptr<Fake> Ref;

struct Group {
  int depth = 0;
  Ref comm;
  cudaStream_t stream = nullptr;
  std::vector<Op> ops;
};
thread_local Group group;

void nap() { usleep(500); }

sockaddr_un address(const std::string &key, int rank, socklen_t *n) {
  sockaddr_un a = {};
  a.sun_family = AF_UNIX;
  int len = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "tunefleet-nccl-%s-%d", key.c_str(), rank);
  *n = (socklen_t)(offsetof(sockaddr_un, sun_path) + 1 + (size_t)len);
  return a;
}

/* Every rank dials the lower ones and is dialed by the higher ones. */
void join(Ref c) {
  socklen_t n = 0;
  sockaddr_un mine = address(c->key, c->rank, &n);
  int ln = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (ln < 0 || bind(ln, reinterpret_cast<sockaddr *>(&mine), n) || listen(ln, 64)) return c->fail(nccl::kSystemError, "bootstrap: " + std::string(strerror(errno)));
  for (int r = 0; r < c->rank; r++) {
    sockaddr_un to = address(c->key, r, &n);
    int s = -1;
    for (;; nap()) {
      if (c->aborted) return (void)close(ln);
      s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (!connect(s, reinterpret_cast<sockaddr *>(&to), n)) break;
      close(s);
    }
    if (write(s, &c->rank, sizeof c->rank) != sizeof c->rank) return c->fail(nccl::kSystemError, "bootstrap: a rank left");
    c->sockets[(size_t)r] = s;
  }
  for (int missing = c->world - 1 - c->rank; missing > 0;) {
    if (c->aborted) return (void)close(ln);
    int s = accept4(ln, nullptr, nullptr, SOCK_CLOEXEC), r = -1;
    if (s < 0) {
      nap();
      continue;
    }
    if (read(s, &r, sizeof r) != sizeof r || r <= c->rank || r >= c->world || c->sockets[(size_t)r] >= 0) {
      close(s);
      continue;
    }
    c->sockets[(size_t)r] = s;
    missing--;
  }
  close(ln);
  for (int s : c->sockets)
    if (s >= 0) fcntl(s, F_SETFL, fcntl(s, F_GETFL) | O_NONBLOCK);
  std::lock_guard<std::mutex> hold(c->lock);
  if (c->state == nccl::kInProgress) c->state = nccl::kSuccess;
}

/* What goes one way between two ranks: messages of a length and that many bytes. */
struct Lane {
  int peer;
  bool out;
  struct Message {
    uint64_t bytes;
    char *p;
  };
  std::deque<Message> messages;
  uint64_t head = 0;
  size_t at = 0; /* of the head, then of the message */

  /* Moves what it can; -1 when the other side is gone, -2 when it sends another length. */
  int move(int s) {
    while (!messages.empty()) {
      Message &m = messages.front();
      char *p;
      size_t left;
      if (at < sizeof head) {
        if (out) head = m.bytes;
        p = reinterpret_cast<char *>(&head) + at;
        left = sizeof head - at;
      } else {
        p = m.p + (at - sizeof head);
        left = m.bytes - (at - sizeof head);
      }
      if (left > 0) {
        ssize_t n = out ? send(s, p, left, MSG_NOSIGNAL) : recv(s, p, left, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
        if (n <= 0) return -1;
        at += (size_t)n;
        if (!out && at == sizeof head && head != m.bytes) return -2;
      }
      if (at >= sizeof head && at - sizeof head == m.bytes) {
        messages.pop_front();
        at = 0;
      }
    }
    return 0;
  }
};

void add(std::vector<Lane> &lanes, int peer, bool out, const void *p, size_t bytes) {
  for (Lane &l : lanes)
    if (l.peer == peer && l.out == out) return l.messages.push_back({bytes, static_cast<char *>(const_cast<void *>(p))});
  lanes.push_back({peer, out, {}, 0, 0});
  lanes.back().messages.push_back({bytes, static_cast<char *>(const_cast<void *>(p))});
}

/* What a group's kernel does; until all is moved, or the communicator is aborted. */
void run(Ref c, const std::vector<Op> &ops) {
  std::vector<Lane> lanes;
  for (const Op &o : ops) {
    if (o.kind == Op::kSend) add(lanes, o.peer, true, o.src, o.bytes);
    if (o.kind == Op::kRecv) add(lanes, o.peer, false, o.dst, o.bytes);
    if (o.kind != Op::kBroadcast) continue;
    if (o.peer != c->rank) {
      add(lanes, o.peer, false, o.dst, o.bytes);
      continue;
    }
    if (o.dst != o.src) memmove(o.dst, o.src, o.bytes);
    for (int r = 0; r < c->world; r++)
      if (r != c->rank) add(lanes, r, true, o.src, o.bytes);
  }
  bool stuck = fault("run-hangs");
  if (fault("async-error")) {
    c->fail(nccl::kRemoteError, "NET/IB: Got completion from peer with status=12");
    stuck = true;
  }
  while (!c->aborted) {
    std::vector<pollfd> fds;
    bool left = stuck;
    for (Lane &l : lanes) {
      int s = c->sockets[(size_t)l.peer];
      int bad = stuck ? 0 : l.move(s);
      if (bad) {
        c->fail(bad == -1 ? (int)nccl::kRemoteError : (int)nccl::kInvalidUsage,
                bad == -1 ? "rank " + std::to_string(l.peer) + " closed the connection" : "ranks do not agree about a transfer's length");
        stuck = true;
      }
      if (l.messages.empty()) continue;
      left = true;
      fds.push_back({s, (short)(l.out ? POLLOUT : POLLIN), 0});
    }
    if (!left) break;
    if (stuck)
      nap();
    else
      poll(fds.data(), fds.size(), 5);
  }
  c->running--;
}

Ref &ref(nccl::Comm c) { return *static_cast<Ref *>(c); }

int queue(nccl::Comm comm, Op op, void *stream) {
  if (!group.depth) return nccl::kInvalidUsage; /* we always group */
  Ref &c = ref(comm);
  if (op.peer < 0 || op.peer >= c->world || (group.comm && (group.comm != c || group.stream != stream))) return nccl::kInvalidUsage;
  group.comm = c;
  group.stream = static_cast<cudaStream_t>(stream);
  group.ops.push_back(op);
  return nccl::kSuccess;
}

void leave(Ref &c) {
  c->aborted = true;
  if (c->joiner.joinable()) c->joiner.join();
  while (c->running > 0) nap(); /* its sockets are in use */
  for (int &s : c->sockets) {
    if (s >= 0) close(s);
    s = -1;
  }
}

}  // namespace

const char *tfh_nccl() {
  const char *v = getenv("TUNEFLEET_FAKE_NCCL");
  if (v && *v) return v;
  static Dl_info info;
  return dladdr(reinterpret_cast<void *>(tfh_nccl), &info) ? info.dli_fname : "";
}

#pragma GCC visibility push(default)
extern "C" {

int ncclGetVersion(int *v) {
  const char *e = getenv("TUNEFLEET_FAKE_NCCL_VERSION");
  *v = e && *e ? atoi(e) : 22809;
  return nccl::kSuccess;
}

int ncclGetUniqueId(nccl::Id *id) {
  unsigned char noise[16];
  int f = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (f < 0 || read(f, noise, sizeof noise) != sizeof noise) return nccl::kSystemError;
  close(f);
  memset(id, 0, sizeof *id);
  for (int i = 0; i < 16; i++) snprintf(id->bytes + 2 * i, 3, "%02x", noise[i]);
  return nccl::kSuccess;
}

int ncclCommInitRankConfig(nccl::Comm *out, int ranks, nccl::Id id, int rank, nccl::Config *config) {
  if (config->magic != nccl::kMagic || config->version < (unsigned)nccl::kOldest || config->blocking != 0 || config->size != sizeof *config) return nccl::kInvalidUsage;
  if (ranks < 1 || rank < 0 || rank >= ranks) return nccl::kInvalidUsage;
  Ref c = std::make_shared<Fake>();
  c->rank = rank;
  c->world = ranks;
  c->key = std::string(id.bytes, strnlen(id.bytes, sizeof id.bytes));
  c->sockets.assign((size_t)ranks, -1);
  *out = new Ref(c);
  if (fault("init-fails"))
    c->fail(nccl::kSystemError, "Bootstrap : no socket interface found");
  else if (!fault("init-hangs"))
    c->joiner = std::thread(join, c);
  return nccl::kInProgress;
}

int ncclCommGetAsyncError(nccl::Comm comm, int *result) {
  Ref &c = ref(comm);
  std::lock_guard<std::mutex> hold(c->lock);
  if (c->state == nccl::kInProgress && !c->waiting.empty() && ++c->asked >= 3) {
    std::vector<Op> ops = std::move(c->waiting);
    c->waiting.clear();
    c->asked = 0;
    c->state = nccl::kSuccess;
    c->running++;
    Ref held = c;
    cudaStream_t s = c->stream;
    tfh::enqueue(s, [held, ops]() {
      tfh::apart([&]() { run(held, ops); });
      for (const Op &o : ops)
        if (o.kind != Op::kSend) tfh::watch::received(o.dst, o.bytes);
    });
    std::thread([s]() { tfh::progress(s); }).detach();
  }
  if (c->state == nccl::kInProgress && c->finalizing && c->running == 0) c->state = nccl::kSuccess;
  *result = c->state;
  return nccl::kSuccess;
}

int ncclCommFinalize(nccl::Comm comm) {
  Ref &c = ref(comm);
  std::lock_guard<std::mutex> hold(c->lock);
  if (c->state != nccl::kSuccess) return nccl::kInvalidUsage;
  c->finalizing = true;
  c->state = nccl::kInProgress;
  return nccl::kInProgress;
}

int ncclCommDestroy(nccl::Comm comm) {
  Ref *c = static_cast<Ref *>(comm);
  if (!(*c)->finalizing) return nccl::kInvalidUsage;
  leave(*c);
  delete c;
  return nccl::kSuccess;
}

int ncclCommAbort(nccl::Comm comm) {
  while (fault("abort-hangs")) nap();
  Ref *c = static_cast<Ref *>(comm);
  leave(*c);
  delete c;
  return nccl::kSuccess;
}

const char *ncclGetErrorString(int st) {
  switch (st) {
    case nccl::kSuccess:
      return "no error";
    case nccl::kUnhandledCudaError:
      return "unhandled cuda error";
    case nccl::kSystemError:
      return "unhandled system error";
    case nccl::kInvalidUsage:
      return "invalid usage";
    case nccl::kRemoteError:
      return "remote process exited or there was a network error";
    case nccl::kInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char *ncclGetLastError(nccl::Comm comm) {
  if (!comm) return "";
  Ref &c = ref(comm);
  std::lock_guard<std::mutex> hold(c->lock);
  return c->why.c_str();
}

int ncclSend(const void *p, size_t n, int type, int peer, nccl::Comm c, void *stream) {
  return type == nccl::kInt8 ? queue(c, {Op::kSend, static_cast<const char *>(p), nullptr, n, peer}, stream) : (int)nccl::kInvalidUsage;
}
int ncclRecv(void *p, size_t n, int type, int peer, nccl::Comm c, void *stream) {
  return type == nccl::kInt8 ? queue(c, {Op::kRecv, nullptr, static_cast<char *>(p), n, peer}, stream) : (int)nccl::kInvalidUsage;
}
int ncclBroadcast(const void *src, void *dst, size_t n, int type, int root, nccl::Comm c, void *stream) {
  return type == nccl::kInt8 ? queue(c, {Op::kBroadcast, static_cast<const char *>(src), static_cast<char *>(dst), n, root}, stream) : (int)nccl::kInvalidUsage;
}

int ncclGroupStart() {
  group.depth++;
  return nccl::kSuccess;
}

int ncclGroupEnd() {
  if (--group.depth > 0) return nccl::kSuccess;
  Group g = std::move(group);
  group = Group();
  if (!g.comm) return nccl::kSuccess;
  std::lock_guard<std::mutex> hold(g.comm->lock);
  /* What the one before is not done with may not be followed by another. */
  if (g.comm->state != nccl::kSuccess) return g.comm->state == nccl::kInProgress ? (int)nccl::kInvalidUsage : g.comm->state;
  g.comm->waiting = std::move(g.ops);
  g.comm->stream = g.stream;
  g.comm->state = nccl::kInProgress;
  return nccl::kInProgress;
}

}  // extern "C"
#pragma GCC visibility pop
