// Runs a model on samples, for devices without Python: one file of C++17; the engine's library is opened at run time.
//
//   runner onnxruntime LIBRARY MODEL THREADS describe
//   runner onnxruntime LIBRARY MODEL THREADS run INPUTS OUTPUTS BATCH
//   runner onnxruntime LIBRARY MODEL THREADS time INPUTS OUTPUTS BATCH WARMUP_RUNS WARMUP_S RUNS SECONDS
//
// All print one line of JSON: the engine's version, the milliseconds that loading took, and name, type and shape of each
// input and output (-1: any length).
// INPUTS is a folder with 000.npy, 001.npy, ... in the order of the inputs, samples first; BATCH of them are one run.
// OUTPUTS is a folder that gets files of the same kind; of "time", times.npy, the milliseconds of each run after warm-up,
// all on the first BATCH samples. npy is numpy's format, version 1.0 (numpy.lib.format). An error is one line on stderr,
// and exit code 1.
//
//   c++ -std=c++17 -O2 -o runner runner.cpp -ldl
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Failure = std::runtime_error;

struct Array {
  std::string descr;  // as npy has it: <f4
  std::vector<int64_t> shape;
  std::vector<char> data;
};

struct Spec {
  std::string name, descr;
  std::vector<int64_t> shape;
};

int64_t count(const std::vector<int64_t>& shape, std::size_t from = 0) {
  int64_t product = 1;
  for (std::size_t i = from; i < shape.size(); ++i) product *= shape[i];
  return product;
}

std::size_t size_of(const std::string& descr) { return static_cast<std::size_t>(std::atoi(descr.c_str() + 2)); }

std::string file_of(const std::string& folder, std::size_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "/%03u.npy", static_cast<unsigned>(number));
  return folder + name;
}

// The text between two marks in the header of an npy file.
std::string between(const std::string& text, const std::string& start, char end) {
  const auto begin = text.find(start);
  const auto stop = begin == std::string::npos ? begin : text.find(end, begin + start.size());
  if (stop == std::string::npos) throw Failure("an npy file has no " + start);
  return text.substr(begin + start.size(), stop - begin - start.size());
}

Array read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[10];
  if (!file.read(magic, sizeof magic)) throw Failure(path + ": cannot be read");
  if (std::memcmp(magic, "\x93NUMPY\x01", 7) != 0) throw Failure(path + ": expected an npy file of version 1.0");
  const auto length = static_cast<unsigned char>(magic[8]) + 256u * static_cast<unsigned char>(magic[9]);
  std::string header(length, '\0');
  if (!file.read(header.data(), length)) throw Failure(path + ": it ends too early");
  if (header.find("'fortran_order': False") == std::string::npos) throw Failure(path + ": expected C order");
  Array array{between(header, "'descr': '", '\''), {}, {}};
  const std::string shape = between(header, "'shape': (", ')');
  for (const char* place = shape.c_str(); *place != '\0';) {
    char* end = nullptr;
    const long long extent = std::strtoll(place, &end, 10);
    if (end == place) break;
    array.shape.push_back(extent);
    for (place = end; *place == ',' || *place == ' ';) ++place;
  }
  array.data.resize(static_cast<std::size_t>(count(array.shape)) * size_of(array.descr));
  if (!file.read(array.data.data(), static_cast<std::streamsize>(array.data.size())))
    throw Failure(path + ": it ends too early");
  return array;
}

void write(const std::string& path, const Array& array) {
  std::string header = "{'descr': '" + array.descr + "', 'fortran_order': False, 'shape': (";
  for (const auto extent : array.shape) header += std::to_string(extent) + ",";
  header += "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  const char size[2] = {static_cast<char>(header.size() % 256), static_cast<char>(header.size() / 256)};
  std::ofstream file(path, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8).write(size, 2) << header;
  file.write(array.data.data(), static_cast<std::streamsize>(array.data.size()));
  if (!file.flush()) throw Failure(path + ": cannot be written");
}

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string version() const = 0;
  virtual const std::vector<Spec>& inputs() const = 0;
  virtual const std::vector<Spec>& outputs() const = 0;
  // Runs on arrays that stay where they are; the outputs of the run are kept where `keep` is.
  virtual void run(const std::vector<Array>& feeds, std::vector<Array>* keep) = 0;
};

