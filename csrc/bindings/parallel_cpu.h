#pragma once

// torch's threads, for the CPU kernels.

#include <torch/csrc/stable/ops.h>

#include "cpu/parallel.h"

namespace s2t::bindings {

inline s2t::cpu::Parallel torch_parallel() {
  const auto run = [](int64_t count, void* context, void (*body)(void*, int64_t, int64_t)) {
    torch::stable::parallel_for(0, count, 1,
                                [&](int64_t begin, int64_t end) { body(context, begin, end); });
  };
  return s2t::cpu::Parallel{run, static_cast<int>(torch::stable::get_num_threads())};
}

}  // namespace s2t::bindings
