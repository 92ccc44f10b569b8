/* Dropout, once for f32, bf16 and f16 each as cpu_t_rows.h. */

static void K(dropout)(void *arg, int64_t task, int thread) {
  const tf_dropout_job *j = arg;
  (void)thread;
  for (int64_t r = task * j->block; r < j->x.rows && r < (task + 1) * j->block; r++) {
    const E *x = E_ROW(&j->x, r);
    E *y = E_ROW(&j->y, r);
    uint64_t id = j->row_ids ? (uint64_t)j->row_ids[r] : (uint64_t)r;
    for (int64_t i = 0; i < j->x.d; i += 4) {
      uint32_t u[4];
      philox((uint32_t)(i / 4), 0, (uint32_t)id, (uint32_t)(id >> 32), j->k0, j->k1, u);
      for (int64_t q = 0; q < 4 && i + q < j->x.d; q++) {
        float t = u[q] >= j->threshold ? e_get(x[i + q]) * j->scale : 0.0f;
        y[i + q] = e_set(j->acc ? e_get(y[i + q]) + t : t);
      }
    }
  }
}

