// Reads of logits: 128 bits at a time wherever whole vectors lie inside the row, element by element
// at the ends.
#pragma once

#include "core/float16.h"
#include "core/ordering.h"
#include "portable.cuh"
#include "tuning.h"

namespace s2t::cuda {

template <class T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

// Elements between the 128-bit boundary at or before the row and the row. A group of 8 starts at a
// multiple of 16 bytes from the row, so this holds for every group.
template <class T>
S2T_DEVICE int row_skew(const T* row) {
  return static_cast<int>((reinterpret_cast<uintptr_t>(row) & 15) / sizeof(T));
}

// The 16 bytes that start `bytes` (0 < bytes < 16) into two neighbouring vectors.
S2T_DEVICE uint4 realign(uint4 low, uint4 high, unsigned bytes) {
  uint64_t w0 = low.x | static_cast<uint64_t>(low.y) << 32,
           w1 = low.z | static_cast<uint64_t>(low.w) << 32;
  uint64_t w2 = high.x | static_cast<uint64_t>(high.y) << 32,
           w3 = high.z | static_cast<uint64_t>(high.w) << 32;
  if (bytes >= 8) {
    w0 = w1;
    w1 = w2;
    w2 = w3;
  }
  const unsigned shift = bytes % 8 * 8;
  if (shift != 0) {
    w0 = w0 >> shift | w1 << (64 - shift);
    w1 = w1 >> shift | w2 << (64 - shift);
  }
  return uint4{static_cast<unsigned>(w0), static_cast<unsigned>(w0 >> 32),
               static_cast<unsigned>(w1), static_cast<unsigned>(w1 >> 32)};
}

template <class T>
S2T_DEVICE void unpack(uint4 bits, float* x) {
  T elements[kPerVector<T>];
  memcpy(elements, &bits, sizeof(bits));
  S2T_UNROLL
  for (int i = 0; i < kPerVector<T>; ++i) x[i] = to_float(elements[i]);
}

// Elements first .. first + 7 of the row; -inf beyond its end.
template <class T>
S2T_DEVICE void load_group(const T* row, int skew, int64_t vocab, int64_t first, float* x) {
  constexpr int kVector = kPerVector<T>;
  const bool is_inside = skew == 0 ? first + kGroup <= vocab
                                   : first >= skew && first + kGroup + kVector - skew <= vocab;
  if (is_inside) {
    S2T_UNROLL
    for (int v = 0; v < kGroup / kVector; ++v) {
      const auto* vector = reinterpret_cast<const uint4*>(row + first + v * kVector - skew);
      uint4 bits = __ldg(vector);
      if (skew != 0)
        bits = realign(bits, __ldg(vector + 1), static_cast<unsigned>(skew * sizeof(T)));
      unpack<T>(bits, x + v * kVector);
    }
    return;
  }
  S2T_UNROLL
  for (int i = 0; i < kGroup; ++i)
    x[i] = first + i < vocab ? to_float(row[first + i]) : negative_infinity();
}

// A lane's 32 elements of a whole chunk, as they stand in memory: x[8 j + e] of load_chunk().
template <class T>
struct RawChunk {
  static constexpr int kVectors = kGroup / kPerVector<T>;
  uint4 bits[kGroupsPerLane * kVectors];
};

// Whether a chunk can be read by whole aligned vectors alone. The same for all lanes.
template <class T>
S2T_DEVICE bool is_whole_chunk(const T* row, int64_t vocab, int64_t base) {
  return row_skew(row) == 0 && base + kChunkSize <= vocab;
}

// Starts all loads of a whole chunk, so that they are in flight together; whoever unpacks waits.
template <class T>
S2T_DEVICE void fetch_chunk(const T* row, int64_t base, int lane, RawChunk<T>& raw) {
  constexpr int kVectors = RawChunk<T>::kVectors;
  const auto* vectors = reinterpret_cast<const uint4*>(row + base) + lane * kVectors;
  S2T_UNROLL
  for (int j = 0; j < kGroupsPerLane; ++j) {
    S2T_UNROLL
    for (int v = 0; v < kVectors; ++v)
      raw.bits[j * kVectors + v] = __ldg(vectors + j * kWarpSize * kVectors + v);
  }
}

template <class T>
S2T_DEVICE void unpack_chunk(const RawChunk<T>& raw, float (&x)[kHeldLogits]) {
  S2T_UNROLL
  for (int i = 0; i < kHeldLogits / kPerVector<T>; ++i)
    unpack<T>(raw.bits[i], x + i * kPerVector<T>);
}

// The same elements of a chunk that is not whole: -inf beyond the end of the row.
template <class T>
S2T_DEVICE void load_partial_chunk(
    const T* row, int64_t vocab, int64_t base, int lane, float (&x)[kHeldLogits]) {
  const int skew = row_skew(row);
  S2T_UNROLL
  for (int j = 0; j < kGroupsPerLane; ++j)
    load_group(row, skew, vocab, base + kGroup * (lane + kWarpSize * j), x + kGroup * j);
}

// A lane's 32 elements of the chunk that starts at `base`: x[8 j + e] is element base + 8 (lane +
// 32 j) + e.
template <class T>
S2T_DEVICE void load_chunk(
    const T* row, int64_t vocab, int64_t base, int lane, float (&x)[kHeldLogits]) {
  if (is_whole_chunk(row, vocab, base)) {
    RawChunk<T> raw;
    fetch_chunk(row, base, lane, raw);
    unpack_chunk(raw, x);
    return;
  }
  load_partial_chunk(row, vocab, base, lane, x);
}

// Place in the row of a lane's i-th element.
S2T_DEVICE int64_t held_id(int64_t base, int lane, int i) {
  return base + kGroup * (lane + kWarpSize * (i / kGroup)) + i % kGroup;
}

}  // namespace s2t::cuda
