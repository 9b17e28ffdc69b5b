// What a program sees of the emulator: schedule, buffers, launch, errors. The CUDA names are in
// device_api.h.
//
// Kernel files compiled with -fsanitize=thread include this header, the runtime is compiled
// without: so nothing here may instantiate a standard template that the runtime uses too (the
// linker would keep one copy for both).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { kForward, kReversed, kRandom };

// How the threads of the next launches interleave. Correct kernels give the same bits under every
// schedule.
struct Schedule {
  Order threads = Order::kForward;  // which ready thread runs next
  Order blocks = Order::kForward;   // in which order blocks start
  int resident = 1;                 // blocks alive at once; 0 means all of the grid
  double preempt = 0.0;             // probability of a switch at each checked access and atomic
  uint64_t seed = 0;                // of the random choices above
};

struct Limits {
  size_t stack_bytes = 64 * 1024;
  size_t dynamic_shared_bytes = 227 * 1024;  // opt-in maximum of a block on sm_90
  size_t static_shared_bytes = 48 * 1024;
  uint64_t yields = 2'000'000;  // more than this in one launch is called a livelock
};

Schedule& schedule();
Limits& limits();

// Counters since the start of the process; to see that a test really exercised what it claims to.
struct Stats {
  uint64_t launches, threads, switches, collectives, barriers, atomics, reads, writes;
};
Stats& stats();

// The memory a kernel may touch; everything else is out of bounds. Registered for the lifetime of
// the object, which also holds the emulator's lock: one caller at a time registers and launches.
enum class Access { kReadOnly, kReadWrite, kUninitialised };
class Track {
 public:
  Track();
  ~Track();
  Track(const Track&) = delete;
  Track& operator=(const Track&) = delete;
  void add(const void* start, size_t bytes, Access access, const char* name);

 private:
  int count_ = 0;
};

// Sets tracked memory from the host; for kernels it is initialised from then on.
void host_fill(void* memory, int value, size_t bytes);

using stream_t = void*;
using error_t = int;
constexpr error_t kSuccess = 0;
constexpr error_t kInvalidValue = 1;

struct LaunchArguments {
  const char* name;
  dim3 grid, block;
  size_t shared_bytes;
  void (*run_thread)(void* call);  // calls the kernel once, with the arguments kept in `call`
  void* call;
  size_t call_bytes;
};
// Runs every thread of the grid; throws Error with the diagnosis when the kernel does something
// CUDA does not allow.
void run_grid(const LaunchArguments& launch);

template <class... Parameters>
struct KernelCall {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;
  static void run(void* self) {
    auto* call = static_cast<KernelCall*>(self);
    std::apply(call->kernel, call->arguments);
  }
};

template <class... Parameters, class... Arguments>
error_t launch(const char* name,
               void (*kernel)(Parameters...),
               dim3 grid,
               dim3 block,
               size_t shared_bytes,
               stream_t /*stream*/,
               Arguments&&... arguments) {
  KernelCall<Parameters...> call{kernel,
                                 std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)};
  run_grid({name, grid, block, shared_bytes, &KernelCall<Parameters...>::run, &call, sizeof(call)});
  return kSuccess;
}

}  // namespace simt
