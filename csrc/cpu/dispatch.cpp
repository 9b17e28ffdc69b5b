#include "cpu/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace s2t::cpu {
namespace {

constexpr int kNoOverride = -1;
std::atomic<int> override_value{kNoOverride};

bool is_compiled(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return S2T_IF_AVX2(true ||) false;
    case Isa::kAvx512:
      return S2T_IF_AVX512(true ||) false;
  }
  return false;
}

// The compiler's builtins also ask whether the operating system saves the wide registers.
bool is_supported(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
#if defined(__x86_64__) || defined(_M_X64)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    case Isa::kAvx512:
      return is_supported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
#else
    case Isa::kAvx2:
    case Isa::kAvx512:
      return false;
#endif
  }
  return false;
}

std::string names(const std::vector<Isa>& isas) {
  std::string text;
  for (const Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(isa_name(isa));
  return text;
}

// Throws Error, with `what` in front, unless the name is one of usable_isas().
template <typename Error>
Isa usable_isa(const std::string& what, const std::string& name) {
  const std::vector<Isa> usable = usable_isas();
  for (const Isa isa : usable) {
    if (name == isa_name(isa)) return isa;
  }
  throw Error(what + " must be one of what this build and processor have (" + names(usable) +
              "), got " + name);
}

Isa default_isa() {
  const char* forced = std::getenv("S2T_EXT_FORCE_CPU_ISA");
  if (forced == nullptr || *forced == '\0') return usable_isas().back();
  return usable_isa<std::runtime_error>("s2t_ext: S2T_EXT_FORCE_CPU_ISA", forced);
}

}  // namespace

std::vector<Isa> usable_isas() {
  std::vector<Isa> usable;
  for (int i = 0; i < kNumIsas; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (is_compiled(isa) && is_supported(isa)) usable.push_back(isa);
  }
  return usable;
}

Isa active_isa() {
  const int overridden = override_value.load(std::memory_order_relaxed);
  if (overridden != kNoOverride) return static_cast<Isa>(overridden);
  static const Isa chosen = default_isa();  // a throw leaves it unset: the next call tries again
  return chosen;
}

void override_isa(const std::string& name) {
  const int value =
      name.empty()
          ? kNoOverride
          : static_cast<int>(usable_isa<std::invalid_argument>("override_isa: name", name));
  override_value.store(value, std::memory_order_relaxed);
}

}  // namespace s2t::cpu
