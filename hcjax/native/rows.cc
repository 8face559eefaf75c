// Products of a few rows with a matrix, for XLA's CPU programs: y[m, n] = sum_k x[m, k] w[k, n].
//
// Such a product takes as long as the matrix takes to be read. It is read once, from its beginning to
// its end, in parts that its size alone decides; each part's sums are taken in the order of its rows,
// and the parts' in theirs, so that the bits do not depend on the number of threads.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kChunk = 512;  // columns at a time: kDeep rows of them stay in the nearest cache
constexpr int64_t kDeep = 8;     // rows of the matrix that are added at a time
constexpr int64_t kPartBytes = 1 << 20;  // of a matrix that is worth a part of its own
constexpr int64_t kMostParts = 16;
constexpr int64_t kAloneBytes = 1 << 23;  // of a matrix not worth waking another thread for

int g_threads = 1;

struct Sizes {
  int64_t rows, length, columns;
};

// Adds `count` rows of the matrix, times a number each, to y.
template <int count>
void Add(const float* x, const float* w, float* __restrict y, int64_t columns, int64_t begin,
         int64_t end) {
  float factors[count];
  for (int i = 0; i < count; ++i) factors[i] = x[i];
  for (int64_t n = begin; n < end; ++n) {
    float sum = y[n];
    for (int i = 0; i < count; ++i) sum += factors[i] * w[i * columns + n];
    y[n] = sum;
  }
}

// Writes the sums over the matrix's rows [begin, end).
void Part(const float* x, const float* w, float* y, const Sizes& s, int64_t begin, int64_t end) {
  std::fill(y, y + s.rows * s.columns, 0.0f);
  auto add = [&](auto how, int64_t k, int64_t first, int64_t last) {
    for (int64_t m = 0; m < s.rows; ++m) {
      how(x + m * s.length + k, w + k * s.columns, y + m * s.columns, s.columns, first, last);
    }
  };
  int64_t k = begin;
  for (; k + kDeep <= end; k += kDeep) {
    for (int64_t n = 0; n < s.columns; n += kChunk) {
      add(Add<kDeep>, k, n, std::min(s.columns, n + kChunk));
    }
  }
  for (; k < end; ++k) add(Add<1>, k, 0, s.columns);
}

ffi::Error Run(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> w,
               ffi::ResultBuffer<ffi::F32> y) {
  const Sizes s{x.dimensions()[0], x.dimensions()[1], w.dimensions()[1]};
  const int64_t bytes = w.size_bytes();
  const int64_t count = std::clamp<int64_t>(bytes / kPartBytes, 1, std::min(kMostParts, s.length));
  const int64_t threads = bytes < kAloneBytes ? 1 : std::min<int64_t>(g_threads, count);
  // the first part's sums lie in the result
  const int64_t size = s.rows * s.columns;
  std::unique_ptr<float[]> others(new float[(count - 1) * size]);
  auto sums = [&](int64_t part) {
    return part == 0 ? y->typed_data() : others.get() + (part - 1) * size;
  };
  auto work = [&](int64_t part) {
    Part(x.typed_data(), w.typed_data(), sums(part), s, s.length * part / count,
         s.length * (part + 1) / count);
  };
  if (threads == 1) {
    for (int64_t part = 0; part < count; ++part) work(part);
  } else {
    const unsigned mode = _mm_getcsr();  // XLA's threads flush denormal numbers to zero
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < count; ++part) {
      const unsigned before = _mm_getcsr();
      _mm_setcsr(mode);
      work(part);
      _mm_setcsr(before);
    }
  }
  for (int64_t part = 1; part < count; ++part) {
    const float* more = sums(part);
    float* total = y->typed_data();
    for (int64_t i = 0; i < size; ++i) total[i] += more[i];
  }
  return ffi::Error::Success();
}

}  // namespace

extern "C" void hcjax_rows_threads(int threads) { g_threads = std::max(threads, 1); }

XLA_FFI_DEFINE_HANDLER_SYMBOL(hcjax_rows, Run,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
