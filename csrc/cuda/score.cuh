// Scores of up to 16 candidates by one block: dot products with the bins' rows, then the expected
// bin value.
//
// A dot product adds element i into partial i mod 32 in ascending order (core/score_candidates.h):
// lane l owns partial l, so 32 neighbours of each vector are multiplied at a time. This order is
// why there are no tensor cores here: they add in an order of their own, and the CPU could not
// return the same bits. Vectors come through shared memory, 256 elements of each at a time, as
// floats: read from global memory 128 bits at a time, the next stage while one is multiplied.
#pragma once

#include "core/score_candidates.h"
#include "warp.cuh"

namespace s2t::cuda {

struct ScoreScratch {
  float hidden[kScoreCandidates][kStagedElements];
  float rows[kScoreBins][kStagedElements];
  float dots[kScoreCandidates][kMaxBins];
};

// One vector of hidden_size elements; null: not there.
struct VectorView {
  const void* data;
  ScalarType type;
};

S2T_DEVICE const void* element_at(const void* data, ScalarType type, int64_t index) {
  return static_cast<const char*>(data) + index * (type == ScalarType::kFloat32 ? 4 : 2);
}

// A group of 8 elements as it stands in memory: the first 16 bytes of a 16-bit type, all of fp32.
struct RawGroup {
  uint4 bits[2];
};

S2T_DEVICE bool is_whole_group(VectorView vector, int64_t size, int64_t first) {
  return vector.data != nullptr && reinterpret_cast<uintptr_t>(vector.data) % 16 == 0 &&
         first + kGroup <= size;
}

// Starts the loads of a group that stage_group() will want; whoever unpacks waits. Nothing for one
// that is not whole.
S2T_DEVICE void fetch_group(VectorView vector, int64_t size, int64_t first, RawGroup& raw) {
  if (!is_whole_group(vector, size, first)) return;
  const auto* bits = static_cast<const uint4*>(element_at(vector.data, vector.type, first));
  raw.bits[0] = __ldg(bits);
  if (vector.type == ScalarType::kFloat32) raw.bits[1] = __ldg(bits + 1);
}

template <class T>
S2T_DEVICE void unpack_group(
    VectorView vector, int64_t size, int64_t first, const RawGroup& raw, float (&x)[kGroup]) {
  if (is_whole_group(vector, size, first)) {
    S2T_UNROLL
    for (int v = 0; v < kGroup / kPerVector<T>; ++v) unpack<T>(raw.bits[v], x + v * kPerVector<T>);
    return;
  }
  const auto* elements = static_cast<const T*>(vector.data);
  load_group(elements, row_skew(elements), size, first, x);
}

// Elements [first, first + 8) of a vector that fetch_group() was called for. What is beyond its end
// is never multiplied.
S2T_DEVICE void stage_group(
    VectorView vector, int64_t size, int64_t first, const RawGroup& raw, float* target) {
  float x[kGroup] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  if (vector.data != nullptr) {
    switch (vector.type) {
      case ScalarType::kFloat32:
        unpack_group<float>(vector, size, first, raw, x);
        break;
      case ScalarType::kBFloat16:
        unpack_group<BFloat16>(vector, size, first, raw, x);
        break;
      case ScalarType::kFloat16:
        unpack_group<Float16>(vector, size, first, raw, x);
        break;
    }
  }
  S2T_UNROLL
  for (int i = 0; i < kGroup; ++i) target[i] = x[i];
}

// What one thread brings of up to 16 vectors: at every stage the same group of each of its own. A
// warp brings a whole stage of a vector.
class VectorStager {
 public:
  // view(i) is the i-th of `count` vectors.
  template <class View>
  S2T_DEVICE VectorStager(int64_t size, int count, View view) : size_(size), count_(count) {
    S2T_UNROLL
    for (int n = 0; n < kOwn; ++n) vectors_[n] = index(n) < count ? view(index(n)) : VectorView{};
  }

  // Starts the loads of the stage at `first`.
  S2T_DEVICE void fetch(int64_t first) {
    S2T_UNROLL
    for (int n = 0; n < kOwn; ++n) fetch_group(vectors_[n], size_, first + offset(), raw_[n]);
  }

  // Stores the stage that was fetched.
  S2T_DEVICE void stage(int64_t first, float (*target)[kStagedElements]) const {
    if (first + offset() >= size_) return;
    S2T_UNROLL
    for (int n = 0; n < kOwn; ++n)
      if (index(n) < count_)
        stage_group(vectors_[n], size_, first + offset(), raw_[n], target[index(n)] + offset());
  }

 private:
  static constexpr int kGroups = kStagedElements / kGroup, kAtOnce = kScoreThreads / kGroups;
  static constexpr int kOwn = kScoreCandidates / kAtOnce;
  static_assert(kGroups == kWarpSize && kScoreBins == kScoreCandidates, "a warp to a vector");

  S2T_DEVICE static int index(int n) { return warp_id() + n * kAtOnce; }
  S2T_DEVICE static int offset() { return lane_id() * kGroup; }

