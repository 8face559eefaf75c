/* Activations of 8 bits are kept as q + 128, so that the products of unsigned and signed bytes that
   processors have can be used. Kernels are [ceil(K / 4)][O][4] bytes, zeros behind the last of K. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define HCJAX_AVX512 1
#elif defined(__AVX2__)
#include <immintrin.h>
#define HCJAX_AVX2 1
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define HCJAX_NEON 1
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline, unused))
#else
#define INLINE static inline
#endif

INLINE int32_t mulhi(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b) >> 32); }
INLINE int32_t shifted(int32_t x, int by) { return (int32_t)((uint32_t)x << by); }
INLINE int32_t clipped(int32_t x, int32_t low, int32_t high) {
  return x < low ? low : x > high ? high : x;
}
INLINE float larger(float a, float b) { return a != a || a > b ? a : b; }
INLINE float smaller(float a, float b) { return a != a || a < b ? a : b; }

/* round(x * inverse) + zero, ties to even, in [low, high]; 0 for what is no number */
INLINE int32_t rounded(float x, float inverse, float zero, float low, float high) {
  float q = rintf(x * inverse);
  if (zero != 0.0f) q = q + zero;
  if (q != q) return 0;
  return (int32_t)(q < low ? low : q > high ? high : q);
}

/* towards 0, to what int32 has */
INLINE int32_t whole(float x) {
  if (x != x) return 0;
  return x >= 2147483648.0f ? INT32_MAX : x <= -2147483648.0f ? INT32_MIN : (int32_t)x;
}

#if defined(HCJAX_AVX512)
INLINE __m512i four(const uint8_t *x) {
  int32_t v;
  memcpy(&v, x, 4);
  return _mm512_set1_epi32(v);
}
#elif defined(HCJAX_AVX2)
/* |q| <= 128 and |w| <= 127: a pair's sum is at most 32,512, and never saturates */
INLINE __m256i added(__m256i sum, __m256i q, __m256i w) {
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(w, q));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#elif defined(HCJAX_NEON)
INLINE int8x16_t four(const uint8_t *x) {
  uint32_t v;
  memcpy(&v, x, 4);
  return vreinterpretq_s8_u32(vdupq_n_u32(v ^ 0x80808080u));
}
#if defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t sums;
INLINE sums none(void) { return vdupq_n_s32(0); }
INLINE sums added(sums s, int8x16_t q, const int8_t *w) { return vdotq_s32(s, vld1q_s8(w), q); }
INLINE int32x4_t total(sums s) { return s; }
#else
typedef int32x4x2_t sums; /* two for each result, to be added up */
INLINE sums none(void) {
  sums s = {{vdupq_n_s32(0), vdupq_n_s32(0)}};
  return s;
}
INLINE sums added(sums s, int8x16_t q, const int8_t *w) {
  s.val[0] = vpadalq_s16(s.val[0], vmull_s8(vld1_s8(w), vget_low_s8(q)));
  s.val[1] = vpadalq_s16(s.val[1], vmull_s8(vld1_s8(w + 8), vget_high_s8(q)));
  return s;
}
INLINE int32x4_t total(sums s) {
  return vcombine_s32(vpadd_s32(vget_low_s32(s.val[0]), vget_high_s32(s.val[0])),
                      vpadd_s32(vget_low_s32(s.val[1]), vget_high_s32(s.val[1])));
}
#endif
INLINE int32x4_t mulhis(int32x4_t a, int32x4_t b) {
  return vcombine_s32(vshrn_n_s64(vmull_s32(vget_low_s32(a), vget_low_s32(b)), 32),
                      vshrn_n_s64(vmull_s32(vget_high_s32(a), vget_high_s32(b)), 32));
}
#endif

/* acc[p][o] = sum over k of (x[p][k] - 128) * w[k][o], for n rows p of x, `stride` bytes apart;
   rows of acc are S apart, a multiple of 16. start[o] = -128 * (sum over k of w[k][o]). What stands
   in acc between O and S means nothing. Up to 3 bytes behind the K of a row are read. */
