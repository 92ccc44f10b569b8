/* Stands in for the NVIDIA driver's library: it only tells its version, that of TUNEFLEET_FAKE_DRIVER. */
#include <stdlib.h>

int cuDriverGetVersion(int *version) {
  const char *v = getenv("TUNEFLEET_FAKE_DRIVER");
  *version = v ? atoi(v) : 0;
  return 0;
}
