#pragma once

// Vec as two 256-bit registers: AVX2, FMA, F16C. See vec.h.

#include <immintrin.h>

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

struct Vec {
  __m256 low, high;

  Vec() = default;
  S2T_HOST_DEVICE explicit Vec(float value) : low(_mm256_set1_ps(value)), high(low) {}
  S2T_HOST_DEVICE Vec(__m256 low, __m256 high) : low(low), high(high) {}
};

S2T_HOST_DEVICE Vec load(const float* source) {
  return Vec(_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8));
}

S2T_HOST_DEVICE __m256 widen_bfloat16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

S2T_HOST_DEVICE Vec load(const BFloat16* source) {
  const __m128i* bits = reinterpret_cast<const __m128i*>(source);
  return Vec(widen_bfloat16(_mm_loadu_si128(bits)), widen_bfloat16(_mm_loadu_si128(bits + 1)));
}

S2T_HOST_DEVICE Vec load(const Float16* source) {
  const __m128i* bits = reinterpret_cast<const __m128i*>(source);
  return Vec(_mm256_cvtph_ps(_mm_loadu_si128(bits)), _mm256_cvtph_ps(_mm_loadu_si128(bits + 1)));
}

S2T_HOST_DEVICE void store(float* target, Vec v) {
  _mm256_storeu_ps(target, v.low);
  _mm256_storeu_ps(target + 8, v.high);
}

S2T_HOST_DEVICE Vec operator+(Vec a, Vec b) {
  return Vec(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
}

S2T_HOST_DEVICE Vec operator-(Vec a, Vec b) {
  return Vec(_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high));
}

S2T_HOST_DEVICE Vec operator*(Vec a, Vec b) {
  return Vec(_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high));
}

S2T_HOST_DEVICE Vec fma_canonical(Vec a, Vec b, Vec c) {
  return Vec(_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high));
}

// The instruction returns its second operand if either is NaN.
S2T_HOST_DEVICE Vec max_ignoring_nan(Vec x, Vec acc) {
  return Vec(_mm256_max_ps(x.low, acc.low), _mm256_max_ps(x.high, acc.high));
}

S2T_HOST_DEVICE float max_lane(Vec v) {
  const __m256 m8 = _mm256_max_ps(v.low, v.high);
  const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}

S2T_HOST_DEVICE float tree_sum(Vec v) {
  const __m256 s8 = _mm256_add_ps(v.low, v.high);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

S2T_HOST_DEVICE uint32_t mask_at_least(Vec a, Vec b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ));
  return static_cast<uint32_t>(low | (high << 8));
}

S2T_HOST_DEVICE uint32_t nan_mask(Vec a, Vec b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_UNORD_Q));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_UNORD_Q));
  return static_cast<uint32_t>(low | (high << 8));
}

S2T_HOST_DEVICE __m256 zero_unless_of_8(uint32_t mask, __m256 v) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit);
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(chosen, bit)));
}

S2T_HOST_DEVICE Vec zero_unless(uint32_t mask, Vec v) {
  return Vec(zero_unless_of_8(mask, v.low), zero_unless_of_8(mask >> 8, v.high));
}

S2T_HOST_DEVICE Vec at_least_cutoff(Vec d) { return max_ignoring_nan(d, Vec(kExpCutoff)); }

S2T_HOST_DEVICE __m256 scale_by_power(__m256 value, __m256 shifted) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent));
}

S2T_HOST_DEVICE Vec scale_by_power(Vec value, Vec, Vec shifted) {
  return Vec(scale_by_power(value.low, shifted.low), scale_by_power(value.high, shifted.high));
}

S2T_HOST_DEVICE Vec scale_in_range(Vec value, Vec n, Vec shifted, Vec d) {
  const __m256 cutoff = _mm256_set1_ps(kExpCutoff);
  const Vec scaled = scale_by_power(value, n, shifted);
  return Vec(_mm256_and_ps(scaled.low, _mm256_cmp_ps(d.low, cutoff, _CMP_GE_OQ)),
             _mm256_and_ps(scaled.high, _mm256_cmp_ps(d.high, cutoff, _CMP_GE_OQ)));
}

S2T_HOST_DEVICE Vec add_weighted(Vec total, Vec weight, Vec d) {
  return fma_canonical(weight, max_ignoring_nan(d, Vec(kExpCutoff)), total);
}

// The group sums of vectors 0..3: half = group of v, float v.
S2T_HOST_DEVICE __m256 group_sums(const Vec* p) {
  __m256 fours[4];  // distance 4
  for (int v = 0; v < 4; ++v) {
    fours[v] = _mm256_add_ps(_mm256_permute2f128_ps(p[v].low, p[v].high, 0x20),
                             _mm256_permute2f128_ps(p[v].low, p[v].high, 0x31));
  }
  __m256 twos[2];  // distance 2
  for (int i = 0; i < 2; ++i) {
    const __m256d a = _mm256_castps_pd(fours[2 * i]), b = _mm256_castps_pd(fours[2 * i + 1]);
    twos[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                            _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return _mm256_add_ps(_mm256_shuffle_ps(twos[0], twos[1], 0x88),
                       _mm256_shuffle_ps(twos[0], twos[1], 0xDD));
}

S2T_HOST_DEVICE float chunk_tree_sum(const Vec* p) {
  const __m256 a = _mm256_add_ps(group_sums(p), group_sums(p + 8));
  const __m256 b = _mm256_add_ps(group_sums(p + 4), group_sums(p + 12));
  const __m256 s8 = _mm256_add_ps(a, b);
  const __m256 s4 = _mm256_add_ps(s8, _mm256_permute_ps(s8, 0xEE));
  const __m256 s2 = _mm256_add_ps(s4, _mm256_movehdup_ps(s4));
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(s2), _mm256_extractf128_ps(s2, 1)));
}

}  // namespace
}  // namespace s2t::cpu::S2T_CPU_ISA
