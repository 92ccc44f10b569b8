/* Checks of operands, and the views that kernels work on. */
#include "queue.h"

namespace tf {

int64_t dtype_size(int32_t dtype) {
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

int64_t numel(const tf_tensor &t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) n *= t.dim[i];
  return n;
}

bool contiguous(const tf_tensor &t) {
  int64_t s = 1;
  for (int i = t.rank - 1; i >= 0; i--) {
    if (t.dim[i] != 1 && t.stride[i] != s) return false;
    s *= t.dim[i];
  }
  return t.rank >= 0;
}

tf_status rows(tf_queue *q, const tf_tensor &t, const char *name, Rows *r) {
  if (t.rank < 1 || t.rank > TF_MAX_RANK || !t.data) return fail(q, TF_EINVALID, "%s is absent or not a valid view", name);
  if (t.dtype != TF_F32 && t.dtype != TF_BF16 && t.dtype != TF_F16)
    return fail(q, TF_EUNSUPPORTED, "%s has element type %d, f32, bf16 or f16 is needed", name, t.dtype);
  int last = t.rank - 1;
  if (t.dim[last] > 1 && t.stride[last] != 1) return fail(q, TF_EINVALID, "%s has a last stride of %ld", name, (long)t.stride[last]);
  *r = Rows{};
  r->p = at<void>(t.data);
  r->n = 1;
  r->d = t.dim[last];
  r->dt = t.dtype;
  for (int i = 0; i < 4; i++) r->dim[i] = 1;
  for (int i = 0; i < last; i++) {
    r->dim[4 - last + i] = t.dim[i];
    r->stride[4 - last + i] = t.stride[i];
    r->n *= t.dim[i];
  }
  /* Uniform when every leading dimension continues the one after it. */
  int64_t n = 1;
  r->ld = r->d;
  bool first = true, uniform = true;
  for (int i = last - 1; i >= 0; i--) {
    if (t.dim[i] == 1) continue;
    if (first) {
      r->ld = t.stride[i];
      first = false;
    } else if (t.stride[i] != n * r->ld) {
      uniform = false;
    }
    n *= t.dim[i];
  }
  if (!uniform || r->ld < 0) r->ld = -1;
  return TF_OK;
}

tf_status rows_of(tf_queue *q, const tf_tensor &t, const char *name, int64_t n, int64_t d, int32_t dt, Rows *r) {
  TF_TRY(rows(q, t, name, r));
  if (r->dt != dt) return fail(q, TF_EUNSUPPORTED, "%s has element type %d, %d is needed", name, r->dt, dt);
  if (r->n != n || r->d != d)
    return fail(q, TF_EINVALID, "%s is %ld rows of %ld, %ld of %ld are needed", name, (long)r->n, (long)r->d, (long)n, (long)d);
  return TF_OK;
}

tf_status maybe_rows_of(tf_queue *q, const tf_tensor &t, const char *name, int64_t n, int64_t d, int32_t dt, Rows *r) {
  *r = Rows{};
  return has(t) ? rows_of(q, t, name, n, d, dt, r) : (tf_status)TF_OK;
}

tf_status flat_bytes(tf_queue *q, const tf_tensor &t, const char *name, int32_t dtype, int64_t n, void **p) {
  if (t.rank < 0 || !t.data) return fail(q, TF_EINVALID, "%s is absent or not a valid view", name);
  if (t.dtype != dtype) return fail(q, TF_EUNSUPPORTED, "%s has element type %d, %d is needed", name, t.dtype, dtype);
  if (!contiguous(t)) return fail(q, TF_EINVALID, "%s is not contiguous", name);
  if (n >= 0 && numel(t) != n) return fail(q, TF_EINVALID, "%s has %ld elements, %ld are needed", name, (long)numel(t), (long)n);
  *p = at<void>(t.data);
  return TF_OK;
}

}  // namespace tf
