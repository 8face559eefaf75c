// Generated loops over arrays of XLA's CPU programs: finds a loop by its name, and divides its rows
// among threads.
//
// The loops are in libraries of their own, which Python loads and registers here; a program names
// them by an attribute, so that it can be kept and used by another process.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Computes the rows [begin, end): reads `in`, writes those rows of `out`, adds to `sums`.
using Loop = void (*)(long begin, long end, const void* const* in, void* const* out, double* sums);

constexpr int64_t kAloneBytes = 1 << 18;  // of a call not worth waking another thread for

int g_threads = 1;

struct Registry {
  std::mutex mutex;
  std::unordered_map<std::string, Loop> loops;
};

Registry& Loops() {
  static Registry registry;
  return registry;
}

Loop Find(std::string_view name) {
  std::lock_guard<std::mutex> lock(Loops().mutex);
  const auto found = Loops().loops.find(std::string(name));
  return found == Loops().loops.end() ? nullptr : found->second;
}

// The last `sums` results are sums of `channels` numbers, the others arrays that are written by row.
ffi::Error Run(ffi::RemainingArgs args, ffi::RemainingRets rets, std::string_view name,
               int64_t rows, int64_t channels, int64_t sums) {
  const Loop loop = Find(name);
  if (loop == nullptr) {
    return ffi::Error::Internal("hcjax: this process has not loaded the loop " + std::string(name));
  }
  std::vector<const void*> in;
  std::vector<void*> out;
  std::vector<float*> totals;
  int64_t bytes = 0;
  for (size_t i = 0; i < args.size(); ++i) {
    const auto buffer = args.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    in.push_back(buffer->untyped_data());
    bytes += buffer->size_bytes();
  }
  for (size_t i = 0; i < rets.size(); ++i) {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    void* data = (*buffer)->untyped_data();
    bytes += (*buffer)->size_bytes();
    if (i + sums < rets.size()) {
      out.push_back(data);
    } else {
      totals.push_back(static_cast<float*>(data));
    }
  }
  const int64_t threads = bytes < kAloneBytes ? 1 : std::min<int64_t>(g_threads, rows);
  // each thread's part begins on a cache line of its own
  const int64_t each = sums * channels + 8;
  std::vector<double> parts(threads * each, 0.0);
  const unsigned mode = _mm_getcsr();  // XLA's threads flush denormal numbers to zero
  auto work = [&](int64_t part) {
    loop(rows * part / threads, rows * (part + 1) / threads, in.data(), out.data(),
         parts.data() + part * each);
  };
  if (threads == 1) {
    work(0);
  } else {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t part = 0; part < threads; ++part) {
      const unsigned before = _mm_getcsr();
      _mm_setcsr(mode);
      work(part);
      _mm_setcsr(before);
    }
  }
  for (size_t s = 0; s < totals.size(); ++s) {
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t part = 0; part < threads; ++part) total += parts[part * each + s * channels + c];
      totals[s][c] = static_cast<float>(total);
    }
  }
  return ffi::Error::Success();
}

}  // namespace

extern "C" void hcjax_loop_threads(int threads) { g_threads = std::max(threads, 1); }

extern "C" void hcjax_loop_register(const char* name, void* loop) {
  std::lock_guard<std::mutex> lock(Loops().mutex);
  Loops().loops[name] = reinterpret_cast<Loop>(loop);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(hcjax_loop, Run,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("loop")
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("channels")
                                  .Attr<int64_t>("sums"));
