#include "cpu/row_scan.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>

#include "core/float16.h"
#include "cpu/dispatch.h"

namespace s2t::cpu {
namespace {

constexpr KernelTable<void(ScanPart&)> kScanPart = S2T_KERNEL_TABLE(scan_part);
constexpr KernelTable<int64_t(Key*, int64_t, int64_t)> kSortBest = S2T_KERNEL_TABLE(sort_best);
constexpr KernelTable<RowStats(const ChunkStats*, int64_t)> kMergeRow = S2T_KERNEL_TABLE(merge_row);

// Where the parts of one row leave their results.
struct RowBuffers {
  std::unique_ptr<ChunkStats[]> chunks;
  std::unique_ptr<float[]> delegates;
  std::unique_ptr<float[]> tempered_sums;
  std::unique_ptr<Key[]> keys;  // one reservoir a part
  std::unique_ptr<ScanPart[]> parts;

  RowBuffers() = default;
  RowBuffers(int64_t num_chunks, int64_t num_parts, const ScanRequest& request)
      : chunks(new ChunkStats[num_chunks]),
        delegates(new float[num_chunks * kDelegates]),
        tempered_sums(request.inverse_temperature == 1.0f ? nullptr : new float[num_chunks]),
        keys(new Key[num_parts * key_capacity(request.num_best)]),
        parts(new ScanPart[num_parts]) {}
};

RowBuffers prepare_row(const LogitsView& logits,
                       const BlockedIds& blocked,
                       int64_t row,
                       int64_t num_parts,
                       const ScanRequest& request) {
  const int64_t num_chunks = chunk_count(logits.vocab);
  RowBuffers buffers(num_chunks, num_parts, request);
  for (int64_t p = 0; p < num_parts; ++p) {
    const int64_t first = num_chunks * p / num_parts;
    ScanPart& part = buffers.parts[p];
    part = {};
    part.row = row_pointer(logits, row);
    part.type = logits.type;
    part.vocab = logits.vocab;
    part.first_chunk = first;
    part.end_chunk = num_chunks * (p + 1) / num_parts;
    part.blocked = &blocked;
    part.num_best = request.num_best;
    part.has_entropy = request.has_entropy;
    part.inverse_temperature = request.inverse_temperature;
    part.stats = buffers.chunks.get() + first;
    part.delegates = buffers.delegates.get() + first * kDelegates;
    part.tempered_sums = buffers.tempered_sums ? buffers.tempered_sums.get() + first : nullptr;
    part.keys = buffers.keys.get() + p * key_capacity(request.num_best);
  }
  return buffers;
}

// Brings the parts together. The first part's reservoir has room for another's keys beside its own.
ScannedRow merge_parts(const RowBuffers& buffers, int64_t num_chunks, int64_t num_parts) {
  ScannedRow row = {};
  row.chunks = buffers.chunks.get();
  row.tempered_sums = buffers.tempered_sums.get();
  row.stats = kMergeRow.active()(row.chunks, num_chunks);
  const auto sort_best = kSortBest.active();
  const int64_t num_best = buffers.parts[0].num_best;
  Key* keys = buffers.parts[0].keys;
  int64_t count = 0;
  for (int64_t p = 0; p < num_parts; ++p) {
    const ScanPart& part = buffers.parts[p];
    row.has_nan |= part.has_nan;
    const int64_t kept = sort_best(part.keys, part.num_keys, num_best);
    if (p > 0) std::copy(part.keys, part.keys + kept, keys + count);
    count = p == 0 ? kept : sort_best(keys, count + kept, num_best);
  }
  std::fill(keys + count, keys + num_best, kNoKey);
  row.best = keys;
  return row;
}

}  // namespace

const void* row_pointer(const LogitsView& logits, int64_t row) {
  const int64_t element_size = logits.type == ScalarType::kFloat32 ? 4 : 2;
  return static_cast<const char*>(logits.data) + row * logits.row_stride * element_size;
}

float logit_at(const void* row, ScalarType type, int64_t i) {
  switch (type) {
    case ScalarType::kFloat32:
      return static_cast<const float*>(row)[i];
    case ScalarType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(row)[i]);
    case ScalarType::kFloat16:
      return to_float(static_cast<const Float16*>(row)[i]);
  }
  return negative_infinity();
}

BlockedIds sorted_blocked_ids(const int64_t* ids, int count) {
  BlockedIds blocked;
  std::copy(ids, ids + count, blocked.ids);
  std::sort(blocked.ids, blocked.ids + count);
  blocked.count = static_cast<int>(std::unique(blocked.ids, blocked.ids + count) - blocked.ids);
  return blocked;
}

void partition_largest(Key* keys, int64_t count, int64_t keep) {
  std::nth_element(keys, keys + keep - 1, keys + count, std::greater<Key>());
}

void sort_largest_first(Key* keys, int64_t count) {
  std::sort(keys, keys + count, std::greater<Key>());
}

int64_t parts_per_row(int64_t batch, int64_t chunks, int num_threads) {
  // Enough rows to go round: whole rows, no merging. Otherwise an equal number of parts a thread,
  // but none so short that finding its own threshold costs more than walking it.
  constexpr int64_t kRowsPerThread = 4, kLeastChunks = 8;
  if (num_threads == 1 || batch >= kRowsPerThread * num_threads) return 1;
  const int64_t equal_shares = num_threads / std::gcd(batch, static_cast<int64_t>(num_threads));
  return std::max<int64_t>(1, std::min(equal_shares, chunks / kLeastChunks));
}

void scan_rows(const Parallel& parallel,
               const LogitsView& logits,
               const BlockedIds& blocked,
               const void* context,
               RequestOfRow request,
               FinishRow finish) {
  const auto scan_part = kScanPart.active();
  const int64_t num_chunks = chunk_count(logits.vocab);
  const int64_t num_parts = parts_per_row(logits.batch, num_chunks, parallel.num_threads);
  if (num_parts == 1) {
    for_each(parallel, logits.batch, [&](int64_t row) {
      const RowBuffers buffers = prepare_row(logits, blocked, row, 1, request(context, row));
      scan_part(buffers.parts[0]);
      finish(context, row, merge_parts(buffers, num_chunks, 1));
    });
    return;
  }
  const std::unique_ptr<RowBuffers[]> rows(new RowBuffers[logits.batch]);
  for (int64_t row = 0; row < logits.batch; ++row) {
    rows[row] = prepare_row(logits, blocked, row, num_parts, request(context, row));
  }
  for_each(parallel, logits.batch * num_parts,
           [&](int64_t i) { scan_part(rows[i / num_parts].parts[i % num_parts]); });
  for_each(parallel, logits.batch, [&](int64_t row) {
    finish(context, row, merge_parts(rows[row], num_chunks, num_parts));
  });
}

}  // namespace s2t::cpu
