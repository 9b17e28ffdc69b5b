// Block-wide "keep the `wanted` best keys of all that are offered", wanted <= 64.
//
// Threads offer a few keys each, round by round. The wanted-th best of the thread maxima is a lower
// bound of the wanted-th best key: at most `wanted` threads reach it, and only keys that reach it
// are collected. So a round collects at most wanted x (keys a thread offers), and typically a few
// more than wanted. Keys are unique (core/ordering.h), so the bound and the result do not depend on
// the order of threads or rounds.
#pragma once

#include "core/ordering.h"
#include "core/propose_candidates.h"
#include "warp.cuh"

namespace s2t::cuda {

// The result of a compaction and one round more must fit: 64 + 64 x 32.
constexpr int kKeptCapacity = kMaxCandidates + kMaxCandidates * kHeldLogits;

template <int kThreads>
struct KeySelection {
  static constexpr int kShare =
      (kKeptCapacity + kThreads - 1) / kThreads;  // of `kept`, for a thread
  Key kept[kKeptCapacity];
  Key shortlist[kMaxCandidates * kShare];
  Key best_of_thread[kThreads];
  Key threshold;  // keys below it are out
  int count;      // of kept
  Key shortlist_threshold;
  int shortlist_count;
};

template <int kThreads>
S2T_DEVICE void begin_selection(KeySelection<kThreads>& s) {
  if (thread_id() == 0) {
    s.threshold = kNoKey + 1;
    s.count = 0;
  }
  __syncthreads();
}

// How many of `count` keys are better. By counting: no barriers, and all threads read the same
// address at a time.
S2T_DEVICE int rank_among(const Key* keys, int count, Key key) {
  int rank = 0;
  for (int i = 0; i < count; ++i) rank += keys[i] > key;
  return rank;
}

// Leaves the `wanted` best in kept[0 ..), sorted. All threads; `count` is s.count, read before the
// last barrier.
template <int kThreads>
S2T_DEVICE void compact_selection(KeySelection<kThreads>& s, int wanted, int count) {
  const int thread = thread_id();
  Key best = kNoKey;
  for (int i = thread; i < count; i += kThreads) best = s.kept[i] > best ? s.kept[i] : best;
  s.best_of_thread[thread] = best;
  if (thread == 0) {
    s.shortlist_threshold = kNoKey + 1;
    s.shortlist_count = 0;
  }
  __syncthreads();
  if (best != kNoKey && rank_among(s.best_of_thread, kThreads, best) == wanted - 1)
    s.shortlist_threshold = best;
  __syncthreads();
  const Key threshold = s.shortlist_threshold;
  if (best >= threshold)
    for (int i = thread; i < count; i += kThreads)
      if (s.kept[i] >= threshold) s.shortlist[atomicAdd(&s.shortlist_count, 1)] = s.kept[i];
  const Key old_threshold = s.threshold;  // before the barrier: below, one thread writes it
  __syncthreads();
  const int listed = s.shortlist_count;
  for (int i = thread; i < listed; i += kThreads) {
    const Key key = s.shortlist[i];
    const int rank = rank_among(s.shortlist, listed, key);
    if (rank < wanted) s.kept[rank] = key;
    // never lowered: the round at hand may have raised it above what was kept before
    if (rank == wanted - 1) s.threshold = key > old_threshold ? key : old_threshold;
  }
  if (thread == 0) s.count = listed < wanted ? listed : wanted;
  __syncthreads();
}

// One round: each thread holds kHeld keys, `best` among them; key_at(i) is the i-th. All threads.
template <int kHeld, int kThreads, class KeyAt>
S2T_DEVICE void offer_keys(KeySelection<kThreads>& s, int wanted, Key best, KeyAt key_at) {
  static_assert(kMaxCandidates + kMaxCandidates * kHeld <= kKeptCapacity,
                "a round must fit after a compaction");
  const int count = s.count;
  const bool passes = best >= s.threshold;
  s.best_of_thread[thread_id()] = passes ? best : kNoKey;
  const int passing = __syncthreads_count(passes);
  if (passing == 0) return;
  if (passing > wanted) {
    if (passes && rank_among(s.best_of_thread, kThreads, best) == wanted - 1) s.threshold = best;
    __syncthreads();
  }
  if (count + (passing < wanted ? passing : wanted) * kHeld > kKeptCapacity)
    compact_selection(s, wanted, count);
  const Key threshold = s.threshold;
  if (best >= threshold) {
    S2T_UNROLL  // so that what key_at(i) reads can stay in registers
        for (int i = 0; i < kHeld; ++i) {
      const Key key = key_at(i);
      if (key >= threshold) s.kept[atomicAdd(&s.count, 1)] = key;
    }
  }
  __syncthreads();
}

// Sorts what was kept and fills up to 64 with kNoKey. All threads.
template <int kThreads>
S2T_DEVICE void finish_selection(KeySelection<kThreads>& s, int wanted) {
  const int count = s.count;
  __syncthreads();
  compact_selection(s, wanted, count);
  for (int i = s.count + thread_id(); i < kMaxCandidates; i += kThreads) s.kept[i] = kNoKey;
  __syncthreads();
}

}  // namespace s2t::cuda
