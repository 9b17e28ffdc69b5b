#pragma once

// Masses of a row's kept part, and the exact nucleus where it is wider than the 64 best.

#include <vector>

#include "cpu/sample_token_kernels.h"

namespace s2t::cpu {

// Per chunk, the mass of the elements with key >= cutoff (core/sample_token.h).
std::vector<double> kept_masses(const TemperedRow& row, Key cutoff);

// The same for kKeepAll, from the scan's sums (null where the temperature is 1).
std::vector<double> unrestricted_masses(const TemperedRow& row, const float* tempered_sums);

// The largest cutoff that keeps at least `target` of mass, which the whole row has.
Key nucleus_cutoff(const TemperedRow& row, double target);

}  // namespace s2t::cpu
