#define _GNU_SOURCE
#include "dl.h"

#include <dlfcn.h>
#include <stdio.h>

const tf_backend *tf_dl_open(const char *path, char *why, int64_t why_len) {
  void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!so) {
    snprintf(why, (size_t)why_len, "%s", dlerror());
    return NULL;
  }
  tf_backend_get_fn get = (tf_backend_get_fn)dlsym(so, TF_BACKEND_SYMBOL);
  if (!get) {
    snprintf(why, (size_t)why_len, "it exports no %s", TF_BACKEND_SYMBOL);
    dlclose(so);
    return NULL;
  }
  const tf_backend *be = get();
  if (!be) snprintf(why, (size_t)why_len, "%s returned nothing", TF_BACKEND_SYMBOL);
  return be;
}

int32_t tf_cuda_driver(const char *path, char *why, int64_t why_len) {
  void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* left open, as it is for the backend */
  if (!so) {
    snprintf(why, (size_t)why_len, "%s", dlerror());
    return 0;
  }
  int (*version)(int *) = (int (*)(int *))dlsym(so, "cuDriverGetVersion");
  int v = 0, st = version ? version(&v) : 0;
  if (!version) snprintf(why, (size_t)why_len, "%s has no cuDriverGetVersion", path);
  else if (st != 0 || v <= 0) snprintf(why, (size_t)why_len, "%s does not tell its version (status %d)", path, st);
  return version && st == 0 && v > 0 ? v : 0;
}

tf_status tf_call(const tf_backend *be, tf_queue *q, int32_t op, const void *params, int64_t have, int64_t *need) {
  *need = 0;
  tf_status st = be->workspace(q, op, params, need);
  if (st != TF_OK) return st;
  if (*need > have) return TF_EWORKSPACE;
  switch (op) {
#define TF_X(name)    \
  case TF_OP_##name:  \
    return be->name ? be->name(q, (const tf_##name *)params) : TF_EUNSUPPORTED;
    TF_OPS(TF_X)
#undef TF_X
  }
  return TF_EINVALID;
}

int64_t tf_op_size(int32_t op) {
  switch (op) {
#define TF_X(name)   \
  case TF_OP_##name: \
    return (int64_t)sizeof(tf_##name);
    TF_OPS(TF_X)
#undef TF_X
  }
  return 0;
}

const char *tf_op_name(int32_t op) {
  switch (op) {
#define TF_X(name)   \
  case TF_OP_##name: \
    return #name;
    TF_OPS(TF_X)
#undef TF_X
  }
  return "?";
}

tf_status tf_be_open(const tf_backend *be, const tf_options *o, tf_device **d, char *why, int64_t n) { return be->open(o, d, why, n); }
void tf_be_close(const tf_backend *be, tf_device *d) { be->close(d); }
tf_status tf_be_info(const tf_backend *be, tf_device *d, tf_device_info *i) { return be->info(d, i); }
tf_status tf_be_alloc(const tf_backend *be, tf_device *d, int64_t bytes, tf_ptr *p) { return be->alloc(d, bytes, p); }
void tf_be_release(const tf_backend *be, tf_device *d, tf_ptr p, int64_t bytes) { be->release(d, p, bytes); }
tf_status tf_be_queue_open(const tf_backend *be, tf_device *d, int32_t kind, tf_queue **q) { return be->queue_open(d, kind, q); }
void tf_be_queue_close(const tf_backend *be, tf_queue *q) { be->queue_close(q); }
tf_status tf_be_queue_sync(const tf_backend *be, tf_queue *q) { return be->queue_sync(q); }
void tf_be_queue_graphs(const tf_backend *be, tf_queue *q, tf_graph_counts *c) {
  *c = (tf_graph_counts){0};
  if (be->queue_graphs) be->queue_graphs(q, c);
}
tf_status tf_be_queue_error(const tf_backend *be, tf_queue *q, char *why, int64_t n) { return be->queue_error(q, why, n); }
tf_status tf_be_event_open(const tf_backend *be, tf_device *d, tf_event **e) { return be->event_open(d, e); }
void tf_be_event_close(const tf_backend *be, tf_event *e) { be->event_close(e); }
tf_status tf_be_event_record(const tf_backend *be, tf_event *e, tf_queue *q) { return be->event_record(e, q); }
tf_status tf_be_event_wait(const tf_backend *be, tf_event *e, tf_queue *q) { return be->event_wait(e, q); }
tf_status tf_be_event_sync(const tf_backend *be, tf_event *e) { return be->event_sync(e); }
tf_status tf_be_event_done(const tf_backend *be, tf_event *e) { return be->event_done(e); }
tf_status tf_be_upload(const tf_backend *be, tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  return be->upload(q, dst, src, bytes);
}
tf_status tf_be_download(const tf_backend *be, tf_queue *q, void *dst, tf_ptr src, int64_t bytes) {
  return be->download(q, dst, src, bytes);
}
tf_status tf_be_host_alloc(const tf_backend *be, tf_device *d, int64_t bytes, void **p) { return be->host_alloc(d, bytes, p); }
void tf_be_host_release(const tf_backend *be, tf_device *d, void *p, int64_t bytes) { be->host_release(d, p, bytes); }
tf_status tf_be_upload_async(const tf_backend *be, tf_queue *q, tf_ptr dst, const void *src, int64_t bytes) {
  return be->upload_async(q, dst, src, bytes);
}
tf_status tf_be_download_async(const tf_backend *be, tf_queue *q, void *dst, tf_ptr src, int64_t bytes) {
  return be->download_async(q, dst, src, bytes);
}
tf_status tf_be_set_workspace(const tf_backend *be, tf_queue *q, tf_ptr p, int64_t bytes) { return be->set_workspace(q, p, bytes); }

static tf_status no_comm(const tf_backend *be, char *why, int64_t n) {
  snprintf(why, (size_t)n, "backend %s has no communicators", be->name);
  return TF_EUNSUPPORTED;
}

tf_status tf_be_comm_version(const tf_backend *be, tf_device *d, int32_t *version, char *why, int64_t n) {
  return be->comm_version ? be->comm_version(d, version, why, n) : no_comm(be, why, n);
}
tf_status tf_be_comm_id(const tf_backend *be, tf_device *d, void *id, char *why, int64_t n) {
  return be->comm_id ? be->comm_id(d, id, why, n) : no_comm(be, why, n);
}
tf_status tf_be_comm_open(const tf_backend *be, tf_device *d, const void *id, int32_t rank, int32_t world, tf_comm **c, char *why, int64_t n) {
  return be->comm_open ? be->comm_open(d, id, rank, world, c, why, n) : no_comm(be, why, n);
}
tf_status tf_be_comm_poll(const tf_backend *be, tf_comm *c, char *why, int64_t n) { return be->comm_poll(c, why, n); }
tf_status tf_be_comm_run(const tf_backend *be, tf_comm *c, tf_queue *q, const tf_transfer *t, int64_t count, char *why, int64_t n) {
  return be->comm_run(c, q, t, count, why, n);
}
tf_status tf_be_comm_abort(const tf_backend *be, tf_comm *c, char *why, int64_t n) { return be->comm_abort(c, why, n); }
tf_status tf_be_comm_leave(const tf_backend *be, tf_comm *c, char *why, int64_t n) { return be->comm_leave(c, why, n); }
void tf_be_comm_close(const tf_backend *be, tf_comm *c) { be->comm_close(c); }