  int64_t size_;
  int count_;
  VectorView vectors_[kOwn];
  RawGroup raw_[kOwn];
};

struct ScoreTile {
  static constexpr int kAlong = kScoreCandidates / kTileCandidates;
  int candidate, bin;  // the first of each
};

S2T_DEVICE ScoreTile score_tile() {
  static_assert(ScoreTile::kAlong * (kScoreBins / kTileBins) * kWarpSize == kScoreThreads,
                "one tile a warp");
  static_assert(kTileCandidates * kTileBins == kWarpSize, "one dot product a lane at the end");
  return {warp_id() % ScoreTile::kAlong * kTileCandidates,
          warp_id() / ScoreTile::kAlong * kTileBins};
}

// The warp's tile: sums[c * kTileBins + b] gets this lane's partial of the dot product of candidate
// c and bin b.
S2T_DEVICE void multiply_tile(const ScoreScratch& scratch,
                              ScoreTile tile,
                              int num_candidates,
                              int num_bins,
                              int64_t elements,
                              float (&sums)[kWarpSize]) {
  S2T_UNROLL
  for (int step = 0; step < kStagedElements / kDotPartials; ++step) {
    const int i = step * kDotPartials + lane_id();
    if (i >= elements) continue;
    float h[kTileCandidates], r[kTileBins];
    S2T_UNROLL
    for (int c = 0; c < kTileCandidates; ++c)
      h[c] = tile.candidate + c < num_candidates ? scratch.hidden[tile.candidate + c][i] : 0.0f;
    S2T_UNROLL
    for (int b = 0; b < kTileBins; ++b)
      r[b] = tile.bin + b < num_bins ? scratch.rows[tile.bin + b][i] : 0.0f;
    S2T_UNROLL
    for (int c = 0; c < kTileCandidates; ++c) {
      S2T_UNROLL
      for (int b = 0; b < kTileBins; ++b)
        sums[c * kTileBins + b] = fma_canonical(h[c], r[b], sums[c * kTileBins + b]);
    }
  }
}

// Adds 32 values over the lanes, each as the tree of distance 16, 8, 4, 2, 1; lane l gets the l-th
// total. A lane gives away half of what it holds at each step: 31 shuffles in place of 160. A
// template, because the values stay in registers only if every index is known.
template <int kDistance>
S2T_DEVICE float transposed_tree_sum(float (&values)[kWarpSize]) {
  const bool is_upper = (lane_id() & kDistance) != 0;
  S2T_UNROLL
  for (int i = 0; i < kDistance; ++i) {
    const float kept = is_upper ? values[i + kDistance] : values[i];
    const float given = is_upper ? values[i] : values[i + kDistance];
    values[i] = kept + __shfl_xor_sync(kAllLanes, given, kDistance);
  }
  if constexpr (kDistance > 1) return transposed_tree_sum<kDistance / 2>(values);
  return values[0];
}

// expected_bin_value() of core/score_candidates.h, by one warp; dots: [num_bins].
S2T_DEVICE float warp_expected_bin_value(const ScoreHead& head, const float* dots) {
  float z[2];
  bool nan_seen = false;
  S2T_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int bin = lane_id() + half * kWarpSize;
    z[half] = bin < head.num_bins ? bin_logit(head, bin, dots[bin]) : negative_infinity();
    nan_seen = nan_seen || z[half] != z[half];
  }
  if (__any_sync(kAllLanes, nan_seen)) return quiet_nan();
  const float maximum = warp_max(z[0] > z[1] ? z[0] : z[1]);
  if (!is_finite(maximum)) return quiet_nan();
  float weight[2], weighted[2];
  S2T_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int bin = lane_id() + half * kWarpSize;
    const bool is_bin = bin < head.num_bins;
    weight[half] = is_bin ? exp_canonical(z[half] - maximum) : 0.0f;
    weighted[half] = is_bin ? weight[half] * head.bin_values[bin] : 0.0f;
  }
  const float sum = warp_tree_sum(weight[0] + weight[1]);
  const float weighted_sum = warp_tree_sum(weighted[0] + weighted[1]);
  return score_of_sums(weighted_sum, sum);
}

// Scores candidates 0 .. count - 1 (count <= 16); hidden_of(i) is the hidden state of the i-th,
// null if it has none, and write(i, score) is called by one lane for each that has one. All threads
// of the block.
template <class HiddenOf, class Write>
S2T_DEVICE void score_block(
    const ScoreHead& head, int count, ScoreScratch& scratch, HiddenOf hidden_of, Write write) {
  const int64_t size = head.hidden_size;
  const ScoreTile tile = score_tile();
  VectorStager hidden(size, count, hidden_of);
  for (int first_bin = 0; first_bin < head.num_bins; first_bin += kScoreBins) {
    const int bins = min(head.num_bins - first_bin, kScoreBins);
    float sums[kWarpSize];
    S2T_UNROLL
    for (int i = 0; i < kWarpSize; ++i) sums[i] = 0.0f;
    VectorStager rows(size, bins, [&](int i) {
      return VectorView{element_at(head.rows, head.rows_type, (first_bin + i) * head.row_stride),
                        head.rows_type};
    });
    hidden.fetch(0);
    rows.fetch(0);
    for (int64_t first = 0; first < size; first += kStagedElements) {
      hidden.stage(first, scratch.hidden);
      rows.stage(first, scratch.rows);
      __syncthreads();
      hidden.fetch(first + kStagedElements);  // in flight while this stage is multiplied
      rows.fetch(first + kStagedElements);
      // sums of candidates without a hidden state, which is staged as zeros, are not used
      if (tile.candidate < count && tile.bin < bins)
        multiply_tile(scratch, tile, count, bins, size - first, sums);
      __syncthreads();
    }
    const float dot = transposed_tree_sum<kWarpSize / 2>(sums);
    const int bin = tile.bin + lane_id() % kTileBins;
    if (bin < bins) scratch.dots[tile.candidate + lane_id() / kTileBins][first_bin + bin] = dot;
  }
  __syncthreads();
  for (int i = warp_id(); i < count;
       i += kScoreThreads / kWarpSize) {  // the same for all lanes of a warp
    if (hidden_of(i).data == nullptr) continue;
    const float score = warp_expected_bin_value(head, scratch.dots[i]);
    if (lane_id() == 0) write(i, score);
  }
  __syncthreads();
}

}  // namespace s2t::cuda
