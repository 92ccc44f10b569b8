#define _GNU_SOURCE
#include "nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *device;
typedef struct {
  unsigned gpu, memory;
} utilization;
typedef struct {
  unsigned long long total, free, used;
} memory;

enum { TEMPERATURE_GPU = 0, CLOCK_SM = 1, ECC_UNCORRECTED = 1, ECC_VOLATILE = 0 };

struct tf_nvml {
  void *so;
  int (*init)(void);
  int (*shutdown)(void);
  const char *(*error)(int);
  int (*driver)(char *, unsigned);
  int (*count)(unsigned *);
  int (*handle)(unsigned, device *);
  int (*name)(device, char *, unsigned);
  int (*uuid)(device, char *, unsigned);
  int (*memory)(device, memory *);
  /* Missing in some versions or on some devices. */
  int (*utilization)(device, utilization *);
  int (*power)(device, unsigned *);
  int (*temperature)(device, int, unsigned *);
  int (*clock)(device, int, unsigned *);
  int (*ecc)(device, int, int, unsigned long long *);
  int (*throttle)(device, unsigned long long *);
};

static int find(tf_nvml *n, const char *name, void *at) {
  void *f = dlsym(n->so, name);
  memcpy(at, &f, sizeof f);
  return f != NULL;
}

tf_nvml *tf_nvml_open(const char *path, char *why, int64_t len) {
  tf_nvml *n = calloc(1, sizeof *n);
  if (!n) return NULL;
  n->so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!n->so) {
    snprintf(why, (size_t)len, "%s", dlerror());
    free(n);
    return NULL;
  }
  int ok = find(n, "nvmlInit_v2", &n->init) && find(n, "nvmlShutdown", &n->shutdown) && find(n, "nvmlErrorString", &n->error) &&
           find(n, "nvmlSystemGetDriverVersion", &n->driver) && find(n, "nvmlDeviceGetCount_v2", &n->count) &&
           find(n, "nvmlDeviceGetHandleByIndex_v2", &n->handle) && find(n, "nvmlDeviceGetName", &n->name) &&
           find(n, "nvmlDeviceGetUUID", &n->uuid) && find(n, "nvmlDeviceGetMemoryInfo", &n->memory);
  find(n, "nvmlDeviceGetUtilizationRates", &n->utilization);
  find(n, "nvmlDeviceGetPowerUsage", &n->power);
  find(n, "nvmlDeviceGetTemperature", &n->temperature);
  find(n, "nvmlDeviceGetClockInfo", &n->clock);
  find(n, "nvmlDeviceGetTotalEccErrors", &n->ecc);
  find(n, "nvmlDeviceGetCurrentClocksThrottleReasons", &n->throttle);
  int st = 0;
  if (!ok) {
    snprintf(why, (size_t)len, "%s lacks functions of NVML", path);
  } else if ((st = n->init()) != 0) {
    snprintf(why, (size_t)len, "%s", n->error(st));
  } else {
    return n;
  }
  dlclose(n->so);
  free(n);
  return NULL;
}

void tf_nvml_close(tf_nvml *n) {
  n->shutdown();
  dlclose(n->so);
  free(n);
}

int tf_nvml_count(tf_nvml *n, char *why, int64_t len) {
  unsigned c = 0;
  int st = n->count(&c);
  if (st == 0) return (int)c;
  snprintf(why, (size_t)len, "%s", n->error(st));
  return -1;
}

void tf_nvml_driver(tf_nvml *n, char *version, int64_t len) {
  version[0] = 0;
  n->driver(version, (unsigned)len);
}

int tf_nvml_read(tf_nvml *n, int index, tf_nvml_sample *s, char *why, int64_t len) {
  device d;
  memory mem;
  int st = n->handle((unsigned)index, &d);
  memset(s, 0, sizeof *s);
  if (st == 0) st = n->memory(d, &mem);
  if (st != 0) {
    snprintf(why, (size_t)len, "%s", n->error(st));
    return -1;
  }
  n->name(d, s->name, sizeof s->name);
  n->uuid(d, s->uuid, sizeof s->uuid);
  s->memory_used = (int64_t)mem.used;
  s->memory_total = (int64_t)mem.total;
  s->gpu_percent = s->memory_percent = s->power_mw = s->temperature_c = s->sm_mhz = s->ecc_uncorrected = s->throttle = -1;
  utilization u;
  unsigned v;
  unsigned long long w;
  if (n->utilization && n->utilization(d, &u) == 0) {
    s->gpu_percent = u.gpu;
    s->memory_percent = u.memory;
  }
  if (n->power && n->power(d, &v) == 0) s->power_mw = v;
  if (n->temperature && n->temperature(d, TEMPERATURE_GPU, &v) == 0) s->temperature_c = v;
  if (n->clock && n->clock(d, CLOCK_SM, &v) == 0) s->sm_mhz = v;
  if (n->ecc && n->ecc(d, ECC_UNCORRECTED, ECC_VOLATILE, &w) == 0) s->ecc_uncorrected = (int64_t)w;
  if (n->throttle && n->throttle(d, &w) == 0) s->throttle = (int64_t)w;
  return 0;
}
