// What JavaScript sees of the backend: functions over a handle. src/backends/cpu/addon.ts declares their types.
#include <node_api.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "../kernels/dispatch.h"
#include "../platform/processor.h"
#include "memory.h"
#include "queue.h"

namespace lowrank {

namespace {

constexpr int kOperands = 12, kAttributes = 8, kOperandFields = 8;
static_assert(std::all_of(std::begin(op_infos), std::end(op_infos), [](const OpInfo& op) {
  return op.inputs + op.outputs <= kOperands && op.attributes <= kAttributes;
}));
constexpr size_t kCommandFields = 1 + kOperands * kOperandFields + kAttributes;
constexpr double kLargestInteger = 9007199254740991.0;

void check(napi_status status) {
  if (status != napi_ok) throw std::runtime_error("Node-API call failed with status " + std::to_string(status));
}

// One device: made by `open`, kept until its environment ends, so that no late callback meets freed memory.
struct Backend {
  Backend(int threads, const InstructionSet& set)
      : instruction_set(set),
        queue(std::make_unique<Queue>(threads)),
        memory(std::make_unique<Memory>([this](std::function<void()> command) {
          queue->push(-1, [command = std::move(command)](Pool&) { command(); });
          return queue->pushed();
        })) {}

  void close() {
    if (queue) queue->stop();
    fetcher.reset();
    memory.reset();
    queue.reset();
  }

  const InstructionSet& instruction_set;
  std::unique_ptr<Queue> queue;
  std::unique_ptr<Memory> memory;
  std::unique_ptr<Fetcher> fetcher;  // made when it is first asked for
  double* command = nullptr;  // the memory of the Float64Array through which `run` is told what to do
  napi_ref command_reference = nullptr;
  napi_threadsafe_function settle = nullptr;
  int pending = 0;
};

// A promise that the queue thread settles: with bytes read, a number, or nothing.
struct Request {
  Backend* backend;
  napi_deferred deferred;
  napi_ref bytes = nullptr;
  bool has_number = false;
  double number = 0;
  std::string error;
};

// ---- arguments ----

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info) : env_(env) { check(napi_get_cb_info(env, info, &count_, values_, nullptr, nullptr)); }

  napi_value value(size_t i) const { return i < count_ ? values_[i] : throw std::runtime_error("too few arguments"); }
  double number(size_t i) const {
    double number;
    check(napi_get_value_double(env_, value(i), &number));
    return number;
  }
  // An integer in [0, limit].
  size_t integer(size_t i, double limit, const char* name) const {
    const double n = number(i);
    if (!(n >= 0 && n <= limit) || n != static_cast<double>(static_cast<uint64_t>(n)))
      throw std::runtime_error(std::string(name) + " " + std::to_string(n) + " is not an integer in [0, " +
                               std::to_string(static_cast<uint64_t>(limit)) + "]");
    return static_cast<size_t>(n);
  }
  std::string text(size_t i) const {
    size_t length;
    check(napi_get_value_string_utf8(env_, value(i), nullptr, 0, &length));
    std::string text(length, '\0');
    check(napi_get_value_string_utf8(env_, value(i), text.data(), length + 1, &length));
    return text;
  }
  Backend& backend() const {
    void* data;
    check(napi_get_value_external(env_, value(0), &data));
    Backend& backend = *static_cast<Backend*>(data);
    if (!backend.memory) throw std::runtime_error("the backend is closed");
    return backend;
  }

 private:
  napi_env env_;
  napi_value values_[5];
  size_t count_ = 5;
};

napi_value undefined(napi_env env) {
  napi_value value;
  check(napi_get_undefined(env, &value));
  return value;
}
napi_value number(napi_env env, double n) {
  napi_value value;
  check(napi_create_double(env, n, &value));
  return value;
}
napi_value text(napi_env env, const std::string& t) {
  napi_value value;
  check(napi_create_string_utf8(env, t.data(), t.size(), &value));
  return value;
}

