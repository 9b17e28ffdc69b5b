// How much of a row a cutoff keeps, by one block: canonical masses.
#pragma once

#include "tempered_row.cuh"

namespace s2t::cuda {

struct MassScratch {
  double total;
  double of_pair[2];
};

template <class T>
S2T_DEVICE float kept_weight(
    const TemperedRow<T>& row, float logit, float maximum, int64_t id, Key cutoff) {
  if (make_key(logit, static_cast<uint32_t>(id)) < cutoff) return 0.0f;
  return exp_canonical((logit - maximum) * row.inverse_temperature);
}

// kept_sums() of what the cutoff keeps. All threads.
template <class T>
S2T_DEVICE void sum_kept_weights(const TemperedRow<T>& row, Key cutoff) {
  if (cutoff == kKeepAll) {  // there is no top-k, so the scan has them
    const bool is_tempered = row.inverse_temperature != 1.0f;
    for (int64_t c = thread_id(); c < chunk_count(row.source.vocab); c += kSampleThreads)
      kept_sums(row)[c] = is_tempered ? __ldcg(row.sums + c) : load_stats(row.stats + c).sum;
    __syncthreads();
    return;
  }
  for_kept_chunks(
      row, cutoff,
      [&](int64_t c, const float (&x)[kHeldLogits]) {
        const float maximum = chunk_maximum(row, c);
        const float sum = chunk_sum([&](int i) {
          return kept_weight(row, x[i], maximum, held_id(c * kChunkSize, lane_id(), i), cutoff);
        });
        if (lane_id() == 0) kept_sums(row)[c] = sum;
      },
      [&](int64_t c) {
        if (lane_id() == 0) kept_sums(row)[c] = 0.0f;
      });
  __syncthreads();
}

// kept_sums() of the weights of logits >= value, sums_without_ties() of those > value, in one read.
// All threads.
template <class T>
S2T_DEVICE void sum_tied_weights(const TemperedRow<T>& row, float value) {
  const Key least = static_cast<Key>(ordered_bits(value)) << 32;
  for_kept_chunks(
      row, least,
      [&](int64_t c, const float (&x)[kHeldLogits]) {
        const float maximum = chunk_maximum(row, c);
        float with[kGroup], without[kGroup];
        S2T_UNROLL
        for (int e = 0; e < kGroup; ++e) {
          with[e] = without[e] = 0.0f;
          S2T_UNROLL
          for (int i = e; i < kHeldLogits; i += kGroup) {
            const float weight = exp_canonical((x[i] - maximum) * row.inverse_temperature);
            with[e] = with[e] + (x[i] >= value ? weight : 0.0f);
            without[e] = without[e] + (x[i] > value ? weight : 0.0f);
          }
        }
        const float sum = chunk_tree(with), sum_without = chunk_tree(without);
        if (lane_id() == 0) {
          kept_sums(row)[c] = sum;
          sums_without_ties(row)[c] = sum_without;
        }
      },
      [&](int64_t c) {
        if (lane_id() == 0) kept_sums(row)[c] = sums_without_ties(row)[c] = 0.0f;
      });
  __syncthreads();
}

template <class T>
S2T_DEVICE double mass_of_chunk(const TemperedRow<T>& row, int64_t c, float sum) {
  return chunk_mass(chunk_scale(chunk_maximum(row, c), row.best, row.inverse_temperature), sum);
}

// Walks the chunks' masses in ascending order, by one warp; sum_of(c) is a chunk's sum of kept
// weights. step(c, mass) is called by all lanes with the same values, until it returns false.
// Additions stay in sequence; the masses are computed 32 at a time.
template <class T, class SumOf, class Step>
S2T_DEVICE void walk_masses(const TemperedRow<T>& row, SumOf sum_of, Step step) {
  const int64_t chunks = chunk_count(row.source.vocab);
  bool goes_on = true;
  for (int64_t first = 0; goes_on && first < chunks; first += kWarpSize) {
    const int64_t c = first + lane_id();
    const double mass = c < chunks ? mass_of_chunk(row, c, sum_of(c)) : 0.0;
    for (int i = 0; goes_on && i < kWarpSize && first + i < chunks; ++i)
      goes_on = step(first + i, __shfl_sync(kAllLanes, mass, i));
  }
}

// By one warp.
template <class T, class SumOf>
S2T_DEVICE double running_mass(const TemperedRow<T>& row, SumOf sum_of) {
  double running = 0.0;
  walk_masses(row, sum_of, [&](int64_t, double mass) {
    running = running + mass;
    return true;
  });
  return running;
}

// Mass of what kept_sums() was made for. All threads.
template <class T>
S2T_DEVICE double total_mass(const TemperedRow<T>& row, MassScratch& scratch) {
  if (warp_id() == 0) {
    const double running = running_mass(row, [&](int64_t c) { return kept_sums(row)[c]; });
    if (lane_id() == 0) scratch.total = running;
  }
  __syncthreads();
  return scratch.total;  // the next one is written behind the barrier of the next sums
}

struct TiedMass {
  double with, without;
};

// Masses of what sum_tied_weights() summed. All threads.
template <class T>
S2T_DEVICE TiedMass tied_mass(const TemperedRow<T>& row, MassScratch& scratch) {
  if (warp_id() < 2) {
    const float* sums = warp_id() == 0 ? kept_sums(row) : sums_without_ties(row);
    const double running = running_mass(row, [&](int64_t c) { return sums[c]; });
    if (lane_id() == 0) scratch.of_pair[warp_id()] = running;
  }
  __syncthreads();
  return {scratch.of_pair[0], scratch.of_pair[1]};  // written again behind the next sums' barrier
}

}  // namespace s2t::cuda
