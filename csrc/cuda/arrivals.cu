#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "arrivals.h"

#if defined(__CUDACC__)

namespace s2t::cuda {
namespace {

constexpr int64_t kAlign = 32;               // counters: no two launches share a cache line
constexpr int64_t kSlab = int64_t{1} << 14;  // counters allocated at a time: 64 KiB

struct Range {
  uint32_t* start = nullptr;
  int64_t count = 0;
};

// Zeroed memory, also while this thread captures a stream: on a stream of its own, in relaxed
// capture mode.
simt::error_t allocate_zeroed(int64_t count, uint32_t** memory) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  const size_t bytes = static_cast<size_t>(count) * sizeof(uint32_t);
  cudaStream_t stream = nullptr;
  simt::error_t status = cudaMalloc(memory, bytes);
  if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (status == cudaSuccess) status = cudaMemsetAsync(*memory, 0, bytes, stream);
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
  if (stream) cudaStreamDestroy(stream);
  cudaThreadExchangeStreamCaptureMode(&mode);
  return status;
}

struct Counters {
  std::mutex mutex;
  std::map<int, Range> slabs;  // by device: what is left of the last slab
  std::map<std::pair<int, simt::stream_t>, Range> streams;  // by device and stream

  simt::error_t take(int device, int64_t count, Range* range) {
    count = (count + kAlign - 1) / kAlign * kAlign;
    Range& slab = slabs[device];
    if (slab.count < count) {
      Range fresh = {nullptr, std::max(count, kSlab)};
      const simt::error_t status = allocate_zeroed(fresh.count, &fresh.start);
      if (status != cudaSuccess) return status;
      slab = fresh;
    }
    *range = {slab.start, count};
    slab.start += count;
    slab.count -= count;
    return cudaSuccess;
  }
};

}  // namespace

simt::error_t arrivals_for(simt::stream_t stream, int64_t batch, uint32_t** arrivals) {
  static Counters& counters =
      *new Counters;  // never destroyed: the device may be gone before static destructors run
  int device = 0;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  simt::error_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaStreamIsCapturing(stream, &capture);
  if (status != cudaSuccess) return status;
  std::lock_guard<std::mutex> lock(counters.mutex);
  Range range;
  if (capture == cudaStreamCaptureStatusNone) {
    Range& own = counters.streams[{device, stream}];
    if (own.count < batch) status = counters.take(device, std::max(batch, 2 * own.count), &own);
    range = own;
  } else {
    status = counters.take(device, batch, &range);
  }
  *arrivals = range.start;
  return status;
}

}  // namespace s2t::cuda

#endif  // the emulator's counters belong to its binding, which also checks that every launch leaves
        // them zero
