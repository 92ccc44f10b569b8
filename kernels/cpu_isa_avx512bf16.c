/* Products of two bf16 matrices by vdpbf16ps (AVX512_BF16): the microkernel and all around it are those of cpu_t_gemm.h, where an element
 * is now a pair of neighbours in k and a job's k counts pairs. Sums differ from those of the other paths in their rounding, but as there
 * an element is one chain over ascending k, whatever the tile, the blocks and the tasks. */
#if defined(__x86_64__) && !defined(TF_EMULATE_AVX512)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512")
#pragma GCC diagnostic ignored "-Wunused-function"
#define TF_DP 1
#include "cpu_kern.h"
#include "cpu_v16_avx512.h"
#include "cpu_t_math.h"

/* dst[p * w + i] = the pair (2p, 2p+1) of src(i, .), for i < n and pairs of which the last may be half; see pack_panel. */
static void dp_pack(const uint16_t *src, int64_t is, int64_t ks, int64_t n, int64_t elems, float *dst, int64_t w);

#include "cpu_t_gemm.h"

V1 uint32_t dp_pair(const uint16_t *src, int64_t ks, int64_t k, int64_t elems) {
  return src[k * ks] | (k + 1 < elems ? (uint32_t)src[(k + 1) * ks] << 16 : 0);
}

static void dp_pack(const uint16_t *src, int64_t is, int64_t ks, int64_t n, int64_t elems, float *dst, int64_t w) {
  int64_t pairs = (elems + 1) / 2, p0 = 0;
  if (ks == 1 && is % 2 == 0) {
    /* Pairs lie together: they are moved as if they were floats. */
    p0 = elems / 2;
    if (w == NR)
      pack_cols((const float *)(const void *)src, is / 2, 1, n, p0, dst);
    else
      pack_rows((const float *)(const void *)src, is / 2, 1, n, p0, dst);
  } else if (is == 1) {
    p0 = elems / 2;
    for (int64_t p = 0; p < p0; p++) {
      const uint16_t *a = src + 2 * p * ks, *b = a + ks;
      for (int64_t i = 0; i < w; i += 16) {
        __mmask16 read = v_tail(tf_min(16, tf_max(0, n - i)));
        __m512i lo = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(read, a + i)), hi = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(read, b + i));
        _mm512_mask_storeu_epi32(dst + p * w + i, v_tail(tf_min(16, w - i)), _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
      }
    }
  }
  uint32_t *d = (uint32_t *)(void *)dst;
  for (int64_t p = p0; p < pairs; p++)
    for (int64_t i = 0; i < w; i++) d[p * w + i] = i < n ? dp_pair(src + i * is, ks, 2 * p, elems) : 0;
}

const tf_kern tf_kern_avx512_dp = {.mr = TF_MR, .nr = NR, .gemm_pack_b = gemm_pack_b, .gemm_run = gemm_run, .gemm_run_few = gemm_run_few};
#endif
