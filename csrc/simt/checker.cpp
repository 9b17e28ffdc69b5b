// The judge of every load and store: in bounds, aligned, initialised, and ordered after what it
// meets.
//
// Order is happens-before, computed from what the kernel really does (barriers, __syncwarp, fence +
// atomic + fence), so a race is reported even when the schedule at hand hides it. Every byte of
// shared memory and of written global memory remembers its last write and two reads.
#include "tracked.h"

extern "C" const char __ehdr_start[] __attribute__((weak, visibility("hidden")));
extern "C" const char _end[] __attribute__((weak, visibility("hidden")));

namespace simt::detail {

bool is_instrumented;

uint32_t pc_offset(const void* return_address) {
  return static_cast<uint32_t>(static_cast<const char*>(return_address) - __ehdr_start);
}

void Knowledge::join(const Knowledge& other) {
  for (const auto& [block, epoch] : other.block_epochs) {
    uint32_t& mine = block_epochs[block];
    mine = std::max(mine, epoch);
  }
  for (const auto& [thread, clock] : other.thread_clocks) {
    auto [entry, is_new] = thread_clocks.try_emplace(thread, clock);
    if (!is_new && clock.clock >= entry->second.clock) entry->second = clock;
  }
}

namespace {

struct Place {           // for a message, made only when one is needed
  const Buffer* buffer;  // null: shared memory
  size_t offset;
  std::string describe() const {
    return buffer ? format("global '%s'+%zu", buffer->name.c_str(), offset) : shared_name(offset);
  }
};

bool knows(const Knowledge& knowledge, const Touch& touch, uint32_t block, bool same_block) {
  if (knowledge.empty()) return false;
  if (!same_block) {
    const auto epoch = knowledge.block_epochs.find(block);
    if (epoch != knowledge.block_epochs.end() && touch.epoch < epoch->second) return true;
  }
  const auto clock = knowledge.thread_clocks.find(touch.thread);
  return clock != knowledge.thread_clocks.end() &&
         (touch.clock & ~kAtomicBit) <= clock->second.clock &&
         (same_block || clock->second.scope == FenceScope::kDevice);
}

// Does `touch` happen before what the running thread does now?
bool is_ordered(const Touch& touch) {
  const Thread& me = *current;
  if (touch.thread == 0 || touch.thread == kHost || touch.thread == me.id) return true;
  const uint32_t block = (touch.thread - kFirstThread) / running->block_threads;
  const uint32_t linear = (touch.thread - kFirstThread) % running->block_threads;
  const bool same_block = block == me.block->linear;
  if (same_block) {
    if (touch.epoch < me.block->epoch) return true;
    if (linear / 32 == me.linear / 32 && me.clock[linear % 32] >= (touch.clock & ~kAtomicBit))
      return true;
  }
  return (me.known && knows(*me.known, touch, block, same_block)) ||
         knows(me.block->known, touch, block, same_block);
}

[[noreturn]] void report_race(
    const char* earlier, const Touch& touch, bool is_write, uint32_t pc, const Place& place) {
  const bool same_block =
      (touch.thread - kFirstThread) / running->block_threads == current->block->linear;
  fail("data race on " + place.describe() + ": " + (is_write ? "write" : "read") + " by " +
       describe(*current) + " at " + describe_pc(pc) + ", " + earlier + " by " +
       describe_thread(touch.thread) + " at " + describe_pc(touch.pc) +
       ", no order between them (" +
       (same_block ? "missing __syncthreads or __syncwarp?" : "missing __threadfence and atomic?") +
       ")");
}

void check_cell(Cell& cell, AccessKind kind, uint32_t pc, const Place& place) {
  const uint32_t writer = cell.write.thread;
  if (writer == kInFlight)
    fail(std::string(kind.is_write ? "write to " : "read of ") + place.describe() + " at " +
         describe_pc(pc) + " while the cp.async of " + describe_pc(cell.write.pc) +
         " is in flight");
  if ((!kind.is_write || kind.is_atomic) && writer == 0)
    fail("read of uninitialised " + place.describe() + " at " + describe_pc(pc));
  const bool both_atomic = kind.is_atomic && (cell.write.clock & kAtomicBit);
  if (!both_atomic && !is_ordered(cell.write))
    report_race(cell.write.clock & kAtomicBit ? "atomic" : "write", cell.write, kind.is_write, pc,
                place);
  const Touch mine{current->id, current->block->epoch,
                   current->clock[current->lane] | (kind.is_atomic ? kAtomicBit : 0), pc};
  if (!kind.is_write) {
    const bool replaces = cell.read.thread == mine.thread || is_ordered(cell.read);
    (replaces ? cell.read : cell.other_read) = mine;
    return;
  }
  for (const Touch* read : {&cell.read, &cell.other_read})
    if (!(kind.is_atomic && (read->clock & kAtomicBit)) && !is_ordered(*read))
      report_race("read", *read, true, pc, place);
  cell.write = mine;
  cell.read = cell.other_read = Touch{};
}

void check_shared(size_t offset, size_t bytes, AccessKind kind, uint32_t pc) {
  std::vector<Cell>& shadow = current->block->shadow;
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (i >= shadow.size() || shadow[i].write.thread == kRedzone)
      fail(format("out-of-bounds %zu-byte %s of ", bytes, kind.is_write ? "write" : "read") +
           shared_name(offset) + " at " + describe_pc(pc));
    check_cell(shadow[i], kind, pc, {nullptr, i});
  }
}

bool is_launch_argument(const char* address) {
  const auto* begin = static_cast<const char*>(running->arguments.call);
  return address >= begin && address < begin + running->arguments.call_bytes;
}

void check_global(const char* address, size_t bytes, AccessKind kind, uint32_t pc) {
  Buffer* buffer = find_buffer(address, bytes, kind.is_write);
  if (!buffer)
    fail(format("out-of-bounds global %s of %zu bytes at %p: ", kind.is_write ? "write" : "read",
                bytes, static_cast<const void*>(address)) +
         describe_neighbour(address, bytes) + "; at " + describe_pc(pc));
  if (buffer->access == Access::kReadOnly) return;
  const auto first = static_cast<size_t>(address - buffer->begin);
  for (size_t i = first; i < first + bytes; ++i) check_cell(buffer->cell(i), kind, pc, {buffer, i});
}
}  // namespace

