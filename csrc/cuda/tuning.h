// Every number a kernel is tuned by, with its reason. They change speed only: results are the same
// bits whatever stands here (csrc/README.md, contract 3). Derived from data sheets and occupancy;
// none was measured on a GPU yet.
#pragma once

#include <cstdint>

#include "core/canonical_math.h"

namespace s2t::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- propose_candidates, support_kl ----

// Four warps: with one chunk of 1,024 logits a warp, a block reads 4,096 of them at once, so a row
// of 151,936 spreads over 38 of the 132 multiprocessors of an H100 even at batch 1. Ranking the
// thread maxima by counting costs kRowThreads shared loads a thread: it is why there are not more
// threads.
constexpr int kRowThreads = 128;
constexpr int kRowWarps = kRowThreads / kWarpSize;

// A lane's share of a chunk: as a warp owns it, 4 groups of 8 neighbours (16 bytes of a 16-bit
// type).
constexpr int kGroup = kPartialGroup;
constexpr int kGroupsPerLane = kChunkSize / kWarpSize / kGroup;
constexpr int kHeldLogits = kGroup * kGroupsPerLane;

// Survivors a block hands to the merge without sorting them first. A block keeps 70 to 90 for 64
// wanted on random logits, rarely more than 106, so a compaction before publishing is the
// exception.
constexpr int kPublished = 128;
// Published lists a thread of the merge takes one key each of, per round. 38 lists are three rounds
// of 16; the keys are 32 registers.
constexpr int kListsPerRound = 16;

// Four resident blocks on each multiprocessor: at least as many fit (README.md, checked by
// .ci/cuda_static_gates). With the next 32 logits of every lane in registers, they keep 32 KiB
// (fp32: 64 KiB) of loads in flight on a multiprocessor; its share of 3.35 TB/s times a
// latency of 0.7 us is 18 KiB. From batch 528 on there is a block per row, where nothing is left to
// merge.
constexpr int kResidentBlocks = 4;

// ---- sample_token ----

// 256 threads are 8 chunks a round, for the reads that the last block of a row does alone; with 512
// the 128 registers that are left to a thread do not hold 32 logits and their sums. Two blocks of
// them fit on a multiprocessor, in registers.
constexpr int kSampleThreads = 256;
constexpr int kSampleWarps = kSampleThreads / kWarpSize;
constexpr int kSampleBlocks = 2;

// ---- blocks that share a row ----

constexpr int kMultiprocessors = 132;  // of an H100

// As many as fit on the device at a time, `resident` to a multiprocessor, but no more than have a
// chunk for each of their `warps`.
inline int blocks_per_row(int64_t batch, int64_t vocab, int warps, int resident) {
  const int64_t rounds = (chunk_count(vocab) + warps - 1) / warps;
  const int64_t fit = static_cast<int64_t>(resident) * kMultiprocessors / batch;
  const int64_t wanted = fit < 1 ? 1 : fit;
  return static_cast<int>(wanted < rounds ? wanted : rounds);
}

// ---- score_candidates, score_and_select ----

// A block multiplies 16 candidates with 16 bins (the usual sizes: one pass). Each of 8 warps takes
// a tile of 4 x 8: 12 shared loads for 32 multiply-adds, 32 sums in registers.
constexpr int kScoreThreads = 256;
constexpr int kScoreBlocks = 2;  // a multiprocessor: with the next stage in registers no more fit
constexpr int kScoreCandidates = 16;
constexpr int kScoreBins = 16;
constexpr int kTileCandidates = 4;
constexpr int kTileBins = 8;
// Elements of every vector staged in shared memory at once: 32 vectors of 256 floats are 32 KiB. At
// a hidden size of 1,536 a block waits for 6 stages, each of which has 16 KiB in flight (fp32: 32).
constexpr int kStagedElements = 256;

// ---- select_token ----

constexpr int kSelectThreads = 128;  // a row is work for one warp; four of them to a block
constexpr int kSelectBlocks =
    8;  // a multiprocessor: asks for no more, so ptxas for sm_100 does not spill for more

// ---- random_uniform ----

constexpr int kUniformThreads = 128;

// ---- commit_candidates ----

constexpr int kCommitThreads = 128;
// Buffers in the arguments of one launch (4 KiB at most): keys and values of 32 layers.
constexpr int kCommitBuffers = 64;

// ---- copy_blocks ----

// 4 KiB of a block a time: 16 tokens of 4 heads of 128, keys and values in bfloat16, are 8 of them.
constexpr int kCopyThreads = 256;
// Caches in the arguments of one launch (4 KiB at most): layers of most models.
constexpr int kCopyCaches = 96;

}  // namespace s2t::cuda
