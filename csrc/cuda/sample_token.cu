// Draws the ordinary next token of every row (core/sample_token.h states the rules).
//
// The blocks of a row read it once, as in propose_candidates.cu, for the 64 best keys and the
// statistics of its chunks, and at a temperature without top-k for its chunk sums too. The block
// that arrives last draws. Greedy rows, and those whose kept set lies within the 64 best, are
// decided by then; without truncation what is left to read is the chunk of the draw. A top-k beyond
// 64, or a nucleus wider than the 64 best, is found by radix selection (sample_cutoff.cuh), in 3 to
// 8 more reads, from L2. Rows are independent: what one needs, the others do not wait for.
#include "launchers.h"
#include "row_operator.cuh"
#include "sample_cutoff.cuh"

namespace s2t::cuda {
namespace {

// ---- device code -------------------------------------------------------------------------------

// The histogram takes the place of the selection, whose 64 best stay where they are.
union SampleKeys {
  KeySelection<kSampleThreads> selection;
  struct {
    Key sorted[kMaxCandidates];
    DigitHistogram histogram;
  };
};

struct SampleScratch {
  CutoffScratch cutoff;
  float scaled[kMaxCandidates], weights[kMaxCandidates];
  float weights_by_id[kMaxCandidates];
  int place_by_id[kMaxCandidates];
  float chunk_weights[kChunkSize];
  double uniform;  // the row's: in a register it would live through the walks over the row
  int kept;
  Key chosen;
};

S2T_DEVICE Key max_key(Key a, Key b) { return a > b ? a : b; }

// Cutoff and mass of what top-k keeps; mass only where something needs it.
struct TopK {
  Key cutoff;
  double mass;
};

template <class T>
S2T_DEVICE TopK beyond_the_list(const TemperedRow<T>& row,
                                const SampleRule& rule,
                                SampleKeys& keys,
                                MassScratch& scratch) {
  TopK result = {kKeepAll, 0.0};
  if (rule.has_top_k)
    result.cutoff = rule.top_k <= kMaxCandidates ? first_of_equals(keys.sorted[rule.top_k - 1])
                                                 : top_k_cutoff(row, rule.top_k, keys.histogram);
  if (rule.has_top_p) {
    sum_kept_weights(row, result.cutoff);
    result.mass = total_mass(row, scratch);
  }
  return result;
}

// The kept set is the first `kept` of the sorted list: draw among them in the order of the ids. All
// threads.
S2T_DEVICE Key draw_listed(const Key* sorted, int kept, SampleScratch& scratch) {
  const int place = thread_id();
  if (place < kept) {
    int rank = 0;
    for (int i = 0; i < kept; ++i) rank += key_id(sorted[i]) < key_id(sorted[place]);
    scratch.weights_by_id[rank] = scratch.weights[place];
    scratch.place_by_id[rank] = place;
  }
  __syncthreads();
  if (thread_id() == 0) {
    const double total = running_total(scratch.weights_by_id, kept);
    const Pick chosen = pick(scratch.weights_by_id, kept, scratch.uniform * total);
    scratch.chosen = sorted[scratch.place_by_id[chosen.index]];
  }
  __syncthreads();
  return scratch.chosen;
}

// pick() of core/sample_token.h over the chunks' masses, by one warp.
template <class T>
S2T_DEVICE Pick pick_chunk(const TemperedRow<T>& row, double target) {
  Pick chosen = {-1, static_cast<double>(positive_infinity())};
  double running = 0.0;
  walk_masses(
      row, [&](int64_t c) { return kept_sums(row)[c]; },
      [&](int64_t c, double mass) {
        const double before = running;
        running = running + mass;
        if (running > target) {
          chosen = {c, target - before};
          return false;
        }
        if (mass > 0.0) chosen.index = c;
        return true;
      });
  return chosen;
}

// pick_in_chunk() of core/sample_token.h, by one warp; the result is lane 0's.
S2T_DEVICE int warp_pick_in_chunk(const float* weights, float* sums, double target) {
  for (int b = 0; b < kChunkSize / kBlockSize; ++b) {
    const float sum = warp_tree_sum(weights[b * kBlockSize + lane_id()]);
    if (lane_id() == 0) sums[b] = sum;
  }
  if (lane_id() != 0) return 0;
  const Pick block = pick(sums, kChunkSize / kBlockSize, target);
  const Pick element = pick(weights + block.index * kBlockSize, kBlockSize, block.rest);
  return static_cast<int>(block.index * kBlockSize + element.index);
}

template <class T>
S2T_DEVICE Key
draw_in_chunk(const TemperedRow<T>& row, Key cutoff, Pick chunk, SampleScratch& scratch) {
  const int64_t base = chunk.index * kChunkSize;
  const float maximum = chunk_maximum(row, chunk.index);
  float x[kHeldLogits];
  read_chunk(row.logits, row.source, row.blocked, base, x);
  S2T_UNROLL
  for (int i = 0; i < kHeldLogits; ++i) {
    const int64_t id = held_id(base, lane_id(), i);
    scratch.chunk_weights[id - base] = kept_weight(row, x[i], maximum, id, cutoff);
  }
  __syncwarp();
  const float scale = chunk_scale(maximum, row.best, row.inverse_temperature);
  // weights_by_id is free here: a row is drawn in one way only
  const int element = warp_pick_in_chunk(scratch.chunk_weights, scratch.weights_by_id,
                                         chunk.rest / static_cast<double>(scale));
  if (lane_id() != 0) return kNoKey;
  return make_key(to_float(row.logits[base + element]), static_cast<uint32_t>(base + element));
}

template <class T>
S2T_DEVICE Key draw_unlisted(const TemperedRow<T>& row,
                             const SampleRule& rule,
                             TopK top_k,
                             DigitHistogram& histogram,
                             SampleScratch& scratch) {
  Key cutoff = top_k.cutoff, summed = kNoKey;
  if (rule.has_min_p) cutoff = max_key(cutoff, min_p_cutoff(row.best, rule));
  if (rule.has_top_p) {
    const double target = rule.top_p * top_k.mass;
    summed =
        nucleus_cutoff(row, top_k.cutoff, target, histogram, scratch.cutoff, scratch.chunk_weights);
    cutoff = max_key(cutoff, summed);
  }
  if (cutoff != summed || cutoff == kKeepAll) sum_kept_weights(row, cutoff);
  const double total = total_mass(row, scratch.cutoff.mass);
  if (warp_id() == 0) {
    const Key chosen =
        draw_in_chunk(row, cutoff, pick_chunk(row, scratch.uniform * total), scratch);
    if (lane_id() == 0) scratch.chosen = chosen;
  }
  __syncthreads();
  return scratch.chosen;
}

// A row that is not greedy and whose best logit is finite. All threads.
template <class T>
S2T_DEVICE Key draw(const TemperedRow<T>& row,
                    const SampleRule& rule,
                    SampleKeys& keys,
                    int count,
                    SampleScratch& scratch) {
  const Key* sorted = keys.sorted;
  for (int i = thread_id(); i < count; i += kSampleThreads) {
    scratch.scaled[i] = scaled_logit(key_logit(sorted[i]), row.best, rule.inverse_temperature);
    scratch.weights[i] = exp_canonical(scratch.scaled[i]);
  }
  const ListedTopK listed = listed_top_k(rule, sorted, count);
  TopK top_k = {kKeepAll, 0.0};
  if (!listed.is_complete) top_k = beyond_the_list(row, rule, keys, scratch.cutoff.mass);
  __syncthreads();
  if (thread_id() == 0)
    scratch.kept = kept_in_list(scratch.scaled, scratch.weights, listed, rule, top_k.mass);
  __syncthreads();
  return scratch.kept == kNotListed ? draw_unlisted(row, rule, top_k, keys.histogram, scratch)
                                    : draw_listed(sorted, scratch.kept, scratch);
}

S2T_DEVICE RowSource source_of(const SampleTokenParams& p) {
  return {p.logits, p.row_stride, p.vocab, p.blocked_ids, p.num_blocked};
}

S2T_DEVICE SampleRule rule_of(const SampleTokenParams& p, int64_t row) {
  return sample_rule(p.temperature[row], p.top_k[row], p.top_p[row], p.min_p[row], p.vocab);
}

// A temperature without top-k needs the sums of whole chunks, which the scan can make while it
// holds the logits: the inverse of that temperature. 1 where nothing needs them.
S2T_DEVICE float scanned_temperature(const SampleRule& rule) {
  return rule.has_top_k ? 1.0f : rule.inverse_temperature;
}

// Of the sorted list.
S2T_DEVICE int wanted_keys(const SampleRule& rule) { return rule.is_greedy ? 1 : kMaxCandidates; }

// By a warp.
S2T_DEVICE float whole_sum(const float (&x)[kHeldLogits],
                           float maximum,
                           float inverse_temperature) {
  return chunk_sum([&](int i) {
    return is_candidate(x[i]) ? exp_canonical((x[i] - maximum) * inverse_temperature) : 0.0f;
  });
}

// This block's part of the row. All threads.
template <class T>
S2T_DEVICE void scan_for_sampling(const SampleTokenParams& p,
                                  RowPart part,
                                  const SampleWorkspace& workspace,
                                  KeySelection<kSampleThreads>& selection) {
  const SampleRule rule = rule_of(p, part.row);
  const float inverse_temperature = scanned_temperature(rule);
  scan_row_part<T>(source_of(p), part, wanted_keys(rule), workspace, selection,
                   [&](int64_t chunk, const float (&x)[kHeldLogits], float maximum) {
                     if (inverse_temperature == 1.0f) return;
                     const float sum = whole_sum(x, maximum, inverse_temperature);
                     if (lane_id() == 0) workspace.row_sums(part.row, p.vocab)[chunk] = sum;
                   });
}

template <class T>
S2T_KERNEL void __launch_bounds__(kSampleThreads, kSampleBlocks)
    sample_token_kernel(SampleTokenParams p, SampleWorkspace workspace) {
  S2T_SHARED(SampleKeys, keys);
  S2T_SHARED(SampleScratch, scratch);
  S2T_SHARED(RowStats, row_stats);
  S2T_SHARED(bool, is_last);
  const RowPart part = row_part();
  scan_for_sampling<T>(p, part, workspace, keys.selection);
  if (!arrives_last(workspace, part, is_last)) return;

  const SampleRule rule = rule_of(p, part.row);
  merge_row_keys(workspace, part, wanted_keys(rule), keys.selection);
  const int64_t chunks = chunk_count(p.vocab);
  const ChunkStats* stats = workspace.stats + part.row * chunks;
  if (warp_id() == 0) {
    const RowStats merged = merge_row_stats(stats, chunks);
    if (lane_id() == 0) row_stats = merged;
  }
  const Key best = keys.sorted[0];
  Key chosen = best;
  if (!rule.is_greedy && is_finite(key_logit(best))) {  // the same for all threads
    const TemperedRow<T> row = {row_of<T>(source_of(p), part.row),
                                source_of(p),
                                load_blocked_ids(p.blocked_ids, p.num_blocked, lane_id()),
                                stats,
                                workspace.row_sums(part.row, p.vocab),
                                key_logit(best),
                                rule.inverse_temperature};
    int count = 0;
    while (count < kMaxCandidates && keys.sorted[count] != kNoKey) ++count;
    if (thread_id() == 0)
      scratch.uniform =
          uniform53(philox(p.seed[part.row], p.position[part.row], RandomPurpose::kSampleToken));
    chosen = draw(row, rule, keys, count, scratch);
  }
  if (thread_id() != 0) return;
  p.token[part.row] = key_id(chosen);
  p.logprob[part.row] = row_logprob(row_stats, chosen, best);
}

SampleTokenParams rows_from(const SampleTokenParams& params, int64_t first) {
  SampleTokenParams p = params;
  p.logits = advance_elements(params.logits, params.logits_type, first * params.row_stride);
  p.temperature += first;
  p.top_k += first;
  p.top_p += first;
  p.min_p += first;
  p.seed += first;
  p.position += first;
  p.token += first;
  p.logprob += first;
  return p;
}

}  // namespace

cudaError_t launch_sample_token(const SampleTokenParams& params,
                                const SampleWorkspace& workspace,
                                cudaStream_t stream) {
  return launch_row_operator<kSampleThreads>(
      "sample_token", params, workspace, stream, rows_from,
      [](auto tag) { return sample_token_kernel<typename decltype(tag)::type>; });
}

}  // namespace s2t::cuda
