// The operators BitConv and BitGemm of the domain "edgepress" for ONNX Runtime: what `register_custom_ops_library` loads.
#include <exception>
#include <memory>
#include <stdexcept>

#include "layer.h"
#include "onnxruntime_abi.h"

namespace {

using namespace bitwise;
namespace abi = onnxruntime_abi;

const Kernels* chosen = nullptr;  // for the kernels that are made from now on

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The functions of the table that are used, with statuses as exceptions.
struct Runtime {
  abi::Table table;

  template <int PLACE, typename... Arguments>
  void call(Arguments... arguments) const {
    if (abi::Status* status = abi::call<PLACE>(table, arguments...)) throw status;
  }
  template <int PLACE, typename... Arguments>
  bool tried(Arguments... arguments) const {
    abi::Status* status = abi::call<PLACE>(table, arguments...);
    if (status == nullptr) return true;
    abi::call<abi::RELEASE_STATUS>(table, status);
    return false;
  }
  abi::Status* failed(const std::string& message) const {
    return reinterpret_cast<abi::Status* (*)(int, const char*)>(const_cast<void*>(table[abi::CREATE_STATUS]))(
        abi::INVALID_ARGUMENT, message.c_str());
  }

  std::vector<int64_t> shape(const abi::Value* value) const {
    abi::Shape* shape = nullptr;
    call<abi::VALUE_SHAPE>(value, &shape);
    std::vector<int64_t> sizes = sizes_of(shape);
    abi::call<abi::RELEASE_SHAPE>(table, shape);
    return sizes;
  }
  std::vector<int64_t> sizes_of(const abi::Shape* shape) const {
    std::size_t rank = 0;
    call<abi::SHAPE_RANK>(shape, &rank);
    std::vector<int64_t> sizes(rank);
    call<abi::SHAPE_SIZES>(shape, sizes.data(), rank);
    return sizes;
  }
  template <typename T>
  T* data(const abi::Value* value) const {
    void* found = nullptr;
    call<abi::VALUE_DATA>(const_cast<abi::Value*>(value), &found);
    return static_cast<T*>(found);
  }
};

int64_t product_of(const std::vector<int64_t>& sizes, std::size_t from = 0) {
  int64_t product = 1;
  for (std::size_t i = from; i < sizes.size(); ++i) product *= sizes[i];
  return product;
}

// The attributes of a node.
struct Attributes {
  const Runtime& runtime;
  const abi::KernelInfo* info;

