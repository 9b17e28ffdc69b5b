#pragma once

// Bits of the `status` output, one word per row. Zero means an ordinary row. The Python names
// (STATUS_NAN_SEEN, ...) are in s2t_ext/reference/_common.py.

#include <cstdint>

namespace s2t {

constexpr int32_t kStatusNanSeen = 1;  // a logit that is not blocked is NaN; it counts as blocked
constexpr int32_t kStatusNoValidToken = 2;  // every logit is blocked, -inf or NaN
constexpr int32_t kStatusInfSeen = 4;       // a logit is +inf
constexpr int32_t kStatusFewerThanK = 8;    // fewer than k valid tokens: some ids are -1

}  // namespace s2t
