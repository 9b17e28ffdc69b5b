// Which fiber runs next, and the life of a launch: blocks start, run, retire.
#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <numeric>

#include "lock.h"
#include "state.h"

namespace simt {

Schedule& schedule() {
  static Schedule value;
  return value;
}
Limits& limits() {
  static Limits value;
  return value;
}
Stats& stats() {
  static Stats value;
  return value;
}

uint3 thread_index() { return detail::current->index; }
uint3 block_index() { return detail::current->block->index; }
dim3 block_dimensions() { return detail::running->arguments.block; }
dim3 grid_dimensions() { return detail::running->arguments.grid; }

namespace detail {

Launch* running;
Thread* current;
StackPool stacks;

namespace {
Fiber host;
std::vector<std::unique_ptr<Thread>> all_threads;
std::vector<Thread*> free_threads;
std::vector<std::unique_ptr<Block>> all_blocks;
std::vector<Block*> free_blocks;

void continue_with(Thread* next) {  // null: the host
  Fiber& from = current ? current->fiber : host;
  if (current) current->polls = 0;
  ++stats().switches;
  current = next;
  switch_fiber(from, next ? next->fiber : host);
}

Thread* pick() {
  auto& ready = running->ready;
  if (ready.empty()) return nullptr;
  if (schedule().threads == Order::kRandom)
    std::swap(ready[random_bits() % ready.size()], ready.back());
  Thread* thread = ready.back();
  ready.pop_back();
  return thread;
}

void run_thread() {
  running->arguments.run_thread(running->arguments.call);
  thread_exits();
  Block* block = current->block;
  if (block->live == 0) running->finished = block;
  continue_with(running->finished ? nullptr : pick());
  __builtin_unreachable();
}

uint3 unflatten(uint32_t linear, dim3 size) {
  return {linear % size.x, linear / size.x % size.y, linear / size.x / size.y};
}
}  // namespace

uint64_t random_bits() {  // splitmix64
  uint64_t z = (running->random_state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void park() {
  Thread* next = pick();
  if (next != current) continue_with(next);
}

void wake(Thread* thread) {
  thread->state = State::kReady;
  running->ready.push_back(thread);
}

void leave_for_host() { continue_with(nullptr); }

static void give_way() {
  auto& ready = running->ready;
  if (ready.empty()) return;
  ready.push_back(current);
  std::swap(ready[random_bits() % ready.size()], ready.back());
  Thread* next = ready.back();
  ready.pop_back();
  if (next != current) continue_with(next);
}

void maybe_preempt() {
  const double probability = schedule().preempt;
  if (probability > 0 && static_cast<double>(random_bits() >> 11) * 0x1p-53 < probability)
    give_way();
}

static void count_yield(const std::string& place) {
  if (++running->yields > limits().yields)
    fail(format("livelock: %llu yields in one launch, the last at ",
                static_cast<unsigned long long>(limits().yields)) +
         place + describe_waits());
  give_way();
}

void poll() {
  constexpr unsigned kPollsBeforeGivingWay = 256;
  if (++current->polls < kPollsBeforeGivingWay) return;
  current->polls = 0;
  count_yield("an atomic or volatile access");
}

}  // namespace detail

void yield(Site site) { detail::count_yield(detail::describe(site)); }

namespace detail {
namespace {

void start_block(uint32_t linear) {
  if (free_blocks.empty()) {
    all_blocks.push_back(std::make_unique<Block>());
    void* arena =
        mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) throw std::bad_alloc();
    all_blocks.back()->arena = static_cast<char*>(arena);
    free_blocks.push_back(all_blocks.back().get());
  }
  Block* block = free_blocks.back();
  free_blocks.pop_back();
  const uint32_t size = running->block_threads;
  block->linear = linear;
  block->index = unflatten(linear, running->arguments.grid);
  block->live = size;
  block->at_barrier = 0;
  block->epoch = 1;
  block->known = Knowledge{};
  block->threads.clear();
  block->warps.assign((size + 31) / 32, Warp{});
  open_shared_memory(*block);
  for (uint32_t i = 0; i < size; ++i) {
    Thread* thread = free_threads.back();
    free_threads.pop_back();
    const Fiber fiber = thread->fiber;
    *thread = Thread{};
    thread->fiber.stack_low = fiber.stack_low;
    thread->fiber.stack_high = fiber.stack_high;
    thread->block = block;
    thread->linear = i;
    thread->lane = i % 32;
    thread->id = linear * size + i + kFirstThread;
    thread->index = unflatten(i, running->arguments.block);
    thread->clock[thread->lane] = 1;
    prepare_fiber(thread->fiber, run_thread, i);
    block->threads.push_back(thread);
  }
  // `ready` is a stack: what should run first is pushed last
  const bool reversed = schedule().threads == Order::kReversed;
  for (uint32_t i = 0; i < size; ++i)
    running->ready.push_back(block->threads[reversed ? i : size - 1 - i]);
  running->resident.push_back(block);
  stats().threads += size;
}

void retire_block(Block* block) {
  free_threads.insert(free_threads.end(), block->threads.rbegin(), block->threads.rend());
  running->resident.erase(std::find(running->resident.begin(), running->resident.end(), block));
  free_blocks.push_back(block);
}

void check_launch(const LaunchArguments& a) {
  const auto bad = [&](const std::string& what) {
    throw Error(std::string("simt[") + a.name + "]: " + what);
  };
  const uint64_t threads = uint64_t{a.block.x} * a.block.y * a.block.z;
  if (threads == 0 || threads > 1024 || a.block.z > 64)
    bad(format("block must have 1 to 1024 threads and z <= 64, got (%u,%u,%u)", a.block.x,
               a.block.y, a.block.z));
  if (a.grid.x == 0 || a.grid.x > 0x7fffffffu || a.grid.y == 0 || a.grid.y > 65535 ||
      a.grid.z == 0 || a.grid.z > 65535)
    bad(format("grid must be within (2^31-1, 65535, 65535) and not empty, got (%u,%u,%u)", a.grid.x,
               a.grid.y, a.grid.z));
  if (a.shared_bytes > limits().dynamic_shared_bytes)
    bad(format("dynamic shared memory must be at most %zu bytes, got %zu",
               limits().dynamic_shared_bytes, a.shared_bytes));
}

void reserve_threads(size_t count) {
  count = std::max<size_t>(count, 1024);
  stacks.reserve(count, limits().stack_bytes);
  while (all_threads.size() < stacks.count()) all_threads.push_back(std::make_unique<Thread>());
  free_threads.clear();
  for (size_t i = stacks.count(); i-- > 0;) {
    stacks.assign(all_threads[i]->fiber, i);
    free_threads.push_back(all_threads[i].get());
  }
}

void run_blocks() {
  const dim3 grid = running->arguments.grid;
  const uint32_t num_blocks = grid.x * grid.y * grid.z;
  const uint32_t wanted =
      schedule().resident > 0 ? static_cast<uint32_t>(schedule().resident) : num_blocks;
  const uint32_t resident = std::min(num_blocks, wanted);
  reserve_threads(static_cast<size_t>(resident) * running->block_threads);
  std::vector<uint32_t> order(num_blocks);
  std::iota(order.begin(), order.end(), 0u);
  if (schedule().blocks == Order::kReversed) std::reverse(order.begin(), order.end());
  if (schedule().blocks == Order::kRandom)
    for (size_t i = num_blocks; i > 1; --i) std::swap(order[i - 1], order[random_bits() % i]);
  size_t next = 0;
  while (next < resident) start_block(order[next++]);
  while (!running->resident.empty()) {
    if (Thread* thread = pick()) {
      continue_with(thread);
    } else {
      running->failed = true;
      running->error = "deadlock: no thread can run" + describe_waits();
    }
    if (running->failed)
      throw Error(std::string("simt[") + running->arguments.name +
                  "]: " + resolve_places(running->error));
    if (!running->finished) continue;
    retire_block(std::exchange(running->finished, nullptr));
    if (next < num_blocks) start_block(order[next++]);
  }
}
}  // namespace
}  // namespace detail

void run_grid(const LaunchArguments& arguments) {
  std::lock_guard<std::recursive_mutex> lock(detail::emulator_lock());
  detail::check_launch(arguments);
  detail::Launch state;
  state.arguments = arguments;
  state.block_threads = arguments.block.x * arguments.block.y * arguments.block.z;
  state.random_state = schedule().seed * 0x2545f4914f6cdd1dull + 1;
  struct Cleanup {
    ~Cleanup() {
      for (detail::Block* block : detail::running->resident) detail::free_blocks.push_back(block);
      detail::running = nullptr;
      detail::current = nullptr;
      detail::forget_launch();
    }
  } cleanup;
  detail::running = &state;
  ++stats().launches;
  detail::run_blocks();
}

}  // namespace simt
