// Convolutions of XLA's CPU programs, computed by oneDNN: forward, kernel gradient, transposed.
//
// An array is described by the order of its axes, so that any layout is read and written in place.
// Channels-last arrays stay as they are, kernels and other layouts are brought into the form that
// oneDNN finds fastest. Primitives are made once per shape, scratch memory once per thread.

#include <cpuid.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

// of the OpenMP runtime that oneDNN brings along; a compiler without OpenMP will do
extern "C" void omp_set_num_threads(int);
extern "C" int omp_get_max_threads();

namespace ffi = xla::ffi;
using dnnl::algorithm;
using dnnl::memory;
using Span = ffi::Span<const int64_t>;

namespace {

int g_threads = 1;
constexpr double kAlone = 4e6;  // products of a call that is not worth waking another thread for
constexpr size_t kAloneBytes = 1 << 18;  // and of an array that is only brought into another layout

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& Stream() {
  static thread_local dnnl::stream stream(Engine());
  return stream;
}

// Memory of this thread that lives as long as it does, and grows; a call hands out parts of it.
class Scratch {
 public:
  static void Begin(size_t size) {
    if (size > capacity_) {
      std::free(base_);
      capacity_ = (size + 4095) / 4096 * 4096;
      base_ = static_cast<char*>(std::aligned_alloc(4096, capacity_));
      if (base_ == nullptr) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
    }
    used_ = 0;
  }
  static void* Take(size_t size) {
    void* part = base_ + used_;
    used_ += Rounded(size);
    return part;
  }
  static size_t Rounded(size_t size) { return (size + 63) / 64 * 64; }

 private:
  static thread_local char* base_;
  static thread_local size_t capacity_, used_;
};
thread_local char* Scratch::base_ = nullptr;
thread_local size_t Scratch::capacity_ = 0;
thread_local size_t Scratch::used_ = 0;

memory::data_type TypeOf(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32: return memory::data_type::f32;
    case ffi::DataType::BF16: return memory::data_type::bf16;
    case ffi::DataType::S8: return memory::data_type::s8;
    case ffi::DataType::S32: return memory::data_type::s32;
    default: throw std::invalid_argument("an array of another type than float32, bfloat16, int8");
  }
}

// The last axes of a buffer; those before them are of a mapped (vmap) call.
Span Last(Span dims, size_t count) { return Span(dims.end() - count, count); }

int64_t Padded(int64_t n, int64_t width) { return (n + width - 1) / width * width; }

int64_t Product(Span dims) {
  int64_t product = 1;
  for (int64_t n : dims) product *= n;
  return product;
}

// Sizes and strides of an array's axes, in a given order of them.
struct Axes {
  memory::dims sizes, strides;

  Axes(Span dims, Span order) {
    dims = Last(dims, order.size());
    memory::dims steps(dims.size());
    int64_t step = 1;
    for (size_t i = dims.size(); i-- > 0;) {
      steps[i] = step;
      step *= dims[i];
    }
    for (int64_t axis : order) {
      sizes.push_back(dims[axis]);
      strides.push_back(steps[axis]);
    }
  }
};

// Orders are N, spatial axes, C for images, and spatial axes, I, O for kernels.
memory::desc ImageOf(Span dims, memory::data_type type, Span order) {
  Axes axes(dims, order);
  auto channels_second = [](memory::dims& v) { std::rotate(v.begin() + 1, v.end() - 1, v.end()); };
  channels_second(axes.sizes);
  channels_second(axes.strides);
  return memory::desc(axes.sizes, type, axes.strides);
}

// Groups lie in the outputs' axis, or in a transposed convolution, whose groups the equation counts
// at its other end, in the inputs'.
memory::desc KernelOf(Span dims, memory::data_type type, Span order, int64_t groups,
                      bool grouped_inputs) {
  Axes axes(dims, order);
  auto outputs_first = [](memory::dims& v) {
    std::rotate(v.begin(), v.end() - 2, v.end());
    std::swap(v[0], v[1]);
  };
  outputs_first(axes.sizes);
  outputs_first(axes.strides);
  if (groups > 1) {
    const int axis = grouped_inputs ? 1 : 0;
    axes.sizes[axis] /= groups;
    const int64_t step = axes.sizes[axis] * axes.strides[axis];
    axes.sizes.insert(axes.sizes.begin(), groups);
    axes.strides.insert(axes.strides.begin(), step);
  }
  return memory::desc(axes.sizes, type, axes.strides);
}

