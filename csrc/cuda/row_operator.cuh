// An operator that reads rows of logits, in one launch: every block scans its part of a row, and
// the block that arrives last merges what all have published and writes the row's results.
//
// Grid (blocks per row, batch). Nobody waits for another block, so any number of blocks may be
// resident. Limits: vocab < 2^31; larger batches than a grid takes are launched in slices.
#pragma once

#include "launch_helpers.h"
#include "row_merge.cuh"

namespace s2t::cuda {

// write_row(row, stats, sorted, nan_seen) is called by one warp of the last block; sorted: the
// `wanted` best keys, padded with kNoKey to 64. All threads.
template <class T, class WriteRow>
S2T_DEVICE void run_row_operator(const RowSource& source,
                                 int wanted,
                                 const RowWorkspace& workspace,
                                 WriteRow write_row) {
  S2T_SHARED(KeySelection<kRowThreads>, selection);
  S2T_SHARED(bool, is_last);
  const RowPart part = row_part();
  scan_row_part<T>(source, part, wanted, workspace, selection,
                   [](int64_t, const float (&)[kHeldLogits], float) {});
  if (!arrives_last(workspace, part, is_last)) return;
  const bool nan_seen = merge_row_keys(workspace, part, wanted, selection);
  if (warp_id() != 0) return;
  const int64_t chunks = chunk_count(source.vocab);
  const RowStats stats = merge_row_stats(workspace.stats + part.row * chunks, chunks);
  const bool any_nan = __any_sync(kAllLanes, nan_seen) != 0;
  write_row(part.row, stats, selection.kept, any_nan);
}

// slice(params, first) points the params to the rows from `first` on; kernel_of(TypeTag<T>()) is
// the kernel, of kThreads threads a block, for logits of type T.
template <int kThreads, class Params, class Workspace, class Slice, class KernelOf>
cudaError_t launch_row_operator(const char* name,
                                const Params& params,
                                const Workspace& workspace,
                                cudaStream_t stream,
                                Slice slice,
                                KernelOf kernel_of) {
  if (workspace.blocks > 1) {
    const cudaError_t status = cudaMemsetAsync(
        workspace.arrivals, 0, static_cast<size_t>(params.batch) * sizeof(uint32_t), stream);
    if (status != cudaSuccess) return status;
  }
  return for_each_slice(params.batch, [&](int64_t first, int64_t count) {
    const Params part = slice(params, first);
    const dim3 grid(static_cast<unsigned>(workspace.blocks), static_cast<unsigned>(count));
    return by_type(params.logits_type, [&](auto tag) {
      return launch(name, kernel_of(tag), grid, dim3(kThreads), stream, part,
                    workspace.from_row(first, params.vocab));
    });
  });
}

}  // namespace s2t::cuda
