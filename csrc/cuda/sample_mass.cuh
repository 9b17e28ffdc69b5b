// How much of a row a cutoff keeps, by one block: counts, canonical masses, and the search for a
// cutoff.
//
// Masses and counts never grow when the cutoff does (rounding is monotone, the order of additions
// fixed), so the largest cutoff that keeps enough is well defined and bisection finds the one the
// CPU finds.
#pragma once

#include "core/sample_token.h"
#include "row_scan.cuh"

namespace s2t::cuda {

constexpr int kSampleWarps = kSampleThreads / kWarpSize;

// A row whose chunks have been scanned by this block.
template <class T>
struct TemperedRow {
  const T* logits;
  RowSource source;
  BlockedIds blocked;
  const ChunkStats* stats;  // [chunk_count(vocab)]
  float* sums;  // [chunk_count(vocab)]: of the weights the last cutoff kept, relative to the
                // chunk's maximum
  float best;   // finite
  float inverse_temperature;
};

struct MassScratch {
  double total;
  int counts[kSampleWarps];
};

// Calls body(c, x) in a warp for every chunk that may have a key >= cutoff, skip(c) for the others.
template <class T, class Body, class Skip>
S2T_DEVICE void for_kept_chunks(const TemperedRow<T>& row, Key cutoff, Body body, Skip skip) {
  const int64_t chunks = chunk_count(row.source.vocab);
  for (int64_t c = warp_id(); c < chunks; c += kSampleWarps) {
    const int64_t base = c * kChunkSize;
    if (make_key(row.stats[c].maximum, static_cast<uint32_t>(base)) < cutoff) {
      skip(c);
      continue;
    }
    float x[kHeldLogits];
    read_chunk(row.logits, row.source, row.blocked, base, x);
    body(c, x);
  }
}

template <class T>
S2T_DEVICE float kept_weight(
    const TemperedRow<T>& row, float logit, float maximum, int64_t id, Key cutoff) {
  if (make_key(logit, static_cast<uint32_t>(id)) < cutoff) return 0.0f;
  return exp_canonical((logit - maximum) * row.inverse_temperature);
}

// row.sums of what the cutoff keeps. All threads.
template <class T>
S2T_DEVICE void sum_kept_weights(const TemperedRow<T>& row, Key cutoff) {
  for_kept_chunks(
      row, cutoff,
      [&](int64_t c, const float (&x)[kHeldLogits]) {
        const float maximum = row.stats[c].maximum;
        const float sum = chunk_sum([&](int i) {
          return kept_weight(row, x[i], maximum, held_id(c * kChunkSize, lane_id(), i), cutoff);
        });
        if (lane_id() == 0) row.sums[c] = sum;
      },
      [&](int64_t c) {
        if (lane_id() == 0) row.sums[c] = 0.0f;
      });
  __syncthreads();
}

template <class T>
S2T_DEVICE double mass_of_chunk(const TemperedRow<T>& row, int64_t c) {
  return chunk_mass(chunk_scale(row.stats[c].maximum, row.best, row.inverse_temperature),
                    row.sums[c]);
}

// Walks the chunks' masses in ascending order, by one warp; step(c, mass) is called by all lanes
// with the same values, until it returns false. Additions stay in sequence; the masses are computed
// 32 at a time.
template <class T, class Step>
S2T_DEVICE void walk_masses(const TemperedRow<T>& row, Step step) {
  const int64_t chunks = chunk_count(row.source.vocab);
  bool goes_on = true;
  for (int64_t first = 0; goes_on && first < chunks; first += kWarpSize) {
    const int64_t c = first + lane_id();
    const double mass = c < chunks ? mass_of_chunk(row, c) : 0.0;
    for (int i = 0; goes_on && i < kWarpSize && first + i < chunks; ++i)
      goes_on = step(first + i, __shfl_sync(kAllLanes, mass, i));
  }
}

// Mass of what row.sums was made for. All threads.
template <class T>
S2T_DEVICE double total_mass(const TemperedRow<T>& row, MassScratch& scratch) {
  if (warp_id() == 0) {
    double running = 0.0;
    walk_masses(row, [&](int64_t, double mass) {
      running = running + mass;
      return true;
    });
    if (lane_id() == 0) scratch.total = running;
  }
  __syncthreads();
  return scratch.total;  // the next one is written behind the barrier of the next sums
}

// How many keys are >= cutoff. All threads.
template <class T>
S2T_DEVICE int count_kept(const TemperedRow<T>& row, Key cutoff, MassScratch& scratch) {
  int mine = 0;
  for_kept_chunks(
      row, cutoff,
      [&](int64_t c, const float (&x)[kHeldLogits]) {
        S2T_UNROLL
        for (int i = 0; i < kHeldLogits; ++i)
          mine += make_key(x[i], static_cast<uint32_t>(held_id(c * kChunkSize, lane_id(), i))) >=
                  cutoff;
      },
      [](int64_t) {});
  const int of_warp = __reduce_add_sync(kAllLanes, mine);
  if (lane_id() == 0) scratch.counts[warp_id()] = of_warp;
  __syncthreads();
  int total = 0;
  for (int w = 0; w < kSampleWarps; ++w) total += scratch.counts[w];
  __syncthreads();  // before the next counts
  return total;
}

// Low bits of a widened logit that its value determines: fewer steps for 16-bit types.
template <class T>
constexpr int kFixedBits = 0;
template <>
constexpr int kFixedBits<BFloat16> = 16;
template <>
constexpr int kFixedBits<Float16> = 13;

// The largest logit for which passes(the least key with that logit) holds: that key, or kKeepAll.
// kKeepAll passes, a key above the row's best would not. passes() is called by all threads.
template <class T, class Passes>
S2T_DEVICE Key largest_passing_value(const TemperedRow<T>& row, Passes passes) {
  constexpr int kShift = kFixedBits<T>;
  uint32_t passing = 0, failing = (ordered_bits(row.best) >> kShift) + 1;
  while (failing - passing > 1) {
    const uint32_t middle = passing + (failing - passing) / 2;
    if (passes(static_cast<Key>(middle << kShift) << 32))
      passing = middle;
    else
      failing = middle;
  }
  if (passing == 0) return kKeepAll;
  // of a negative logit the fixed bits are ones in the ordered form
  const uint32_t fixed = passing << kShift & 0x80000000u ? 0u : (1u << kShift) - 1u;
  return static_cast<Key>(passing << kShift | fixed) << 32;
}

// The largest cutoff for which passes(cutoff) holds, up to cutoffs that keep the same: first the
// value, then, among equal logits, the id.
template <class T, class Passes>
S2T_DEVICE Key largest_passing_cutoff(const TemperedRow<T>& row, Passes passes) {
  const Key value = largest_passing_value(row, passes);
  if (value == kKeepAll) return value;
  int64_t failing_id = -1, passing_id = row.source.vocab - 1;
  while (passing_id - failing_id > 1) {
    const int64_t middle = failing_id + (passing_id - failing_id) / 2;
    if (passes(value | (0xFFFFFFFFu - static_cast<uint32_t>(middle))))
      passing_id = middle;
    else
      failing_id = middle;
  }
  return value | (0xFFFFFFFFu - static_cast<uint32_t>(passing_id));
}

}  // namespace s2t::cuda