// C++ exceptions become JavaScript's.
template <napi_value (*body)(napi_env, const Arguments&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return body(env, Arguments(env, info));
  } catch (const std::exception& error) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (!pending) napi_throw_error(env, nullptr, error.what());
    return nullptr;
  }
}

// ---- promises ----

// Runs on JavaScript's thread. Without an environment it is being torn down: nobody waits any more.
void settle(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Request> request(static_cast<Request*>(data));
  if (!env) return;
  Backend& backend = *request->backend;
  if (--backend.pending == 0) napi_unref_threadsafe_function(env, backend.settle);
  napi_value value = undefined(env);
  if (request->has_number) value = number(env, request->number);
  if (request->bytes) {
    napi_get_reference_value(env, request->bytes, &value);
    napi_delete_reference(env, request->bytes);
  }
  if (request->error.empty()) {
    napi_resolve_deferred(env, request->deferred, value);
  } else {
    napi_value error;
    napi_create_error(env, nullptr, text(env, request->error), &error);
    napi_reject_deferred(env, request->deferred, error);
  }
}

// Enqueues `work` and returns the promise that is settled after it. The process stays alive as long as one is pending.
napi_value promise_of(napi_env env, Backend& backend, std::unique_ptr<Request> request, std::function<void(Pool&, Request&)> work) {
  napi_value promise;
  check(napi_create_promise(env, &request->deferred, &promise));
  request->backend = &backend;
  if (backend.pending++ == 0) check(napi_ref_threadsafe_function(env, backend.settle));
  Queue* queue = backend.queue.get();
  queue->push(-1, [queue, request = request.release(), work = std::move(work)](Pool& pool) {
    if (work) work(pool, *request);
    request->error = queue->take_error();
    napi_call_threadsafe_function(request->backend->settle, request, napi_tsfn_nonblocking);
  });
  return promise;
}

// ---- the functions ----

napi_value open_backend(napi_env env, const Arguments& arguments) {
  const auto threads = static_cast<int>(arguments.integer(0, 1024, "threads"));
  auto* backend = new Backend(std::max(1, threads), choose_instruction_set(arguments.text(1)));
  const napi_value name = text(env, "lowrank");
  check(napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, backend, settle, &backend->settle));
  check(napi_unref_threadsafe_function(env, backend->settle));
  // Added after the threadsafe function, hence run before that is torn down.
  check(napi_add_env_cleanup_hook(env, [](void* data) {
    auto* ended = static_cast<Backend*>(data);
    ended->close();
    delete ended;
  }, backend));

  napi_value result, handle, buffer, command;
  void* memory;
  check(napi_create_object(env, &result));
  check(napi_create_external(env, backend, nullptr, nullptr, &handle));
  check(napi_create_arraybuffer(env, kCommandFields * sizeof(double), &memory, &buffer));
  check(napi_create_typedarray(env, napi_float64_array, kCommandFields, buffer, 0, &command));
  check(napi_create_reference(env, buffer, 1, &backend->command_reference));
  backend->command = static_cast<double*>(memory);
  check(napi_set_named_property(env, result, "handle", handle));
  check(napi_set_named_property(env, result, "command", command));
  check(napi_set_named_property(env, result, "instructionSet", text(env, backend->instruction_set.label)));
  return result;
}

napi_value allocate(napi_env env, const Arguments& arguments) {
  return number(env, arguments.backend().memory->allocate(arguments.integer(1, kLargestInteger, "bytes")));
}

napi_value free_buffer(napi_env env, const Arguments& arguments) {
  arguments.backend().memory->free(static_cast<int32_t>(arguments.integer(1, INT32_MAX, "buffer")));
  return undefined(env);
}

