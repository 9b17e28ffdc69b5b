#pragma once

// How a kernel's driver runs work on several threads without knowing torch: the binding passes its
// parallel_for in. Drivers cut work so that no result depends on the number of threads.

#include <cstdint>

namespace s2t::cpu {

struct Parallel {
  // Calls body(context, begin, end) for ranges that cover [0, count), from several threads, and
  // returns when all are done.
  void (*run)(int64_t count,
              void* context,
              void (*body)(void* context, int64_t begin, int64_t end));
  int num_threads;  // how many threads `run` may use
};

// f(i) for i in [0, count), in any order.
template <typename Function>
void for_each(const Parallel& parallel, int64_t count, const Function& f) {
  if (count == 1 || parallel.num_threads == 1) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  parallel.run(count, const_cast<Function*>(&f), [](void* context, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) (*static_cast<const Function*>(context))(i);
  });
}

}  // namespace s2t::cpu
