#pragma once

// Storage types for 16-bit floats, and their conversions. No arithmetic: kernels widen on load.

#include "host_device.h"

namespace s2t {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

S2T_HOST_DEVICE float to_float(float value) { return value; }

S2T_HOST_DEVICE float to_float(BFloat16 value) {
  return bits_float(static_cast<uint32_t>(value.bits) << 16);
}

S2T_HOST_DEVICE float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return bits_float(sign | 0x7F800000u | ((magnitude & 0x3FFu) << 13));
  if (magnitude < 0x0400u) {  // subnormal: an integer multiple of 2^-24, exact in float
    const float scaled = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
    return bits_float(sign | float_bits(scaled));
  }
  return bits_float(sign | ((magnitude << 13) + (112u << 23)));  // rebias the exponent 15 -> 127
#endif
}

// Round to nearest, ties to even. NaN stays NaN.
S2T_HOST_DEVICE BFloat16 to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
    return BFloat16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return BFloat16{static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

// Round to nearest, ties to even; beyond 65,504 to infinity. NaN stays NaN.
S2T_HOST_DEVICE Float16 to_float16(float value) {
  const uint32_t bits = float_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return Float16{static_cast<uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return Float16{static_cast<uint16_t>(sign | 0x7C00u)};
  if (magnitude < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 leaves the value, in units of 2^-24, correctly
    // rounded in the low mantissa bits.
    const float shifted = bits_float(magnitude) + 0.5f;
    return Float16{static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3F000000u))};
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return Float16{static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13))};
}

}  // namespace s2t