INLINE void products(int n, const int K, const int O, const int S, const uint8_t *x, int stride,
                     const int8_t *w, const int32_t *start, int32_t *acc) {
#if defined(HCJAX_AVX512)
  const int row = O * 4;
  int o = 0;
  for (; o + 16 < O && n >= 4; o += 32) {
    for (int p = 0; p < n; p += 6) {
      const int m = n - p < 6 ? n - p : 6;
      const uint8_t *rows[6];
      __m512i a[6], b[6];
      for (int j = 0; j < 6; j++) {
        rows[j] = x + (p + (j < m ? j : 0)) * stride;
        a[j] = _mm512_loadu_si512(start + o);
        b[j] = _mm512_loadu_si512(start + o + 16);
      }
      const int8_t *v = w + o * 4;
      for (int k = 0; k < K; k += 4, v += row) {
        __m512i first = _mm512_loadu_si512(v), second = _mm512_loadu_si512(v + 64);
        for (int j = 0; j < 6; j++) {
          __m512i u = four(rows[j] + k);
          a[j] = _mm512_dpbusd_epi32(a[j], u, first);
          b[j] = _mm512_dpbusd_epi32(b[j], u, second);
        }
      }
      for (int j = 0; j < m; j++) {
        _mm512_storeu_si512(acc + (p + j) * S + o, a[j]);
        _mm512_storeu_si512(acc + (p + j) * S + o + 16, b[j]);
      }
    }
  }
  for (; o + 48 < O; o += 64) { /* few rows: four sums at a time hide the latency */
    for (int p = 0; p < n; p++) {
      __m512i a[4];
      for (int j = 0; j < 4; j++) a[j] = _mm512_loadu_si512(start + o + 16 * j);
      const int8_t *v = w + o * 4;
      for (int k = 0; k < K; k += 4, v += row) {
        __m512i u = four(x + p * stride + k);
        for (int j = 0; j < 4; j++)
          a[j] = _mm512_dpbusd_epi32(a[j], u, _mm512_loadu_si512(v + 64 * j));
      }
      for (int j = 0; j < 4; j++) _mm512_storeu_si512(acc + p * S + o + 16 * j, a[j]);
    }
  }
  for (; o < O; o += 16) {
    int p = 0;
    for (; p + 8 <= n; p += 8) {
      __m512i a[8];
      for (int j = 0; j < 8; j++) a[j] = _mm512_loadu_si512(start + o);
      const int8_t *v = w + o * 4;
      for (int k = 0; k < K; k += 4, v += row) {
        __m512i b = _mm512_loadu_si512(v);
        for (int j = 0; j < 8; j++)
          a[j] = _mm512_dpbusd_epi32(a[j], four(x + (p + j) * stride + k), b);
      }
      for (int j = 0; j < 8; j++) _mm512_storeu_si512(acc + (p + j) * S + o, a[j]);
    }
    for (; p < n; p++) {
      __m512i a = _mm512_loadu_si512(start + o), b = _mm512_setzero_si512();
      const uint8_t *u = x + p * stride;
      const int8_t *v = w + o * 4;
      int k = 0;
      for (; k + 8 <= K; k += 8, v += 2 * row) {
        a = _mm512_dpbusd_epi32(a, four(u + k), _mm512_loadu_si512(v));
        b = _mm512_dpbusd_epi32(b, four(u + k + 4), _mm512_loadu_si512(v + row));
      }
      for (; k < K; k += 4, v += row)
        a = _mm512_dpbusd_epi32(a, four(u + k), _mm512_loadu_si512(v));
      _mm512_storeu_si512(acc + p * S + o, _mm512_add_epi32(a, b));
    }
  }
#elif defined(HCJAX_AVX2)
  (void)start;
  const __m256i flip = _mm256_set1_epi8((char)-128);
  for (int o = 0; o < O; o += 8) {
    for (int p = 0; p < n; p += 4) {
      const int m = n - p < 4 ? n - p : 4;
      const uint8_t *rows[4];
      __m256i a[4];
      for (int j = 0; j < 4; j++) {
        rows[j] = x + (p + (j < m ? j : 0)) * stride;
        a[j] = _mm256_setzero_si256();
      }
      const int8_t *v = w + o * 4;
      for (int k = 0; k < K; k += 4, v += O * 4) {
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)v);
        for (int j = 0; j < 4; j++) {
          int32_t u;
          memcpy(&u, rows[j] + k, 4);
          a[j] = added(a[j], _mm256_xor_si256(_mm256_set1_epi32(u), flip), b);
        }
      }
      for (int j = 0; j < m; j++)
        _mm256_storeu_si256((__m256i *)(void *)(acc + (p + j) * S + o), a[j]);
    }
  }
