// Warp collectives and block barriers: who waits for whom, what comes out, and what memory order
// they bring.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace simt {
namespace detail {
namespace {

template <class Visit>
void for_each_lane(unsigned mask, Visit visit) {
  for (; mask; mask &= mask - 1) visit(static_cast<unsigned>(__builtin_ctz(mask)));
}

uint32_t reduce(WarpOp op, unsigned mask, Thread* const* warp) {
  const auto value = [&](unsigned lane) { return static_cast<uint32_t>(warp[lane]->value); };
  const unsigned first = static_cast<unsigned>(__builtin_ctz(mask));
  uint32_t total = value(first);
  for_each_lane(mask & (mask - 1), [&](unsigned lane) {
    const uint32_t v = value(lane);
    const auto sv = static_cast<int32_t>(v), st = static_cast<int32_t>(total);
    switch (op) {
      case WarpOp::kReduceAdd:
        total += v;
        break;
      case WarpOp::kReduceMin:
        total = std::min(total, v);
        break;
      case WarpOp::kReduceMax:
        total = std::max(total, v);
        break;
      case WarpOp::kReduceMinSigned:
        total = static_cast<uint32_t>(std::min(st, sv));
        break;
      case WarpOp::kReduceMaxSigned:
        total = static_cast<uint32_t>(std::max(st, sv));
        break;
      case WarpOp::kReduceAnd:
        total &= v;
        break;
      case WarpOp::kReduceOr:
        total |= v;
        break;
      default:
        total ^= v;
        break;
    }
  });
  return total;
}

uint32_t ballot(unsigned mask, Thread* const* warp) {
  uint32_t bits = 0;
  for_each_lane(mask, [&](unsigned lane) { bits |= (warp[lane]->value != 0 ? 1u : 0u) << lane; });
  return bits;
}

// The lane that `thread` reads in a shuffle, as the PTX manual defines shfl.sync.
unsigned source_lane(const Thread& thread) {
  const int lane = static_cast<int>(thread.lane), segment = 32 - static_cast<int>(thread.width);
  const int low = lane & segment, high = low | (31 & ~segment),
            argument = static_cast<int>(thread.argument & 31);
  int source = lane;
  switch (thread.op) {
    case WarpOp::kShuffle:
      source = low | (argument & ~segment & 31);
      break;
    case WarpOp::kShuffleUp:
      source = lane - argument < low ? lane : lane - argument;
      break;
    case WarpOp::kShuffleDown:
      source = lane + argument > high ? lane : lane + argument;
      break;
    default:
      source = (lane ^ argument) > high ? lane : lane ^ argument;
      break;
  }
  return static_cast<unsigned>(source);
}

void shuffle_lanes(unsigned mask, Thread* const* warp) {
  for_each_lane(mask, [&](unsigned lane) {
    Thread& thread = *warp[lane];
    const unsigned source = source_lane(thread);
    if (!(mask >> source & 1))
      fail(format("%s at %s: lane %u reads lane %u, which is not in mask 0x%08x",
                  op_name(thread.op), describe(thread.site).c_str(), lane, source, mask) +
           "\n  by " + describe(thread));
    thread.result = warp[source]->value;
  });
}

// __syncwarp orders memory among the lanes of the mask: each learns what all the others did.
void join_clocks(unsigned mask, Thread* const* warp) {
  uint32_t joined[32] = {};
  for_each_lane(mask, [&](unsigned lane) {
    for (unsigned i = 0; i < 32; ++i) joined[i] = std::max(joined[i], warp[lane]->clock[i]);
  });
  for_each_lane(mask, [&](unsigned lane) {
    std::memcpy(warp[lane]->clock, joined, sizeof(joined));
    ++warp[lane]->clock[lane];
  });
}

void finish_collective(WarpOp op, unsigned mask, Thread* const* warp) {
  const auto give_all = [&](uint64_t result) {
    for_each_lane(mask, [&](unsigned lane) { warp[lane]->result = result; });
  };
  switch (op) {
    case WarpOp::kShuffle:
    case WarpOp::kShuffleUp:
    case WarpOp::kShuffleDown:
    case WarpOp::kShuffleXor:
      return shuffle_lanes(mask, warp);
    case WarpOp::kBallot:
      return give_all(ballot(mask, warp));
    case WarpOp::kAny:
      return give_all(ballot(mask, warp) != 0);
    case WarpOp::kAll:
      return give_all(ballot(mask, warp) == mask);
    case WarpOp::kSyncWarp:
      return join_clocks(mask, warp);
    case WarpOp::kMatchAny:
      for_each_lane(mask, [&](unsigned lane) {
        uint64_t equal = 0;
        for_each_lane(mask, [&](unsigned other) {
          equal |= uint64_t{warp[other]->value == warp[lane]->value} << other;
        });
        warp[lane]->result = equal;
      });
      return;
    default:
      return give_all(reduce(op, mask, warp));
  }
}

void check_mask(const Thread& thread, WarpOp op, unsigned mask, unsigned width, Site site) {
  const auto bad = [&](const std::string& what) {
    fail(format("%s at %s: ", op_name(op), describe(site).c_str()) + what);
  };
  if (!(mask >> thread.lane & 1))
    bad(format("calling lane %u is not in its own mask 0x%08x", thread.lane, mask));
  const unsigned lanes = std::min(32u, running->block_threads - thread.linear / 32 * 32);
  if (lanes < 32 && mask >> lanes)
    bad(format("mask 0x%08x names lanes that do not exist (the warp has %u)", mask, lanes));
  if (const unsigned gone = mask & thread.block->warps[thread.linear / 32].exited)
    bad(format("mask 0x%08x names exited lanes 0x%08x", mask, gone));
  if (width == 0 || width > 32 || (width & (width - 1)))
    bad(format("width must be a power of two up to 32, got %u", width));
}

void release_barrier(Block& block) {
  int count = 0, waiting = 0;
  for (Thread* thread : block.threads) {
    if (thread->state != State::kWaitsAtBarrier) continue;
    count += thread->predicate != 0;
    ++waiting;
    // what one thread learnt from another block is known to all behind a barrier
    if (thread->known) block.known.join(*thread->known);
    thread->known.reset();
  }
  ++block.epoch;
  block.at_barrier = 0;
  ++stats().barriers;
  const size_t size = block.threads.size();
  for (size_t i = 0; i < size; ++i) {
    Thread* thread = block.threads[schedule().threads == Order::kReversed ? i : size - 1 - i];
    if (thread->state != State::kWaitsAtBarrier) continue;
    switch (thread->barrier_op) {
      case BarrierOp::kCount:
        thread->barrier_result = count;
        break;
      case BarrierOp::kAnd:
        thread->barrier_result = count == waiting;
        break;
      case BarrierOp::kOr:
        thread->barrier_result = count != 0;
        break;
      default:
        thread->barrier_result = 0;
        break;
    }
    wake(thread);
  }
}
}  // namespace

void thread_exits() {
  Thread& thread = *current;
  Block& block = *thread.block;
  if (!thread.copies.empty())
    fail("the thread exits without waiting for its cp.async at " +
         describe(thread.copies.front().site));
  thread.state = State::kExited;
  block.warps[thread.linear / 32].exited |= 1u << thread.lane;
  --block.live;
  if (block.at_barrier != 0 && block.at_barrier == block.live)
    fail("divergent barrier: threads exited while others wait" + describe_waits(&block));
}
}  // namespace detail

