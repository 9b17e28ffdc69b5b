#pragma once

// What select_token and score_and_select tell a DeviceCall of their rows.

#include "bindings/device_call.h"
#include "bindings/select_checks.h"

namespace s2t::bindings {

inline void use_rows(DeviceCall& call, const RowTensors& rows, double score_temperature) {
  call.reads(rows.ids, "ids");
  call.reads(rows.triggered, "triggered");
  call.reads(rows.default_token, "default_token");
  call.reads(rows.finished, "finished");
  if (score_temperature > 0) {
    call.reads(rows.seed, "seed");
    call.reads(rows.position, "position");
  }
  call.use(rows.token, Use::kWrite, "token");
  call.use(rows.slot, Use::kWrite, "slot");
}

}  // namespace s2t::bindings
