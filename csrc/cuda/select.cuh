// The choice of one row by one warp: select_row() of core/select_token.h.
#pragma once

#include "core/select_token.h"
#include "warp.cuh"

namespace s2t::cuda {

// Key of the best usable slot, kNoKey if there is none: the total order of core/ordering.h on
// (score, slot).
S2T_DEVICE Key warp_best_slot(const int64_t* ids, const float* scores, int k) {
  Key best = kNoKey;
  for (int slot = lane_id(); slot < k; slot += kWarpSize) {
    const Key key = ids[slot] >= 0 ? make_key(scores[slot], static_cast<uint32_t>(slot)) : kNoKey;
    best = key > best ? key : best;
  }
  return warp_max(best);
}

S2T_DEVICE void warp_select_row(const SelectTokenParams& p, int64_t row) {
  int64_t token = p.default_token[row];
  int slot = 0;
  bool refused = false;
  if (p.finished[row]) {  // the same for all lanes
    token = p.pad_id;
  } else if (p.triggered[row]) {
    const int64_t* ids = p.ids + row * p.k;
    const float* scores = p.scores + row * p.k;
    const Key best = warp_best_slot(ids, scores, p.k);
    if (best != kNoKey) {
      slot = static_cast<int>(key_id(best));
      if (p.score_temperature > 0.0f && lane_id() == 0) {
        const float uniform =
            uniform24(philox(p.seed[row], p.position[row], RandomPurpose::kSelectToken));
        slot = draw_slot(ids, scores, p.k, slot, p.score_temperature, uniform);
      }
      refused = is_refused(ids, scores, slot, p.override_margin);
      if (refused) slot = 0;
      token = ids[slot];
    }
  }
  if (lane_id() != 0) return;
  p.token[row] = token;
  p.slot[row] = slot;
  if (p.refused != nullptr) p.refused[row] = refused;
}

}  // namespace s2t::cuda
