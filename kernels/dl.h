/* Loading of backends and the calls that Go makes through a backend's table (cgo cannot call function pointers). */
#ifndef TUNEFLEET_DL_H
#define TUNEFLEET_DL_H

#include "tunefleet.h"

/* The CPU backend. */
const tf_backend *tf_cpu_backend(void);

/* Opens the shared object at path and returns its table, or NULL with the reason in why. The object is never unloaded. */
const tf_backend *tf_dl_open(const char *path, char *why, int64_t why_len);

/* Runs operation op with params (the tf_<name> of op). TF_EWORKSPACE when the workspace it needs exceeds have; need tells how much. */
tf_status tf_call(const tf_backend *be, tf_queue *q, int32_t op, const void *params, int64_t have, int64_t *need);

/* sizeof(tf_<name>) of an operation's params, 0 for an unknown one. */
int64_t tf_op_size(int32_t op);
const char *tf_op_name(int32_t op);

/* The CUDA version that the NVIDIA driver's library at path supports, 12040 for 12.4; 0, and why, when it cannot be asked. */
int32_t tf_cuda_driver(const char *path, char *why, int64_t why_len);

tf_status tf_be_open(const tf_backend *be, const tf_options *o, tf_device **d, char *why, int64_t n);
void tf_be_close(const tf_backend *be, tf_device *d);
tf_status tf_be_info(const tf_backend *be, tf_device *d, tf_device_info *i);
tf_status tf_be_alloc(const tf_backend *be, tf_device *d, int64_t bytes, tf_ptr *p);
void tf_be_release(const tf_backend *be, tf_device *d, tf_ptr p, int64_t bytes);
tf_status tf_be_queue_open(const tf_backend *be, tf_device *d, int32_t kind, tf_queue **q);
void tf_be_queue_close(const tf_backend *be, tf_queue *q);
tf_status tf_be_queue_sync(const tf_backend *be, tf_queue *q);
void tf_be_queue_graphs(const tf_backend *be, tf_queue *q, tf_graph_counts *c);
tf_status tf_be_queue_error(const tf_backend *be, tf_queue *q, char *why, int64_t n);
tf_status tf_be_event_open(const tf_backend *be, tf_device *d, tf_event **e);
void tf_be_event_close(const tf_backend *be, tf_event *e);
tf_status tf_be_event_record(const tf_backend *be, tf_event *e, tf_queue *q);
tf_status tf_be_event_wait(const tf_backend *be, tf_event *e, tf_queue *q);
tf_status tf_be_event_sync(const tf_backend *be, tf_event *e);
tf_status tf_be_event_done(const tf_backend *be, tf_event *e);
tf_status tf_be_upload(const tf_backend *be, tf_queue *q, tf_ptr dst, const void *src, int64_t bytes);
tf_status tf_be_download(const tf_backend *be, tf_queue *q, void *dst, tf_ptr src, int64_t bytes);
tf_status tf_be_host_alloc(const tf_backend *be, tf_device *d, int64_t bytes, void **p);
void tf_be_host_release(const tf_backend *be, tf_device *d, void *p, int64_t bytes);
tf_status tf_be_upload_async(const tf_backend *be, tf_queue *q, tf_ptr dst, const void *src, int64_t bytes);
tf_status tf_be_download_async(const tf_backend *be, tf_queue *q, void *dst, tf_ptr src, int64_t bytes);
tf_status tf_be_set_workspace(const tf_backend *be, tf_queue *q, tf_ptr p, int64_t bytes);
/* Communicators; the first two are TF_EUNSUPPORTED for a backend without. */
tf_status tf_be_comm_version(const tf_backend *be, tf_device *d, int32_t *version, char *why, int64_t n);
tf_status tf_be_comm_id(const tf_backend *be, tf_device *d, void *id, char *why, int64_t n);
tf_status tf_be_comm_open(const tf_backend *be, tf_device *d, const void *id, int32_t rank, int32_t world, tf_comm **c, char *why, int64_t n);
tf_status tf_be_comm_poll(const tf_backend *be, tf_comm *c, char *why, int64_t n);
tf_status tf_be_comm_run(const tf_backend *be, tf_comm *c, tf_queue *q, const tf_transfer *t, int64_t count, char *why, int64_t n);
tf_status tf_be_comm_abort(const tf_backend *be, tf_comm *c, char *why, int64_t n);
tf_status tf_be_comm_leave(const tf_backend *be, tf_comm *c, char *why, int64_t n);
void tf_be_comm_close(const tf_backend *be, tf_comm *c);

#endif