  int64_t integer(const char* name) const {
    int64_t value = 0;
    if (!runtime.tried<abi::INFO_INT>(info, name, &value)) throw Failure(std::string("the attribute ") + name + " is missing");
    return value;
  }
  std::string text(const char* name) const {
    char value[32] = {};
    std::size_t size = sizeof value;
    if (!runtime.tried<abi::INFO_TEXT>(info, name, static_cast<char*>(value), &size))
      throw Failure(std::string("the attribute ") + name + " is missing or too long");
    return value;
  }
  void integers(const char* name, int64_t* to, std::size_t count, int64_t least) const {
    std::size_t size = count;
    bool fits = runtime.tried<abi::INFO_INTS>(info, name, to, &size) && size == count;
    for (std::size_t i = 0; fits && i < count; ++i) fits = to[i] >= least;
    if (!fits)
      throw Failure(std::string(name) + ": expected " + std::to_string(count) + " numbers of at least " + std::to_string(least));
  }
};

struct Kernel {
  Runtime runtime;
  Prepared prepared;
  const char* label;
};

const abi::Value* stored(const Runtime& runtime, const abi::KernelInfo* info, std::size_t index, const char* name) {
  int is_constant = 0;
  const abi::Value* value = nullptr;
  runtime.call<abi::INFO_CONSTANT>(info, index, &is_constant, &value);
  if (!is_constant || value == nullptr) throw Failure(std::string(name) + " has to be stored in the file");
  return value;
}

Layer layer_of(const Attributes& read, bool convolution, int64_t outputs) {
  Layer layer;
  layer.convolution = convolution;
  layer.outputs = outputs;
  layer.weight_bits = read.integer("weight_bits");
  layer.activation_bits = read.integer("activation_bits");
  layer.channels = read.integer("channels");
  std::string activation = read.text("activation");
  layer.sign = activation == "sign";
  if (layer.channels < 1) throw Failure("channels: expected at least 1");
  if (layer.weight_bits != 1 && layer.weight_bits != 2) throw Failure("weight_bits: expected 1 or 2");
  if ((!layer.sign && activation != "unsigned") || layer.activation_bits < 1 ||
      layer.activation_bits > (layer.sign ? 1 : 8))
    throw Failure("activation: expected sign of 1 bit, or unsigned of 1 to 8");
  if (convolution) {
    read.integers("kernel_shape", layer.kernel, 2, 1);
    read.integers("strides", layer.stride, 2, 1);
    read.integers("pads", layer.pad, 4, 0);
    read.integers("dilations", layer.dilation, 2, 1);
    layer.group = read.integer("group");
    if (layer.group < 1 || outputs % layer.group) throw Failure("group: expected a divisor of the outputs");
  }
  return layer;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

void prepare_from(Kernel& kernel, const abi::KernelInfo* info, bool convolution) {
  const Runtime& runtime = kernel.runtime;
  const abi::Value* weights = stored(runtime, info, 1, "W");
  const abi::Value* scales = stored(runtime, info, 2, "S");
  const abi::Value* thresholds = stored(runtime, info, 3, "A");
  std::size_t inputs = 0;
  runtime.call<abi::INFO_INPUTS>(info, &inputs);
  const abi::Value* bias = inputs > 4 ? stored(runtime, info, 4, "B") : nullptr;
  std::vector<int64_t> shape = runtime.shape(weights), scale_shape = runtime.shape(scales);
  if (shape.size() != 2) throw Failure("W: expected (M, bytes), got " + shape_text(shape));
  Layer layer = layer_of({runtime, info}, convolution, shape[0]);
  layer.two_scales = scale_shape == std::vector<int64_t>{2, layer.outputs};
  if (!layer.two_scales && scale_shape != std::vector<int64_t>{layer.outputs})
    throw Failure("S: expected " + shape_text({layer.outputs}) + " or " + shape_text({2, layer.outputs}) + ", got " +
                  shape_text(scale_shape));
  std::string wrong = prepare(kernel.prepared, layer, *chosen, runtime.data<uint8_t>(weights), shape,
                              runtime.data<float>(scales), runtime.data<float>(thresholds),
                              product_of(runtime.shape(thresholds)), bias ? runtime.data<float>(bias) : nullptr,
                              bias ? product_of(runtime.shape(bias)) : 0);
  if (!wrong.empty()) throw Failure(wrong);
}

std::vector<int64_t> output_shape(const Layer& layer, std::vector<int64_t> input) {
  if (!layer.convolution) {
    input.back() = layer.outputs;
    return input;
  }
  return {input[0], layer.outputs, output_size(layer, 0, input[2]), output_size(layer, 1, input[3])};
}

// Shares tasks out between ONNX Runtime's threads.
struct Shared {
  const Runtime& runtime;
  abi::KernelContext* context;
};

void share(const Parallel& self, std::size_t count, void (*task)(void*, std::size_t), void* data) {
  const Shared& shared = *static_cast<const Shared*>(self.context);
  const abi::KernelContext* context = shared.context;
  shared.runtime.call<abi::PARALLEL_FOR>(context, task, count, std::size_t{0}, data);
}

void run(const Kernel& kernel, abi::KernelContext* context) {
  const Runtime& runtime = kernel.runtime;
  const Layer& layer = kernel.prepared.layer;
  const abi::Value* input = nullptr;
  runtime.call<abi::CONTEXT_INPUT>(static_cast<const abi::KernelContext*>(context), std::size_t{0}, &input);
  std::vector<int64_t> shape = runtime.shape(input);
  int64_t channels = layer.group * layer.channels;
  bool fits = layer.convolution ? shape.size() == 4 && shape[1] == channels : !shape.empty() && shape.back() == channels;
  if (!fits)
    throw Failure("X: expected " + (layer.convolution ? "(N, " + std::to_string(channels) + ", H, W)"
                                                      : "(..., " + std::to_string(channels) + ")") +
                  ", got " + shape_text(shape));
  std::vector<int64_t> outputs = output_shape(layer, shape);
  abi::Value* output = nullptr;
  runtime.call<abi::CONTEXT_OUTPUT>(context, std::size_t{0}, static_cast<const int64_t*>(outputs.data()),
                                    outputs.size(), &output);
  if (product_of(outputs) == 0) return;
  Shared shared{runtime, context};
  int64_t count = layer.convolution ? shape[0] : product_of(shape) / channels;
  kernel.prepared.kernels->run(kernel.prepared, runtime.data<float>(input), count, layer.convolution ? shape[2] : 1,
                               layer.convolution ? shape[3] : 1, runtime.data<float>(output), {share, &shared});
}

// The attribute of a node whose output shape is asked for; false where there is none of that size.
bool attribute_of(const Runtime& runtime, const abi::ShapeContext* context, const char* name, int64_t* to,
                  std::size_t count) {
  const abi::Attribute* attribute = nullptr;
  std::size_t bytes = 0;
  if (!runtime.tried<abi::INFER_ATTRIBUTE>(context, name, &attribute) || attribute == nullptr) return false;
  return runtime.tried<abi::ATTRIBUTE_READ>(attribute, int{abi::INTS}, static_cast<void*>(to), count * 8, &bytes);
}

// The sizes of an input, -1 where they are open, with the names that these have.
std::vector<int64_t> asked_shape(const Runtime& runtime, const abi::ShapeContext* context, std::size_t index,
                                 std::vector<const char*>& names) {
  abi::Shape* shape = nullptr;
  runtime.call<abi::INFER_INPUT>(context, index, &shape);
  std::vector<int64_t> sizes = runtime.sizes_of(shape);
  names.assign(sizes.size(), "");
  runtime.call<abi::SHAPE_NAMES>(static_cast<const abi::Shape*>(shape), names.data(), names.size());
  return sizes;
}

// Tells ONNX Runtime the shape of the output, as far as the shapes of X and W are known.
void infer_shape(const Runtime& runtime, const abi::ShapeContext* context, bool convolution) {
  std::vector<const char*> names, unused;
  std::vector<int64_t> shape = asked_shape(runtime, context, 0, names);
  std::vector<int64_t> weights = asked_shape(runtime, context, 1, unused);
  if (weights.size() != 2 || (convolution ? shape.size() != 4 : shape.empty())) return;
  Layer layer;
  if (convolution && !(attribute_of(runtime, context, "kernel_shape", layer.kernel, 2) &&
                       attribute_of(runtime, context, "strides", layer.stride, 2) &&
                       attribute_of(runtime, context, "pads", layer.pad, 4) &&
                       attribute_of(runtime, context, "dilations", layer.dilation, 2)))
    return;
  std::size_t first = convolution ? 1 : shape.size() - 1;
  shape[first] = weights[0];
  names[first] = "";
  for (int axis = 0; convolution && axis < 2; ++axis) {
    if (layer.stride[axis] < 1) return;
    names[axis + 2] = "";
    if (shape[axis + 2] >= 0) shape[axis + 2] = output_size(layer, axis, shape[axis + 2]);
  }
  abi::Shape* made = nullptr;
  runtime.call<abi::CREATE_SHAPE>(&made);
  runtime.call<abi::SHAPE_SET_TYPE>(made, int{abi::FLOAT});
  runtime.call<abi::SHAPE_SET_SIZES>(made, static_cast<const int64_t*>(shape.data()), shape.size());
  runtime.call<abi::SHAPE_SET_NAMES>(made, names.data(), names.size());
  runtime.call<abi::INFER_OUTPUT>(context, std::size_t{0}, static_cast<const abi::Shape*>(made));
  abi::call<abi::RELEASE_SHAPE>(runtime.table, made);
}

// Runs `work`; what it throws becomes a status.
template <typename Work>
abi::Status* guarded(const Runtime& runtime, const char* name, Work work) {
  try {
    work();
    return nullptr;
  } catch (abi::Status* status) {
    return status;
  } catch (const std::exception& error) {
    return runtime.failed(std::string(name) + ": " + error.what());
  }
}

struct BitOperator : abi::Operator {
  const char* label;
  bool convolution;
};

abi::Table table_of_session = nullptr;  // of the library that registered the operators

abi::Status* infer(const abi::Operator* op, abi::ShapeContext* context) {
  const BitOperator& self = *static_cast<const BitOperator*>(op);
  return guarded({table_of_session}, self.label, [&] {
    infer_shape({table_of_session}, static_cast<const abi::ShapeContext*>(context), self.convolution);
  });
}

const char* name_of(const abi::Operator* op) { return static_cast<const BitOperator*>(op)->label; }

abi::Status* create(const abi::Operator* op, abi::Table table, const abi::KernelInfo* info, void** made) {
  const BitOperator& self = *static_cast<const BitOperator*>(op);
  return guarded({table}, self.label, [&] {
    auto kernel = std::make_unique<Kernel>();
    kernel->runtime = {table};
    kernel->label = self.label;
    prepare_from(*kernel, info, self.convolution);
    *made = kernel.release();
  });
}

abi::Status* compute(void* made, abi::KernelContext* context) {
  const Kernel& kernel = *static_cast<Kernel*>(made);
  return guarded(kernel.runtime, kernel.label, [&] { run(kernel, context); });
}

BitOperator make(const char* label, bool convolution) {
  BitOperator op{};
  op.version = abi::VERSION;
  op.name = name_of;
  op.provider = [](const abi::Operator*) -> const char* { return nullptr; };
  op.inputs = [](const abi::Operator*) -> std::size_t { return 5; };
  op.input_type = [](const abi::Operator*, std::size_t i) { return i == 1 ? abi::UINT8 : abi::FLOAT; };
  op.input_characteristic = [](const abi::Operator*, std::size_t i) { return i == 4 ? abi::OPTIONAL : abi::REQUIRED; };
  op.input_memory = [](const abi::Operator*, std::size_t) { return 0; };
  op.outputs = [](const abi::Operator*) -> std::size_t { return 1; };
  op.output_type = [](const abi::Operator*, std::size_t) { return abi::FLOAT; };
  op.output_characteristic = [](const abi::Operator*, std::size_t) { return abi::REQUIRED; };
  op.create = create;
  op.compute = compute;
  op.infer = infer;
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.first_version = [](const abi::Operator*) { return 1; };
  op.last_version = [](const abi::Operator*) { return 1; };
  op.label = label;
  op.convolution = convolution;
  return op;
}

}  // namespace

extern "C" {

// Called by ONNX Runtime for each session; the domain lives as long as the library.
__attribute__((visibility("default"))) onnxruntime_abi::Status* RegisterCustomOps(abi::Options* options,
                                                                                const abi::Base* base) {
  static const BitOperator convolution = make("BitConv", true), linear = make("BitGemm", false);
  static abi::Domain* domain = nullptr;
  Runtime runtime{base->table(abi::VERSION)};
  if (runtime.table == nullptr) return nullptr;  // the operators stay unknown, and the session says so
  table_of_session = runtime.table;
  return guarded(runtime, "edgepress", [&] {
    if (domain == nullptr) {
      runtime.call<abi::CREATE_DOMAIN>("edgepress", &domain);
      for (const BitOperator* op : {&convolution, &linear})
        runtime.call<abi::DOMAIN_ADD>(domain, static_cast<const abi::Operator*>(op));
    }
    runtime.call<abi::ADD_DOMAIN>(options, domain);
  });
}

// The kernels that layers which are loaded from now on run with: of that name, or the fastest ones for "". Returns
// their name, or null where these do not run here.
__attribute__((visibility("default"))) const char* bitwise_choose(const char* name) {
  const Kernels* found = find_kernels(name);
  if (found != nullptr) chosen = found;
  return found == nullptr ? nullptr : found->name;
}

}  // extern "C"
