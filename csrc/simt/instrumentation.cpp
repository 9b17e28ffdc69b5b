// The callbacks of -fsanitize=thread, without its library: g++ puts one before every load and store
// of the kernel files, and these hand them to the checker. Hidden, so that nothing else in the
// process can meet them.
#include "state.h"

#define CALLBACK extern "C" __attribute__((visibility("hidden")))
#define RETURN_PC simt::detail::pc_offset(__builtin_return_address(0))

using simt::detail::check_access;

CALLBACK void __tsan_init() { simt::detail::is_instrumented = true; }

#define PLAIN(N)                                                                              \
  CALLBACK void __tsan_read##N(void* p) { check_access(p, N, {false, false, N}, RETURN_PC); } \
  CALLBACK void __tsan_write##N(void* p) { check_access(p, N, {true, false, N}, RETURN_PC); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

// Packed types and memcpy: the compiler promises no alignment, and nvcc would use narrow accesses
// as well.
#define UNALIGNED(N)                                  \
  CALLBACK void __tsan_unaligned_read##N(void* p) {   \
    check_access(p, N, {false, false, 1}, RETURN_PC); \
  }                                                   \
  CALLBACK void __tsan_unaligned_write##N(void* p) {  \
    check_access(p, N, {true, false, 1}, RETURN_PC);  \
  }
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)
CALLBACK void __tsan_read_range(void* p, long bytes) {
  check_access(p, static_cast<size_t>(bytes), {false, false, 1}, RETURN_PC);
}
CALLBACK void __tsan_write_range(void* p, long bytes) {
  check_access(p, static_cast<size_t>(bytes), {true, false, 1}, RETURN_PC);
}

// A volatile access behaves like a relaxed atomic one: it races with plain accesses only.
static void check_volatile(void* p, size_t bytes, bool is_write, uint32_t pc) {
  if (!simt::detail::current) return;
  simt::detail::poll();
  check_access(p, bytes, {is_write, true, bytes}, pc);
  if (is_write)
    simt::detail::release_at(p);
  else
    simt::detail::acquire_at(p);
}
#define VOLATILE(N)                                                                          \
  CALLBACK void __tsan_volatile_read##N(void* p) { check_volatile(p, N, false, RETURN_PC); } \
  CALLBACK void __tsan_volatile_write##N(void* p) { check_volatile(p, N, true, RETURN_PC); }
VOLATILE(1)
VOLATILE(2)
VOLATILE(4)
VOLATILE(8)
VOLATILE(16)
