// One uniform number a row, a thread to a row.
#include "launchers.h"
#include "warp.cuh"

namespace s2t::cuda {
namespace {

S2T_KERNEL void __launch_bounds__(kUniformThreads) random_uniform_kernel(RandomUniformParams p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kUniformThreads + thread_id();
  if (row < p.batch) draw_uniform(p, row);
}

}  // namespace

cudaError_t launch_random_uniform(const RandomUniformParams& params, cudaStream_t stream) {
  if (params.batch == 0) return cudaSuccess;
  const int64_t blocks = (params.batch + kUniformThreads - 1) / kUniformThreads;
  return launch("random_uniform", random_uniform_kernel, dim3(static_cast<unsigned>(blocks)),
                dim3(kUniformThreads), stream, params);
}

}  // namespace s2t::cuda
