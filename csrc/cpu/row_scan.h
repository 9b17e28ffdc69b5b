#pragma once

// One read of rows of logits: the best keys of each row and the statistics of its chunks.
// propose_candidates, sample_token and support_kl all start with it.
//
// A row is cut at chunk boundaries into parts for the threads. A part's keys and chunk statistics
// do not depend on where the others were cut, and merging them is exact (keys) or canonical
// (statistics), so the result is the same for every number of threads.

#include "core/canonical_math.h"
#include "core/ordering.h"
#include "core/propose_candidates.h"
#include "core/scalar_type.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

struct LogitsView {
  const void* data;  // [batch, vocab], rows row_stride elements apart
  ScalarType type;
  int64_t batch;
  int64_t vocab;
  int64_t row_stride;
};

const void* row_pointer(const LogitsView& logits, int64_t row);

// The logit of element i of a row.
float logit_at(const void* row, ScalarType type, int64_t i);

// Ascending and without repeats, so that a walk over the chunks meets them in order.
struct BlockedIds {
  int64_t ids[kMaxBlockedIds];
  int count;
};

BlockedIds sorted_blocked_ids(const int64_t* ids, int count);

// -- keys -----------------------------------------------------------------------------------------

// Moves the `keep` largest of `count` keys to the front, in any order, the smallest of them last
// (at keep - 1). keep < count.
void partition_largest(Key* keys, int64_t count, int64_t keep);

// Sorts the `count` keys, largest first.
void sort_largest_first(Key* keys, int64_t count);

// Sorts the num_best largest of `count` keys to the front; returns how many there are of them.
S2T_DECLARE_KERNEL(int64_t sort_best(Key* keys, int64_t count, int64_t num_best);)

// -- one part of a row: compiled per instruction set ----------------------------------------------

// Maxima a chunk is represented by in the search for a threshold.
constexpr int kDelegates = 16;

struct ScanPart {
  const void* row;
  ScalarType type;
  int64_t vocab;
  int64_t first_chunk, end_chunk;
  const BlockedIds* blocked;
  int64_t num_best;           // how many of the best keys to find; at least 1
  bool has_entropy;           // fill ChunkStats::weighted_sum (else 0)
  float inverse_temperature;  // not 1: also fill tempered_sums

  ChunkStats* stats;  // [end_chunk - first_chunk]
  float* delegates;   // [(end_chunk - first_chunk) * kDelegates], scratch
  // [end_chunk - first_chunk]: sums of exp((x - maximum) * inverse_temperature); null if that is 1
  float* tempered_sums;
  Key* keys;         // [key_capacity(num_best)]: the best and some more, in any order
  int64_t num_keys;  // how many of those: at most reservoir_limit(num_best)
  bool has_nan;      // an unblocked NaN was seen
};

// Keys gather in a reservoir; at this fill the best num_best are kept and the rest dropped.
S2T_HOST_DEVICE constexpr int64_t reservoir_limit(int64_t num_best) { return 4 * num_best; }

// A chunk may add all its elements before the fill is looked at.
S2T_HOST_DEVICE constexpr int64_t key_capacity(int64_t num_best) {
  return reservoir_limit(num_best) + kChunkSize;
}

S2T_DECLARE_KERNEL(void scan_part(ScanPart& part);)

// merge_chunks of core/canonical_math.h.
S2T_DECLARE_KERNEL(RowStats merge_row(const ChunkStats* chunks, int64_t count);)

// -- whole rows -----------------------------------------------------------------------------------

struct ScanRequest {
  int64_t num_best;
  bool has_entropy;
  float inverse_temperature;
};

struct ScannedRow {
  RowStats stats;
  const ChunkStats* chunks;    // [chunk_count(vocab)]
  const float* tempered_sums;  // [chunk_count(vocab)] if inverse_temperature is not 1
  const Key* best;             // [num_best], largest first, kNoKey beyond the valid ones
  bool has_nan;
};

// How many parts to cut each of `batch` rows of `chunks` chunks into. Affects speed only.
int64_t parts_per_row(int64_t batch, int64_t chunks, int num_threads);

// The body of the template below.
using RequestOfRow = ScanRequest (*)(const void* context, int64_t row);
using FinishRow = void (*)(const void* context, int64_t row, const ScannedRow& scanned);
void scan_rows(const Parallel& parallel,
               const LogitsView& logits,
               const BlockedIds& blocked,
               const void* context,
               RequestOfRow request,
               FinishRow finish);

// Scans every row and calls finish(i, row) for each, from several threads, in any order.
// request(i) says what row i needs.
template <class Request, class Finish>
void scan_rows(const Parallel& parallel,
               const LogitsView& logits,
               const BlockedIds& blocked,
               const Request& request,
               const Finish& finish) {
  struct Work {
    const Request& request;
    const Finish& finish;
  };
  const Work work = {request, finish};
  scan_rows(
      parallel, logits, blocked, &work,
      [](const void* context, int64_t row) {
        return static_cast<const Work*>(context)->request(row);
      },
      [](const void* context, int64_t row, const ScannedRow& scanned) {
        static_cast<const Work*>(context)->finish(row, scanned);
      });
}

}  // namespace s2t::cpu
