// Declares the operators of _simt: those of s2t_ext, from the same text, and what sets the
// emulator.

#include <torch/csrc/stable/library.h>

#include "bindings/schemas.h"
#include "bindings/simt/device.h"

namespace s2t::bindings {
namespace {

simt::Order order_of(const std::string& argument, const std::string& name) {
  if (name == "forward") return simt::Order::kForward;
  if (name == "reversed") return simt::Order::kReversed;
  if (name == "random") return simt::Order::kRandom;
  fail("set_schedule", argument, "be forward, reversed or random", name);
}

void set_schedule(
    std::string threads, std::string blocks, int64_t resident, double preempt, int64_t seed) {
  if (resident < 0)
    fail("set_schedule", "resident", "be at least 0 (0: all blocks)", std::to_string(resident));
  simt::schedule() = {order_of("threads", threads), order_of("blocks", blocks),
                      static_cast<int>(resident), preempt, static_cast<uint64_t>(seed)};
}

void set_blocks_per_row(int64_t blocks) {
  if (blocks < 0)
    fail("set_blocks_per_row", "blocks", "be at least 0 (0: tuned)", std::to_string(blocks));
  chosen_blocks_per_row() = blocks;
}

// Kernel launches, accesses checked and collectives since the process started.
std::tuple<int64_t, int64_t, int64_t> statistics() {
  const simt::Stats& stats = simt::stats();
  return {static_cast<int64_t>(stats.launches), static_cast<int64_t>(stats.reads + stats.writes),
          static_cast<int64_t>(stats.collectives)};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY(s2t_ext_simt, m) {
  for (const char* schema : s2t::bindings::kSchemas) m.def(schema);
  m.def("set_schedule(str threads, str blocks, int resident, float preempt, int seed) -> ()");
  m.def("set_blocks_per_row(int blocks) -> ()");
  m.def("statistics() -> (int launches, int accesses, int collectives)");
}

STABLE_TORCH_LIBRARY_IMPL(s2t_ext_simt, CompositeExplicitAutograd, m) {
  m.impl("set_schedule", TORCH_BOX(&s2t::bindings::set_schedule));
  m.impl("set_blocks_per_row", TORCH_BOX(&s2t::bindings::set_blocks_per_row));
  m.impl("statistics", TORCH_BOX(&s2t::bindings::statistics));
}