// ONNX Runtime by its C interface: a table of functions whose order is only ever appended to; the numbers are places in
// it (OrtApi of onnxruntime_c_api.h, version 12, of ONNX Runtime 1.12).
class OnnxRuntime : public Engine {
 public:
  OnnxRuntime(void* library, const std::string& model, int threads) {
    struct Base {
      Table (*table)(uint32_t);
      const char* (*version)();
    };
    const auto base = reinterpret_cast<const Base* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (base == nullptr) throw Failure("the library has no OrtGetApiBase: expected libonnxruntime.so");
    version_ = base()->version();
    table_ = base()->table(12);
    if (table_ == nullptr) throw Failure("ONNX Runtime " + version_ + " is too old: expected 1.12 or newer");
    void *environment = nullptr, *options = nullptr;
    call<3>(3, "runner", &environment);  // CreateEnv; 3: errors alone are logged
    call<10>(&options);                  // CreateSessionOptions
    call<24>(options, threads);          // SetIntraOpNumThreads
    call<25>(options, 1);                // SetInterOpNumThreads
    call<7>(environment, model.c_str(), options, &session_);  // CreateSession
    call<78>(&allocator_);               // GetAllocatorWithDefaultOptions
    call<69>(1, 0, &memory_);            // CreateCpuMemoryInfo: OrtArenaAllocator, OrtMemTypeDefault
    std::size_t inputs = 0, outputs = 0;
    call<30>(session_, &inputs);   // SessionGetInputCount
    call<31>(session_, &outputs);  // SessionGetOutputCount
    for (std::size_t i = 0; i < inputs; ++i) inputs_.push_back(spec<33, 36>(i));
    for (std::size_t i = 0; i < outputs; ++i) outputs_.push_back(spec<34, 37>(i));
  }

  std::string version() const override { return version_; }
  const std::vector<Spec>& inputs() const override { return inputs_; }
  const std::vector<Spec>& outputs() const override { return outputs_; }

  void run(const std::vector<Array>& feeds, std::vector<Array>* keep) override {
    std::vector<void*> values(feeds.size()), results(outputs_.size(), nullptr);
    std::vector<const char*> names, wanted;
    for (std::size_t i = 0; i < feeds.size(); ++i) {
      names.push_back(inputs_[i].name.c_str());
      const Array& feed = feeds[i];
      call<49>(memory_, feed.data.data(), feed.data.size(), feed.shape.data(), feed.shape.size(), type(feed.descr),
               &values[i]);  // CreateTensorWithDataAsOrtValue
    }
    for (const auto& each : outputs_) wanted.push_back(each.name.c_str());
    const void* none = nullptr;
    call<9>(session_, none, names.data(), values.data(), names.size(), wanted.data(), wanted.size(), results.data());
    for (void* result : results) {
      if (keep != nullptr) keep->push_back(array(result));
      release<96>(result);
    }
    for (void* value : values) release<96>(value);
  }

 private:
  using Table = const void* const*;

  template <int PLACE, typename... Arguments>
  void call(Arguments... arguments) {
    const auto function = reinterpret_cast<void* (*)(Arguments...)>(const_cast<void*>(table_[PLACE]));
    if (void* status = function(arguments...); status != nullptr) {
      const auto message = reinterpret_cast<const char* (*)(void*)>(const_cast<void*>(table_[2]));  // GetErrorMessage
      const std::string text = message(status);
      release<93>(status);
      throw Failure("ONNX Runtime: " + text);
    }
  }

