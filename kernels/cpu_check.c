/* Checks of operands, and the views that kernels work on. */
#include "cpu.h"

int64_t tf_dtype_size(int32_t dtype) {
  switch (dtype) {
    case TF_F64:
    case TF_I64:
      return 8;
    case TF_F32:
    case TF_I32:
      return 4;
    case TF_BF16:
    case TF_F16:
      return 2;
    case TF_U8:
    case TF_I8:
      return 1;
  }
  return 0;
}

int64_t tf_numel(const tf_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->rank; i++) n *= t->dim[i];
  return n;
}

int tf_contiguous(const tf_tensor *t) {
  int64_t s = 1;
  for (int i = t->rank - 1; i >= 0; i--) {
    if (t->dim[i] != 1 && t->stride[i] != s) return 0;
    s *= t->dim[i];
  }
  return t->rank >= 0;
}

tf_status tf_as_elems(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r) {
  if (t->rank < 1 || t->rank > TF_MAX_RANK || !t->data) return tf_fail(q, TF_EINVALID, "%s is absent or not a valid view", name);
  if (t->dtype != TF_F32 && !tf_is_half(t->dtype)) return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32, bf16 or f16 is needed", name, t->dtype);
  int last = t->rank - 1;
  if (t->dim[last] > 1 && t->stride[last] != 1) return tf_fail(q, TF_EINVALID, "%s has a last stride of %ld", name, (long)t->stride[last]);
  *r = (tf_rows){.p = tf_addr(t), .rows = 1, .d = t->dim[last], .dim = {1, 1, 1, 1}, .dt = t->dtype};
  for (int i = 0; i < last; i++) {
    r->dim[4 - last + i] = t->dim[i];
    r->stride[4 - last + i] = t->stride[i];
    r->rows *= t->dim[i];
  }
  /* Uniform when every leading dimension continues the one after it. */
  int64_t n = 1;
  r->ld = r->d;
  int first = 1, ok = 1;
  for (int i = last - 1; i >= 0; i--) {
    if (t->dim[i] == 1) continue;
    if (first) {
      r->ld = t->stride[i];
      first = 0;
    } else if (t->stride[i] != n * r->ld) {
      ok = 0;
    }
    n *= t->dim[i];
  }
  if (!ok) r->ld = -1;
  return TF_OK;
}

tf_status tf_as_elems_of(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r, int64_t rows, int64_t d, int32_t dt) {
  TF_TRY(tf_as_elems(q, t, name, r));
  if (r->dt != dt) return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d, %d is needed", name, r->dt, dt);
  if (r->rows != rows || r->d != d)
    return tf_fail(q, TF_EINVALID, "%s is %ld rows of %ld, %ld of %ld are needed", name, (long)r->rows, (long)r->d, (long)rows, (long)d);
  return TF_OK;
}

tf_status tf_as_rows(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r) {
  if (t->dtype != TF_F32) return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32 is needed", name, t->dtype);
  return tf_as_elems(q, t, name, r);
}

tf_status tf_as_rows_of(tf_queue *q, const tf_tensor *t, const char *name, tf_rows *r, int64_t rows, int64_t d) {
  TF_TRY(tf_as_rows(q, t, name, r));
  if (r->rows != rows || r->d != d)
    return tf_fail(q, TF_EINVALID, "%s is %ld rows of %ld, %ld of %ld are needed", name, (long)r->rows, (long)r->d, (long)rows, (long)d);
  return TF_OK;
}

tf_status tf_flat(tf_queue *q, const tf_tensor *t, const char *name, int32_t dtype, int64_t n, void **p) {
  if (t->rank < 0 || !t->data) return tf_fail(q, TF_EINVALID, "%s is absent or not a valid view", name);
  if (t->dtype != dtype) return tf_fail(q, TF_EUNSUPPORTED, "%s has element type %d, %d is needed", name, t->dtype, dtype);
  if (!tf_contiguous(t)) return tf_fail(q, TF_EINVALID, "%s is not contiguous", name);
  if (n >= 0 && tf_numel(t) != n) return tf_fail(q, TF_EINVALID, "%s has %ld elements, %ld are needed", name, (long)tf_numel(t), (long)n);
  *p = tf_addr(t);
  return TF_OK;
}