memory::desc Anyhow(const memory::desc& desc) {
  return memory::desc(desc.get_dims(), desc.get_data_type(), memory::format_tag::any);
}

// An image stays in its layout if that is channels-last.
memory::desc Preferred(const memory::desc& image) {
  const auto sizes = image.get_dims(), strides = image.get_strides();
  int64_t step = sizes[1];
  bool last = strides[1] == 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    if (axis == 1) continue;
    last = last && strides[axis] == step;
    step *= sizes[axis];
  }
  return last ? image : Anyhow(image);
}

// One operand of a primitive: as it is, and as the primitive takes it.
struct Operand {
  memory::desc plain, taken;
  dnnl::reorder reorder;
  bool reordered = false;

  // A small array is moved before another thread is awake.
  void Reorder(memory from, memory to) const {
    const int threads = omp_get_max_threads();
    if (taken.get_size() < kAloneBytes) omp_set_num_threads(1);
    reorder.execute(Stream(), from, to);
    omp_set_num_threads(threads);
  }

  size_t Bytes() const { return reordered ? Scratch::Rounded(taken.get_size()) : 0; }
};

// A primitive with its operands, the result first, and what else its arguments are.
struct Program {
  dnnl::primitive primitive;
  std::vector<std::pair<int, Operand>> operands;
  std::vector<std::pair<int, memory::desc>> extra;  // read as they are
  memory::desc scratchpad;
  int threads = 1;
  bool accumulates = false;  // the result is added to, and begins as the last pointer's array

  void Add(int argument, const memory::desc& plain, const memory::desc& taken, bool result) {
    Operand operand{plain, taken, {}, plain != taken};
    if (operand.reordered) {
      const auto& from = result ? taken : plain;
      const auto& to = result ? plain : taken;
      operand.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(Engine(), from, Engine(), to));
    }
    operands.emplace_back(argument, std::move(operand));
  }

  // pointers: of the result, then of the operands, then of the extra ones
  void Run(const std::vector<void*>& pointers) const {
    size_t bytes = Scratch::Rounded(scratchpad.get_size());
    for (const auto& [argument, operand] : operands) bytes += operand.Bytes();
    Scratch::Begin(bytes);
    std::unordered_map<int, memory> arguments;
    for (size_t i = 0; i < operands.size(); ++i) {
      const auto& [argument, operand] = operands[i];
      void* place = operand.reordered ? Scratch::Take(operand.taken.get_size()) : pointers[i];
      memory taken(operand.taken, Engine(), place);
      if (operand.reordered && i > 0) {
        memory plain(operand.plain, Engine(), pointers[i]);
        operand.Reorder(plain, taken);
      }
      arguments.emplace(argument, taken);
    }
    for (size_t i = 0; i < extra.size(); ++i) {
      const auto& [argument, desc] = extra[i];
      arguments.emplace(argument, memory(desc, Engine(), pointers[operands.size() + i]));
    }
    if (scratchpad.get_size() > 0) {
      void* place = Scratch::Take(scratchpad.get_size());
      arguments.emplace(DNNL_ARG_SCRATCHPAD, memory(scratchpad, Engine(), place));
    }
    if (accumulates && pointers.back() != pointers[0]) {
      std::memcpy(pointers[0], pointers.back(), operands[0].second.plain.get_size());
    }
    primitive.execute(Stream(), arguments);
    if (operands[0].second.reordered) {
      memory plain(operands[0].second.plain, Engine(), pointers[0]);
      operands[0].second.Reorder(arguments.at(operands[0].first), plain);
    }
    Stream().wait();
  }
};

dnnl::primitive_attr Attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

// The layer's geometry, as attributes of the call give it.
struct Window {
  memory::dims strides, dilation, low, high;

  Window(Span s, Span d, Span l, Span h)
      : strides(s.begin(), s.end()), dilation(d.begin(), d.end()), low(l.begin(), l.end()),
        high(h.begin(), h.end()) {
    for (auto& step : dilation) step -= 1;
  }
};

using Key = std::vector<int64_t>;