  template <int PLACE>
  void release(void* value) {
    reinterpret_cast<void (*)(void*)>(const_cast<void*>(table_[PLACE]))(value);
  }

  // ONNXTensorElementDataType, in the order of its values from 1.
  static constexpr const char* TYPES[] = {"<f4", "|u1", "|i1", "<u2", "<i2", "<i4", "<i8", "",
                                          "|b1", "<f2", "<f8", "<u4", "<u8"};

  static int type(const std::string& descr) {
    for (int i = 0; i < 13; ++i)
      if (descr == TYPES[i] && !descr.empty()) return i + 1;
    throw Failure("inputs of the type " + descr + " are not known");
  }

  void shape_of(void* info, std::string& descr, std::vector<int64_t>& shape) {
    int element = 0;
    std::size_t rank = 0;
    call<60>(info, &element);  // GetTensorElementType
    call<61>(info, &rank);     // GetDimensionsCount
    shape.resize(rank);
    call<62>(info, shape.data(), rank);  // GetDimensions
    if (element < 1 || element > 13 || *TYPES[element - 1] == '\0')
      throw Failure("tensors of the type " + std::to_string(element) + " are not known");
    descr = TYPES[element - 1];
  }

  template <int TYPE_INFO, int NAME>
  Spec spec(std::size_t i) {
    Spec made;
    char* name = nullptr;
    void *info = nullptr, *tensor = nullptr;
    call<NAME>(session_, i, allocator_, &name);
    made.name = name;
    call<76>(allocator_, static_cast<void*>(name));  // AllocatorFree
    call<TYPE_INFO>(session_, i, &info);
    call<55>(info, &tensor);  // CastTypeInfoToTensorInfo
    if (tensor == nullptr) throw Failure(made.name + " is no tensor");
    shape_of(tensor, made.descr, made.shape);
    release<98>(info);
    return made;
  }

  Array array(void* value) {
    Array made;
    void *info = nullptr, *data = nullptr;
    call<65>(value, &info);  // GetTensorTypeAndShape
    shape_of(info, made.descr, made.shape);
    release<99>(info);
    call<51>(value, &data);  // GetTensorMutableData
    const char* begin = static_cast<const char*>(data);
    made.data.assign(begin, begin + static_cast<std::size_t>(count(made.shape)) * size_of(made.descr));
    return made;
  }

  Table table_ = nullptr;
  void *session_ = nullptr, *allocator_ = nullptr, *memory_ = nullptr;
  std::string version_;
  std::vector<Spec> inputs_, outputs_;
};

std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (const unsigned char letter : text) {
    char code[8];
    std::snprintf(code, sizeof code, letter < 0x20 || letter == '"' || letter == '\\' ? "\\u%04x" : "%c", letter);
    made += code;
  }
  return made + '"';
}

std::string described(const std::vector<Spec>& specs) {
  std::string made = "[";
  for (const auto& each : specs) {
    made += made.size() > 1 ? ", " : "";
    made += "{\"name\": " + quoted(each.name) + ", \"dtype\": " + quoted(each.descr) + ", \"shape\": [";
    for (std::size_t i = 0; i < each.shape.size(); ++i) made += (i ? ", " : "") + std::to_string(each.shape[i]);
    made += "]}";
  }
  return made + "]";
}

// The samples of one run, from number `first`.
std::vector<Array> part(const std::vector<Array>& samples, int64_t first, int64_t batch) {
  std::vector<Array> made;
  for (const auto& each : samples) {
    Array feed{each.descr, each.shape, {}};
    feed.shape[0] = batch;
    const auto size = static_cast<std::size_t>(count(each.shape, 1)) * size_of(each.descr);
    const char* begin = each.data.data() + static_cast<std::size_t>(first) * size;
    feed.data.assign(begin, begin + static_cast<std::size_t>(batch) * size);
    made.push_back(std::move(feed));
  }
  return made;
}

