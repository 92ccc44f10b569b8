/* A management library of one GPU that does not tell its clock, for the tests. */
#include <stdlib.h>
#include <string.h>

int nvmlInit_v2(void) { return getenv("FAKE_NVML_BROKEN") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int e) { return e == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) {
  strncpy(v, "580.95.05", n);
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned *n) {
  *n = 1;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
  *d = "device";
  return i == 0 ? 0 : 2;
}
int nvmlDeviceGetName(void *d, char *s, unsigned n) {
  strncpy(s, d, n);
  return 0;
}
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) {
  strncpy(s, strcmp(d, "device") ? "?" : "GPU-1", n);
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) {
  (void)d;
  m[0] = 80ull << 30, m[1] = 79ull << 30, m[2] = 1ull << 30;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *d, unsigned *u) {
  (void)d;
  u[0] = 97, u[1] = 41;
  return 0;
}
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) {
  (void)d;
  *mw = 412345;
  return 0;
}
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *c) {
  (void)d;
  *c = 61;
  return sensor == 0 ? 0 : 2;
}
int nvmlDeviceGetClockInfo(void *d, int clock, unsigned *mhz) {
  (void)d, (void)clock, (void)mhz;
  return 3; /* not supported */
}
int nvmlDeviceGetTotalEccErrors(void *d, int type, int counter, unsigned long long *n) {
  (void)d;
  *n = 2;
  return type == 1 && counter == 0 ? 0 : 2;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *mask) {
  (void)d;
  *mask = 0x4 | 0x40 | 0x1;
  return 0;
}