void Append(Key& key, Span values) { key.insert(key.end(), values.begin(), values.end()); }

// Runs a program once for every element of the leading axes that `vmap` puts before all arrays.
void RunAll(const Program& program, const std::vector<ffi::AnyBuffer>& buffers, size_t rank) {
  const Span dims = buffers[0].dimensions();
  const Span leading(dims.begin(), dims.size() - rank);
  const int64_t count = Product(leading);
  std::vector<void*> pointers;
  std::vector<size_t> steps;
  for (const auto& buffer : buffers) {
    pointers.push_back(buffer.untyped_data());
    steps.push_back(count > 0 ? buffer.size_bytes() / count : 0);
  }
  for (int64_t i = 0; i < count; ++i) {
    program.Run(pointers);
    for (size_t j = 0; j < pointers.size(); ++j) {
      pointers[j] = static_cast<char*>(pointers[j]) + steps[j];
    }
  }
}

// Returns the program of a key, made if it is not there.
template <typename Make>
std::shared_ptr<const Program> Cached(const Key& key, Make make) {
  static std::mutex mutex;
  static std::map<Key, std::shared_ptr<const Program>> programs;
  std::lock_guard<std::mutex> lock(mutex);
  auto& program = programs[key];
  if (program == nullptr) program = std::make_shared<const Program>(make());
  omp_set_num_threads(program->threads);  // of this thread's calls; it is made for as many
  return program;
}

// Returns what the body does, or its error.
template <typename Body>
ffi::Error Guarded(Body body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
}

// A layer as its three arrays in oneDNN's terms, and its window.
struct Layer {
  memory::desc source, weights, result;
  Window window;

  // How many threads a pass is made for; a small one is done before another thread is awake.
  int Threads() const {
    double products = 1;
    for (int64_t n : result.get_dims()) products *= n;
    const auto kernel = weights.get_dims();
    const size_t first = kernel.size() - result.get_dims().size() + 1;
    for (size_t axis = first; axis < kernel.size(); ++axis) products *= kernel[axis];
    return products < kAlone ? 1 : g_threads;
  }

  // The description of its forward pass, which its gradients ask for.
  dnnl::convolution_forward::primitive_desc Described() const {
    return {Engine(), dnnl::prop_kind::forward_training, algorithm::convolution_direct,
            Preferred(source), Anyhow(weights), Preferred(result), window.strides,
            window.dilation, window.low, window.high, Attributes()};
  }
};

// What comes after the sums of a forward pass.
struct After {
  bool bias, sum, in_place, clip;
  float least, most;
};

// Whether this processor computes a vector of 16 numbers in two halves, as AMD's Zen 4 does.
bool HasHalves() {
  static const bool halves = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx) return false;
    __get_cpuid(1, &a, &b, &c, &d);
    return ((a >> 8) & 15) == 15 && ((a >> 20) & 255) == 10;  // family 25
  }();
  return halves;
}

// Returns the description of a pass, whose first kernel gives way to another where it is known to be
// slower than that one, and oneDNN has both.
template <typename Make>
auto Chosen(Make make, const std::string& slower, const std::string& faster) {
  auto first = make();
  if (first.impl_info_str() != slower) return first;
  auto other = make();  // a copy would share what `next_impl` changes
  while (other.next_impl()) {
    if (other.impl_info_str() == faster) return other;
  }
  return first;
}

// The program of a described primitive; operands: what each is for, as the layer has it and as the
// primitive takes it, the result first.
struct Part {
  int argument;
  memory::desc plain, taken;
};

template <typename Primitive>
Program Made(const Layer& layer, const typename Primitive::primitive_desc& described,
             const std::vector<Part>& parts, std::string* name) {
  if (name != nullptr) *name = described.impl_info_str();
  Program made;
  made.threads = layer.Threads();
  made.primitive = Primitive(described);
  for (const auto& [argument, plain, taken] : parts) {
    made.Add(argument, plain, taken, made.operands.empty());
  }
  made.scratchpad = described.scratchpad_desc();
  return made;
}

