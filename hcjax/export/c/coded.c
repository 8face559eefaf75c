/* Weights as a stream of bits, which is read as the sums are made. Those that are not 0 follow one
   another, output by output; each is the number of zeros before it, and its place among the values.
   Both are codes of Rice: n >> k ones and a zero, then the k lowest bits of n, the highest first. */
#if defined(__GNUC__)
#define APART static __attribute__((noinline, unused)) /* once, not in every layer */
#else
#define APART static
#endif

typedef struct {
  const uint8_t *bits;
  const int8_t *values;
  int32_t count, zeros, place; /* of weights; k of the two codes, zeros -1 where there is no first */
  int32_t KH, KW, I, H, W, OH, OW, sh, sw, ph, pw, fill;
} coded;

typedef struct {
  const coded *of;
  int32_t left, next; /* weights that are not read yet; the position of the first of them */
  uint32_t at;        /* the bit that is read next */
} reader;

INLINE int bit(reader *r) {
  const int found = r->of->bits[r->at >> 3] >> (r->at & 7u) & 1;
  r->at++;
  return found;
}
APART int32_t rice(reader *r, int k) {
  int32_t n = 0;
  while (bit(r)) n++;
  while (k-- > 0) n = 2 * n + bit(r);
  return n;
}
INLINE int32_t zeros(reader *r) { return r->of->zeros < 0 ? 0 : rice(r, r->of->zeros); }
INLINE reader reading(const coded *of) {
  reader r = {of, of->count, 0, 0};
  r.next = zeros(&r);
  return r;
}

/* how many of n windows, `stride` apart from `first`, begin before `end` */
INLINE int32_t before(int32_t end, int32_t first, int32_t stride, int32_t n) {
  const int32_t all = end - first, found = stride == 1 ? all : (all + stride - 1) / stride;
  return all <= 0 ? 0 : found < n ? found : n;
}

/* acc = the sums of output o, of the numbers [OH][OW] that it is at all places */
APART void summed(reader *r, int o, const uint8_t *x, int32_t *acc) {
  const coded *const c = r->of;
  const int32_t K = c->KH * c->KW * c->I, n = c->OH * c->OW, step = c->sw * c->I;
  int32_t start = 0;
  memset(acc, 0, (size_t)n * sizeof *acc);
  while (r->left > 0 && r->next < (o + 1) * K) {
    const int32_t k = r->next - o * K, fill = c->fill, w = c->values[rice(r, c->place)];
    const int32_t tap = k / c->I, row = tap / c->KW;
    const int32_t top = row - c->ph, left = tap - row * c->KW - c->pw;
    const int32_t low = before(0, top, c->sh, c->OH), high = before(c->H, top, c->sh, c->OH);
    const int32_t from = before(0, left, c->sw, c->OW), to = before(c->W, left, c->sw, c->OW);
    for (int32_t y = low; y < high; y++) {
      const uint8_t *restrict u = x + ((y * c->sh + top) * c->W + from * c->sw + left) * c->I + k - tap * c->I;
      int32_t *restrict a = acc + y * c->OW + from;
      if (step == 1)
        for (int32_t i = 0; i < to - from; i++) a[i] += w * (u[i] - fill);
      else
        for (int32_t i = 0; i < to - from; i++) a[i] += w * (u[i * step] - fill);
    }
    start += w * (fill - 128); /* as if all stood in the padding */
    r->next += 1;
    if (--r->left > 0) r->next += zeros(r);
  }
  for (int32_t i = 0; i < n; i++) acc[i] += start;
}

/* the largest sums of windows of WH x WW, in place */
APART void largest(int32_t OH, int32_t OW, int32_t WH, int32_t WW, int32_t *acc) {
  pooled(OH, OW, 1, WH, WW, acc);
}