using namespace detail;

uint64_t warp_collective(
    WarpOp op, unsigned mask, uint64_t value, unsigned argument, unsigned width, Site site) {
  Thread& thread = *current;
  check_mask(thread, op, mask, width, site);
  ++stats().collectives;
  thread.op = op;
  thread.mask = mask;
  thread.value = value;
  thread.argument = argument;
  thread.width = width;
  thread.site = site;
  Warp& warp = thread.block->warps[thread.linear / 32];
  int i = 0;
  while (i < warp.num_groups && warp.groups[i].mask != mask) ++i;
  WaitingLanes& group = warp.groups[i];
  if (i == warp.num_groups) {
    group = {mask, 0, op, site};
    ++warp.num_groups;
  }
  if (group.op != op || group.site.line != site.line)
    fail(format(
        "warp divergence: lane %u is at %s(mask 0x%08x) %s while lanes 0x%08x wait for it at %s %s",
        thread.lane, op_name(op), mask, describe(site).c_str(), group.arrived, op_name(group.op),
        describe(group.site).c_str()));
  group.arrived |= 1u << thread.lane;
  if (group.arrived != mask) {
    thread.state = State::kWaitsForWarp;
    park();
    return thread.result;
  }
  group = warp.groups[--warp.num_groups];
  Thread* const* lanes = &thread.block->threads[thread.linear / 32 * 32];
  finish_collective(op, mask, lanes);
  const bool reversed = schedule().threads == Order::kReversed;
  for (unsigned k = 0; k < 32; ++k) {
    const unsigned lane = reversed ? k : 31 - k;
    if ((mask >> lane & 1) && lanes[lane] != &thread) wake(lanes[lane]);
  }
  if (schedule().threads == Order::kRandom) {
    running->ready.push_back(&thread);
    park();
  }
  return thread.result;
}

int block_barrier(BarrierOp op, int predicate, Site site) {
  Thread& thread = *current;
  Block& block = *thread.block;
  thread.state = State::kWaitsAtBarrier;
  thread.site = site;
  thread.barrier_op = op;
  thread.predicate = predicate;
  if (++block.at_barrier == block.live) {
    bool diverges = block.live != running->block_threads;
    for (const Thread* other : block.threads)
      diverges |= other->state == State::kWaitsAtBarrier &&
                  (other->barrier_op != op || other->site.line != site.line ||
                   std::strcmp(other->site.file, site.file) != 0);
    if (diverges)
      fail("divergent barrier: not every thread of the block reached the same __syncthreads" +
           describe_waits(&block));
    release_barrier(block);
  }
  park();
  return thread.barrier_result;
}

}  // namespace simt
