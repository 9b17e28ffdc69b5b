// The emulator's own data: threads, warps, blocks, the running launch. Private to the runtime.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device_api.h"
#include "fiber.h"

namespace simt::detail {

// ---- shadow memory: for every byte, who touched it last ----

// One access. `thread` is 0 for "never" and kHost for "before the launch"; device threads count
// from kFirstThread.
constexpr uint32_t kHost = 1, kFirstThread = 2, kRedzone = 0xffffffffu, kInFlight = 0xfffffffeu;
constexpr uint32_t kAtomicBit = 0x80000000u;  // in `clock`: the access was atomic or volatile
struct Touch {
  uint32_t thread = 0, epoch = 0, clock = 0, pc = 0;
};
struct Cell {
  Touch write, read, other_read;
};

// What another thread has released to this one by a fence and an atomic: everything those blocks
// did before the barrier epoch, and everything those threads did up to the clock.
struct Knowledge {
  struct ThreadClock {
    uint32_t clock;
    FenceScope scope;
  };
  std::map<uint32_t, uint32_t> block_epochs;
  std::map<uint32_t, ThreadClock> thread_clocks;
  void join(const Knowledge& other);
  bool empty() const { return block_epochs.empty() && thread_clocks.empty(); }
};

// ---- threads, warps, blocks ----

enum class State : uint8_t { kReady, kWaitsForWarp, kWaitsAtBarrier, kExited };
struct AsyncCopy {
  void* target;
  const void* source;
  unsigned source_bytes;
  int group;
  Site site;
};
struct Block;
struct Thread {
  Fiber fiber;
  uint3 index{};
  Block* block = nullptr;
  uint32_t linear = 0;  // in the block
  uint32_t id = 0;      // in the grid, from kFirstThread
  uint32_t lane = 0;
  State state = State::kReady;
  Site site{};  // where it waits

  WarpOp op{};
  unsigned mask = 0, argument = 0, width = 32;
  uint64_t value = 0, result = 0;
  BarrierOp barrier_op{};
  int predicate = 0, barrier_result = 0;

  uint32_t clock[32]{};  // what I know of the lanes of my warp; clock[lane] is my own time
  uint32_t released_epoch = 0, released_clock = 0;
  bool has_released = false;
  FenceScope released_scope{};
  std::unique_ptr<Knowledge> known, pending;  // pending: read by an atomic, not yet behind a fence

  std::vector<AsyncCopy> copies;
  int copy_group = 0;
  unsigned polls = 0;  // atomics and volatile reads since the last switch
};

struct WaitingLanes {
  unsigned mask, arrived;
  WarpOp op;
  Site site;
};
struct Warp {
  WaitingLanes groups[32];
  int num_groups = 0;
  unsigned exited = 0;
};
struct Block {
  uint32_t linear = 0;
  uint3 index{};
  uint32_t live = 0, at_barrier = 0;
  uint32_t epoch = 1;  // barriers passed
  char* arena = nullptr;
  std::vector<Cell> shadow;  // of the arena
  std::vector<Thread*> threads;
  std::vector<Warp> warps;
  Knowledge known;
};

// ---- the running launch ----

struct SharedVariable {
  size_t offset = 0, bytes = 0;
  const char* name = nullptr;  // null: not reached yet
};
struct Launch {
  LaunchArguments arguments;
  uint32_t block_threads = 0;
  std::vector<Thread*> ready;
  std::vector<Block*> resident;
  Block* finished = nullptr;
  std::vector<SharedVariable> shared;  // by slot id
  size_t static_shared_end = 0;
  std::unordered_map<const void*, Knowledge> released;  // by address of the atomic
  bool failed = false;
  std::string error;
  uint64_t random_state = 0, yields = 0;
};
extern Launch* running;       // null outside a launch
extern Thread* current;       // null on the host's stack
extern bool is_instrumented;  // some kernel file was compiled with -fsanitize=thread

// scheduler.cpp
uint64_t random_bits();
void park();  // leaves the running thread, which waits for something
void wake(Thread* thread);
void leave_for_host();  // leaves the running thread for good
void maybe_preempt();
void poll();  // called at every atomic and volatile read: lets a spinning thread give way

// collectives.cpp
void thread_exits();

// shared_memory.cpp
constexpr size_t kArenaBytes = 384 * 1024, kDynamicStart = 64 * 1024, kRedzoneBytes = 32;
void open_shared_memory(Block& block);
std::string shared_name(size_t offset);

// checker.cpp
struct AccessKind {
  bool is_write, is_atomic;
  size_t alignment;
};
void check_access(const void* address, size_t bytes, AccessKind kind, uint32_t pc);
void mark_in_flight(const void* address, size_t bytes, uint32_t pc);
void forget_launch();  // a launch boundary orders everything
uint32_t pc_offset(const void* return_address);

// atomics.cpp
void acquire_at(const void* address);
void release_at(const void* address);

// report.cpp
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
std::string describe(Site site);
std::string describe(const Thread& thread);
std::string describe_thread(uint32_t id);
std::string describe_pc(uint32_t pc);  // a placeholder: resolved on the host's stack
std::string describe_waits(const Block* only = nullptr);
std::string resolve_places(const std::string& message);
const char* op_name(WarpOp op);
[[noreturn]] void fail(const std::string& message);

extern StackPool stacks;

}  // namespace simt::detail
