// What the self-test knows of a kernel. The kernels are in instrumented files of their own
// (memory_faults.cu, lane_faults.cu, controls.cu); the test itself uses the standard library and is
// compiled without -fsanitize=thread.
#pragma once

#include <cstddef>

// With gaps: what lies beyond one buffer must not be the next.
struct Memory {
  alignas(64) float in[128];
  alignas(64) float gap[16];
  alignas(64) float out[128];
  alignas(64) float partial[8];
  alignas(64) unsigned words[8];
};

struct Fault {
  const char* kernel;
  const char* words;  // the diagnosis must contain these
  const char*
      marked;  // name on the comment "// FAULT <name>" in its file; null: no line can be named
  void (*run)(Memory& memory);
};
extern const Fault kMemoryFaults[], kLaneFaults[];
extern const size_t kNumMemoryFaults, kNumLaneFaults;

// An entry of the tables: launches `kernel` on `blocks` x `threads`; `m` is the memory.
#define FAULT(kernel, words, marked, blocks, threads, shared, ...)                             \
  {#kernel, words, marked, [](Memory& m) {                                                     \
     simt::launch(#kernel, kernel, dim3(blocks), dim3(threads), shared, nullptr, __VA_ARGS__); \
   }}

struct Control {
  const char* kernel;
  bool needs_all_resident;
  void (*prepare)(Memory& memory);  // null: in = 1, out = -1, words = 0
  void (*run)(Memory& memory);
  bool (*is_right)(const Memory& memory);
};
extern const Control kControls[];
extern const size_t kNumControls;
