// The CUDA names a kernel may use, emulated: built-ins, shared memory, warp and block collectives,
// loads and stores, bit and float intrinsics. Each collective passes on the line it stands in, so
// that a diagnosis can name it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define SIMT_KERNEL static
#define SIMT_DEVICE inline
#define SIMT_UNROLL
// __shared__ is left undefined on purpose: shared memory is declared by SIMT_SHARED* only, so that
// it is checked.

namespace simt {

struct Site {
  const char* file;
  int line;
};
#define SIMT_CALLER ::simt::Site site = {__builtin_FILE(), __builtin_LINE()}

uint3 thread_index();
uint3 block_index();
dim3 block_dimensions();
dim3 grid_dimensions();

// ---- shared memory: one slot per declaration, in the arena of the running block ----
struct SharedSlot {
  const char* name;
  Site site;
  int id = -1;  // given at first use
};
void* static_shared(SharedSlot& slot, size_t bytes, size_t alignment);
void* dynamic_shared();

// ---- collectives ----
enum class WarpOp : uint8_t {
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAny,
  kAll,
  kSyncWarp,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kReduceMinSigned,
  kReduceMaxSigned,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kMatchAny,
};
uint64_t warp_collective(
    WarpOp op, unsigned mask, uint64_t value, unsigned argument, unsigned width, Site site);

enum class BarrierOp : uint8_t { kPlain, kCount, kAnd, kOr };
int block_barrier(BarrierOp op, int predicate, Site site);

enum class FenceScope { kBlock, kDevice };
void fence(FenceScope scope);
void yield(Site site);
[[noreturn]] void device_assert(const char* condition, Site site);
[[noreturn]] void misaligned(const void* address, size_t bytes, Site site);

// ---- atomics: defined in the runtime, so that the checker does not see them as plain accesses
// ----
enum class AtomicOp : uint8_t { kAdd, kMin, kMax, kExchange, kAnd, kOr, kIncrement };
#define SIMT_DECLARE_ATOMICS(T)                      \
  T atomic_update(AtomicOp op, T* address, T value); \
  T atomic_compare_swap(T* address, T expected, T value);
SIMT_DECLARE_ATOMICS(int)
SIMT_DECLARE_ATOMICS(unsigned)
SIMT_DECLARE_ATOMICS(unsigned long long)
SIMT_DECLARE_ATOMICS(float)
#undef SIMT_DECLARE_ATOMICS

// ---- asynchronous copies: seen by the thread at its wait, by others after a barrier on top ----
void cp_async16(void* shared, const void* source, unsigned source_bytes, SIMT_CALLER);
void cp_async_commit();
void cp_async_wait_groups(unsigned groups_left);
template <int kGroupsLeft>
inline void cp_async_wait() {
  cp_async_wait_groups(kGroupsLeft);
}

template <class T>
inline T shuffle(WarpOp op, unsigned mask, T value, unsigned argument, int width, Site site) {
  static_assert(std::is_trivially_copyable<T>::value && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(op, mask, bits, argument, static_cast<unsigned>(width), site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
inline unsigned vote(WarpOp op, unsigned mask, unsigned value, Site site) {
  return static_cast<unsigned>(warp_collective(op, mask, value, 0, 32, site));
}

// 128-bit accesses must go through these: g++ may split *(float4*)p into scalars, nvcc does not.
template <class T>
inline void require_aligned(const T* address, Site site) {
  if (__builtin_expect((reinterpret_cast<uintptr_t>(address) & (alignof(T) - 1)) != 0, 0))
    misaligned(address, sizeof(T), site);
}

}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_dimensions())
#define gridDim (::simt::grid_dimensions())
static constexpr int warpSize = 32;

#define SIMT_SLOT(name) static ::simt::SharedSlot simt_slot_##name = {#name, {__FILE__, __LINE__}}
#define SIMT_SHARED(T, name) \
  SIMT_SLOT(name);           \
  T& name = *static_cast<T*>(::simt::static_shared(simt_slot_##name, sizeof(T), alignof(T)))
#define SIMT_SHARED_ARRAY(T, name, N) \
  SIMT_SLOT(name);                    \
  T(&name)                            \
  [N] = *static_cast<T(*)[N]>(::simt::static_shared(simt_slot_##name, sizeof(T) * (N), alignof(T)))
#define SIMT_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared())

// ---- warp ----
#define SIMT_SHUFFLE(name, op, Argument)                                                        \
  template <class T>                                                                            \
  inline T name(unsigned mask, T value, Argument argument, int width = 32, SIMT_CALLER) {       \
    return simt::shuffle(simt::WarpOp::op, mask, value, static_cast<unsigned>(argument), width, \
                         site);                                                                 \
  }
SIMT_SHUFFLE(__shfl_sync, kShuffle, int)
SIMT_SHUFFLE(__shfl_up_sync, kShuffleUp, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, kShuffleDown, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, kShuffleXor, int)
#undef SIMT_SHUFFLE

#define SIMT_VOTE(Result, name, op, Value, convert)                                \
  inline Result name(unsigned mask, Value value, SIMT_CALLER) {                    \
    return static_cast<Result>(simt::vote(simt::WarpOp::op, mask, convert, site)); \
  }
SIMT_VOTE(unsigned, __ballot_sync, kBallot, int, value != 0)
SIMT_VOTE(int, __any_sync, kAny, int, value != 0)
SIMT_VOTE(int, __all_sync, kAll, int, value != 0)
SIMT_VOTE(unsigned, __reduce_add_sync, kReduceAdd, unsigned, value)
SIMT_VOTE(unsigned, __reduce_min_sync, kReduceMin, unsigned, value)
SIMT_VOTE(unsigned, __reduce_max_sync, kReduceMax, unsigned, value)
SIMT_VOTE(int, __reduce_add_sync, kReduceAdd, int, static_cast<unsigned>(value))
SIMT_VOTE(int, __reduce_min_sync, kReduceMinSigned, int, static_cast<unsigned>(value))
SIMT_VOTE(int, __reduce_max_sync, kReduceMaxSigned, int, static_cast<unsigned>(value))
SIMT_VOTE(unsigned, __reduce_and_sync, kReduceAnd, unsigned, value)
SIMT_VOTE(unsigned, __reduce_or_sync, kReduceOr, unsigned, value)
SIMT_VOTE(unsigned, __reduce_xor_sync, kReduceXor, unsigned, value)
#undef SIMT_VOTE

template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, SIMT_CALLER) {
  return static_cast<unsigned>(simt::shuffle(simt::WarpOp::kMatchAny, mask,
                                             static_cast<unsigned long long>(value), 0, 32, site));
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_CALLER) {
  simt::vote(simt::WarpOp::kSyncWarp, mask, 0, site);
}

// ---- block ----
inline void __syncthreads(SIMT_CALLER) { simt::block_barrier(simt::BarrierOp::kPlain, 0, site); }
inline int __syncthreads_count(int predicate, SIMT_CALLER) {
  return simt::block_barrier(simt::BarrierOp::kCount, predicate, site);
}
inline int __syncthreads_and(int predicate, SIMT_CALLER) {
  return simt::block_barrier(simt::BarrierOp::kAnd, predicate, site);
}
inline int __syncthreads_or(int predicate, SIMT_CALLER) {
  return simt::block_barrier(simt::BarrierOp::kOr, predicate, site);
}
inline void __threadfence() { simt::fence(simt::FenceScope::kDevice); }
inline void __threadfence_block() { simt::fence(simt::FenceScope::kBlock); }
inline void __nanosleep(unsigned, SIMT_CALLER) { simt::yield(site); }

#include "device_math.h"

#undef assert
#define assert(condition) \
  ((condition) ? (void)0 : ::simt::device_assert(#condition, ::simt::Site{__FILE__, __LINE__}))
