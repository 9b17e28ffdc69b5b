// The mass that a cutoff keeps is a sum over chunks in the order of the ids, each a tree: rounding
// is monotone, so it never grows when the cutoff does. The nucleus is therefore well defined, and
// any search finds the same one: running sums over the sorted keys say where it must be to within
// rounding, and a few evaluations of the true mass settle it.

#include "cpu/nucleus_cutoff.h"

#include <algorithm>
#include <memory>

#include "cpu/dispatch.h"
#include "cpu/row_scan.h"

namespace s2t::cpu {
namespace {

constexpr KernelTable<void(ScanPart&)> kScanPart = S2T_KERNEL_TABLE(scan_part);
constexpr KernelTable<int64_t(Key*, int64_t, int64_t)> kSortBest = S2T_KERNEL_TABLE(sort_best);
constexpr KernelTable<void(const Key*, int64_t, float, float*, float*)> kKeyWeights =
    S2T_KERNEL_TABLE(key_weights);
constexpr KernelTable<void(const TemperedRow&, const float*, double*)> kChunkMasses =
    S2T_KERNEL_TABLE(chunk_masses);
constexpr KernelTable<void(const TemperedRow&, Key, float*)> kKeptSums =
    S2T_KERNEL_TABLE(kept_sums);

bool reaches(const TemperedRow& row, Key cutoff, double target) {
  const std::vector<double> mass = kept_masses(row, cutoff);
  return running_total(mass.data(), static_cast<int64_t>(mass.size())) >= target;
}

// First place where the running sum of the sorted keys' weights reaches the target; count if none.
int64_t estimated_place(const TemperedRow& row, double target, const Key* keys, int64_t count) {
  const std::unique_ptr<float[]> scaled(new float[count]), weights(new float[count]);
  kKeyWeights.active()(keys, count, row.inverse_temperature, scaled.get(), weights.get());
  double running = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    running += static_cast<double>(weights[i]);
    if (running >= target) return i;
  }
  return count;
}

// The `count` best keys of the row, sorted.
std::vector<Key> best_keys(const TemperedRow& row, int64_t count) {
  const int64_t num_chunks = chunk_count(row.vocab);
  const std::unique_ptr<ChunkStats[]> chunks(new ChunkStats[num_chunks]);
  const std::unique_ptr<float[]> delegates(new float[num_chunks * kDelegates]);
  std::vector<Key> keys(static_cast<size_t>(key_capacity(count)));
  ScanPart part = {};
  part.row = row.row;
  part.type = row.type;
  part.vocab = row.vocab;
  part.end_chunk = num_chunks;
  part.blocked = row.blocked;
  part.num_best = count;
  part.inverse_temperature = 1.0f;
  part.stats = chunks.get();
  part.delegates = delegates.get();
  part.keys = keys.data();
  kScanPart.active()(part);
  keys.resize(static_cast<size_t>(kSortBest.active()(keys.data(), part.num_keys, count)));
  return keys;
}

// The largest of these sorted keys that keeps at least `target` of mass; the last one does.
Key nucleus_cutoff_among(const TemperedRow& row, double target, const Key* keys, int64_t count) {
  // Invariant: place `failing` keeps too little (-1 keeps nothing), place `passing` enough. The
  // last place keeps everything the target is a part of.
  int64_t failing = -1, passing = count - 1;
  int64_t middle = estimated_place(row, target, keys, count);
  // From the estimate outwards in growing steps, then by halves.
  for (int64_t step = 1; passing - failing > 1; step *= 2) {
    if (middle <= failing || middle >= passing) middle = failing + (passing - failing) / 2;
    if (reaches(row, keys[middle], target)) {
      passing = middle;
      middle = passing - step;
    } else {
      failing = middle;
      middle = failing + step;
    }
  }
  return keys[passing];
}

}  // namespace

std::vector<double> kept_masses(const TemperedRow& row, Key cutoff) {
  const int64_t num_chunks = chunk_count(row.vocab);
  std::vector<float> sums(static_cast<size_t>(num_chunks));
  std::vector<double> mass(static_cast<size_t>(num_chunks));
  kKeptSums.active()(row, cutoff, sums.data());
  kChunkMasses.active()(row, sums.data(), mass.data());
  return mass;
}

std::vector<double> unrestricted_masses(const TemperedRow& row, const float* tempered_sums) {
  const int64_t num_chunks = chunk_count(row.vocab);
  std::vector<float> sums(static_cast<size_t>(num_chunks));
  for (int64_t c = 0; c < num_chunks; ++c) {
    sums[c] = tempered_sums ? tempered_sums[c] : row.chunks[c].sum;
  }
  std::vector<double> mass(static_cast<size_t>(num_chunks));
  kChunkMasses.active()(row, sums.data(), mass.data());
  return mass;
}

Key nucleus_cutoff(const TemperedRow& row, double target) {
  // A list long enough by a margin that covers all rounding, or with every candidate.
  constexpr double kMargin = 1e-4;
  constexpr int64_t kFirstLength = 1024, kGrowth = 16;
  for (int64_t length = kFirstLength;; length *= kGrowth) {
    const std::vector<Key> keys = best_keys(row, std::min(length, row.vocab));
    const int64_t count = static_cast<int64_t>(keys.size());
    const bool is_complete = count < length;
    if (is_complete || estimated_place(row, target * (1.0 + kMargin), keys.data(), count) < count) {
      return nucleus_cutoff_among(row, target, keys.data(), count);
    }
  }
}

}  // namespace s2t::cpu