std::vector<Array> samples_of(const Engine& engine, const std::string& folder, int64_t batch) {
  std::vector<Array> samples;
  for (std::size_t i = 0; i < engine.inputs().size(); ++i) {
    samples.push_back(read(file_of(folder, i)));
    const Array& made = samples.back();
    if (made.descr != engine.inputs()[i].descr)
      throw Failure(engine.inputs()[i].name + ": expected " + engine.inputs()[i].descr + ", got " + made.descr);
    if (made.shape.empty() || made.shape[0] != samples[0].shape[0] || made.shape[0] % batch != 0 || made.shape[0] == 0)
      throw Failure(engine.inputs()[i].name + ": expected whole batches of samples, as many of each input");
  }
  return samples;
}

void run_all(Engine& engine, const std::vector<Array>& samples, const std::string& folder, int64_t batch) {
  std::vector<Array> whole;
  for (int64_t first = 0; first < samples.at(0).shape[0]; first += batch) {
    std::vector<Array> outputs;
    engine.run(part(samples, first, batch), &outputs);
    if (first == 0) whole = std::move(outputs);
    else
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (whole[i].shape.empty()) throw Failure("an output has no samples");
        whole[i].shape[0] += outputs[i].shape.at(0);
        whole[i].data.insert(whole[i].data.end(), outputs[i].data.begin(), outputs[i].data.end());
      }
  }
  for (std::size_t i = 0; i < whole.size(); ++i) write(file_of(folder, i), whole[i]);
}

double now_ms() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(since).count();
}

void time_all(Engine& engine, const std::vector<Array>& samples, const std::string& folder, char** limits, int64_t batch) {
  const auto feeds = part(samples, 0, batch);
  const auto loop = [&](long runs, double seconds, std::vector<double>* times) {
    const double begin = now_ms();
    for (long done = 0; done < runs || now_ms() - begin < seconds * 1000; ++done) {
      const double start = now_ms();
      engine.run(feeds, nullptr);
      if (times != nullptr) times->push_back(now_ms() - start);
    }
  };
  std::vector<double> times;
  loop(std::atol(limits[0]), std::atof(limits[1]), nullptr);
  loop(std::atol(limits[2]), std::atof(limits[3]), &times);
  Array made{"<f8", {static_cast<int64_t>(times.size())}, {}};
  const char* begin = reinterpret_cast<const char*>(times.data());
  made.data.assign(begin, begin + times.size() * sizeof(double));
  write(folder + "/times.npy", made);
}

int run(int count, char** words) {
  const std::string what = count > 5 ? words[5] : "";
  const int expected = what == "describe" ? 6 : what == "run" ? 9 : what == "time" ? 13 : 0;
  if (count != expected) throw Failure("runner ENGINE LIBRARY MODEL THREADS describe|run|time ..., see its source");
  void* library = dlopen(words[2], RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw Failure(std::string("the engine cannot be loaded: ") + dlerror());
  std::unique_ptr<Engine> engine;
  const double start = now_ms();
  if (std::string(words[1]) == "onnxruntime")
    engine = std::make_unique<OnnxRuntime>(library, words[3], std::atoi(words[4]));
  else
    throw Failure(std::string("no such engine: ") + words[1]);
  const double load_ms = now_ms() - start;
  if (what != "describe") {
    const int64_t batch = std::atol(words[8]);
    if (batch < 1) throw Failure("expected a batch of 1 or more");
    const auto samples = samples_of(*engine, words[6], batch);
    if (what == "run") run_all(*engine, samples, words[7], batch);
    else
      time_all(*engine, samples, words[7], words + 9, batch);
  }
  std::cout << "{\"version\": " << quoted(engine->version()) << ", \"load_ms\": " << load_ms << ", \"inputs\": " << described(engine->inputs())
            << ", \"outputs\": " << described(engine->outputs()) << "}" << std::endl;
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
