/* Has the real cuDNN build the plans of ../cudnn_graph.cu for cards that are only described to it, without a GPU: the graphs are such that it has
 * engines for them, its compiler compiles them, and none is called nondeterministic. Run by deploy/setup/cudnn.sh with the stand-in of the driver
 * beside this file; its argument is cuDNN's library. It exits 1 when a plan that has to be there is not. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "../cudnn_graph.h"

using namespace tf::dnn;

namespace {

Functions f;

/* What cuDNN 9.19 asks of a card. */
Desc card(int version, int processors, int shared) {
  char text[1200];
  const int n = snprintf(text, sizeof text,
                         R"({"deviceName":"described","deviceVer":%d,"driverVer":13000,"cudaDeviceId":0,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,)"
                         R"("multiProcessorCount":%d,"warpSize":32,"regsPerBlock":65536,"maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,)"
                         R"("maxThreadsPerSM":2048,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":%d,"reservedSharedMemoryPerBlock":1024,)"
                         R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"totalGlobalMem":85899345920,"smClockRateKHz":1980000,)"
                         R"("memClockRateKHz":2619000,"l2CacheSize":52428800})",
                         version, processors, shared);
  Desc d = nullptr;
  f.BackendCreateDescriptor(kDeviceProp, &d);
  if (f.BackendSetAttribute(d, kDevicePropJson, kTypeChar, n, text) || f.BackendFinalize(d)) return nullptr;
  return d;
}

struct Case {
  const char *name;
  int type, causal, ragged;
  int64_t window, b, tq, tk, hq, hk, d_qk, d_v;
  bool everywhere; /* also on cards before 9.0 */
};

constexpr Case kCases[] = {
    {"causal", kBfloat16, 1, 0, 0, 2, 256, 256, 8, 8, 64, 64, true},
    {"causal, f16", kHalf, 1, 0, 0, 2, 256, 256, 8, 8, 64, 64, true},
    {"causal, grouped heads", kBfloat16, 1, 0, 0, 2, 2048, 2048, 32, 8, 128, 128, true},
    {"bidirectional, fewer queries", kBfloat16, 0, 0, 0, 2, 128, 256, 4, 2, 80, 80, true},
    {"window", kBfloat16, 1, 0, 1024, 1, 4096, 4096, 16, 8, 128, 128, true},
    {"heads of 16", kBfloat16, 1, 0, 0, 2, 128, 128, 4, 2, 16, 16, true},
    {"heads of 256", kBfloat16, 1, 0, 0, 1, 2048, 2048, 8, 8, 256, 256, false},
    {"heads of 192 and 128", kBfloat16, 1, 0, 0, 1, 2048, 2048, 8, 8, 192, 128, false},
    {"a kv head of a long sequence", kBfloat16, 1, 0, 0, 1, 8192, 8192, 4, 1, 128, 128, true},
    {"documents", kBfloat16, 1, 1, 0, 8, 512, 512, 4, 2, 128, 128, false},
    {"documents, window, f16", kHalf, 1, 1, 100, 8, 512, 512, 2, 2, 64, 64, false},
    {"padding", kBfloat16, 1, 1, 0, 8, 1024, 1024, 8, 2, 128, 128, false},
    {"padding, bidirectional", kBfloat16, 0, 1, 0, 2, 256, 256, 4, 2, 16, 16, false},
};

Strides rows(int64_t t, int64_t h, int64_t d) { return {t * h * d, h * d, d}; }

}  // namespace

int main(int argc, char **argv) {
  void *so = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!so) {
    fprintf(stderr, "usage: cudnn LIBRARY (%s)\n", argc == 2 ? dlerror() : "the path of libcudnn.so.9");
    return 2;
  }
#define TF_X(name)                                                        \
  f.name = reinterpret_cast<decltype(f.name)>(dlsym(so, "cudnn" #name)); \
  if (!f.name) {                                                          \
    fprintf(stderr, "cuDNN has no cudnn" #name "\n");                     \
    return 1;                                                             \
  }
  TF_DNN_FUNCTIONS(TF_X)
#undef TF_X
  printf("cuDNN %zu for CUDA %zu\n", f.GetVersion(), f.GetCudartVersion());
  struct {
    int version, processors, shared;
  } cards[] = {{900, 132, 232448}, {800, 108, 166912}, {890, 142, 101376}};
  int missing = 0;
  for (auto &c : cards) {
    Desc described = card(c.version, c.processors, c.shared);
    if (!described) {
      fprintf(stderr, "cuDNN does not take the description of sm_%d\n", c.version / 10);
      return 1;
    }
    for (const Case &x : kCases) {
      if (c.version < 900 && !x.everywhere) continue;
      for (int backward = 0; backward < 2; backward++) {
        Sdpa s;
        memset(&s, 0, sizeof s);
        s.type = x.type;
        s.backward = backward;
        s.causal = x.causal;
        s.lengths = s.ragged = x.ragged;
        s.window = x.window;
        s.b = x.b;
        s.tq = x.tq;
        s.tk = x.tk;
        s.hq = x.hq;
        s.hk = x.hk;
        s.d_qk = x.d_qk;
        s.d_v = x.d_v;
        s.q = rows(x.tq, x.hq, x.d_qk);
        s.k = rows(x.tk, x.hk, x.d_qk);
        s.v = rows(x.tk, x.hk, x.d_v);
        s.o = rows(x.tq, x.hq, x.d_v);
        if (backward) {
          s.d_o = s.o;
          s.dq = s.q;
          s.dk = s.k;
          s.dv = s.v;
        }
        Plan p = make_plan(f, nullptr, described, s, (int64_t)1 << 40);
        printf("sm_%d %s, %s: %s, %ld KiB of workspace\n", c.version / 10, x.name, backward ? "backward" : "forward", p.why.empty() ? "ok" : p.why.c_str(),
               (long)(p.workspace >> 10));
        fflush(stdout);
        missing += !p.why.empty();
        free_plan(f, &p);
      }
    }
    f.BackendDestroyDescriptor(described);
  }
  if (missing) fprintf(stderr, "%d plans cannot be built\n", missing);
  return missing ? 1 : 0;
}