#elif defined(HCJAX_NEON)
  (void)start;
  int p = 0;
  for (; p + 4 <= n; p += 4) {
    const uint8_t *u = x + p * stride;
    for (int o = 0; o < O; o += 8) {
      sums a[4] = {none(), none(), none(), none()}, b[4] = {none(), none(), none(), none()};
      const int8_t *v = w + o * 4;
      for (int k = 0; k < K; k += 4, v += O * 4) {
        for (int j = 0; j < 4; j++) {
          const int8x16_t q = four(u + j * stride + k);
          a[j] = added(a[j], q, v);
          b[j] = added(b[j], q, v + 16);
        }
      }
      for (int j = 0; j < 4; j++) {
        vst1q_s32(acc + (p + j) * S + o, total(a[j]));
        vst1q_s32(acc + (p + j) * S + o + 4, total(b[j]));
      }
    }
  }
  for (; p < n; p++) {
    for (int o = 0; o < O; o += 16) {
      sums a[4] = {none(), none(), none(), none()};
      const int8_t *v = w + o * 4;
      for (int k = 0; k < K; k += 4, v += O * 4) {
        const int8x16_t q = four(x + p * stride + k);
        for (int j = 0; j < 4; j++) a[j] = added(a[j], q, v + 16 * j);
      }
      for (int j = 0; j < 4; j++) vst1q_s32(acc + p * S + o + 4 * j, total(a[j]));
    }
  }
#else
  (void)start;
  for (int p = 0; p < n; p++) {
    int32_t *a = acc + p * S;
    for (int o = 0; o < O; o++) a[o] = 0;
    for (int k = 0; k < K; k += 4) {
      const uint8_t *u = x + p * stride + k;
      const int8_t *v = w + k * O;
      const int32_t q0 = u[0] - 128, q1 = k + 1 < K ? u[1] - 128 : 0;
      const int32_t q2 = k + 2 < K ? u[2] - 128 : 0, q3 = k + 3 < K ? u[3] - 128 : 0;
      for (int o = 0; o < O; o++, v += 4) a[o] += q0 * v[0] + q1 * v[1] + q2 * v[2] + q3 * v[3];
    }
  }
#endif
}

/* the windows of rows y to y + n of a convolution's result, one after the other: [n][OW][K] */
INLINE void windows(int n, int y, const int OW, const int KH, const int KW, const int I,
                    const int H, const int W, const int sh, const int sw, const int ph,
                    const int pw, const int fill, const uint8_t *x, uint8_t *to, const int K) {
  const int run = KW * I;
  for (int r = 0; r < n; r++) {
    for (int c = 0; c < OW; c++) {
      uint8_t *t = to + (r * OW + c) * K;
      const int left = c * sw - pw;
      for (int i = 0; i < KH; i++, t += run) {
        const int row = (y + r) * sh + i - ph;
        if (row < 0 || row >= H) {
          memset(t, fill, (size_t)run);
        } else if (left >= 0 && left + KW <= W) {
          memcpy(t, x + (row * W + left) * I, (size_t)run);
        } else {
          for (int j = 0; j < KW; j++) {
            if (left + j < 0 || left + j >= W)
              memset(t + j * I, fill, (size_t)I);
            else
              memcpy(t + j * I, x + (row * W + left + j) * I, (size_t)I);
          }
        }
      }
    }
  }
}

/* the largest sums of windows of WH x WW of n rows, in place */
INLINE void pooled(int n, const int OW, const int S, const int WH, const int WW, int32_t *acc) {
  int32_t *to = acc;
  for (int r = 0; r + WH <= n; r += WH) {
    for (int c = 0; c + WW <= OW; c += WW, to += S) {
      for (int o = 0; o < S; o++) {
        int32_t most = acc[(r * OW + c) * S + o];
        for (int i = 0; i < WH; i++) {
          for (int j = 0; j < WW; j++) {
            const int32_t v = acc[((r + i) * OW + c + j) * S + o];
            most = v > most ? v : most;
          }
        }
        to[o] = most;
      }
    }
  }
}

