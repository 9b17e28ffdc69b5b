// Shared by the faults and the controls: how the last block to arrive reads what the others wrote.
#pragma once

#include "../device_api.h"

constexpr unsigned kFull = 0xffffffffu;
SIMT_DEVICE int me() { return static_cast<int>(threadIdx.x); }

// The last block to arrive adds up what the others wrote; `fences` says which of the two fences are
// there.
template <bool kRelease, bool kAcquire>
SIMT_DEVICE void last_block_sums(float* partial, unsigned* arrived, float* out) {
  SIMT_SHARED(bool, is_last);
  if (me() == 0) {
    partial[blockIdx.x] = 1.f + static_cast<float>(blockIdx.x);
    if (kRelease) __threadfence();
    is_last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
    if (kAcquire) __threadfence();
  }
  __syncthreads();
  if (!is_last) return;
  if (me() < static_cast<int>(gridDim.x))
    out[me()] = __ldcg(partial + me());  // FAULT last_block_sums
}
