// Scores of a group of hidden states, compiled once per instruction set; see vec.h for the rules.
//
// A block is 4 candidates by 4 rows of the head. Each of its 16 dot products is summed in one
// vector, partials 0..15 in a first pass over the hidden size and 16..31 in a second (fp32 passes
// touch different cache lines). So a block is bound by its multiply-adds, 16 for 8 loads.
// Half-precision elements are widened as they are loaded.

#include "cpu/score_group.h"
#include "cpu/vec.h"

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

constexpr int kBlockCandidates = 4;
constexpr int kBlockRows = 4;
constexpr int kHeadVecs = kMaxBins / kLanes;

// Partials `pass` * 16 .. + 15 of the dot products of a block.
template <int kCandidates, typename Hidden, typename Row>
S2T_HOST_DEVICE void dot_pass(int64_t size,
                              int pass,
                              const Hidden* const* hidden,
                              const Row* const* rows,
                              Vec (*result)[kBlockRows]) {
  Vec sums[kCandidates][kBlockRows];  // a copy, which no store through a pointer can touch
  for (int c = 0; c < kCandidates; ++c) {
    for (int r = 0; r < kBlockRows; ++r) sums[c][r] = Vec(0.0f);
  }
  const auto add = [&](const auto& load_at) {
    Vec h[kCandidates];
    for (int c = 0; c < kCandidates; ++c) h[c] = load_at(hidden[c]);
    for (int r = 0; r < kBlockRows; ++r) {
      const Vec w = load_at(rows[r]);
      for (int c = 0; c < kCandidates; ++c) sums[c][r] = fma_canonical(h[c], w, sums[c][r]);
    }
  };
  int64_t i = pass * kLanes;
  for (; i + kLanes <= size; i += kDotPartials) {
    add([i](const auto* source) { return load(source + i); });
  }
  if (i < size) {
    add([i, size](const auto* source) { return load_first(source + i, size - i, 0.0f); });
  }
  for (int c = 0; c < kCandidates; ++c) {
    for (int r = 0; r < kBlockRows; ++r) result[c][r] = sums[c][r];
  }
}

// dots[candidate][row] for all rows of the head, rounded up to whole blocks.
template <int kCandidates, typename Hidden, typename Row>
void all_dots(const ScoreHead& head, const Hidden* const* hidden, float (*dots)[kMaxBins]) {
  const Row* base = static_cast<const Row*>(head.rows);
  for (int first = 0; first < head.num_bins; first += kBlockRows) {
    const Row* rows[kBlockRows];
    for (int r = 0; r < kBlockRows; ++r) {
      const int row = first + r < head.num_bins ? first + r : head.num_bins - 1;
      rows[r] = base + row * head.row_stride;
    }
    Vec passes[2][kCandidates][kBlockRows];
    for (int pass = 0; pass < 2; ++pass) {
      dot_pass<kCandidates>(head.hidden_size, pass, hidden, rows, passes[pass]);
    }
    for (int c = 0; c < kCandidates; ++c) {
      for (int r = 0; r < kBlockRows; ++r) {
        dots[c][first + r] = tree_sum(passes[0][c][r] + passes[1][c][r]);  // distance 16, 8, ...
      }
    }
  }
}

// bin_logit() of core for sixteen bins; -inf beyond the last one.
S2T_HOST_DEVICE Vec bin_logits(const PaddedHead& padded, int first, const float* dots) {
  const ScoreHead& head = padded.head;
  Vec z = load(dots + first);
  if (head.bias) z = z + load(padded.bias + first);
  z = z * Vec(head.logit_scale);
  float lanes[kLanes];
  if (head.softcap > 0.0f) {
    store(lanes, z);
    for (float& lane : lanes) lane = head.softcap * tanh_canonical(lane * head.inverse_softcap);
    z = load(lanes);
  }
  z = z * Vec(head.inverse_bin_temperature);
  if (first + kLanes <= head.num_bins) return z;
  store(lanes, z);
  return load_first(lanes, head.num_bins - first, negative_infinity());
}

// expected_bin_value() of core, from the dot products.
float score_of_dots(const PaddedHead& padded, const float* dots) {
  const int num_bins = padded.head.num_bins;
  Vec z[kHeadVecs];
  Vec maximum(negative_infinity());
  bool has_nan = false;
  for (int v = 0; v < kHeadVecs; ++v) {
    if (v * kLanes >= num_bins) break;
    z[v] = bin_logits(padded, v * kLanes, dots);
    maximum = max_ignoring_nan(z[v], maximum);
    has_nan = has_nan || mask_at_least(z[v], Vec(negative_infinity())) != kAllLanes;
  }
  const float largest = max_lane(maximum);
  if (has_nan || !is_finite(largest)) return quiet_nan();

  Vec sums[kHeadVecs], weighted[kHeadVecs];
  for (int v = 0; v < kHeadVecs; ++v) {
    const bool has_bins = v * kLanes < num_bins;
    sums[v] = has_bins ? exp_canonical(z[v] - Vec(largest)) : Vec(0.0f);
    weighted[v] = has_bins ? sums[v] * load(padded.bin_values + v * kLanes) : Vec(0.0f);
  }
  const Vec sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);  // distance 32, then 16
  const Vec weighted_sum = (weighted[0] + weighted[2]) + (weighted[1] + weighted[3]);
  return score_of_sums(tree_sum(weighted_sum), tree_sum(sum));
}

template <typename Hidden, typename Row>
void score(const PaddedHead& padded, const void* const* hidden, int count, float* scores) {
  for (int n = 0; n < count;) {
    const Hidden* block[kBlockCandidates];
    const int size = count - n < kBlockCandidates ? 1 : kBlockCandidates;
    for (int c = 0; c < size; ++c) block[c] = static_cast<const Hidden*>(hidden[n + c]);
    float dots[kBlockCandidates][kMaxBins] = {};
    if (size == 1) {
      all_dots<1, Hidden, Row>(padded.head, block, dots);
    } else {
      all_dots<kBlockCandidates, Hidden, Row>(padded.head, block, dots);
    }
    for (int c = 0; c < size; ++c) scores[n + c] = score_of_dots(padded, dots[c]);
    n += size;
  }
}

template <typename Hidden>
void score_with_rows(const PaddedHead& padded,
                     const void* const* hidden,
                     int count,
                     float* scores) {
  switch (padded.head.rows_type) {
    case ScalarType::kFloat32:
      return score<Hidden, float>(padded, hidden, count, scores);
    case ScalarType::kBFloat16:
      return score<Hidden, BFloat16>(padded, hidden, count, scores);
    case ScalarType::kFloat16:
      return score<Hidden, Float16>(padded, hidden, count, scores);
  }
}

}  // namespace

void score_group_kernel(const PaddedHead& padded,
                        ScalarType hidden_type,
                        const void* const* hidden,
                        int count,
                        float* scores) {
  switch (hidden_type) {
    case ScalarType::kFloat32:
      return score_with_rows<float>(padded, hidden, count, scores);
    case ScalarType::kBFloat16:
      return score_with_rows<BFloat16>(padded, hidden, count, scores);
    case ScalarType::kFloat16:
      return score_with_rows<Float16>(padded, hidden, count, scores);
  }
}

}  // namespace s2t::cpu::S2T_CPU_ISA
