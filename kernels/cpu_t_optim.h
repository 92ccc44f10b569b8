/* Sums of squares, and optimizers with moments of whole blocks; products and sums are rounded one by one. */
#include <string.h>

/* The square of what is loaded, into 16 floats. */
static inline void square16(const tf_sqsums_job *j, const float *x, int64_t n, float *t) {
  v16 a = v_mul(v_ldn(x, n), v_set1(j->scale));
  v_st(t, v_add(v_mul(a, a), v_set1(j->eps)));
}

/* A unit is a chunk of a row. */
static void k_sqsum_rows(void *arg, int64_t task, int thread) {
  const tf_sqsums_job *j = arg;
  (void)thread;
  for (int64_t u = task * j->block; u < j->units && u < (task + 1) * j->block; u++) {
    int64_t lo = u % j->parts * TF_SUM_CHUNK, hi = tf_min(lo + TF_SUM_CHUNK, j->m), i = lo;
    const float *x = j->x + u / j->parts * j->m;
    double s[16] = {0}, sum = 0;
    float t[16];
    for (; i + 16 <= hi; i += 16) {
      square16(j, x + i, 16, t);
      for (int l = 0; l < 16; l++) s[l] += (double)t[l];
    }
    if (i < hi) square16(j, x + i, hi - i, t);
    for (int l = 0; l < hi - i; l++) s[l] += (double)t[l];
    for (int l = 0; l < 16; l++) sum += s[l];
    j->partial[u] = sum;
  }
}

/* A unit is some columns of a part of a matrix's rows. */
static void k_sqsum_cols(void *arg, int64_t task, int thread) {
  const tf_sqsums_job *j = arg;
  (void)thread;
  int64_t cuts = tf_ceil_div(j->m, TF_SUM_COLS);
  for (int64_t u = task * j->block; u < j->units && u < (task + 1) * j->block; u++) {
    int64_t part = u / cuts, lo = u % cuts * TF_SUM_COLS, n = tf_min(TF_SUM_COLS, j->m - lo);
    int64_t first = part % j->parts * j->rows, last = tf_min(first + j->rows, j->n);
    const float *x = j->x + part / j->parts * j->n * j->m + lo;
    double s[TF_SUM_COLS] = {0};
    for (int64_t r = first; r < last; r++) {
      float t[16];
      for (int64_t c = 0; c < n; c += 16) {
        square16(j, x + r * j->m + c, n - c, t);
        for (int l = 0; l < 16; l++) s[c + l] += (double)t[l];
      }
    }
    for (int64_t c = 0; c < n; c++) j->partial[part * j->m + lo + c] = s[c];
  }
}

/* A unit is a chunk of a block. */
static void k_adam_mini(void *arg, int64_t task, int thread) {
  const tf_mini_job *j = arg;
  (void)thread;
  v16 decay = v_set1(j->decay), rate = v_set1(j->rate), b1c = v_set1(j->beta1c), gs = v_set1(j->gscale);
  for (int64_t u = task * j->block; u < j->units && u < (task + 1) * j->block; u++) {
    int64_t lo = u % j->chunks * TF_SUM_CHUNK, hi = tf_min(lo + TF_SUM_CHUNK, j->size), at = u / j->chunks * j->size;
    v16 size = v_set1(j->sizes[u / j->chunks]);
    for (int64_t i = at + lo; i < at + hi; i += 16) {
      int64_t n = at + hi - i;
      v16 g = v_mul(v_ldn(j->g + i, n), gs), m = v_ldn(j->m + i, n), p = v_mul(v_ldn(j->p + i, n), decay);
      m = v_add(m, v_mul(b1c, v_sub(g, m)));
      v_stn(j->m + i, m, n);
      v_stn(j->p + i, v_sub(p, v_mul(v_mul(m, size), rate)), n);
    }
  }
}

/* g = g * gscale * (r * c). A unit is a row. */
static void k_adafactor_scale(void *arg, int64_t task, int thread) {
  const tf_adafactor_job *j = arg;
  (void)thread;
  v16 gs = v_set1(j->gscale);
  for (int64_t u = task * j->block; u < j->units && u < (task + 1) * j->block; u++) {
    const float *c = j->c + u / j->rows * j->cols;
    float *g = j->g + u * j->cols;
    v16 r = v_set1(j->r[u]);
    for (int64_t i = 0; i < j->cols; i += 16) {
      int64_t n = j->cols - i;
      v_stn(g + i, v_mul(v_mul(r, v_ldn(c + i, n)), v_mul(v_ldn(g + i, n), gs)), n);
    }
  }
}

static void k_adafactor_vector(void *arg, int64_t task, int thread) {
  const tf_adafactor_job *j = arg;
  (void)thread;
  int64_t hi = tf_min((task + 1) * j->block, j->n);
  v16 gs = v_set1(j->gscale), b2 = v_set1(j->beta2), b2c = v_set1(j->beta2c), eps = v_set1(j->eps);
  for (int64_t i = task * j->block; i < hi; i += 16) {
    int64_t n = hi - i;
    v16 g = v_mul(v_ldn(j->g + i, n), gs);
    v16 v = v_add(v_mul(v_ldn(j->v + i, n), b2), v_mul(v_add(v_mul(g, g), eps), b2c));
    float t[16];
    v_stn(j->v + i, v, n);
    v_st(t, v);
    for (int l = 0; l < 16; l++) t[l] = (float)(1 / __builtin_sqrt((double)t[l]));
    v_stn(j->g + i, v_mul(v_ld(t), g), n);
  }
}

