// Correct kernels: the checker must stay silent, and their results show that the emulated
// operations mean what the CUDA and PTX manuals say.
#include "../device_api.h"
#include "cases.h"
#include "last_block.cuh"

namespace {

SIMT_KERNEL void block_sum(const float* in, float* out) {
  SIMT_SHARED_ARRAY(float, s, 64);
  s[me()] = in[me()];
  __syncthreads();
  for (int distance = 32; distance > 0; distance >>= 1) {
    if (me() < distance) s[me()] += s[me() + distance];
    __syncthreads();
  }
  if (me() == 0) out[0] = s[0];
}
SIMT_KERNEL void reversed_in_warp(float* out) {
  SIMT_SHARED_ARRAY(float, s, 32);
  s[me()] = static_cast<float>(me());
  __syncwarp();
  out[me()] = s[31 - me()];
}
SIMT_KERNEL void half_warps(float* out) {
  const unsigned mask = me() < 16 ? 0x0000ffffu : 0xffff0000u;
  int v = me();
  for (int distance = 8; distance > 0; distance >>= 1) v += __shfl_xor_sync(mask, v, distance);
  out[me()] = static_cast<float>(v);
}
SIMT_KERNEL void shuffles(float* out) {
  const int up = __shfl_up_sync(kFull, me(), 3), down = __shfl_down_sync(kFull, me(), 3, 8);
  const int indexed = __shfl_sync(kFull, me(), 5, 16), wrapped = __shfl_sync(kFull, me(), -1);
  const unsigned long long wide = __shfl_xor_sync(kFull, 1ull << (me() + 8), 1);
  bool good = up == (me() < 3 ? me() : me() - 3);
  good = good && down == ((me() & 7) + 3 > 7 ? me() : me() + 3);
  good = good && indexed == (me() & 16) + 5 && wrapped == 31 && wide == 1ull << ((me() ^ 1) + 8);
  out[me()] = good;
}
SIMT_KERNEL void votes(float* out) {
  const auto unsigned_me = static_cast<unsigned>(me());
  bool good = __ballot_sync(kFull, me() % 3 == 0) == 0x49249249u;
  good = good && __any_sync(kFull, me() == 7) == 1 && __any_sync(kFull, me() > 31) == 0;
  good = good && __all_sync(kFull, me() < 32) == 1 && __all_sync(kFull, me() < 31) == 0;
  good = good && __reduce_add_sync(kFull, unsigned_me) == 496u &&
         __reduce_add_sync(kFull, -me()) == -496;
  good = good && __reduce_min_sync(kFull, unsigned_me + 5) == 5u &&
         __reduce_max_sync(kFull, unsigned_me) == 31u;
  good = good && __reduce_min_sync(kFull, 3 - me()) == -28 &&
         __reduce_max_sync(kFull, me() - 40) == -9;
  good = good && __reduce_and_sync(kFull, unsigned_me | 32u) == 32u &&
         __reduce_or_sync(kFull, unsigned_me) == 31u;
  good = good && __reduce_xor_sync(kFull, unsigned_me) == 0u;
  good = good && __match_any_sync(kFull, me() / 4) == 0xfu << (me() / 4 * 4);
  out[me()] = good;
}
SIMT_KERNEL void counting_barriers(float* out) {
  const int odd = __syncthreads_count(me() & 1), all = __syncthreads_and(me() < 64),
            any = __syncthreads_or(me() == 63);
  const int not_all = __syncthreads_and(me() < 63), none = __syncthreads_or(me() == 64);
  out[me()] = odd == 32 && all && any && !not_all && !none;
}
SIMT_KERNEL void atomics(unsigned* words, float* total, unsigned long long* key) {
  const auto id = static_cast<unsigned>(me()) + blockIdx.x * blockDim.x;
  atomicAdd(total, 1.f);
  atomicAdd(words + 0, id);
  atomicMax(words + 1, id);
  atomicMin(words + 2, id);
  atomicOr(words + 3, 1u << (id & 31));
  atomicAnd(words + 4, ~(1u << (id & 31)));
  atomicInc(words + 5, 99u);
  if (atomicCAS(words + 6, 7u, 8u) == 7u) atomicExch(words + 7, 1u);
  atomicMax(key, static_cast<unsigned long long>(id) << 32);
}
SIMT_KERNEL void last_block_merges(float* partial, unsigned* arrived, float* out) {
  last_block_sums<true, true>(partial, arrived, out);
}
SIMT_KERNEL void waits_for_a_flag(float* flag, float* out) {  // needs all blocks resident
  if (blockIdx.x == 0) {
    out[0] = 5;
    __threadfence();
    atomicExch(flag, 1.f);
  } else {
    while (atomicAdd(flag, 0.f) < 1.f) __nanosleep(10);
    __threadfence();
    out[1] = out[0];
  }
}
SIMT_KERNEL void double_buffered_copies(const float* in, float* out) {
  SIMT_SHARED_ARRAY(float4, s, 64);
  float total = 0;
  simt::cp_async16(&s[me()], in + 4 * me(), 16);
  simt::cp_async_commit();
  for (int step = 0; step < 4; ++step) {
    if (step < 3) simt::cp_async16(&s[(step + 1) % 2 * 32 + me()], in + 4 * me(), 8);
    simt::cp_async_commit();
    simt::cp_async_wait<1>();
    __syncthreads();
    total +=
        s[step % 2 * 32 + 31 - me()].w;  // 1 in the full copy, 0 beyond the 8 bytes of the others
    __syncthreads();
  }
  simt::cp_async_wait<0>();
  out[me()] = total;
}
SIMT_KERNEL void vector_copy(const float* in, float* out) {
  __stcg(reinterpret_cast<float4*>(out) + me(), __ldcs(reinterpret_cast<const float4*>(in) + me()));
}

template <class Value>
bool all_equal(const float* out, int count, Value value) {
  for (int i = 0; i < count; ++i)
    if (out[i] != value(i)) return false;
  return true;
}
float one(int) { return 1.f; }
unsigned long long* key_of(Memory& m) { return reinterpret_cast<unsigned long long*>(m.out + 2); }

}  // namespace