// packed: whether the kernel's array is in the primitive's own layout already.
Program MakeForward(const Layer& layer, const After& after, bool packed,
                    std::string* name = nullptr) {
  omp_set_num_threads(layer.Threads());
  const auto& [source, weights, result, window] = layer;
  auto attributes = Attributes();
  dnnl::post_ops steps;
  // a sum in place reads and writes less, where the result is computed where it lies
  const bool in_place = after.in_place && Preferred(result) == result;
  if (in_place) steps.append_sum();
  if (after.sum && !in_place) steps.append_binary(algorithm::binary_add, result);
  if (after.clip && after.least == 0 && after.most > 3e38f) {
    steps.append_eltwise(algorithm::eltwise_relu, 0, 0);
  } else if (after.clip) {
    steps.append_eltwise(algorithm::eltwise_clip, after.least, after.most);
  }
  attributes.set_post_ops(steps);
  const auto kind = dnnl::prop_kind::forward_inference;
  const auto how = algorithm::convolution_direct;
  memory::desc bias({result.get_dims()[1]}, memory::data_type::f32, memory::format_tag::x);
  const auto describe = [&] {
    return after.bias ? dnnl::convolution_forward::primitive_desc(
                            Engine(), kind, how, Preferred(source), Anyhow(weights), bias,
                            Preferred(result), window.strides, window.dilation, window.low,
                            window.high, attributes)
                      : dnnl::convolution_forward::primitive_desc(
                            Engine(), kind, how, Preferred(source), Anyhow(weights),
                            Preferred(result), window.strides, window.dilation, window.low,
                            window.high, attributes);
  };
  auto described = describe();
  // of 20 outputs 16-wide vectors compute 32, and 8-wide ones 24
  const int64_t outputs = result.get_dims()[1];
  if (HasHalves() && Padded(outputs, 8) < Padded(outputs, 16)) {
    const std::string name = described.impl_info_str();
    described = Chosen(describe, name, name.substr(0, name.find(':')) + ":avx2");
  }
  auto made = Made<dnnl::convolution_forward>(
      layer, described,
      {{DNNL_ARG_DST, result, described.dst_desc()},
       {DNNL_ARG_SRC, source, described.src_desc()},
       {DNNL_ARG_WEIGHTS, packed ? described.weights_desc() : weights, described.weights_desc()}},
      name);
  if (after.bias) made.extra.emplace_back(DNNL_ARG_BIAS, bias);
  made.accumulates = in_place;
  if (after.sum && !in_place) {
    made.extra.emplace_back(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, result);
  }
  return made;
}

Program MakeKernelGradient(const Layer& layer, std::string* name = nullptr) {
  omp_set_num_threads(layer.Threads());
  const auto& [source, weights, result, window] = layer;
  const dnnl::convolution_backward_weights::primitive_desc described(
      Engine(), algorithm::convolution_direct, Preferred(source), Anyhow(weights),
      Preferred(result), window.strides, window.dilation, window.low, window.high,
      layer.Described(), Attributes());
  return Made<dnnl::convolution_backward_weights>(
      layer, described,
      {{DNNL_ARG_DIFF_WEIGHTS, weights, described.diff_weights_desc()},
       {DNNL_ARG_SRC, source, described.src_desc()},
       {DNNL_ARG_DIFF_DST, result, described.diff_dst_desc()}},
      name);
}

Program MakeTransposed(const Layer& layer, std::string* name = nullptr) {
  omp_set_num_threads(layer.Threads());
  const auto& [source, weights, result, window] = layer;
  const auto forward = layer.Described();
  const auto describe = [&] {
    return dnnl::convolution_backward_data::primitive_desc(
        Engine(), algorithm::convolution_direct, Preferred(source), Anyhow(weights),
        Preferred(result), window.strides, window.dilation, window.low, window.high, forward,
        Attributes());
  };
  const auto described = Chosen(describe, "brgconv_strided:avx512_core", "jit:avx512_core");
  return Made<dnnl::convolution_backward_data>(
      layer, described,
      {{DNNL_ARG_DIFF_SRC, source, described.diff_src_desc()},
       {DNNL_ARG_DIFF_DST, result, described.diff_dst_desc()},
       {DNNL_ARG_WEIGHTS, weights, described.weights_desc()}},
      name);
}

// The arrays of a layer and how they lie, as a call has them.
struct Call {
  Span x, k, y;
  memory::data_type type, result;  // of the operands; of the result of a forward pass
  Span strides, dilation, low, high, x_order, k_order, y_order;
  int64_t groups;

