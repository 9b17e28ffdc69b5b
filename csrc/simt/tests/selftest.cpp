// Runs every kernel of memory_faults.cu, lane_faults.cu and controls.cu under ten schedules: each
// fault must be reported, with the words that name it and the line that carries it, and each
// control must pass with the right result. SIMT_VERBOSE shows messages.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "../runtime.h"
#include "cases.h"

namespace {

constexpr int kSchedules = 10;

// Every order of threads and of blocks occurs, one, two, three and all blocks resident, with and
// without preemption.
void set_schedule(int i) {
  constexpr simt::Order kOrders[] = {simt::Order::kForward, simt::Order::kReversed,
                                     simt::Order::kRandom};
  simt::schedule() = {kOrders[i < 3 ? i : 2], kOrders[i % 3], i % 2 ? 0 : 1 + i / 4,
                      i >= 6 ? 0.1 : 0.0, static_cast<uint64_t>(i)};
}

// "<file>:<line>" of the comment that carries the name.
std::string fault_line(const std::string& name) {
  const std::string comment = "// FAULT " + name;
  for (const char* file : {"memory_faults.cu", "lane_faults.cu", "last_block.cuh"}) {
    std::ifstream source(std::string(SIMT_TEST_FOLDER) + "/" + file);
    std::string text;
    for (int line = 1; std::getline(source, text); ++line) {
      const size_t at = text.find(comment);
      if (at != std::string::npos && at + comment.size() == text.size())
        return std::string(file) + ":" + std::to_string(line);
    }
  }
  return "<no line carries " + comment + ">";
}

void reset(Memory& memory) {
  for (float& v : memory.in) v = 1;
  for (float& v : memory.out) v = -1;
  for (unsigned& v : memory.words) v = 0;
}

std::string run(void (*kernel)(Memory&),
                Memory& memory,
                simt::Access out_access,
                size_t out_bytes) {
  simt::Track track;
  track.add(memory.in, sizeof(memory.in), simt::Access::kReadOnly, "in");
  track.add(memory.out, out_bytes, out_access, "out");
  track.add(memory.partial, sizeof(memory.partial), simt::Access::kUninitialised, "partial");
  track.add(memory.words, sizeof(memory.words), simt::Access::kReadWrite, "words");
  try {
    kernel(memory);
  } catch (const simt::Error& error) {
    return error.what();
  }
  return "ok";
}

int report(const char* kernel, int schedule, bool is_good, const std::string& got) {
  if (!is_good || (schedule == 4 && std::getenv("SIMT_VERBOSE")))
    std::printf("%s %s, schedule %d: %s\n", is_good ? "pass" : "FAIL", kernel, schedule,
                got.c_str());
  return !is_good;
}

int check_fault(const Fault& fault, Memory& memory) {
  const std::string line = fault.marked ? fault_line(fault.marked) : "";
  int failures = 0;
  for (int i = 0; i < kSchedules; ++i) {
    set_schedule(i);
    reset(memory);
    const std::string got =
        run(fault.run, memory, simt::Access::kUninitialised, 64 * sizeof(float));
    const bool is_good =
        got.find(fault.words) != std::string::npos && got.find(line) != std::string::npos;
    failures +=
        report(fault.kernel, i, is_good, got + "\n  expected: " + fault.words + " ... " + line);
  }
  return failures;
}

int check_control(const Control& control, Memory& memory) {
  int failures = 0;
  for (int i = 0; i < kSchedules; ++i) {
    set_schedule(i);
    if (control.needs_all_resident) simt::schedule().resident = 0;
    reset(memory);
    if (control.prepare) control.prepare(memory);
    std::string got = run(control.run, memory, simt::Access::kReadWrite, sizeof(memory.out));
    if (got == "ok" && !control.is_right(memory)) got = "wrong result";
    failures += report(control.kernel, i, got == "ok", got);
  }
  return failures;
}
}  // namespace

int main() {
  const auto memory =
      std::make_unique<Memory>();  // not static: a kernel may read the program's own data
  simt::limits().yields = 5000;    // two faults spin for ever
  int failures = 0;
  for (size_t i = 0; i < kNumControls; ++i) failures += check_control(kControls[i], *memory);
  for (size_t i = 0; i < kNumMemoryFaults; ++i) failures += check_fault(kMemoryFaults[i], *memory);
  for (size_t i = 0; i < kNumLaneFaults; ++i) failures += check_fault(kLaneFaults[i], *memory);
  std::printf("%zu controls and %zu faults, %d schedules each: %d failures\n", kNumControls,
              kNumMemoryFaults + kNumLaneFaults, kSchedules, failures);
  return failures != 0;
}
