#include "core/random_uniform.h"

#include "bindings/call.h"

namespace s2t::bindings {

Tensor random_uniform(const Tensor& seed, const Tensor& position, int64_t purpose) {
  constexpr const char* kOp = "random_uniform";
  check_rank(kOp, "seed", seed, 1, "[batch]");
  check_dtype(kOp, "seed", seed, {Dtype::Long});
  check_dtype(kOp, "position", position, {Dtype::Long});
  check_shape(kOp, "position", position, {seed.size(0)}, "[batch]");
  check_device(kOp, "position", position, seed, "seed");
  check_range(kOp, "purpose", purpose, 0, UINT32_MAX);

  Call call(kOp, seed);
  const Tensor uniform = call.result({seed.size(0)}, Dtype::Float, "uniform");

  RandomUniformParams params = {};
  params.seed = call.values<int64_t>(seed, "seed");
  params.position = call.values<int64_t>(position, "position");
  params.batch = seed.size(0);
  params.purpose = static_cast<uint32_t>(purpose);
  params.uniform = mutable_data<float>(uniform);
  call.run(params);
  return uniform;
}

}  // namespace s2t::bindings

S2T_REGISTER(random_uniform)