  Layer AsLayer(bool grouped_inputs = false) const {
    return {ImageOf(x, type, x_order), KernelOf(k, type, k_order, groups, grouped_inputs),
            ImageOf(y, result, y_order), Window(strides, dilation, low, high)};
  }

  Key AsKey(int64_t pass) const {
    Key key = {pass, groups, static_cast<int64_t>(type), static_cast<int64_t>(result)};
    for (Span s : {strides, dilation, low, high, x_order, k_order, y_order}) Append(key, s);
    for (Span dims : {x, k, y}) Append(key, Last(dims, x_order.size()));
    return key;
  }
};

ffi::Error Forward(ffi::AnyBuffer x, ffi::AnyBuffer k, ffi::RemainingArgs rest,
                   ffi::Result<ffi::AnyBuffer> y, Span strides, Span dilation, Span low, Span high,
                   Span x_order, Span k_order, Span y_order, int64_t groups, bool bias, bool sum,
                   bool in_place, bool clip, float least, float most, Span packed) {
  return Guarded([&] {
    // a packed kernel is bytes, and `packed` its sizes
    const bool is_packed = packed.size() > 0;
    const Call call{x.dimensions(), is_packed ? packed : k.dimensions(), y->dimensions(),
                    TypeOf(x.element_type()), TypeOf(y->element_type()),
                    strides, dilation, low, high, x_order, k_order, y_order, groups};
    Key key = call.AsKey(0);
    int32_t bits[2];
    std::memcpy(&bits[0], &least, 4);
    std::memcpy(&bits[1], &most, 4);
    key.insert(key.end(), {bias, sum, in_place, clip, bits[0], bits[1], is_packed});
    const After after{bias, sum, in_place, clip, least, most};
    const auto program =
        Cached(key, [&] { return MakeForward(call.AsLayer(), after, is_packed); });
    if (is_packed && k.dimensions().back() !=
                         static_cast<int64_t>(program->operands[2].second.taken.get_size())) {
      throw std::invalid_argument("a kernel that another process packed in another way");
    }
    std::vector<ffi::AnyBuffer> buffers = {*y, x, k};
    for (size_t i = 0; i < rest.size(); ++i) buffers.push_back(*rest.get<ffi::AnyBuffer>(i));
    RunAll(*program, buffers, x_order.size());
  });
}

ffi::Error KernelGradient(ffi::AnyBuffer x, ffi::AnyBuffer dy, ffi::Result<ffi::AnyBuffer> k,
                          Span strides, Span dilation, Span low, Span high, Span x_order,
                          Span k_order, Span y_order, int64_t groups) {
  return Guarded([&] {
    const Call call{x.dimensions(), k->dimensions(), dy.dimensions(),
                    TypeOf(x.element_type()), TypeOf(dy.element_type()),
                    strides, dilation, low, high, x_order, k_order, y_order, groups};
    const auto program =
        Cached(call.AsKey(1), [&] { return MakeKernelGradient(call.AsLayer()); });
    RunAll(*program, {*k, x, dy}, x_order.size());
  });
}

// The gradient of a layer's images, which is a transposed convolution of dy.
ffi::Error Transposed(ffi::AnyBuffer dy, ffi::AnyBuffer k, ffi::Result<ffi::AnyBuffer> x,
                      Span strides, Span dilation, Span low, Span high, Span x_order, Span k_order,
                      Span y_order, int64_t groups) {
  return Guarded([&] {
    const Call call{x->dimensions(), k.dimensions(), dy.dimensions(),
                    TypeOf(dy.element_type()), TypeOf(dy.element_type()),
                    strides, dilation, low, high, x_order, k_order, y_order, groups};
    const auto program = Cached(call.AsKey(2), [&] { return MakeTransposed(call.AsLayer(true)); });
    RunAll(*program, {*x, dy, k}, x_order.size());
  });
}

}  // namespace

extern "C" void hcjax_set_threads(int threads) { g_threads = std::max(threads, 1); }

namespace {
constexpr memory::data_type kOperands[] = {memory::data_type::f32, memory::data_type::bf16,
                                           memory::data_type::s8};
constexpr memory::data_type kResults[] = {memory::data_type::f32, memory::data_type::bf16,
                                          memory::data_type::s32};
}  // namespace

