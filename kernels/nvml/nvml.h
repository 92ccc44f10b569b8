/* What we use of NVIDIA's management library, found with dlopen, so that programs start without it. Structures and values are those of nvml.h. */
#ifndef TUNEFLEET_NVML_H
#define TUNEFLEET_NVML_H

#include <stdint.h>

typedef struct tf_nvml tf_nvml;

/* A value that the device does not tell is -1. */
typedef struct {
  char name[96], uuid[96];
  int64_t gpu_percent, memory_percent;    /* utilization over the last sampling period */
  int64_t memory_used, memory_total;      /* bytes; used includes what the driver keeps */
  int64_t power_mw, temperature_c, sm_mhz;
  int64_t ecc_uncorrected;                /* since the driver was loaded */
  int64_t throttle;                       /* mask of reasons */
} tf_nvml_sample;

/* Opens the library and starts it; NULL with the reason in why. */
tf_nvml *tf_nvml_open(const char *path, char *why, int64_t why_len);
void tf_nvml_close(tf_nvml *);
/* The number of devices; 0 and above, or -1 with the reason in why. */
int tf_nvml_count(tf_nvml *, char *why, int64_t why_len);
void tf_nvml_driver(tf_nvml *, char *version, int64_t len);
/* 0, or -1 with the reason in why: the device does not even tell its memory. */
int tf_nvml_read(tf_nvml *, int index, tf_nvml_sample *, char *why, int64_t why_len);

#endif
