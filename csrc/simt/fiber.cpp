#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace simt::detail {
namespace {
constexpr size_t kPage = 4096;
// A guard page splits a mapping in two, and Linux gives a process 65,530 mappings. A launch of more
// threads than this guards every n-th stack only, and leaves mappings to the rest of the process.
constexpr size_t kMostGuards = 8192;
}  // namespace

#if defined(SIMT_UCONTEXT)

void prepare_fiber(Fiber& fiber, void (*entry)(), unsigned /*colour*/) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack_low;
  fiber.context.uc_stack.ss_size = static_cast<size_t>(fiber.stack_high - fiber.stack_low);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#else

// void simt_switch_stack(void** save, void* load): keeps the callee-saved registers of the System V
// ABI on the old stack, takes those of the new one, and jumps to the address it was left at.
extern "C" void simt_switch_stack(void** save, void* load);
asm(R"(
.text
.globl simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack,@function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size simt_switch_stack,.-simt_switch_stack
)");

void prepare_fiber(Fiber& fiber, void (*entry)(), unsigned colour) {
  constexpr unsigned kCacheLine = 64, kColours = 64, kSavedRegisters = 6;
  const auto top =
      reinterpret_cast<uintptr_t>(fiber.stack_high) - kCacheLine * (colour * 9 % kColours);
  auto** slot = reinterpret_cast<void**>(top & ~uintptr_t{15});
  *--slot = nullptr;  // stands for a return address: the ABI wants rsp = 8 mod 16 at the entry of a
                      // function
  *--slot = reinterpret_cast<void*>(entry);
  for (unsigned i = 0; i < kSavedRegisters; ++i) *--slot = nullptr;
  fiber.stack_pointer = slot;
}

void switch_fiber(Fiber& from, Fiber& to) {
  simt_switch_stack(&from.stack_pointer, to.stack_pointer);
}

#endif

StackPool::~StackPool() { release(); }

void StackPool::release() {
  if (base_) munmap(base_, bytes_);
  base_ = nullptr;
  bytes_ = count_ = 0;
}

void StackPool::reserve(size_t count, size_t stack_bytes) {
  stack_bytes = (stack_bytes + kPage - 1) / kPage * kPage;
  if (count <= count_ && stack_bytes == stack_bytes_) return;
  release();
  const size_t bytes = count * (stack_bytes + kPage);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(memory);
  bytes_ = bytes;
  count_ = count;
  stack_bytes_ = stack_bytes;
  const size_t step = (count + kMostGuards - 1) / kMostGuards;
  for (size_t i = 0; i < count; i += step) {
    if (mprotect(base_ + i * (stack_bytes + kPage), kPage, PROT_NONE) != 0) throw std::bad_alloc();
  }
}

void StackPool::assign(Fiber& fiber, size_t index) const {
  fiber.stack_low = base_ + index * (stack_bytes_ + kPage) + kPage;
  fiber.stack_high = fiber.stack_low + stack_bytes_;
}

}  // namespace simt::detail
