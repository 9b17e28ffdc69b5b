#pragma once

// One call of an operator, as <op>.cpp sees it. Each of those files is compiled once per library:
//
//   _C       CpuCall     the kernels of csrc/cpu
//   _C_cuda  DeviceCall  those of csrc/cuda, on a GPU (with S2T_DEVICE_CALL; cuda/device.h)
//   _simt    DeviceCall  the same, emulated for tests (with S2T_DEVICE_CALL; simt/device.h)
//
// Both have
//
//   kReadsValues                 whether the host can check values of tensors
//   rows(tensor, name)           an argument read by rows: the tensor, or a copy with last stride 1
//   values<T>(tensor, name)      an argument read as a whole: where its contiguous values start
//   updates(tensor, name)        an argument whose parts are written
//   result(shape, dtype, name)   a new tensor, all of which is written
//   run(params)                  the operator
//
// and S2T_REGISTER(op) makes s2t::bindings::op the kernel of the operator `op`.

#if defined(S2T_DEVICE_CALL)
#include "bindings/device_call.h"
namespace s2t::bindings {
using Call = DeviceCall;
}
#else
#include "bindings/cpu_call.h"
namespace s2t::bindings {
using Call = CpuCall;
}
#endif

#define S2T_REGISTER_IN(library, key, op) \
  STABLE_TORCH_LIBRARY_IMPL(library, key, m) { m.impl(#op, TORCH_BOX(&s2t::bindings::op)); }
