// The Python module s2t_ext._C: what is not an operator on tensors.
//
// Loading it registers the operators (static objects of library.cpp and its neighbours, linked into the
// same library). No torch header here and no pybind11 elsewhere: pybind11 and the stable ABI's headers
// refuse each other before torch 2.13.

#include <pybind11/pybind11.h>

#include "build_info.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native part of s2t_ext: operators for the CPU, and what was built.";
  m.def(
      "build_info",
      [] { return py::module_::import("json").attr("loads")(kBuildInfo); },
      "What this library was built with: dict of str and lists, as in _build_info.json.");
}
