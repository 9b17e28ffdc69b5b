// The largest logit down to which a row holds a given amount, of candidates or of weight, by one
// block: radix selection over the ordered bits.
//
// A read adds every logit's amount to its digit's place in a histogram in shared memory, of those
// logits that share the digits found so far; the digit in which the sum from above reaches the
// target is the next one found. 16-bit types have 2 digits, fp32 has 3, so that is how often the
// row is read. Amounts are integers: their sums do not depend on the order of additions.
#pragma once

#include "tempered_row.cuh"

namespace s2t::cuda {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kDigitsOfWarp = kDigits / kSampleWarps;

struct DigitHistogram {
  // 64-bit sums in two words: shared memory adds words in one instruction.
  uint32_t low[kDigits], high[kDigits];
  uint64_t of_warp[kSampleWarps];
  uint32_t digit;
  uint64_t above;
};

// Low bits of a widened logit that its value determines: fewer digits for 16-bit types.
template <class T>
constexpr int kFixedBits = 0;
template <>
constexpr int kFixedBits<BFloat16> = 16;
template <>
constexpr int kFixedBits<Float16> = 13;

// The ordered bits of a logit without the fixed ones: neighbouring values differ by 1.
template <class T>
S2T_DEVICE uint32_t value_number(float logit) {
  return ordered_bits(logit) >> kFixedBits<T>;
}

template <class T>
S2T_DEVICE float numbered_value(uint32_t number) {
  constexpr int kShift = kFixedBits<T>;
  const uint32_t ordered = number << kShift;
  // of a negative logit the fixed bits are ones in the ordered form
  const uint32_t fixed = ordered & 0x80000000u ? 0u : (1u << kShift) - 1u;
  return value_of_ordered_bits(ordered | fixed);
}

S2T_DEVICE void add_to_digit(DigitHistogram& h, uint32_t digit, uint64_t amount) {
  const auto low = static_cast<uint32_t>(amount);
  const uint32_t before = atomicAdd(&h.low[digit], low);
  const uint32_t carry = before + low < before ? 1u : 0u;
  const uint32_t high = static_cast<uint32_t>(amount >> 32) + carry;
  if (high != 0) atomicAdd(&h.high[digit], high);
}

// Which logits a read counts, and where: number >> shared_from is `prefix`, the digit follows.
struct DigitPlace {
  uint32_t prefix;
  int shared_from, digit_from;
};

// A lane's logits of a chunk. Neighbours in one digit are added together first: equal logits, the
// worst case for additions to one address, then cost one of them instead of 32. Eight logits at a
// time, the others move up: unrolled 32 times, this would take the registers of a second block.
template <class T, class Amount>
S2T_DEVICE void add_digits(const float (&logits)[kHeldLogits],
                           DigitPlace place,
                           DigitHistogram& h,
                           Amount amount) {
  float x[kHeldLogits];
  memcpy(x, logits, sizeof(x));
  uint32_t digit = 0;
  uint64_t run = 0;
  S2T_NO_UNROLL
  for (int j = 0; j < kGroupsPerLane; ++j) {
    S2T_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      const uint32_t number = value_number<T>(x[i]);
      const bool is_counted =
          is_candidate(x[i]) && static_cast<uint64_t>(number) >> place.shared_from == place.prefix;
      const uint32_t next = number >> place.digit_from & (kDigits - 1u);
      if (is_counted && next != digit) {
        if (run != 0) add_to_digit(h, digit, run);
        digit = next;
        run = 0;
      }
      if (is_counted) run += amount(x[i]);
    }
    S2T_UNROLL
    for (int i = 0; i + kGroup < kHeldLogits; ++i) x[i] = x[i + kGroup];
  }
  if (run != 0) add_to_digit(h, digit, run);
}

S2T_DEVICE uint64_t sum_of_digit(const DigitHistogram& h, int digit) {
  return static_cast<uint64_t>(h.high[digit]) << 32 | h.low[digit];
}

// Leaves in h.digit the largest digit that reaches `target` with those above it, in h.above what
// those above it hold; the last digit that holds anything if none does. All threads.
S2T_DEVICE void find_digit(DigitHistogram& h, uint64_t target) {
  const int first = warp_id() * kDigitsOfWarp + lane_id();
  unsigned long long own = 0;
  for (int i = 0; i < kDigitsOfWarp; i += kWarpSize) own += sum_of_digit(h, first + i);
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    own += __shfl_xor_sync(kAllLanes, own, distance);
  if (lane_id() == 0) h.of_warp[warp_id()] = own;
  __syncthreads();
  uint64_t total = 0;
  for (int w = 0; w < kSampleWarps; ++w) total += h.of_warp[w];
  target = target < total ? target : total;
  int warp = kSampleWarps - 1;
  unsigned long long above = 0;
  for (; warp > 0 && (h.of_warp[warp] == 0 || above + h.of_warp[warp] < target); --warp)
    above += h.of_warp[warp];
  bool is_found = warp != warp_id();  // by another warp: the same for all lanes
  for (int i = kDigitsOfWarp - kWarpSize; !is_found && i >= 0; i -= kWarpSize) {
    const unsigned long long sum = sum_of_digit(h, first + i);
    unsigned long long through = sum;  // of this lane and those above it
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      const unsigned long long other = __shfl_down_sync(kAllLanes, through, distance);
      if (lane_id() + distance < kWarpSize) through += other;
    }
    const unsigned reaching = __ballot_sync(kAllLanes, sum != 0 && above + through >= target);
    if (reaching >> lane_id() == 1u) {
      h.digit = static_cast<uint32_t>(first + i);
      h.above = above + through - sum;
    }
    is_found = reaching != 0;
    above += __shfl_sync(kAllLanes, through, 0);
  }
  __syncthreads();
}

// The value_number() of that logit. amounts(c) gives the function that gives the amount of a logit
// of chunk c. The best logit's amount must not be 0. All threads.
template <class T, class Amounts>
S2T_DEVICE uint32_t
number_reaching(const TemperedRow<T>& row, uint64_t target, DigitHistogram& h, Amounts amounts) {
  uint32_t prefix = 0;
  int rest = 32 - kFixedBits<T>;
  while (rest > 0) {
    const int digit_from = rest > kDigitBits ? rest - kDigitBits : 0;
    for (int i = thread_id(); i < kDigits; i += kSampleThreads) h.low[i] = h.high[i] = 0;
    __syncthreads();
    const Key least = static_cast<Key>(prefix) << rest << kFixedBits<T> << 32;
    const DigitPlace place = {prefix, rest, digit_from};
    for_kept_chunks(
        row, least > kKeepAll ? least : kKeepAll,
        [&](int64_t c, const float (&x)[kHeldLogits]) { add_digits<T>(x, place, h, amounts(c)); },
        [](int64_t) {});
    __syncthreads();
    find_digit(h, target);
    target = target > h.above ? target - h.above : 0;
    prefix = prefix << (rest - digit_from) | h.digit;
    rest = digit_from;
  }
  return prefix;
}

}  // namespace s2t::cuda
