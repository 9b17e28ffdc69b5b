// One tiny kernel per diagnosis. The line that must be named carries the comment "FAULT <kernel>";
// selftest.cpp reads this file to find it.
#include "../simt.cuh"
#include "cases.h"
#include "last_block.cuh"

namespace {

// ---- data races ----
SIMT_KERNEL void read_after_write(float* out) {
  SIMT_SHARED_ARRAY(float, s, 64);
  s[me()] = 0;
  __syncthreads();
  s[me()] = 1;               // also named: the other side of the race
  out[me()] = s[63 - me()];  // FAULT read_after_write
}
SIMT_KERNEL void write_after_read(float* out) {
  SIMT_SHARED_ARRAY(float, s, 64);
  s[me()] = 1;
  __syncthreads();
  const float neighbour = s[(me() + 1) & 63];  // FAULT write_after_read
  s[me()] = 9;
  out[me()] = neighbour;
}
SIMT_KERNEL void write_after_write(float* out) {
  SIMT_SHARED(float, s);
  s = 1.f;  // FAULT write_after_write
  __syncthreads();
  if (me() == 0) out[0] = s;
}
SIMT_KERNEL void shuffle_is_no_fence(float* out) {
  SIMT_SHARED_ARRAY(float, s, 32);
  s[me()] = 1;
  __syncwarp();
  s[me()] = 2;
  __shfl_sync(kFull, me(), 0);
  out[me()] = s[31 - me()];  // FAULT shuffle_is_no_fence
}
SIMT_KERNEL void syncwarp_of_half(float* out) {
  SIMT_SHARED_ARRAY(float, s, 32);
  s[me()] = 1;
  __syncwarp();
  s[me()] = 2;
  __syncwarp(me() < 16 ? 0x0000ffffu : 0xffff0000u);
  out[me()] = s[31 - me()];  // FAULT syncwarp_of_half
}
SIMT_KERNEL void two_blocks_one_address(float* out) {
  out[0] = static_cast<float>(blockIdx.x);  // FAULT two_blocks_one_address
}
SIMT_KERNEL void no_release_fence(float* partial, unsigned* arrived, float* out) {
  last_block_sums<false, true>(partial, arrived, out);
}
SIMT_KERNEL void no_acquire_fence(float* partial, unsigned* arrived, float* out) {
  last_block_sums<true, false>(partial, arrived, out);
}

// ---- memory ----
SIMT_KERNEL void uninitialised_shared(float* out) {
  SIMT_SHARED_ARRAY(float, s, 64);
  if (me() < 63) s[me()] = 1;
  __syncthreads();
  out[me()] = s[me()];  // FAULT uninitialised_shared
}
SIMT_KERNEL void uninitialised_global(float* out) {
  out[0] = out[1] + 1;  // FAULT uninitialised_global
}
SIMT_KERNEL void shared_out_of_bounds(float* out) {
  SIMT_SHARED_ARRAY(float, s, 32);
  SIMT_SHARED_ARRAY(float, next, 32);
  next[me()] = s[me()] = 0;
  __syncwarp();
  volatile int beyond = me() + 1;
  out[me()] = s[beyond];  // FAULT shared_out_of_bounds
}
SIMT_KERNEL void dynamic_out_of_bounds(float* out) {
  SIMT_DYNAMIC_SHARED(float, s);
  s[me()] = 1;  // FAULT dynamic_out_of_bounds
  __syncthreads();
  out[me()] = s[me()];
}
SIMT_KERNEL void read_out_of_bounds(const float* in, float* out) {
  out[me()] = in[me() + 65];  // FAULT read_out_of_bounds
}
SIMT_KERNEL void write_out_of_bounds(float* out) {
  out[me() + 1] = 0;  // FAULT write_out_of_bounds
}
SIMT_KERNEL void vector_past_the_end(const float* in, float* out) {
  const float4 q = __ldg(reinterpret_cast<const float4*>(in) + 32);  // FAULT vector_past_the_end
  out[0] = q.x;
}
SIMT_KERNEL void write_to_read_only(const float* in) {
  const_cast<float*>(in)[0] = 1;  // FAULT write_to_read_only
}
SIMT_KERNEL void misaligned_vector(const float* in, float* out) {
  const float4 q = __ldg(reinterpret_cast<const float4*>(in + 1));  // FAULT misaligned_vector
  out[0] = q.x;
}
SIMT_KERNEL void misaligned_store(float* out) {
  __stcg(reinterpret_cast<uint4*>(out + 1), uint4{1, 2, 3, 4});  // FAULT misaligned_store
}
SIMT_KERNEL void stack_of_another(float* out) {
  SIMT_SHARED(float*, shared_pointer);
  float local = 3;
  if (me() == 0) shared_pointer = &local;
  __syncthreads();
  out[me()] = *shared_pointer;  // FAULT stack_of_another
  __syncthreads();
}

// ---- lanes and barriers ----
SIMT_KERNEL void exited_lane(float* out) {
  if (me() >= 20) return;
  out[me()] = static_cast<float>(__shfl_xor_sync(kFull, me(), 1));  // FAULT exited_lane
}
SIMT_KERNEL void absent_lane(float* out) {
  int v = me();
  if (me() != 31) v = __shfl_xor_sync(kFull, v, 1);  // FAULT absent_lane
  __syncwarp();
  out[me()] = static_cast<float>(v);
}
SIMT_KERNEL void caller_not_in_mask(float* out) {
  out[me()] = static_cast<float>(__shfl_sync(0x0000ffffu, me(), 0));  // FAULT caller_not_in_mask
}
SIMT_KERNEL void source_not_in_mask(float* out) {
  if (me() < 16)
    out[me()] = static_cast<float>(__shfl_sync(0xffffu, me(), 20));  // FAULT source_not_in_mask
}
SIMT_KERNEL void lane_does_not_exist(float* out) {
  out[me()] = static_cast<float>(__shfl_sync(kFull, me(), 0));  // FAULT lane_does_not_exist
}
SIMT_KERNEL void masks_disagree(float* out) {
  out[me()] = static_cast<float>(
      __shfl_sync(me() < 16 ? 0xffffu : kFull, me(), 0));  // FAULT masks_disagree
}
SIMT_KERNEL void width_of_three(float* out) {
  out[me()] = static_cast<float>(__shfl_sync(kFull, me(), 0, 3));  // FAULT width_of_three
}
SIMT_KERNEL void divergent_barrier(float* out) {
  if (me() < 32) {
    __syncthreads();  // FAULT divergent_barrier
    out[me()] = 1;
  } else {
    __syncthreads();
  }
}
SIMT_KERNEL void exit_before_barrier(float* out) {
  if (me() == 5) return;
  __syncthreads();  // FAULT exit_before_barrier
  out[me()] = 1;
}
SIMT_KERNEL void barrier_in_branch(float* out) {
  if (me() < 40) __syncthreads();  // FAULT barrier_in_branch
  out[me()] = 1;
}
SIMT_KERNEL void waits_for_ever(float* flag) {
  if (me() == 0)
    while (atomicAdd(flag, 0.f) < 1.f) __nanosleep(10);  // FAULT waits_for_ever
}
SIMT_KERNEL void spins_without_sleep(float* flag) {
  if (me() == 0)
    while (atomicAdd(flag, 0.f) < 1.f) {
    }
}

// ---- asynchronous copies, asserts, limits ----
SIMT_DEVICE void copy_mine(float4* s, const float* in) {
  simt::cp_async16(&s[me()], in + 4 * me(), 16);
  simt::cp_async_commit();
}
SIMT_KERNEL void copy_without_wait(const float* in, float* out) {
  SIMT_SHARED_ARRAY(float4, s, 32);
  copy_mine(s, in);
  __syncthreads();
  out[me()] = s[me()].x;  // FAULT copy_without_wait
  simt::cp_async_wait<0>();
}
SIMT_KERNEL void copy_without_barrier(const float* in, float* out) {
  SIMT_SHARED_ARRAY(float4, s, 32);
  copy_mine(s, in);
  simt::cp_async_wait<0>();
  out[me()] = s[31 - me()].x;  // FAULT copy_without_barrier
}
SIMT_KERNEL void copy_over_readers(const float* in, float* out) {
  SIMT_SHARED_ARRAY(float4, s, 32);
  copy_mine(s, in);
  simt::cp_async_wait<0>();
  __syncthreads();
  out[me()] = s[31 - me()].x;  // FAULT copy_over_readers
  copy_mine(s, in);
  simt::cp_async_wait<0>();
}
SIMT_KERNEL void copy_never_awaited(const float* in, float* out) {
  SIMT_SHARED_ARRAY(float4, s, 32);
  simt::cp_async16(&s[me()], in + 4 * me(), 16);  // FAULT copy_never_awaited
  out[me()] = 1;
}
SIMT_KERNEL void failing_assert(float* out) {
  assert(threadIdx.x < 7);  // FAULT failing_assert
  out[me()] = 1;
}
SIMT_KERNEL void too_much_static_shared(float* out) {
  SIMT_SHARED_ARRAY(float, s, 13000);  // FAULT too_much_static_shared
  s[me()] = 1;
  out[0] = s[me()];
}

}  // namespace