napi_value map_file(napi_env env, const Arguments& arguments) {
  const size_t offset = arguments.integer(2, kLargestInteger, "offset"), bytes = arguments.integer(3, kLargestInteger, "bytes");
  if (bytes == 0) throw std::runtime_error("nothing to map");
  return number(env, arguments.backend().memory->map_file(arguments.text(1), offset, bytes));
}

napi_value allocate_paged(napi_env env, const Arguments& arguments) {
  return number(env, arguments.backend().memory->allocate_paged(arguments.integer(1, kLargestInteger, "bytes"), arguments.text(2)));
}

// The part of a buffer that arguments 2 (offset) and `length` name.
char* range(Buffer& buffer, size_t offset, size_t length) {
  if (offset > buffer.bytes || length > buffer.bytes - offset)
    throw std::runtime_error("bytes " + std::to_string(offset) + " … " + std::to_string(offset + length) + " of a buffer of " +
                             std::to_string(buffer.bytes));
  return buffer.piece.data + offset;
}

// The part of a mapped file that arguments 2 (offset) and 3 (length) name.
Pages pages_of(Buffer& buffer, const Arguments& arguments) {
  if (!buffer.mapped()) throw std::runtime_error("only mapped files and paged memory are fetched and released");
  const size_t length = arguments.integer(3, kLargestInteger, "length");
  return {range(buffer, arguments.integer(2, kLargestInteger, "offset"), length), length};
}

napi_value fetch_pages(napi_env env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  Buffer& buffer = backend.memory->at(arguments.number(1));
  if (!backend.fetcher) backend.fetcher = std::make_unique<Fetcher>();
  backend.queue->push(-1, [fetcher = backend.fetcher.get(), pages = pages_of(buffer, arguments)](Pool&) { fetcher->fetch(pages); });
  buffer.piece.last_use = backend.queue->pushed();
  return undefined(env);
}

napi_value release_pages(napi_env env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  Buffer& buffer = backend.memory->at(arguments.number(1));
  const Pages pages = pages_of(buffer, arguments);
  backend.queue->push(-1, [fetcher = backend.fetcher.get(), pages, read_only = buffer.read_only, limit = arguments.number(4)](Pool&) {
    if (fetcher) fetcher->forget(pages);
    page_out(pages, read_only, limit);
  });
  buffer.piece.last_use = backend.queue->pushed();
  return undefined(env);
}

napi_value write(napi_env env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  Buffer& buffer = backend.memory->at(arguments.number(1));
  void* data;
  size_t length;
  napi_typedarray_type type;
  check(napi_get_typedarray_info(env, arguments.value(3), &type, &length, &data, nullptr, nullptr));
  if (type != napi_uint8_array || buffer.read_only) throw std::runtime_error("write wants a Uint8Array and a buffer that may be written");
  char* target = range(buffer, arguments.integer(2, kLargestInteger, "offset"), length);
  Queue& queue = *backend.queue;
  if (buffer.piece.last_use <= queue.completed()) {
    // Nothing enqueued touches the block: no copy needs to be kept aside.
    std::memcpy(target, data, length);
  } else {
    const auto* bytes = static_cast<const char*>(data);
    queue.push(-1, [target, staged = std::vector<char>(bytes, bytes + length)](Pool&) {
      std::memcpy(target, staged.data(), staged.size());
    });
    buffer.piece.last_use = queue.pushed();
  }
  return undefined(env);
}

napi_value read(napi_env env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  Buffer& buffer = backend.memory->at(arguments.number(1));
  const size_t length = arguments.integer(3, kLargestInteger, "length");
  const char* source = range(buffer, arguments.integer(2, kLargestInteger, "offset"), length);
  auto request = std::make_unique<Request>();
  napi_value bytes;
  void* target;
  check(napi_create_arraybuffer(env, length, &target, &bytes));
  check(napi_create_reference(env, bytes, 1, &request->bytes));
  napi_value promise = promise_of(env, backend, std::move(request), [=](Pool&, Request&) { std::memcpy(target, source, length); });
  buffer.piece.last_use = backend.queue->pushed();
  return promise;
}

