#pragma once

// Vec as an array: the portable form. See vec.h.

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

struct Vec {
  float lanes[16];

  Vec() = default;
  S2T_HOST_DEVICE explicit Vec(float value) {
    for (float& lane : lanes) lane = value;
  }
};

template <typename Element>
S2T_HOST_DEVICE Vec load(const Element* source) {
  Vec result;
  for (int i = 0; i < 16; ++i) result.lanes[i] = to_float(source[i]);
  return result;
}

S2T_HOST_DEVICE void store(float* target, Vec v) {
  for (int i = 0; i < 16; ++i) target[i] = v.lanes[i];
}

S2T_HOST_DEVICE Vec operator+(Vec a, Vec b) {
  for (int i = 0; i < 16; ++i) a.lanes[i] = a.lanes[i] + b.lanes[i];
  return a;
}

S2T_HOST_DEVICE Vec operator-(Vec a, Vec b) {
  for (int i = 0; i < 16; ++i) a.lanes[i] = a.lanes[i] - b.lanes[i];
  return a;
}

S2T_HOST_DEVICE Vec operator*(Vec a, Vec b) {
  for (int i = 0; i < 16; ++i) a.lanes[i] = a.lanes[i] * b.lanes[i];
  return a;
}

S2T_HOST_DEVICE Vec fma_canonical(Vec a, Vec b, Vec c) {
  for (int i = 0; i < 16; ++i) c.lanes[i] = s2t::fma_canonical(a.lanes[i], b.lanes[i], c.lanes[i]);
  return c;
}

S2T_HOST_DEVICE Vec max_ignoring_nan(Vec x, Vec acc) {
  for (int i = 0; i < 16; ++i) acc.lanes[i] = x.lanes[i] > acc.lanes[i] ? x.lanes[i] : acc.lanes[i];
  return acc;
}

S2T_HOST_DEVICE float max_lane(Vec v) {
  float result = v.lanes[0];
  for (int i = 1; i < 16; ++i) result = v.lanes[i] > result ? v.lanes[i] : result;
  return result;
}

S2T_HOST_DEVICE float tree_sum(Vec v) { return s2t::tree_sum(v.lanes, 16); }

S2T_HOST_DEVICE uint32_t mask_at_least(Vec a, Vec b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.lanes[i] >= b.lanes[i]) << i;
  return mask;
}

S2T_HOST_DEVICE uint32_t nan_mask(Vec a, Vec b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) {
    const bool is_nan = a.lanes[i] != a.lanes[i] || b.lanes[i] != b.lanes[i];
    mask |= static_cast<uint32_t>(is_nan) << i;
  }
  return mask;
}

S2T_HOST_DEVICE Vec zero_unless(uint32_t mask, Vec v) {
  for (int i = 0; i < 16; ++i) v.lanes[i] = (mask >> i) & 1u ? v.lanes[i] : 0.0f;
  return v;
}

S2T_HOST_DEVICE Vec at_least_cutoff(Vec d) {
  for (int i = 0; i < 16; ++i) d.lanes[i] = s2t::at_least_cutoff(d.lanes[i]);
  return d;
}

S2T_HOST_DEVICE Vec scale_by_power(Vec value, Vec n, Vec shifted) {
  for (int i = 0; i < 16; ++i) {
    value.lanes[i] = s2t::scale_by_power(value.lanes[i], n.lanes[i], shifted.lanes[i]);
  }
  return value;
}

S2T_HOST_DEVICE Vec scale_in_range(Vec value, Vec n, Vec shifted, Vec d) {
  for (int i = 0; i < 16; ++i) {
    value.lanes[i] = s2t::scale_in_range(value.lanes[i], n.lanes[i], shifted.lanes[i], d.lanes[i]);
  }
  return value;
}

S2T_HOST_DEVICE Vec add_weighted(Vec total, Vec weight, Vec d) {
  for (int i = 0; i < 16; ++i) {
    total.lanes[i] = s2t::add_weighted(total.lanes[i], weight.lanes[i], d.lanes[i]);
  }
  return total;
}

S2T_HOST_DEVICE float chunk_tree_sum(const Vec* partials) {
  float values[kChunkPartials];
  for (int v = 0; v < kChunkPartials / 16; ++v) store(values + v * 16, partials[v]);
  return s2t::chunk_tree_sum(values);
}

}  // namespace
}  // namespace s2t::cpu::S2T_CPU_ISA
