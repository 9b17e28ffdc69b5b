// The next token of every row: one warp a row (select.cuh).
#include "launchers.h"
#include "select.cuh"

namespace s2t::cuda {
namespace {

S2T_KERNEL void __launch_bounds__(kSelectThreads, kSelectBlocks)
    select_token_kernel(SelectTokenParams p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kSelectThreads / kWarpSize) + warp_id();
  if (row < p.batch) warp_select_row(p, row);  // the same for all lanes of a warp
}

}  // namespace

cudaError_t launch_select_token(const SelectTokenParams& params, cudaStream_t stream) {
  if (params.batch == 0) return cudaSuccess;
  constexpr int64_t kRows = kSelectThreads / kWarpSize;
  return launch("select_token", select_token_kernel,
                dim3(static_cast<unsigned>((params.batch + kRows - 1) / kRows)),
                dim3(kSelectThreads), stream, params);
}

}  // namespace s2t::cuda
