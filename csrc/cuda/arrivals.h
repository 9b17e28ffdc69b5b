// Arrival counters of RowWorkspace: zeroed once, left zero by every launch.
//
// Two launches that may run at the same time must not share them. So every stream has its own, and
// every launch that is captured into a graph gets its own for the life of the process (a graph may
// be replayed on any stream). Waits for the device only when memory is allocated: at a stream's
// first use, or when a larger batch than ever comes.
#pragma once

#include <cstdint>

#include "simt/host.h"

namespace s2t::cuda {

// [batch], on the current device, for a launch on `stream`.
simt::error_t arrivals_for(simt::stream_t stream, int64_t batch, uint32_t** arrivals);

}  // namespace s2t::cuda
