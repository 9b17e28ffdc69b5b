// Atomics, fences and asynchronous copies: how one thread learns what another did.
//
// fence ; atomic            releases what the thread (and, behind a barrier, its block) did before
// the fence atomic ; fence            acquires what was released at that address An atomic without
// the fences orders nothing else, as in CUDA.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "state.h"

namespace simt {
namespace detail {

void acquire_at(const void* address) {
  const auto found = running->released.find(address);
  if (found == running->released.end()) return;
  if (!current->pending) current->pending = std::make_unique<Knowledge>();
  current->pending->join(found->second);
}

void release_at(const void* address) {
  const Thread& me = *current;
  if (!me.has_released) return;
  Knowledge mine;
  mine.thread_clocks[me.id] = {me.released_clock, me.released_scope};
  if (me.released_scope == FenceScope::kDevice)
    mine.block_epochs[me.block->linear] = me.released_epoch;
  if (me.known) mine.join(*me.known);
  mine.join(me.block->known);
  running->released[address].join(mine);
}

namespace {

// Before the value is touched: the checks, and a chance for others to run.
void begin_atomic(const void* address, size_t bytes, const void* return_address) {
  ++stats().atomics;
  poll();
  maybe_preempt();
  if (is_instrumented) check_access(address, bytes, {true, true, bytes}, pc_offset(return_address));
}

void end_atomic(const void* address) {
  if (!is_instrumented) return;
  acquire_at(address);
  release_at(address);
}

template <class T>
T combine(AtomicOp op, T old, T value) {
  if (op == AtomicOp::kAdd) return old + value;
  if (op == AtomicOp::kExchange) return value;
  if constexpr (std::is_integral<T>::value) {
    switch (op) {
      case AtomicOp::kMin:
        return std::min(old, value);
      case AtomicOp::kMax:
        return std::max(old, value);
      case AtomicOp::kAnd:
        return old & value;
      case AtomicOp::kOr:
        return old | value;
      case AtomicOp::kIncrement:
        return old >= value ? 0 : old + 1;
      default:
        break;
    }
  }
  return old;
}

template <class T>
T update(AtomicOp op, T* address, T value, const void* return_address) {
  begin_atomic(address, sizeof(T), return_address);
  const T old = *address;
  *address = combine(op, old, value);
  end_atomic(address);
  return old;
}

template <class T>
T compare_swap(T* address, T expected, T value, const void* return_address) {
  begin_atomic(address, sizeof(T), return_address);
  const T old = *address;
  if (std::memcmp(&old, &expected, sizeof(T)) == 0) *address = value;
  end_atomic(address);
  return old;
}

void finish_copy(const AsyncCopy& copy, uint32_t pc) {
  constexpr size_t kBytes = 16;
  if (is_instrumented) {
    check_access(copy.source, copy.source_bytes, {false, false, 1}, pc);
    const auto offset =
        static_cast<size_t>(static_cast<char*>(copy.target) - current->block->arena);
    for (size_t i = offset; i < offset + kBytes; ++i)
      current->block->shadow[i].write = {current->id, current->block->epoch,
                                         current->clock[current->lane], pc};
  }
  std::memcpy(copy.target, copy.source, copy.source_bytes);
  std::memset(static_cast<char*>(copy.target) + copy.source_bytes, 0, kBytes - copy.source_bytes);
}
}  // namespace
}  // namespace detail

using namespace detail;

#define SIMT_DEFINE_ATOMICS(T)                                                  \
  T atomic_update(AtomicOp op, T* address, T value) {                           \
    return update(op, address, value, __builtin_return_address(0));             \
  }                                                                             \
  T atomic_compare_swap(T* address, T expected, T value) {                      \
    return compare_swap(address, expected, value, __builtin_return_address(0)); \
  }
SIMT_DEFINE_ATOMICS(int)
SIMT_DEFINE_ATOMICS(unsigned)
SIMT_DEFINE_ATOMICS(unsigned long long)
SIMT_DEFINE_ATOMICS(float)

void fence(FenceScope scope) {
  Thread& me = *current;
  me.released_epoch = me.block->epoch;
  me.released_clock = me.clock[me.lane]++;
  me.released_scope = scope;
  me.has_released = true;
  if (!me.pending) return;
  if (!me.known) me.known = std::make_unique<Knowledge>();
  me.known->join(*me.pending);
  me.pending.reset();
}

// The bytes arrive as late as CUDA allows, at the wait; until then nobody may touch the target.
void cp_async16(void* shared, const void* source, unsigned source_bytes, Site site) {
  const uint32_t pc = pc_offset(__builtin_return_address(0));
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(source)) & 15)
    misaligned(source, 16, site);
  if (source_bytes > 16)
    fail(format("cp.async of more than 16 bytes at %s", describe(site).c_str()));
  const auto* target = static_cast<const char*>(shared);
  if (target < current->block->arena || target >= current->block->arena + kArenaBytes)
    fail(format("cp.async to something else than shared memory at %s", describe(site).c_str()));
  if (is_instrumented) {
    check_access(shared, 16, {true, false, 16}, pc);
    mark_in_flight(shared, 16, pc);
  }
  current->copies.push_back({shared, source, source_bytes, current->copy_group, site});
}

void cp_async_commit() { ++current->copy_group; }

void cp_async_wait_groups(unsigned groups_left) {
  auto& copies = current->copies;
  const int first_kept = current->copy_group - static_cast<int>(groups_left);
  const uint32_t pc = pc_offset(__builtin_return_address(0));
  size_t done = 0;
  for (; done < copies.size() && copies[done].group < first_kept; ++done)
    finish_copy(copies[done], pc);
  copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(done));
}

}  // namespace simt