/* to[p][o] = clip((mulhi(acc << up, m) + mulhi((other - 128) << up2, m2) + offset) >> shift) + 128;
   other is 0 where there is no second term; the constants hold a multiple of 16 numbers */
INLINE void requantized(int n, const int O, const int S, const int32_t *acc, const int up,
                        const int32_t *m, const uint8_t *other, const int up2, const int32_t *m2,
                        const int32_t *offset, const int32_t *shift, const int low, const int high,
                        uint8_t *to) {
#if defined(HCJAX_AVX512)
  const __m512i least = _mm512_set1_epi32(low), most = _mm512_set1_epi32(high);
  for (int p = 0; p < n; p++, acc += S, to += O) {
    for (int o = 0; o < O; o += 16) {
      const __mmask16 some = O - o >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << (O - o)) - 1u);
      __m512i a = _mm512_slli_epi32(_mm512_loadu_si512(acc + o), (unsigned)up);
      __m512i b = _mm512_loadu_si512(m + o);
      __m512i even = _mm512_srli_epi64(_mm512_mul_epi32(a, b), 32);
      __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
      __m512i sum = _mm512_mask_blend_epi32((__mmask16)0xAAAA, even, odd);
      sum = _mm512_add_epi32(sum, _mm512_loadu_si512(offset + o));
      if (other) {
        __m128i bytes = _mm_maskz_loadu_epi8(some, other + p * O + o);
        a = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(128));
        a = _mm512_slli_epi32(a, (unsigned)up2);
        b = _mm512_loadu_si512(m2 + o);
        even = _mm512_srli_epi64(_mm512_mul_epi32(a, b), 32);
        odd = _mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
        sum = _mm512_add_epi32(sum, _mm512_mask_blend_epi32((__mmask16)0xAAAA, even, odd));
      }
      sum = _mm512_srav_epi32(sum, _mm512_loadu_si512(shift + o));
      sum = _mm512_max_epi32(_mm512_min_epi32(sum, most), least);
      sum = _mm512_add_epi32(sum, _mm512_set1_epi32(128));
      _mm_mask_storeu_epi8(to + o, some, _mm512_cvtepi32_epi8(sum));
    }
  }
#elif defined(HCJAX_NEON)
  const int32x4_t least = vdupq_n_s32(low), most = vdupq_n_s32(high), up1 = vdupq_n_s32(up);
  for (int p = 0; p < n; p++, acc += S, to += O) {
    for (int o = 0; o < O; o += 8) {
      const size_t some = O - o < 8 ? (size_t)(O - o) : 8;
      uint8_t bytes[8] = {128, 128, 128, 128, 128, 128, 128, 128};
      int16x4_t half[2];
      if (other) memcpy(bytes, other + p * O + o, some);
      const int16x8_t second = vreinterpretq_s16_u16(vsubl_u8(vld1_u8(bytes), vdup_n_u8(128)));
      for (int j = 0; j < 2; j++) {
        const int i = o + 4 * j;
        int32x4_t sum = mulhis(vshlq_s32(vld1q_s32(acc + i), up1), vld1q_s32(m + i));
        sum = vaddq_s32(sum, vld1q_s32(offset + i));
        if (other) {
          int32x4_t q = vmovl_s16(j ? vget_high_s16(second) : vget_low_s16(second));
          q = vshlq_s32(q, vdupq_n_s32(up2));
          sum = vaddq_s32(sum, mulhis(q, vld1q_s32(m2 + i)));
        }
        sum = vshlq_s32(sum, vnegq_s32(vld1q_s32(shift + i)));
        sum = vmaxq_s32(vminq_s32(sum, most), least);
        half[j] = vmovn_s32(vaddq_s32(sum, vdupq_n_s32(128)));
      }
      const int16x8_t both = vcombine_s16(half[0], half[1]);
      vst1_u8(bytes, vmovn_u16(vreinterpretq_u16_s16(both)));
      memcpy(to + o, bytes, some);
    }
  }
#else
  for (int p = 0; p < n; p++, acc += S, to += O) {
    for (int o = 0; o < O; o++) {
      int32_t sum = mulhi(shifted(acc[o], up), m[o]) + offset[o];
      if (other) sum += mulhi(shifted(other[p * O + o] - 128, up2), m2[o]);
      to[o] = (uint8_t)(clipped(sum >> shift[o], low, high) + 128);
    }
  }
#endif
}
