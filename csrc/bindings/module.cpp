// The Python module s2t_ext._C: what is not an operator on tensors.
//
// Loading it registers the operators (static objects of library.cpp and its neighbours, linked into
// the same library). No torch header here and no pybind11 elsewhere: pybind11 and the stable ABI's
// headers refuse each other before torch 2.13.

#include <pybind11/pybind11.h>

#include <string>

#include "build_info.h"
#include "cpu/dispatch.h"

namespace py = pybind11;

namespace {

py::object build_info() { return py::module_::import("json").attr("loads")(kBuildInfo); }

py::list cpu_isas() {
  py::list names;
  for (const s2t::cpu::Isa isa : s2t::cpu::usable_isas()) names.append(s2t::cpu::isa_name(isa));
  return names;
}

std::string cpu_isa() { return s2t::cpu::isa_name(s2t::cpu::active_isa()); }

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native part of s2t_ext: operators for the CPU, what was built, what the CPU runs.";
  m.def("build_info", build_info,
        "What this library was built with: dict of str and lists, as in _build_info.json.");
  m.def("cpu_isas", cpu_isas,
        "Names of the instruction sets that were compiled and run here, weakest first.");
  m.def("cpu_isa", cpu_isa,
        "The instruction set in use. RuntimeError: S2T_EXT_FORCE_CPU_ISA is wrong.");
  m.def(
      "set_cpu_isa", s2t::cpu::override_isa, py::arg("name"),
      "Use this instruction set in all threads; '' for the default. ValueError: not usable here.");
}
