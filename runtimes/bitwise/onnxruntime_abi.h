// What is used of ONNX Runtime's C interface: a table of functions, in an order that is only ever appended to.
//
// The numbers are places in that table (OrtApi of onnxruntime_c_api.h, version 20, of ONNX Runtime 1.20); its wheels hold
// the library without headers. A network whose outputs are known is run before a library with these is kept.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxruntime_abi {

constexpr uint32_t VERSION = 20;

struct Status {};  // complete, so that a pointer to one can be thrown
struct Options;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;
struct Shape;
struct Value;
struct Attribute;

using Table = const void* const*;

struct Base {
  Table (*table)(uint32_t version);
  const char* (*version)();
};

template <int PLACE, typename... Arguments>
Status* call(Table table, Arguments... arguments) {
  return reinterpret_cast<Status* (*)(Arguments...)>(const_cast<void*>(table[PLACE]))(arguments...);
}

enum Place : int {
  CREATE_STATUS = 0,
  CREATE_DOMAIN = 26,
  DOMAIN_ADD = 27,
  ADD_DOMAIN = 28,
  VALUE_DATA = 51,
  CREATE_SHAPE = 57,
  SHAPE_SET_TYPE = 58,
  SHAPE_SET_SIZES = 59,
  SHAPE_RANK = 61,
  SHAPE_SIZES = 62,
  SHAPE_NAMES = 63,
  VALUE_SHAPE = 65,
  INFO_INT = 86,
  INFO_TEXT = 87,
  CONTEXT_INPUT = 90,
  CONTEXT_OUTPUT = 91,
  RELEASE_STATUS = 93,
  RELEASE_SHAPE = 99,
  INFO_INTS = 163,
  INFO_INPUTS = 230,
  INFO_CONSTANT = 249,
  INFER_INPUT = 268,
  INFER_ATTRIBUTE = 269,
  INFER_OUTPUT = 270,
  SHAPE_SET_NAMES = 271,
  ATTRIBUTE_READ = 272,
  PARALLEL_FOR = 274,
};

enum Code : int { FAIL = 1, INVALID_ARGUMENT = 2 };
enum Type : int { FLOAT = 1, UINT8 = 2 };
enum Characteristic : int { REQUIRED = 0, OPTIONAL = 1 };
enum AttributeType : int { INTS = 2 };

// OrtCustomOp: what ONNX Runtime asks of an operator, in this order; null where it is not defined.
struct Operator {
  uint32_t version;
  void* (*create_1)(const Operator*, Table, const KernelInfo*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  Type (*input_type)(const Operator*, std::size_t);
  std::size_t (*inputs)(const Operator*);
  Type (*output_type)(const Operator*, std::size_t);
  std::size_t (*outputs)(const Operator*);
  void (*compute_1)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  Characteristic (*input_characteristic)(const Operator*, std::size_t);
  Characteristic (*output_characteristic)(const Operator*, std::size_t);
  int (*input_memory)(const Operator*, std::size_t);
  int (*least_inputs)(const Operator*);
  int (*inputs_alike)(const Operator*);
  int (*least_outputs)(const Operator*);
  int (*outputs_alike)(const Operator*);
  Status* (*create)(const Operator*, Table, const KernelInfo*, void** kernel);
  Status* (*compute)(void* kernel, KernelContext*);
  Status* (*infer)(const Operator*, ShapeContext*);
  int (*first_version)(const Operator*);
  int (*last_version)(const Operator*);
  std::size_t (*in_place)(int**, int**);
  void (*release_in_place)(int*, int*);
  std::size_t (*aliases)(int**, int**);
  void (*release_aliases)(int*, int*);
};

}  // namespace onnxruntime_abi