/* Values from updates: clipped, times the learning rate, averaged where there is m. */
static void k_adafactor_apply(void *arg, int64_t task, int thread) {
  const tf_adafactor_job *j = arg;
  (void)thread;
  int64_t hi = tf_min((task + 1) * j->block, j->n);
  v16 shrink = v_set1(j->shrink), lr = v_set1(j->lr), decay = v_set1(j->decay), b1 = v_set1(j->beta1), b1c = v_set1(j->beta1c);
  for (int64_t i = task * j->block; i < hi; i += 16) {
    int64_t n = hi - i;
    v16 u = v_mul(v_div(v_ldn(j->g + i, n), shrink), lr), p = v_ldn(j->p + i, n);
    if (j->m) {
      u = v_add(v_mul(v_ldn(j->m + i, n), b1), v_mul(u, b1c));
      v_stn(j->m + i, u, n);
    }
    if (j->decay != 0) p = v_add(p, v_mul(p, decay));
    v_stn(j->p + i, v_sub(p, u), n);
  }
}

static void k_adam_dir(void *arg, int64_t task, int thread) {
  const tf_adam_dir_job *j = arg;
  (void)thread;
  int64_t hi = tf_min((task + 1) * j->block, j->n);
  v16 b1 = v_set1(j->beta1), b1c = v_set1(j->beta1c), b2 = v_set1(j->beta2), b2c = v_set1(j->beta2c), eps = v_set1(j->eps), scale = v_set1(j->scale);
  for (int64_t i = task * j->block; i < hi; i += 16) {
    int64_t n = hi - i;
    v16 g = v_mul(v_ldn(j->x + i, n), scale);
    v16 m = v_add(v_mul(v_ldn(j->m + i, n), b1), v_mul(g, b1c)), v = v_add(v_mul(v_ldn(j->v + i, n), b2), v_mul(v_mul(g, g), b2c));
    v_stn(j->m + i, m, n);
    v_stn(j->v + i, v, n);
    v_stn(j->y + i, v_div(m, v_add(v_sqrt(v), eps)), n);
  }
}

/* A unit is a row. */
static void k_scale_rows(void *arg, int64_t task, int thread) {
  const tf_adafactor_job *j = arg;
  (void)thread;
  for (int64_t u = task * j->block; u < j->units && u < (task + 1) * j->block; u++) {
    v16 r = v_set1(j->r[u]);
    for (int64_t i = 0; i < j->cols; i += 16) v_stn(j->p + u * j->cols + i, v_mul(r, v_ldn(j->g + u * j->cols + i, j->cols - i)), j->cols - i);
  }
}

/* Eight doubles, by the compiler's vectors: a product of two floats is exact, so that it does not matter whether it becomes part of an fma. */
typedef double gram_d8 __attribute__((vector_size(64)));
typedef float gram_f8 __attribute__((vector_size(32)));

#define GRAM_ROWS 4

/* out[i][j] = a[i] . b[j] */
static void gram_block(const float *const *a, const float *const *b, int64_t m, double out[GRAM_ROWS][GRAM_ROWS]) {
  gram_d8 s[GRAM_ROWS][GRAM_ROWS] = {0};
  int64_t k = 0;
  for (; k + 8 <= m; k += 8) {
    gram_d8 w[GRAM_ROWS];
#pragma GCC unroll 4
    for (int j = 0; j < GRAM_ROWS; j++) {
      gram_f8 t;
      memcpy(&t, b[j] + k, sizeof t);
      w[j] = __builtin_convertvector(t, gram_d8);
    }
#pragma GCC unroll 4
    for (int i = 0; i < GRAM_ROWS; i++) {
      gram_f8 t;
      memcpy(&t, a[i] + k, sizeof t);
      gram_d8 v = __builtin_convertvector(t, gram_d8);
#pragma GCC unroll 4
      for (int j = 0; j < GRAM_ROWS; j++) s[i][j] += v * w[j];
    }
  }
  /* Unrolled, or else the sums would be indexed, and lie in memory from the start. */
#pragma GCC unroll 4
  for (int i = 0; i < GRAM_ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < GRAM_ROWS; j++) {
      double lane[8], sum = 0;
      memcpy(lane, &s[i][j], sizeof lane);
      for (int64_t l = 0; k + l < m; l++) lane[l] += (double)a[i][k + l] * (double)b[j][k + l];
      for (int l = 0; l < 8; l++) sum += lane[l];
      out[i][j] = sum;
    }
}

static void k_gram(void *arg, int64_t task, int thread) {
  const tf_gram_job *j = arg;
  int64_t row = 0;
  (void)thread;
  while ((row + 1) * (row + 2) / 2 <= task) row++;
  int64_t r0 = row * TF_GRAM_TILE, c0 = (task - row * (row + 1) / 2) * TF_GRAM_TILE;
  int64_t r1 = tf_min(r0 + TF_GRAM_TILE, j->n), c1 = tf_min(c0 + TF_GRAM_TILE, j->n);
  for (int64_t r = r0; r < r1; r += GRAM_ROWS)
    for (int64_t c = c0; c < c1; c += GRAM_ROWS) {
      const float *a[GRAM_ROWS], *b[GRAM_ROWS];
      double out[GRAM_ROWS][GRAM_ROWS];
      for (int i = 0; i < GRAM_ROWS; i++) {
        a[i] = j->x + tf_min(r + i, j->n - 1) * j->m;
        b[i] = j->x + tf_min(c + i, j->n - 1) * j->m;
      }
      gram_block(a, b, j->m, out);
      for (int i = 0; i < GRAM_ROWS && r + i < r1; i++)
        for (int l = 0; l < GRAM_ROWS && c + l < c1; l++) j->y[(r + i) * j->n + c + l] = j->y[(c + l) * j->n + r + i] = out[i][l];
    }
}
