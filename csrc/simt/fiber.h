// A stack one can leave and come back to: what a CUDA thread is here. Hand-written switch on x86-64
// (tens of nanoseconds less than a system call), ucontext elsewhere or with SIMT_UCONTEXT.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT
#endif
#if defined(SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace simt::detail {

struct Fiber {
  char* stack_low = nullptr;  // null: the stack of the host thread
  char* stack_high = nullptr;
#if defined(SIMT_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
};

// Makes `fiber` start at `entry`, which must never return. `colour` shifts the top of the stack by
// a few cache lines: a thousand stacks at the same offset of a page would all fall into the same
// sets of the cache.
void prepare_fiber(Fiber& fiber, void (*entry)(), unsigned colour);

// Saves the running fiber in `from` and continues `to`.
void switch_fiber(Fiber& from, Fiber& to);

// Maps `count` stacks in one piece, each above a page that faults, so that an overflow cannot reach
// a neighbour.
class StackPool {
 public:
  ~StackPool();
  void reserve(size_t count, size_t stack_bytes);
  void assign(Fiber& fiber, size_t index) const;
  bool contains(const char* address) const { return address >= base_ && address < base_ + bytes_; }
  size_t count() const { return count_; }

 private:
  void release();
  char* base_ = nullptr;
  size_t bytes_ = 0, count_ = 0, stack_bytes_ = 0;
};

}  // namespace simt::detail