void check_access(const void* pointer, size_t bytes, AccessKind kind, uint32_t pc) {
  if (!current) return;  // the host's part of a kernel file
  const Thread& me = *current;
  const auto* address = static_cast<const char*>(pointer);
  if (address >= me.fiber.stack_low && address < me.fiber.stack_high) return;  // local memory
  if (!kind.is_write &&
      ((address >= __ehdr_start && address < _end) || is_launch_argument(address)))
    return;
  ++(kind.is_write ? stats().writes : stats().reads);
  if (reinterpret_cast<uintptr_t>(address) & (kind.alignment - 1))
    fail(format("misaligned %zu-byte %s of %p at ", bytes, kind.is_write ? "write" : "read",
                pointer) +
         describe_pc(pc));
  const char* arena = me.block->arena;
  if (address >= arena && address < arena + kArenaBytes)
    check_shared(static_cast<size_t>(address - arena), bytes, kind, pc);
  else
    check_global(address, bytes, kind, pc);
  maybe_preempt();
}

void mark_in_flight(const void* pointer, size_t bytes, uint32_t pc) {
  const auto offset =
      static_cast<size_t>(static_cast<const char*>(pointer) - current->block->arena);
  for (size_t i = offset; i < offset + bytes; ++i) {
    Touch& write = current->block->shadow[i].write;
    write.thread = kInFlight;
    write.pc = pc;
  }
}

}  // namespace simt::detail
