/* Between emulate.cc and runtime.cc. */
#ifndef TUNEFLEET_CUDA_HOST_EMULATE_H
#define TUNEFLEET_CUDA_HOST_EMULATE_H

#include <functional>
#include <string>

#include "shim.h"

namespace tfh {

/* Runs all blocks of a kernel; false and why when it did what a GPU does not allow. One caller at a time. */
bool run(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body, std::string *why);

/* Puts work on a stream, as a library's kernels are. */
cudaError_t enqueue(cudaStream_t, std::function<void()>);

/* Within a job: other streams, and callers, go on while f waits for other processes. f calls nothing of the runtime. */
void apart(const std::function<void()> &f);

/* Runs what is on a stream, though nobody waits for it: work that other processes wait for. */
void progress(cudaStream_t);

}  // namespace tfh

#endif