// A layer as Python describes it. type: 0 float32, 1 bfloat16, 2 int8. sizes: of the layer's images,
// kernel and result; window: strides, dilation, low, high of each spatial axis; orders: as in a call.
struct hcjax_layer {
  int32_t type, spatial;
  int64_t groups;
  const int64_t *sizes, *window, *orders;
};

// What follows a forward pass. after: whether bias (1), a sum (2) and a clip (4), and whether the sum
// is in place (8).
struct hcjax_after {
  int32_t after;
  float least, most;
};

namespace {
Call CallOf(const hcjax_layer& layer) {
  const size_t n = layer.spatial, rank = n + 2;
  auto part = [](const int64_t* all, size_t i, size_t size) { return Span(all + i * size, size); };
  const auto &sizes = layer.sizes, &window = layer.window, &orders = layer.orders;
  return {part(sizes, 0, rank), part(sizes, 1, rank), part(sizes, 2, rank),
          kOperands[layer.type], kResults[layer.type],
          part(window, 0, n), part(window, 1, n), part(window, 2, n), part(window, 3, n),
          part(orders, 0, rank), part(orders, 1, rank), part(orders, 2, rank), layer.groups};
}

After AfterOf(const hcjax_after& steps) {
  auto has = [&](int bit) { return (steps.after & bit) != 0; };
  return {has(1), has(2), has(8), has(4), steps.least, steps.most};
}
}  // namespace

// Writes the name of the kernel that computes a layer's pass (0 forward, 1 kernel gradient, 2
// transposed), or why there is none.
extern "C" void hcjax_kernel_name(int pass, const hcjax_layer* layer, const hcjax_after* after,
                                  char* name, int length) {
  const Call call = CallOf(*layer);
  std::string found;
  try {
    if (pass == 0) MakeForward(call.AsLayer(), AfterOf(*after), false, &found);
    if (pass == 1) MakeKernelGradient(call.AsLayer(), &found);
    if (pass == 2) MakeTransposed(call.AsLayer(true), &found);
  } catch (const std::exception& error) {
    found = std::string("none: ") + error.what();
  }
  std::snprintf(name, length, "%s", found.c_str());
}

// Returns how many bytes a layer's kernel takes in the layout of its forward pass; 0 if it is taken as
// it is, or not at all. Writes it there, unless `packed` is null.
extern "C" int64_t hcjax_pack(const hcjax_layer* layer, const hcjax_after* after, void* kernel,
                              void* packed) {
  try {
    const auto program = MakeForward(CallOf(*layer).AsLayer(), AfterOf(*after), false);
    omp_set_num_threads(program.threads);
    const Operand& operand = program.operands[2].second;
    if (!operand.reordered) return 0;
    if (packed != nullptr) {
      operand.Reorder(memory(operand.plain, Engine(), kernel),
                      memory(operand.taken, Engine(), packed));
      Stream().wait();
    }
    return operand.taken.get_size();
  } catch (const std::exception&) {
    return 0;
  }
}

#define HCJAX_WINDOW(bind)        \
  bind.Attr<Span>("strides")      \
      .Attr<Span>("dilation")     \
      .Attr<Span>("low")          \
      .Attr<Span>("high")         \
      .Attr<Span>("x_order")      \
      .Attr<Span>("k_order")      \
      .Attr<Span>("y_order")      \
      .Attr<int64_t>("groups")

#define HCJAX_TWO ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(hcjax_convolution, Forward,
                              HCJAX_WINDOW(HCJAX_TWO.RemainingArgs().Ret<ffi::AnyBuffer>())
                                  .Attr<bool>("bias")
                                  .Attr<bool>("sum")
                                  .Attr<bool>("in_place")
                                  .Attr<bool>("clip")
                                  .Attr<float>("least")
                                  .Attr<float>("most")
                                  .Attr<Span>("packed"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(hcjax_kernel_gradient, KernelGradient,
                              HCJAX_WINDOW(HCJAX_TWO.Ret<ffi::AnyBuffer>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(hcjax_transposed, Transposed,
                              HCJAX_WINDOW(HCJAX_TWO.Ret<ffi::AnyBuffer>()));