#define FAULT(kernel, words, marked, blocks, threads, shared, ...)                             \
  {#kernel, words, marked, [](Memory& m) {                                                     \
     simt::launch(#kernel, kernel, dim3(blocks), dim3(threads), shared, nullptr, __VA_ARGS__); \
   }}
const Fault kFaults[] = {
    FAULT(read_after_write, "data race on shared 's'", "read_after_write", 1, 64, 0, m.out),
    FAULT(write_after_read, "data race on shared 's'", "write_after_read", 1, 64, 0, m.out),
    FAULT(write_after_write, "data race on shared 's'", "write_after_write", 1, 64, 0, m.out),
    FAULT(shuffle_is_no_fence, "data race on shared 's'", "shuffle_is_no_fence", 1, 32, 0, m.out),
    FAULT(syncwarp_of_half, "data race on shared 's'", "syncwarp_of_half", 1, 32, 0, m.out),
    FAULT(two_blocks_one_address,
          "data race on global 'out'",
          "two_blocks_one_address",
          2,
          1,
          0,
          m.out),
    FAULT(uninitialised_shared,
          "read of uninitialised shared 's'",
          "uninitialised_shared",
          1,
          64,
          0,
          m.out),
    FAULT(uninitialised_global,
          "read of uninitialised global 'out'",
          "uninitialised_global",
          1,
          1,
          0,
          m.out),
    FAULT(shared_out_of_bounds,
          "out-of-bounds 4-byte read of shared 's'",
          "shared_out_of_bounds",
          1,
          32,
          0,
          m.out),
    FAULT(dynamic_out_of_bounds,
          "out-of-bounds 4-byte write of dynamic shared",
          "dynamic_out_of_bounds",
          1,
          64,
          128,
          m.out),
    FAULT(read_out_of_bounds,
          "out-of-bounds global read of 4 bytes",
          "read_out_of_bounds",
          1,
          64,
          0,
          m.in,
          m.out),
    FAULT(write_out_of_bounds,
          "out-of-bounds global write of 4 bytes",
          "write_out_of_bounds",
          1,
          64,
          0,
          m.out),
    FAULT(vector_past_the_end,
          "bytes from the start of 'in' of 512 bytes",
          "vector_past_the_end",
          1,
          1,
          0,
          m.in,
          m.out),
    FAULT(write_to_read_only, "'in' is read-only", "write_to_read_only", 1, 1, 0, m.in),
    FAULT(misaligned_vector, "misaligned 16-byte", "misaligned_vector", 1, 1, 0, m.in, m.out),
    FAULT(misaligned_store, "misaligned 16-byte", "misaligned_store", 1, 1, 0, m.out),
    FAULT(stack_of_another, "local memory) of another thread", "stack_of_another", 1, 32, 0, m.out),
    FAULT(exited_lane, "exited", "exited_lane", 1, 32, 0, m.out),
    FAULT(absent_lane, "wait", "absent_lane", 1, 32, 0, m.out),
    FAULT(caller_not_in_mask, "is not in its own mask", "caller_not_in_mask", 1, 32, 0, m.out),
    FAULT(source_not_in_mask,
          "reads lane 20, which is not in mask",
          "source_not_in_mask",
          1,
          32,
          0,
          m.out),
    FAULT(lane_does_not_exist,
          "names lanes that do not exist",
          "lane_does_not_exist",
          1,
          20,
          0,
          m.out),
    FAULT(masks_disagree, "exited", "masks_disagree", 1, 32, 0, m.out),
    FAULT(width_of_three, "width must be a power of two", "width_of_three", 1, 32, 0, m.out),
    FAULT(divergent_barrier, "divergent barrier", "divergent_barrier", 1, 64, 0, m.out),
    FAULT(exit_before_barrier, "divergent barrier", "exit_before_barrier", 1, 64, 0, m.out),
    FAULT(barrier_in_branch, "divergent barrier", "barrier_in_branch", 1, 64, 0, m.out),
    FAULT(copy_without_wait, "in flight", "copy_without_wait", 1, 32, 0, m.in, m.out),
    FAULT(copy_without_barrier, "shared 's'", "copy_without_barrier", 1, 32, 0, m.in, m.out),
    FAULT(copy_over_readers, "shared 's'", "copy_over_readers", 1, 32, 0, m.in, m.out),
    FAULT(copy_never_awaited,
          "without waiting for its cp.async",
          "copy_never_awaited",
          1,
          32,
          0,
          m.in,
          m.out),
    FAULT(
        failing_assert, "device assert failed: threadIdx.x < 7", "failing_assert", 1, 32, 0, m.out),
    FAULT(too_much_static_shared,
          "above the limit of 49152",
          "too_much_static_shared",
          1,
          32,
          0,
          m.out),
    FAULT(no_release_fence,
          "data race on global 'partial'",
          "last_block_sums",
          4,
          32,
          0,
          m.partial,
          m.words,
          m.out),
    FAULT(no_acquire_fence,
          "data race on global 'partial'",
          "last_block_sums",
          4,
          32,
          0,
          m.partial,
          m.words,
          m.out),
    FAULT(
        waits_for_ever, "livelock", "waits_for_ever", 1, 32, 0, reinterpret_cast<float*>(m.words)),
    FAULT(spins_without_sleep, "livelock", nullptr, 1, 32, 0, reinterpret_cast<float*>(m.words)),
};
const size_t kNumFaults = sizeof(kFaults) / sizeof(kFaults[0]);
