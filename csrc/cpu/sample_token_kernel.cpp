// Weights and masses for sample_token, compiled per instruction set.

#include "cpu/chunk.h"
#include "cpu/sample_token_kernels.h"

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

// Lanes of x, the logits of first_id onwards, whose key is at least the cutoff.
S2T_HOST_DEVICE uint32_t mask_kept(Vec x, int64_t first_id, float value, int64_t last_tied_id) {
  const uint32_t at_least = mask_at_least(x, Vec(value));
  const uint32_t at_most = mask_at_least(Vec(value), x);
  const int64_t tied = last_tied_id - first_id + 1;  // how many leading lanes win a tie
  const uint32_t tied_lanes = tied <= 0 ? 0u : tied >= kLanes ? kAllLanes : (1u << tied) - 1u;
  return at_least & (~at_most | tied_lanes);
}

// Fills `weights` with those of one presented chunk.
S2T_HOST_DEVICE void walk_kept(const float* x,
                               float maximum,
                               float inverse_temperature,
                               int64_t first_id,
                               Key cutoff,
                               float* weights) {
  const float value = key_logit(cutoff);  // a NaN for kKeepAll: below every key of a candidate
  const int64_t last_tied_id = key_id(cutoff);
  const Vec m(maximum), scale(inverse_temperature);
  for (int i = 0; i < kChunkSize; i += kLanes) {
    const Vec logits = load(x + i);
    const Vec e = exp_canonical((logits - m) * scale);
    const uint32_t kept = cutoff == kKeepAll ? static_cast<uint32_t>(kAllLanes)
                                             : mask_kept(logits, first_id + i, value, last_tied_id);
    store(weights + i, zero_unless(kept, e));
  }
}

S2T_HOST_DEVICE float sum_of_weights(const float* weights) {
  Vec sums[kPartialVecs];
  for (int p = 0; p < kPartialVecs; ++p) {
    Vec sum(0.0f);
    for (int i = p * kLanes; i < kChunkSize; i += kChunkPartials) sum = sum + load(weights + i);
    sums[p] = sum;
  }
  return chunk_tree_sum(sums);
}

template <typename Element>
S2T_HOST_DEVICE void weights_of_chunk(
    const TemperedRow& row, int64_t c, Key cutoff, BlockedCursor& blocked, float* weights) {
  ChunkBuffer buffer;
  const PresentedChunk chunk =
      present_chunk(static_cast<const Element*>(row.row), row.vocab, c, blocked, buffer.values);
  walk_kept(chunk.x, row.chunks[c].maximum, row.inverse_temperature, c * kChunkSize, cutoff,
            weights);
}

template <typename Element>
void sums_of_chunks(const TemperedRow& row, Key cutoff, float* sums) {
  BlockedCursor blocked(*row.blocked);
  ChunkBuffer weights;
  const int64_t count = chunk_count(row.vocab);
  for (int64_t c = 0; c < count; ++c) {
    sums[c] = 0.0f;
    // The lowest id a tie could have: no element of the chunk has a larger key.
    const Key largest = make_key(row.chunks[c].maximum, static_cast<uint32_t>(c * kChunkSize));
    if (largest < cutoff) continue;
    weights_of_chunk<Element>(row, c, cutoff, blocked, weights.values);
    sums[c] = sum_of_weights(weights.values);
  }
}

}  // namespace

void key_weights(
    const Key* keys, int64_t count, float inverse_temperature, float* scaled, float* weights) {
  const Vec best(key_logit(keys[0])), scale(inverse_temperature);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    float logits[kLanes], d[kLanes], e[kLanes];
    for (int j = 0; j < kLanes; ++j) logits[j] = key_logit(j < lanes ? keys[i + j] : kNoKey);
    const Vec difference = (load(logits) - best) * scale;
    store(d, difference);
    store(e, exp_canonical(difference));
    for (int j = 0; j < lanes; ++j) {
      scaled[i + j] = d[j];
      weights[i + j] = e[j];
    }
  }
}

void chunk_masses(const TemperedRow& row, const float* kept_sums, double* mass) {
  const int64_t count = chunk_count(row.vocab);
  for (int64_t c = 0; c < count; ++c) {
    const float scale = chunk_scale(row.chunks[c].maximum, row.best, row.inverse_temperature);
    mass[c] = chunk_mass(scale, kept_sums[c]);
  }
}

void kept_sums(const TemperedRow& row, Key cutoff, float* sums) {
  switch (row.type) {
    case ScalarType::kFloat32:
      return sums_of_chunks<float>(row, cutoff, sums);
    case ScalarType::kBFloat16:
      return sums_of_chunks<BFloat16>(row, cutoff, sums);
    case ScalarType::kFloat16:
      return sums_of_chunks<Float16>(row, cutoff, sums);
  }
}

void kept_weights(const TemperedRow& row, int64_t c, Key cutoff, float* weights) {
  BlockedCursor blocked(*row.blocked);
  switch (row.type) {
    case ScalarType::kFloat32:
      return weights_of_chunk<float>(row, c, cutoff, blocked, weights);
    case ScalarType::kBFloat16:
      return weights_of_chunk<BFloat16>(row, c, cutoff, blocked, weights);
    case ScalarType::kFloat16:
      return weights_of_chunk<Float16>(row, c, cutoff, blocked, weights);
  }
}

}  // namespace s2t::cpu::S2T_CPU_ISA
