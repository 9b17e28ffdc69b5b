// Shared memory: every block has an arena; each declaration gets a place in it between red zones,
// the dynamic part starts at kDynamicStart. All of it is uninitialised when a block starts.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace simt {
namespace detail {
namespace {

constexpr int kGarbage = 0xCB;  // what an unchecked kernel would read
int num_slots = 0;

void open_range(Block& block, size_t offset, size_t bytes) {
  std::memset(block.arena + offset, kGarbage, bytes);
  if (!is_instrumented) return;
  const auto first = block.shadow.begin() + static_cast<ptrdiff_t>(offset);
  std::fill(first, first + static_cast<ptrdiff_t>(bytes), Cell{});
}
}  // namespace

void open_shared_memory(Block& block) {
  Cell redzone;
  redzone.write.thread = kRedzone;
  const size_t dynamic = running->arguments.shared_bytes;
  if (is_instrumented) {
    // without a dynamic part the static one, at most 48 KiB and its red zones, is all that needs a
    // shadow
    const size_t end = dynamic ? kDynamicStart + dynamic + kRedzoneBytes
                               : running->static_shared_end + kRedzoneBytes;
    block.shadow.assign(end, redzone);
  }
  if (dynamic) open_range(block, kDynamicStart, dynamic);
  for (const SharedVariable& variable : running->shared)
    if (variable.name) open_range(block, variable.offset, variable.bytes);
}

std::string shared_name(size_t offset) {
  if (offset >= kDynamicStart)
    return format("dynamic shared memory (%zu bytes) +%zu", running->arguments.shared_bytes,
                  offset - kDynamicStart);
  const SharedVariable* nearest = nullptr;
  for (const SharedVariable& variable : running->shared)
    if (variable.name && variable.offset <= offset &&
        (!nearest || variable.offset > nearest->offset))
      nearest = &variable;
  if (!nearest) return format("shared memory +%zu", offset);
  return format("shared '%s' (%zu bytes) +%zu", nearest->name, nearest->bytes,
                offset - nearest->offset);
}

static SharedVariable& place_variable(const SharedSlot& slot, size_t bytes, size_t alignment) {
  SharedVariable& variable = running->shared[static_cast<size_t>(slot.id)];
  const size_t offset =
      (running->static_shared_end + kRedzoneBytes + alignment - 1) / alignment * alignment;
  variable = {offset, bytes, slot.name};
  running->static_shared_end = offset + bytes;
  size_t total = 0;
  for (const SharedVariable& v : running->shared) total += v.bytes;
  if (total > limits().static_shared_bytes || offset + bytes + kRedzoneBytes > kDynamicStart)
    fail(format("static shared memory of %zu bytes is above the limit of %zu at '%s', %s", total,
                limits().static_shared_bytes, slot.name, describe(slot.site).c_str()));
  Cell redzone;
  redzone.write.thread = kRedzone;
  for (Block* block : running->resident) {
    if (is_instrumented && block->shadow.size() < offset + bytes + kRedzoneBytes)
      block->shadow.resize(offset + bytes + kRedzoneBytes, redzone);
    open_range(*block, offset, bytes);
  }
  return variable;
}
}  // namespace detail

using namespace detail;

void* static_shared(SharedSlot& slot, size_t bytes, size_t alignment) {
  if (slot.id < 0) slot.id = num_slots++;
  const auto id = static_cast<size_t>(slot.id);
  if (running->shared.size() <= id) running->shared.resize(id + 1);
  SharedVariable& variable = running->shared[id];
  if (!variable.name) place_variable(slot, bytes, alignment);
  return current->block->arena + variable.offset;
}

void* dynamic_shared() { return current->block->arena + kDynamicStart; }

}  // namespace simt
