#pragma once

// Element types a kernel can read. Bindings translate torch dtypes into these.

#include <cstdint>

namespace s2t {

enum class ScalarType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

}  // namespace s2t
