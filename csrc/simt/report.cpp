// The words of a diagnosis: who, where, what the others wait for.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "state.h"

extern "C" const char __ehdr_start[] __attribute__((weak, visibility("hidden")));

namespace simt {
namespace detail {
namespace {

// A program counter in a message stands between these two until the message is shown: the look-up
// starts a process, which is too much for the small stack of a fiber.
constexpr char kPcBegin = '\x01', kPcEnd = '\x02';

const char* base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

bool is_emulator_header(const std::string& place) {
  return place.compare(0, 12, "device_api.h") == 0 || place.compare(0, 13, "device_math.h") == 0 ||
         place.compare(0, 9, "runtime.h") == 0;
}

// "file:line" of a program counter: the innermost inlined frame that belongs to the kernel.
std::string look_up(uint32_t pc) {
  const char* address = __ehdr_start + pc;
  Dl_info info;
  std::string module = dladdr(address, &info) && info.dli_fname ? info.dli_fname : "/proc/self/exe";
  if (access(module.c_str(), R_OK) != 0) module = "/proc/self/exe";
  // minus one: the return address may already belong to the next line
  const std::string command =
      format("addr2line -s -i -e '%s' 0x%x 2>/dev/null", module.c_str(), pc - 1);
  std::string place;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char line[512];
    bool found = false;
    while (std::fgets(line, sizeof(line), pipe)) {
      if (found) continue;
      place.assign(line, std::strcspn(line, "\n"));
      found = !is_emulator_header(place);
    }
    pclose(pipe);
  }
  if (place.empty() || place[0] == '?') return format("pc+0x%x", pc);
  return place.substr(0, place.find(" ("));
}

std::string describe_state(const Thread& thread) {
  switch (thread.state) {
    case State::kExited:
      return "exited";
    case State::kWaitsAtBarrier:
      return "wait at __syncthreads " + describe(thread.site);
    case State::kWaitsForWarp:
      return format("wait at %s(mask 0x%08x) ", op_name(thread.op), thread.mask) +
             describe(thread.site);
    default:
      return "ready";
  }
}

std::string join_ranges(const std::vector<uint32_t>& sorted) {
  constexpr int kShown = 6;
  std::string out;
  int shown = 0;
  for (size_t i = 0; i < sorted.size() && shown < kShown; ++shown) {
    size_t last = i;
    while (last + 1 < sorted.size() && sorted[last + 1] == sorted[last] + 1) ++last;
    if (shown) out += ",";
    out += i == last ? format("%u", sorted[i]) : format("%u-%u", sorted[i], sorted[last]);
    i = last + 1;
  }
  return out;
}
}  // namespace

std::string format(const char* pattern, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof(text), pattern, arguments);
  va_end(arguments);
  return text;
}

const char* op_name(WarpOp op) {
  static const char* const names[] = {"__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",
                                      "__shfl_xor_sync",   "__ballot_sync",     "__any_sync",
                                      "__all_sync",        "__syncwarp",        "__reduce_add_sync",
                                      "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
                                      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",
                                      "__reduce_xor_sync", "__match_any_sync"};
  return names[static_cast<int>(op)];
}

std::string describe(Site site) { return format("%s:%d", base_name(site.file), site.line); }

std::string describe(const Thread& thread) { return describe_thread(thread.id); }

std::string describe_thread(uint32_t id) {
  if (id == kHost) return "the host";
  const uint32_t block = (id - kFirstThread) / running->block_threads;
  const uint32_t linear = (id - kFirstThread) % running->block_threads;
  const dim3 grid = running->arguments.grid;
  return format("block (%u,%u,%u) thread %u (warp %u lane %u)", block % grid.x,
                block / grid.x % grid.y, block / grid.x / grid.y, linear, linear / 32, linear % 32);
}

std::string describe_pc(uint32_t pc) { return format("%c%x%c", kPcBegin, pc, kPcEnd); }

std::string resolve_places(const std::string& message) {
  std::string out;
  for (size_t i = 0; i < message.size(); ++i) {
    if (message[i] != kPcBegin) {
      out += message[i];
      continue;
    }
    const size_t end = message.find(kPcEnd, i);
    out +=
        look_up(static_cast<uint32_t>(std::stoul(message.substr(i + 1, end - i - 1), nullptr, 16)));
    i = end;
  }
  return out;
}

std::string describe_waits(const Block* only) {
  std::string out;
  for (const Block* block : running->resident) {
    if (only && block != only) continue;
    std::map<std::string, std::vector<uint32_t>> by_state;
    for (const Thread* thread : block->threads)
      by_state[describe_state(*thread)].push_back(thread->linear);
    for (const auto& [state, threads] : by_state)
      out +=
          format("\n  block (%u,%u,%u): threads ", block->index.x, block->index.y, block->index.z) +
          join_ranges(threads) + format(" (%zu) ", threads.size()) + state;
  }
  return out;
}

void fail(const std::string& message) {
  const std::string who = describe(*current);
  running->error =
      message.find("\n  by ") == std::string::npos ? message + "\n  by " + who : message;
  running->failed = true;
  leave_for_host();  // never continued: the launch is over
  __builtin_unreachable();
}
}  // namespace detail

void device_assert(const char* condition, Site site) {
  detail::fail(
      detail::format("device assert failed: %s at %s", condition, detail::describe(site).c_str()));
}

void misaligned(const void* address, size_t bytes, Site site) {
  detail::fail(detail::format("misaligned %zu-byte access of %p at %s", bytes, address,
                              detail::describe(site).c_str()));
}

}  // namespace simt
