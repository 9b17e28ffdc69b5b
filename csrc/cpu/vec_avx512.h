#pragma once

// Vec as one 512-bit register: AVX-512 F, BW, DQ and VL. See vec.h.

// GCC 12 warns about its own "undefined" operands in these intrinsics (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

struct Vec {
  __m512 v;

  Vec() = default;
  S2T_HOST_DEVICE explicit Vec(float value) : v(_mm512_set1_ps(value)) {}
  S2T_HOST_DEVICE explicit Vec(__m512 value) : v(value) {}
};

S2T_HOST_DEVICE Vec load(const float* source) { return Vec(_mm512_loadu_ps(source)); }

S2T_HOST_DEVICE Vec load(const BFloat16* source) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return Vec(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
}

S2T_HOST_DEVICE Vec load(const Float16* source) {
  return Vec(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
}

S2T_HOST_DEVICE void store(float* target, Vec v) { _mm512_storeu_ps(target, v.v); }

S2T_HOST_DEVICE Vec operator+(Vec a, Vec b) { return Vec(_mm512_add_ps(a.v, b.v)); }
S2T_HOST_DEVICE Vec operator-(Vec a, Vec b) { return Vec(_mm512_sub_ps(a.v, b.v)); }
S2T_HOST_DEVICE Vec operator*(Vec a, Vec b) { return Vec(_mm512_mul_ps(a.v, b.v)); }
S2T_HOST_DEVICE Vec fma_canonical(Vec a, Vec b, Vec c) {
  return Vec(_mm512_fmadd_ps(a.v, b.v, c.v));
}

// The instruction returns its second operand if either is NaN.
S2T_HOST_DEVICE Vec max_ignoring_nan(Vec x, Vec acc) { return Vec(_mm512_max_ps(x.v, acc.v)); }

S2T_HOST_DEVICE float max_lane(Vec v) {
  const __m256 m8 = _mm256_max_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
  const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}

S2T_HOST_DEVICE float tree_sum(Vec v) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

S2T_HOST_DEVICE uint32_t mask_at_least(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ);
}

S2T_HOST_DEVICE uint32_t nan_mask(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q);
}

S2T_HOST_DEVICE Vec zero_unless(uint32_t mask, Vec v) {
  return Vec(_mm512_maskz_mov_ps(static_cast<__mmask16>(mask), v.v));
}

S2T_HOST_DEVICE Vec at_least_cutoff(Vec d) { return max_ignoring_nan(d, Vec(kExpCutoff)); }

// value * 2^n is exact here, so scalef rounds nothing.
S2T_HOST_DEVICE Vec scale_by_power(Vec value, Vec n, Vec) {
  return Vec(_mm512_scalef_ps(value.v, n.v));
}

S2T_HOST_DEVICE Vec scale_in_range(Vec value, Vec n, Vec, Vec d) {
  const __mmask16 is_in_range = _mm512_cmp_ps_mask(d.v, _mm512_set1_ps(kExpCutoff), _CMP_GE_OQ);
  return Vec(_mm512_maskz_scalef_ps(is_in_range, value.v, n.v));
}

S2T_HOST_DEVICE Vec add_weighted(Vec total, Vec weight, Vec d) {
  const __mmask16 is_in_range = _mm512_cmp_ps_mask(d.v, _mm512_set1_ps(kExpCutoff), _CMP_GE_OQ);
  return Vec(_mm512_mask3_fmadd_ps(weight.v, d.v, total.v, is_in_range));
}

// Distance 4 inside the groups of 8 lanes: [a group 0, a group 1, b group 0, b group 1], 4 floats
// each.
S2T_HOST_DEVICE __m512 fold_by_4(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}

// Distance 2 inside the fours: each quarter holds two floats of a, then two of b.
S2T_HOST_DEVICE __m512 fold_by_2(__m512 a, __m512 b) {
  const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

// Distance 1 inside the twos: each quarter holds two sums of a, then two of b.
S2T_HOST_DEVICE __m512 fold_by_1(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

// The group sums of vectors 0..7: quarter (v / 4, group of v), float v % 4.
S2T_HOST_DEVICE __m512 group_sums(const Vec* p) {
  const __m512 a = fold_by_2(fold_by_4(p[0].v, p[4].v), fold_by_4(p[1].v, p[5].v));
  const __m512 b = fold_by_2(fold_by_4(p[2].v, p[6].v), fold_by_4(p[3].v, p[7].v));
  return fold_by_1(a, b);
}

S2T_HOST_DEVICE float chunk_tree_sum(const Vec* partials) {
  const __m512 s16 = _mm512_add_ps(group_sums(partials), group_sums(partials + 8));
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(s16), _mm512_extractf32x8_ps(s16, 1));
  const __m256 s4 = _mm256_add_ps(s8, _mm256_permute_ps(s8, 0xEE));
  const __m256 s2 = _mm256_add_ps(s4, _mm256_movehdup_ps(s4));
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(s2), _mm256_extractf128_ps(s2, 1)));
}

}  // namespace
}  // namespace s2t::cpu::S2T_CPU_ISA