// launches `kernel` on `blocks` x `threads`
#define RUN(kernel, blocks, threads, ...)                                                \
  [](Memory& m) {                                                                        \
    simt::launch(#kernel, kernel, dim3(blocks), dim3(threads), 0, nullptr, __VA_ARGS__); \
  }
#define IS(condition) [](const Memory& m) { return condition; }
const Control kControls[] = {
    {"block_sum", false, nullptr, RUN(block_sum, 1, 64, m.in, m.out), IS(m.out[0] == 64)},
    {"reversed_in_warp", false, nullptr, RUN(reversed_in_warp, 1, 32, m.out),
     IS(all_equal(m.out, 32, [](int i) { return 31.f - static_cast<float>(i); }))},
    {"half_warps", false, nullptr, RUN(half_warps, 1, 32, m.out),
     IS(all_equal(m.out, 32, [](int i) { return i < 16 ? 120.f : 376.f; }))},
    {"shuffles", false, nullptr, RUN(shuffles, 1, 32, m.out), IS(all_equal(m.out, 32, one))},
    {"votes", false, nullptr, RUN(votes, 1, 32, m.out), IS(all_equal(m.out, 32, one))},
    {"counting_barriers", false, nullptr, RUN(counting_barriers, 1, 64, m.out),
     IS(all_equal(m.out, 64, one))},
    {"atomics", false,
     [](Memory& m) {
       m.out[0] = 0;
       *key_of(m) = 0;
       m.words[2] = m.words[4] = ~0u;
       m.words[6] = 7;
     },
     RUN(atomics, 4, 32, m.words, m.out, key_of(m)),
     [](const Memory& m) {
       const unsigned* w = m.words;
       return m.out[0] == 128 && w[0] == 8128 && w[1] == 127 && w[2] == 0 && w[3] == ~0u &&
              w[4] == 0 && w[5] == 28 && w[6] == 8 && w[7] == 1 &&
              *key_of(const_cast<Memory&>(m)) == 127ull << 32;
     }},
    {"last_block_merges", false, nullptr, RUN(last_block_merges, 4, 32, m.partial, m.words, m.out),
     IS(m.out[0] == 1 && m.out[3] == 4 && m.words[0] == 0)},
    {"waits_for_a_flag", true, nullptr,
     RUN(waits_for_a_flag, 2, 1, reinterpret_cast<float*>(m.words), m.out), IS(m.out[1] == 5)},
    {"double_buffered_copies", false, nullptr, RUN(double_buffered_copies, 1, 32, m.in, m.out),
     IS(all_equal(m.out, 32, one))},
    {"vector_copy", false, nullptr, RUN(vector_copy, 1, 32, m.in, m.out),
     IS(all_equal(m.out, 128, one))},
};
const size_t kNumControls = sizeof(kControls) / sizeof(kControls[0]);
