// The cutoffs of top-k and top-p beyond the sorted list of the 64 best, by one block.
//
// top-k counts, so radix selection gives it. The mass that top-p compares is a sum over chunks in
// the order of the ids, each a tree (core/sample_token.h); a histogram cannot add in that order,
// only in integers. But rounding is monotone, so the mass never grows when the cutoff does: the
// nucleus is well defined, and any search finds the one the CPU finds. Radix selection over integer
// weights says where it ends to within rounding, and one read confirms it: the canonical mass with
// all logits of that value reaches the target, without them it does not. Where it is not confirmed
// the search goes on from there. Both masses have left their chunk sums, so the last of several
// equal logits is found without another read.
#pragma once

#include "radix_value.cuh"
#include "sample_mass.cuh"

namespace s2t::cuda {

struct CutoffScratch {
  MassScratch mass;
  Key cutoff;
};

// A bit of an integer weight is 2^-44 of the best logit's: a million of those fit into 64 bits.
// With more the estimate would be wrong, and the search longer.
constexpr int kWeightBits = 44;

// weight * 2^kWeightBits, rounded down; 0 <= weight <= 1.
S2T_DEVICE uint64_t integer_weight(float weight) {
  const uint32_t bits = float_bits(weight);
  const uint64_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
  const int shift = static_cast<int>(bits >> 23) - (127 + 23 - kWeightBits);
  if (shift >= 0) return mantissa << shift;
  return shift > -24 ? mantissa >> -shift : 0;
}

// The value_number() in which the mass of the row reaches `target`, to within rounding. All
// threads.
template <class T>
S2T_DEVICE uint32_t estimated_number(const TemperedRow<T>& row,
                                     double target,
                                     DigitHistogram& histogram) {
  constexpr double kOne = static_cast<double>(1ull << kWeightBits), kMost = 9e18;
  const double scaled = target * kOne;
  return number_reaching(
      row, static_cast<uint64_t>(scaled < kMost ? scaled : kMost), histogram, [&](int64_t c) {
        const float maximum = chunk_maximum(row, c);
        const float scale = chunk_scale(maximum, row.best, row.inverse_temperature);
        return [=, &row](float logit) {
          const float weight = exp_canonical((logit - maximum) * row.inverse_temperature);
          return integer_weight(scale * weight);
        };
      });
}

// The least key that a top-k beyond the list keeps. All threads.
template <class T>
S2T_DEVICE Key top_k_cutoff(const TemperedRow<T>& row, int64_t top_k, DigitHistogram& histogram) {
  const uint32_t number =
      number_reaching(row, static_cast<uint64_t>(top_k), histogram,
                      [](int64_t) { return [](float) { return uint64_t{1}; }; });
  return static_cast<Key>(ordered_bits(numbered_value<T>(number))) << 32;
}

// sum_tied_weights() left how much the row has with all logits of `value`, at least `target`, and
// without them, less. How many leading chunks must keep theirs to reach it. By one warp.
template <class T>
S2T_DEVICE int64_t chunks_with_ties(const TemperedRow<T>& row, double target) {
  int64_t failing = 0, passing = chunk_count(row.source.vocab);
  while (passing - failing > 1) {
    // 32 numbers between the two, one to a lane
    const int64_t span = passing - failing;
    const auto place = [&](int i) { return failing + span * (i + 1) / (kWarpSize + 1); };
    const int64_t mine = place(lane_id());
    double running = 0.0;
    for (int64_t first = 0; first < chunk_count(row.source.vocab); first += kWarpSize) {
      const int64_t c = first + lane_id();
      const bool is_chunk = c < chunk_count(row.source.vocab);
      const double with = is_chunk ? mass_of_chunk(row, c, kept_sums(row)[c]) : 0.0;
      const double without = is_chunk ? mass_of_chunk(row, c, sums_without_ties(row)[c]) : 0.0;
      for (int i = 0; i < kWarpSize; ++i) {  // beyond the end: + 0, which changes nothing
        const double kept = __shfl_sync(kAllLanes, with, i);
        const double left = __shfl_sync(kAllLanes, without, i);
        running = running + (first + i < mine ? kept : left);
      }
    }
    const int fails = __ffs(static_cast<int>(~0u ^ __ballot_sync(kAllLanes, running < target))) - 1;
    const int64_t next_passing = fails < 0 ? passing : place(fails);
    failing = fails < 0 ? place(kWarpSize - 1) : fails > 0 ? place(fails - 1) : failing;
    passing = next_passing;
  }
  return passing;
}

// Of the same row: the cutoff, and kept_sums() of what it keeps. By one warp. `held` [kChunkSize]
// takes the chunk's logits: in registers they would live through the walks over the row.
template <class T>
S2T_DEVICE Key
cutoff_among_ties(const TemperedRow<T>& row, float value, double target, float* held) {
  const int64_t chunk = chunks_with_ties(row, target) - 1, base = chunk * kChunkSize;
  const auto place = [&](int i) { return static_cast<int>(held_id(base, lane_id(), i) - base); };
  int first_tie = kChunkSize, last_tie = 0;
  {
    float x[kHeldLogits];
    read_chunk(row.logits, row.source, row.blocked, base, x);
    S2T_UNROLL
    for (int i = 0; i < kHeldLogits; ++i) {
      held[place(i)] = x[i];  // read again by this lane alone
      if (x[i] != value) continue;
      first_tie = place(i) < first_tie ? place(i) : first_tie;
      last_tie = place(i) > last_tie ? place(i) : last_tie;
    }
  }
  const float maximum = chunk_maximum(row, chunk);
  const auto sum_through = [&](int last) {
    return chunk_sum([&](int i) {
      const float x = held[place(i)];
      const bool is_kept = x > value || (x == value && place(i) <= last);
      return is_kept ? exp_canonical((x - maximum) * row.inverse_temperature) : 0.0f;
    });
  };
  int failing = __reduce_min_sync(kAllLanes, first_tie) - 1;
  int passing = __reduce_max_sync(kAllLanes, last_tie);
  float sum = 0.0f;  // of the chunk through `last`
  for (int last = passing;;) {
    sum = sum_through(last);
    if (passing - failing <= 1) break;
    const double mass = running_mass(row, [&](int64_t c) {
      return c < chunk ? kept_sums(row)[c] : c == chunk ? sum : sums_without_ties(row)[c];
    });
    (mass >= target ? passing : failing) = last;
    last = passing - failing > 1 ? failing + (passing - failing) / 2 : passing;
  }
  __syncwarp();  // all lanes have read the sums that are written now
  if (lane_id() == 0) kept_sums(row)[chunk] = sum;
  for (int64_t c = chunk + 1 + lane_id(); c < chunk_count(row.source.vocab); c += kWarpSize)
    kept_sums(row)[c] = sums_without_ties(row)[c];
  const auto id = static_cast<uint32_t>(base + passing);
  return static_cast<Key>(ordered_bits(value)) << 32 | (0xFFFFFFFFu - id);
}

// The largest cutoff, not below `lowest`, that keeps a mass of at least `target`, which `lowest`
// does; kept_sums() are then of what it keeps, but for kKeepAll. `held` [kChunkSize] is room to
// work in. All threads.
template <class T>
S2T_DEVICE Key nucleus_cutoff(const TemperedRow<T>& row,
                              Key lowest,
                              double target,
                              DigitHistogram& histogram,
                              CutoffScratch& scratch,
                              float* held) {
  const uint32_t lowest_number =
      value_number<T>(lowest == kKeepAll ? negative_infinity() : key_logit(lowest));
  uint32_t passing = lowest_number, failing = value_number<T>(row.best) + 1;
  uint32_t middle = estimated_number(row, target, histogram);
  // From the estimate outwards in growing steps, then by halves, until the last value is summed.
  for (uint32_t step = 1;; step *= 2) {
    if (failing - passing == 1 && passing == lowest_number && lowest == kKeepAll) return kKeepAll;
    if (middle <= passing || middle >= failing) middle = passing + (failing - passing) / 2;
    sum_tied_weights(row, numbered_value<T>(middle));
    const TiedMass mass = tied_mass(row, scratch.mass);
    if (mass.with < target) {
      failing = middle;
      middle = middle - passing > step ? middle - step : passing;
    } else {
      passing = middle;
      if (mass.without < target || failing - passing == 1) break;
      middle = failing - middle > step ? middle + step : failing;
    }
  }
  if (warp_id() == 0) {
    const Key cutoff = cutoff_among_ties(row, numbered_value<T>(passing), target, held);
    if (lane_id() == 0) scratch.cutoff = cutoff;
  }
  __syncthreads();
  return scratch.cutoff;
}

}  // namespace s2t::cuda
