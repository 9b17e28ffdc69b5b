// Wrong masks, barriers, waits, asynchronous copies and limits: one tiny kernel per diagnosis, as
// in memory_faults.cu.
#include "../device_api.h"
#include "cases.h"
#include "last_block.cuh"

namespace {

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

const Fault kLaneFaults[] = {
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
    FAULT(
        waits_for_ever, "livelock", "waits_for_ever", 1, 32, 0, reinterpret_cast<float*>(m.words)),
    FAULT(spins_without_sleep, "livelock", nullptr, 1, 32, 0, reinterpret_cast<float*>(m.words)),
};
const size_t kNumLaneFaults = sizeof(kLaneFaults) / sizeof(kLaneFaults[0]);