// The path of a mapped file that was cut off while it was used, or "".
napi_value lost_file(napi_env env, const Arguments& arguments) { return text(env, arguments.backend().memory->lost_file()); }

napi_value sync(napi_env env, const Arguments& arguments) {
  return promise_of(env, arguments.backend(), std::make_unique<Request>(), nullptr);
}

// An op's operands and attributes out of the Float64Array. That has the op, for each operand its buffer (−1 where it is absent), offset,
// dtype, rank and four extents, and then the attributes as numbers, of which the kernel's `Attributes` has names and types.
struct Decoded {
  Tensor operands[kOperands];
  double attributes[kAttributes];
};

int64_t field(double value, double limit, const char* name) {
  if (!(value >= 0 && value <= limit) || value != static_cast<double>(static_cast<int64_t>(value)))
    throw std::runtime_error(std::string(name) + " " + std::to_string(value) + " is out of range");
  return static_cast<int64_t>(value);
}

Tensor decode_operand(Backend& backend, const double* fields, bool written) {
  if (fields[0] == -1) return {};
  Buffer& buffer = backend.memory->at(fields[0]);
  if (written && buffer.read_only) throw std::runtime_error("an output stands in a mapped file, which is read-only");
  buffer.piece.last_use = backend.queue->pushed() + 1;
  Tensor tensor;
  const auto offset = static_cast<size_t>(field(fields[1], kLargestInteger, "offset"));
  tensor.dtype = static_cast<DType>(field(fields[2], static_cast<double>(DType::u4), "dtype"));
  tensor.rank = static_cast<int32_t>(field(fields[3], 4, "rank"));
  const int64_t width = bytes_per_element(tensor.dtype);
  int64_t bytes = width;
  for (int i = 0; i < tensor.rank; i++) {
    tensor.shape[i] = field(fields[4 + i], kLargestInteger, "extent");
    if (__builtin_mul_overflow(bytes, tensor.shape[i], &bytes)) throw std::runtime_error("a shape is too large");
  }
  if (tensor.dtype == DType::u4) bytes = bytes / 2 + bytes % 2;
  tensor.data = range(buffer, offset, static_cast<size_t>(bytes));
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(width) == 0;
  if (!aligned) throw std::runtime_error("an operand is not aligned to its dtype");
  return tensor;
}

napi_value run(napi_env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  const double* fields = backend.command;
  const auto op = static_cast<int>(field(fields[0], static_cast<double>(Op::count) - 1, "op"));
  const OpInfo& info = op_infos[op];
  const int operands = info.inputs + info.outputs;
  Decoded decoded;
  for (int i = 0; i < operands; i++) decoded.operands[i] = decode_operand(backend, fields + 1 + i * kOperandFields, i >= info.inputs);
  std::copy_n(fields + 1 + operands * kOperandFields, info.attributes, decoded.attributes);
  const Kernel kernel = backend.instruction_set.table->kernels[op];
  backend.queue->push(op, [decoded, kernel, inputs = info.inputs](Pool& pool) {
    kernel({decoded.operands, decoded.operands + inputs, decoded.attributes}, pool);
  });
  return nullptr;
}

napi_value start_profile(napi_env env, const Arguments& arguments) {
  arguments.backend().queue->start_profile();
  return undefined(env);
}

// Float64Array of (op, start, end) per op.
napi_value take_profile(napi_env env, const Arguments& arguments) {
  const auto spans = arguments.backend().queue->take_profile();
  napi_value buffer, array;
  void* memory;
  check(napi_create_arraybuffer(env, spans.size() * 3 * sizeof(double), &memory, &buffer));
  check(napi_create_typedarray(env, napi_float64_array, spans.size() * 3, buffer, 0, &array));
  auto* values = static_cast<double*>(memory);
  for (const auto& span : spans) {
    *values++ = span.op;
    *values++ = span.start;
    *values++ = span.end;
  }
  return array;
}

