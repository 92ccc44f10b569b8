#include "dl.h"

__attribute__((visibility("default"))) const tf_backend *tf_backend_get(void) { return tf_cpu_backend(); }
