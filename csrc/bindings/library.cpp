// Declares the operators. Their kernels register themselves, one file per operator and device; the
// Python package adds the fakes. Loading the library that holds this file is all it takes.

#include <torch/csrc/stable/library.h>

#include "bindings/schemas.h"

STABLE_TORCH_LIBRARY(s2t_ext, m) {
  for (const char* schema : s2t::bindings::kSchemas) m.def(schema);
}
