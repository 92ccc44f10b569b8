#include "lt.h"
namespace tf { tf_status lt_gemm(tf_queue *, const Gemm &, void *, bool *done) { *done = false; return TF_OK; } }