// A promise of GFLOP/s, all threads together.
napi_value measure_peak(napi_env env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  const KernelTable& table = *backend.instruction_set.table;
  const auto loop = arguments.text(1) == "bf16" ? table.peak_bf16 : table.peak_f32;
  return promise_of(env, backend, std::make_unique<Request>(), [loop](Pool& pool, Request& request) {
    constexpr int64_t kRounds = 4'000'000;
    std::vector<double> operations(static_cast<size_t>(pool.threads()));
    const auto start = std::chrono::steady_clock::now();
    pool.each(pool.threads(), [&](int64_t task, int) { operations[static_cast<size_t>(task)] = loop(kRounds); });
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
    for (const double count : operations) request.number += count / elapsed.count();
    request.has_number = true;
  });
}

// Bytes that kernels hold for themselves.
napi_value workspace(napi_env env, const Arguments& arguments) {
  return number(env, static_cast<double>(arguments.backend().queue->workspace()));
}

// Drops what is still enqueued and gives all memory back. No promise may be pending.
napi_value close_backend(napi_env env, const Arguments& arguments) {
  Backend& backend = arguments.backend();
  backend.close();
  check(napi_release_threadsafe_function(backend.settle, napi_tsfn_release));
  check(napi_delete_reference(env, backend.command_reference));
  return undefined(env);
}

napi_value names_of(napi_env env, const std::vector<const char*>& names) {
  napi_value result;
  check(napi_create_array_with_length(env, names.size(), &result));
  for (uint32_t i = 0; i < names.size(); i++) check(napi_set_element(env, result, i, text(env, names[i])));
  return result;
}

// The sets that were compiled and that this machine has.
napi_value available_sets(napi_env env, const Arguments&) {
  std::vector<const char*> names;
  for (const auto& set : instruction_sets()) names.push_back(set.name);
  return names_of(env, names);
}

// All sets that this machine has.
napi_value machine_sets(napi_env env, const Arguments&) {
  std::vector<const char*> names;
  for (const auto& set : processor_sets())
    if (set.available) names.push_back(set.name);
  return names_of(env, names);
}

napi_value initialize(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
#define LOWRANK_FUNCTION(name, body) {name, nullptr, guarded<body>, nullptr, nullptr, nullptr, napi_enumerable, nullptr}
      LOWRANK_FUNCTION("open", open_backend),
      LOWRANK_FUNCTION("close", close_backend),
      LOWRANK_FUNCTION("allocate", allocate),
      LOWRANK_FUNCTION("free", free_buffer),
      LOWRANK_FUNCTION("mapFile", map_file),
      LOWRANK_FUNCTION("allocatePaged", allocate_paged),
      LOWRANK_FUNCTION("fetch", fetch_pages),
      LOWRANK_FUNCTION("release", release_pages),
      LOWRANK_FUNCTION("write", write),
      LOWRANK_FUNCTION("read", read),
      LOWRANK_FUNCTION("run", run),
      LOWRANK_FUNCTION("sync", sync),
      LOWRANK_FUNCTION("lostFile", lost_file),
      LOWRANK_FUNCTION("workspace", workspace),
      LOWRANK_FUNCTION("startProfile", start_profile),
      LOWRANK_FUNCTION("takeProfile", take_profile),
      LOWRANK_FUNCTION("measurePeak", measure_peak),
      LOWRANK_FUNCTION("instructionSets", available_sets),
      LOWRANK_FUNCTION("machineSets", machine_sets),
#undef LOWRANK_FUNCTION
  };
  napi_define_properties(env, exports, std::size(functions), functions);
  return exports;
}

}  // namespace

}  // namespace lowrank

NAPI_MODULE_INIT() { return lowrank::initialize(env, exports); }
