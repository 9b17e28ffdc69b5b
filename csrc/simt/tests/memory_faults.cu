// Data races and wrong accesses: one tiny kernel per diagnosis. The line that must be named carries
// the comment "FAULT <kernel>"; selftest.cpp reads this file to find it.
#include "../device_api.h"
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
SIMT_KERNEL void uninitialised_atomic(float* out) {
  SIMT_SHARED(int, count);
  out[0] = static_cast<float>(atomicAdd(&count, 1));  // FAULT uninitialised_atomic
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

}  // namespace

const Fault kMemoryFaults[] = {
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
    FAULT(uninitialised_atomic,
          "read of uninitialised shared 'count'",
          "uninitialised_atomic",
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
};
const size_t kNumMemoryFaults = sizeof(kMemoryFaults) / sizeof(kMemoryFaults[0]);
