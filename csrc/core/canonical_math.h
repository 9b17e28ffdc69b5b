#pragma once

// Canonical arithmetic: every floating-point operation that reaches an output, in one fixed order.
// csrc/README.md states the rules; this file is their scalar form. SIMD and CUDA code evaluate the
// same expression trees, so all back ends return the same bits. All files are compiled with
// contraction off; a fused multiply-add is written fma_canonical.

#include "ordering.h"

namespace s2t {

// -- elementary functions -------------------------------------------------------------------------

// a * b + c, rounded once.
S2T_HOST_DEVICE float fma_canonical(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  // Without the instruction: the product is exact in double; the sum is rounded to odd there (its
  // last bit set if anything was lost), which makes the final rounding to float correct (Boldo and
  // Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  const double sum = product + addend;
  const double addend_part = sum - product;
  const double error = (product - (sum - addend_part)) + (addend - addend_part);
  uint64_t bits = double_bits(sum);
  const bool is_inexact = error > 0.0 || error < 0.0;  // not for NaN, the error beside infinities
  const bool is_toward_zero = (error > 0.0) == (sum > 0.0);
  if (is_inexact && (bits & 1u) == 0) bits += is_toward_zero ? 1u : ~0ull;
  return static_cast<float>(bits_double(bits));
#endif
}

// exp_canonical and what multiplies its argument treat differences below this one as -inf.
constexpr float kExpCutoff = -87.0f;

// d, but kExpCutoff where it is less or NaN.
S2T_HOST_DEVICE float at_least_cutoff(float d) { return d > kExpCutoff ? d : kExpCutoff; }

// value * 2^n for a normal result. `shifted` is n + kRound, whose low bits are those of n.
S2T_HOST_DEVICE float scale_by_power(float value, float n, float shifted) {
  (void)n;
#ifdef __CUDA_ARCH__
  // One instruction, where PTX has a shift and an addition for the expression below.
  uint32_t bits;
  asm("mad.lo.u32 %0, %1, 0x800000, %2;"
      : "=r"(bits)
      : "r"(float_bits(shifted)), "r"(float_bits(value)));
  return bits_float(bits);
#else
  return bits_float(float_bits(value) + (float_bits(shifted) << 23));
#endif
}

// The last step of exp_canonical: 0 where d < kExpCutoff or NaN.
S2T_HOST_DEVICE float scale_in_range(float value, float n, float shifted, float d) {
  const float scaled = scale_by_power(value, n, shifted);
  return d >= kExpCutoff ? scaled : 0.0f;
}

// e^d = value * 2^n. Real is float, or a vector type with the same operators and overloads.
template <typename Real>
struct ScaledExp {
  Real value, n, shifted;
};

template <typename Real>
S2T_HOST_DEVICE ScaledExp<Real> scaled_exp(Real d) {
  const Real kLog2E = Real(1.44269504f), kMinusLn2 = Real(-0.693147182f);
  const Real kRound = Real(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Real shifted = fma_canonical(d, kLog2E, kRound);
  const Real n = shifted - kRound;
  const Real r = fma_canonical(n, kMinusLn2, d);  // |r| <= ln(2) / 2
  // Minimax polynomial for relative error on that interval, constant term fixed at 1.
  Real value = fma_canonical(Real(0x1.0fa6c8p-7f), r, Real(0x1.573c94p-5f));
  value = fma_canonical(value, r, Real(0x1.555a78p-3f));
  value = fma_canonical(value, r, Real(0x1.fffdc0p-2f));
  value = fma_canonical(value, r, Real(0x1.fffff6p-1f));
  value = fma_canonical(value, r, Real(1.0f));
  return {value, n, shifted};
}

// e^d for d <= 0: relative error below 4e-7, exactly 1 at 0, exactly 0 below kExpCutoff and for
// NaN.
template <typename Real>
S2T_HOST_DEVICE Real exp_canonical(Real d) {
  const ScaledExp<Real> e = scaled_exp(d);
  return scale_in_range(e.value, e.n, e.shifted, d);
}

// The same for kExpCutoff <= d <= 0, where nothing has to be cut off.
template <typename Real>
S2T_HOST_DEVICE Real exp_in_range(Real d) {
  const ScaledExp<Real> e = scaled_exp(d);
  return scale_by_power(e.value, e.n, e.shifted);
}

// total + weight * d where weight is exp_canonical(d): terms cut off there count as zero even
// where d is -inf.
S2T_HOST_DEVICE float add_weighted(float total, float weight, float d) {
  return fma_canonical(weight, at_least_cutoff(d), total);
}

// Natural logarithm of a positive, finite, normal double: absolute error below 1e-15 near 1.
S2T_HOST_DEVICE double log_canonical(double value) {
  constexpr double kLn2 = 0.69314718055994530942;
  uint64_t bits = double_bits(value);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  double mantissa = bits_double(bits);  // in [1, 2), then in (0.70, 1.42)
  if (mantissa > 1.41421356237309504880) {
    mantissa = mantissa * 0.5;
    exponent += 1;
  }
  // log(mantissa) = 2 artanh(f), f = (mantissa - 1) / (mantissa + 1), |f| < 0.172.
  const double f = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = f * f;
  double series = 1.0 / 21.0;
  series = series * square + 1.0 / 19.0;
  series = series * square + 1.0 / 17.0;
  series = series * square + 1.0 / 15.0;
  series = series * square + 1.0 / 13.0;
  series = series * square + 1.0 / 11.0;
  series = series * square + 1.0 / 9.0;
  series = series * square + 1.0 / 7.0;
  series = series * square + 1.0 / 5.0;
  series = series * square + 1.0 / 3.0;
  const double log_mantissa = 2.0 * f + 2.0 * f * (square * series);
  return static_cast<double>(exponent) * kLn2 + log_mantissa;
}

// tanh(x), absolute error below 2e-7, relative error below 3e-7. NaN gives NaN.
S2T_HOST_DEVICE float tanh_canonical(float x) {
  const float magnitude = bits_float(float_bits(x) & 0x7FFFFFFFu);
  if (magnitude < 0.5f) {
    const float square = x * x;
    float series = fma_canonical(0x1.1a7b4ap-6f, square, -0x1.b28c4ep-5f);
    series = fma_canonical(series, square, 0x1.10e9fap-3f);
    series = fma_canonical(series, square, -0x1.5554d6p-2f);
    return fma_canonical(x * square, series, x);
  }
  if (x != x) return x;
  const float e = exp_canonical(-2.0f * magnitude);
  const float result = (1.0f - e) / (1.0f + e);
  return x < 0.0f ? -result : result;
}

// -- sums -----------------------------------------------------------------------------------------

// Binary tree over `count` (a power of two) values: distance count / 2, ..., 2, 1. Overwrites them.
template <typename Real>
S2T_HOST_DEVICE Real tree_sum(Real* values, int count) {
  for (int distance = count / 2; distance > 0; distance /= 2) {
    for (int i = 0; i < distance; ++i) values[i] = values[i] + values[i + distance];
  }
  return values[0];
}

// -- one chunk ------------------------------------------------------------------------------------

constexpr int kChunkSize = 1024;  // elements of a row, by logical index; the last chunk is padded
constexpr int kChunkPartials = 256;  // element i of a chunk adds into partial i mod 256
constexpr int kPartialGroup = 8;  // neighbouring partials that are added first: one thread's share

S2T_HOST_DEVICE int64_t chunk_count(int64_t vocab) { return (vocab + kChunkSize - 1) / kChunkSize; }

// The 256 partials of a chunk as one sum: inside each group of 8 neighbours (distance 4, 2, 1),
// then over the 32 groups (distance 16, 8, 4, 2, 1). Overwrites them.
S2T_HOST_DEVICE float chunk_tree_sum(float* partials) {
  constexpr int kGroups = kChunkPartials / kPartialGroup;
  float groups[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    groups[g] = tree_sum(partials + g * kPartialGroup, kPartialGroup);
  }
  return tree_sum(groups, kGroups);
}

// Of one chunk: the maximum, the sum of e^d, and of e^d d, with d = x - maximum, but kExpCutoff
// where that is less or NaN. So NaN and -inf elements, and those far below the maximum, contribute
// e^kExpCutoff each: nothing beside the maximum's own term of 1. If the maximum is infinite both
// sums are 0.
struct ChunkStats {
  float maximum;
  float sum;
  float weighted_sum;
};

S2T_HOST_DEVICE bool is_finite(float value) {
  return (float_bits(value) & 0x7F800000u) != 0x7F800000u;
}

// What is made of the two sums in the end. Of a chunk with one element that counts, the weighted
// sum is 0 exactly, not the -1e-33 or less that a thousand cut off terms add up to.
S2T_HOST_DEVICE ChunkStats finished_chunk(float maximum, float sum, float weighted_sum) {
  constexpr float kCutOffTerms = -1e-32f;
  if (!is_finite(maximum)) return {maximum, 0.0f, 0.0f};
  return {maximum, sum, weighted_sum > kCutOffTerms ? 0.0f : weighted_sum};
}

// Scalar form over kChunkSize floats: the definition that SIMD and CUDA code must equal.
S2T_HOST_DEVICE ChunkStats chunk_stats(const float* x) {
  float maximum = negative_infinity();
  for (int i = 0; i < kChunkSize; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  float sums[kChunkPartials], weighted_sums[kChunkPartials];
  for (int p = 0; p < kChunkPartials; ++p) {
    sums[p] = 0.0f;
    weighted_sums[p] = 0.0f;
    for (int i = p; i < kChunkSize; i += kChunkPartials) {
      const float d = at_least_cutoff(x[i] - maximum);
      const float e = exp_in_range(d);
      sums[p] = sums[p] + e;
      weighted_sums[p] = fma_canonical(e, d, weighted_sums[p]);
    }
  }
  return finished_chunk(maximum, chunk_tree_sum(sums), chunk_tree_sum(weighted_sums));
}

// -- one row --------------------------------------------------------------------------------------

constexpr int kMergeLanes = 32;  // chunk c adds into lane c mod 32, ascending c; then a tree

// Of a whole row, in double: logsumexp = maximum + log(sum).
struct RowStats {
  float maximum;
  double sum;
  double weighted_sum;
};

// Adds one chunk to its lane. row_maximum is the largest chunk maximum and must be finite.
S2T_HOST_DEVICE void add_chunk(double* lane_sum,
                               double* lane_weighted_sum,
                               const ChunkStats& chunk,
                               float row_maximum) {
  const float d = chunk.maximum - row_maximum;
  const float scale = exp_canonical(d);
  if (scale == 0.0f) return;
  const double s = static_cast<double>(chunk.sum), t = static_cast<double>(chunk.weighted_sum);
  *lane_sum = *lane_sum + static_cast<double>(scale) * s;
  *lane_weighted_sum =
      *lane_weighted_sum + static_cast<double>(scale) * (t + s * static_cast<double>(d));
}

S2T_HOST_DEVICE RowStats merge_chunks(const ChunkStats* chunks, int64_t count) {
  RowStats row = {negative_infinity(), 0.0, 0.0};
  for (int64_t c = 0; c < count; ++c) {
    row.maximum = chunks[c].maximum > row.maximum ? chunks[c].maximum : row.maximum;
  }
  if (!is_finite(row.maximum)) return row;
  double sums[kMergeLanes] = {}, weighted_sums[kMergeLanes] = {};
  for (int64_t c = 0; c < count; ++c) {
    add_chunk(&sums[c % kMergeLanes], &weighted_sums[c % kMergeLanes], chunks[c], row.maximum);
  }
  row.sum = tree_sum(sums, kMergeLanes);
  row.weighted_sum = tree_sum(weighted_sums, kMergeLanes);
  return row;
}

// log of the sum of e^x over the row: -inf for a row without candidates, +inf for one with +inf.
S2T_HOST_DEVICE float row_logsumexp(const RowStats& row) {
  if (!is_finite(row.maximum)) return row.maximum;
  return static_cast<float>(static_cast<double>(row.maximum) + log_canonical(row.sum));
}

// Entropy in nats of softmax over the row; 0 where log-sum-exp is infinite.
S2T_HOST_DEVICE float row_entropy(const RowStats& row) {
  if (!is_finite(row.maximum)) return 0.0f;
  return static_cast<float>(log_canonical(row.sum) - row.weighted_sum / row.sum);
}

// log-softmax of the row at the element `key`; `best` is the row's best key. In a row with a +inf
// logit the best has all the mass.
S2T_HOST_DEVICE float row_logprob(const RowStats& row, Key key, Key best) {
  if (key == kNoKey) return negative_infinity();
  if (!is_finite(row.maximum)) return key == best ? 0.0f : negative_infinity();
  const double d = static_cast<double>(key_logit(key)) - static_cast<double>(row.maximum);
  return static_cast<float>(d - log_canonical(row.sum));
}

}  // namespace s2t
