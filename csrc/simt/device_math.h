// Second half of device_api.h: vector types, atomics, loads and stores with a cache hint, bit and
// float intrinsics.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define SIMT_VECTOR(T, name)                                                         \
  struct alignas(sizeof(T) * 2) name##2 { T x, y; };                                 \
  struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                         \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR(float, float)
SIMT_VECTOR(int, int)
SIMT_VECTOR(unsigned, uint)
SIMT_VECTOR(unsigned short, ushort)
SIMT_VECTOR(double, double)
#undef SIMT_VECTOR

// ---- atomics ----
// Inlined by force, like the loads below, so that a diagnosis names the line of the kernel.
#define SIMT_ATOMIC(name, op, T)                                    \
  __forceinline__ T name(T* address, T value) {                     \
    return simt::atomic_update(simt::AtomicOp::op, address, value); \
  }
#define SIMT_INTEGER_ATOMICS(T)                                  \
  SIMT_ATOMIC(atomicAdd, kAdd, T)                                \
  SIMT_ATOMIC(atomicExch, kExchange, T)                          \
  SIMT_ATOMIC(atomicMin, kMin, T)                                \
  SIMT_ATOMIC(atomicMax, kMax, T)                                \
  SIMT_ATOMIC(atomicAnd, kAnd, T)                                \
  SIMT_ATOMIC(atomicOr, kOr, T)                                  \
  __forceinline__ T atomicCAS(T* address, T expected, T value) { \
    return simt::atomic_compare_swap(address, expected, value);  \
  }
SIMT_INTEGER_ATOMICS(int)
SIMT_INTEGER_ATOMICS(unsigned)
SIMT_INTEGER_ATOMICS(unsigned long long)
SIMT_ATOMIC(atomicAdd, kAdd, float)
SIMT_ATOMIC(atomicExch, kExchange, float)
SIMT_ATOMIC(atomicInc, kIncrement, unsigned)
#undef SIMT_INTEGER_ATOMICS
#undef SIMT_ATOMIC

// ---- loads and stores; the cache hint has no meaning here, the alignment has ----
#define SIMT_LOAD(name)                                   \
  template <class T>                                      \
  __forceinline__ T name(const T* address, SIMT_CALLER) { \
    simt::require_aligned(address, site);                 \
    return *address;                                      \
  }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldcg)
#undef SIMT_LOAD
#define SIMT_STORE(name)                                        \
  template <class T>                                            \
  __forceinline__ void name(T* address, T value, SIMT_CALLER) { \
    simt::require_aligned(address, site);                       \
    *address = value;                                           \
  }
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
#undef SIMT_STORE

// ---- bits ----
template <class To, class From>
inline To simt_bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
inline float __uint_as_float(unsigned bits) { return simt_bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return simt_bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return simt_bit_cast<float>(bits); }
inline int __float_as_int(float value) { return simt_bit_cast<int>(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline int __clzll(long long value) {
  return value ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64;
}
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}

// ---- floats: only operations whose result is the same on the device, bit for bit ----
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
