// Runs a CUDA kernel on a CPU, block after block, for tests of indices and arithmetic.
//
// Every thread of a block is a fiber, and a barrier or an exchange between lanes switches to the
// next fiber until all have come. Races between threads and the timing of copies do not show here.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct int2 {
  int x, y;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

using cudaError_t = int;
using cudaStream_t = void*;
constexpr int cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidValue = 1;
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
template <class Kernel>
int cudaFuncSetAttribute(Kernel, int, int) {
  return cudaSuccess;
}
constexpr int cudaDevAttrMultiProcessorCount = 16;
inline int cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline int cudaDeviceGetAttribute(int* value, int, int) {
  *value = 3;  // multiprocessors: a block that stays on one takes several tiles
  return cudaSuccess;
}
inline int cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(int) { return "error"; }

using std::max;
using std::min;

namespace emulator {

constexpr int kLanes = 32;
constexpr int kLargestCluster = 2;
constexpr int kSharedBytes = 1 << 18;
alignas(1024) inline int8_t shared_memories[kLargestCluster][kSharedBytes];
inline int8_t* shared_memory = shared_memories[0];  // of the block that runs
inline int cluster = 1;                              // blocks that run together
inline int rank;                                     // of the block that runs, in its cluster

struct Barrier {
  int size = 0, count = 0, generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 18);
  jmp_buf place;  // where it goes on; a jump is much quicker than swapcontext
  bool started = false, done = false;
};

struct Warp {
  Barrier barrier;
  uint32_t words[kLanes][8];
  uint64_t values[kLanes];
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Warp> warps;
inline Barrier block_barriers[kLargestCluster], cluster_barrier;
inline int block_flags[kLargestCluster], running;
inline jmp_buf scheduler;
inline const std::function<void()>* body;

inline void yield() {
  if (_setjmp(fibers[running]->place) == 0) _longjmp(scheduler, 1);
}

// Runs a fiber until it yields.
[[gnu::noinline]] inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

inline void wait(Barrier& barrier) {
  const int generation = barrier.generation;
  if (++barrier.count == barrier.size) {
    barrier.count = 0;
    ++barrier.generation;
  }
  while (barrier.generation == generation) yield();
}

inline Warp& warp() { return warps[running / kLanes]; }
inline int lane() { return threadIdx.x % kLanes; }

inline void enter() {
  (*body)();
  fibers[running]->done = true;
  yield();
}

// Runs the blocks of a cluster, the first of which is `first`.
inline void run_cluster(unsigned first, int threads) {
  const int all = cluster * threads;
  fibers.resize(all);
  warps.assign(all / kLanes, Warp{});
  for (Warp& each : warps) each.barrier.size = kLanes;
  for (Barrier& each : block_barriers) each = Barrier{threads, 0, 0};
  cluster_barrier = Barrier{all, 0, 0};
  for (auto& fiber : fibers) {
    if (!fiber) fiber = std::make_unique<Fiber>();
    fiber->started = fiber->done = false;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    fiber->context.uc_link = nullptr;  // it never returns
    makecontext(&fiber->context, reinterpret_cast<void (*)()>(enter), 0);
  }
  // A read of unwritten memory shows.
  std::memset(shared_memories, 0x5a, sizeof shared_memories);
  for (bool left = true; left;) {
    left = false;
    for (running = 0; running < all; ++running) {
      if (fibers[running]->done) continue;
      rank = running / threads;
      shared_memory = shared_memories[rank];
      blockIdx.x = first + static_cast<unsigned>(rank);
      threadIdx.x = static_cast<unsigned>(running % threads);
      resume(*fibers[running]);
      left = true;
    }
  }
}

inline void launch(unsigned blocks, int threads, const std::function<void()>& kernel) {
  body = &kernel;
  blockDim.x = static_cast<unsigned>(threads);
  gridDim.x = blocks;
  for (unsigned first = 0; first < blocks; first += cluster) run_cluster(first, threads);
}

template <class T>
T exchange(T value, int from) {
  Warp& own = warp();
  std::memcpy(&own.values[lane()], &value, sizeof value);
  wait(own.barrier);
  T found;
  std::memcpy(&found, &own.values[from], sizeof found);
  wait(own.barrier);
  return found;
}

template <class T, class U>
T replace(T* at, U value) {
  const T before = *at;
  *at = value;
  return before;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block_barriers[emulator::rank]); }
inline void __syncwarp() { emulator::wait(emulator::warp().barrier); }
inline int __syncthreads_or(int value) {
  int& flag = emulator::block_flags[emulator::rank];
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  flag |= value;
  __syncthreads();
  const int found = flag;
  __syncthreads();
  return found;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int bit) {
  return emulator::exchange(value, emulator::lane() ^ bit);
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return emulator::exchange(value, from);
}
inline unsigned __reduce_or_sync(unsigned, unsigned value) {
  emulator::Warp& own = emulator::warp();
  own.values[emulator::lane()] = value;
  emulator::wait(own.barrier);
  uint64_t found = 0;
  for (uint64_t each : own.values) found |= each;
  emulator::wait(own.barrier);
  return static_cast<unsigned>(found);
}
template <class T>
T atomicMin(T* at, T value) {
  return emulator::replace(at, std::min(*at, value));
}
template <class T>
T atomicAdd(T* at, T value) {
  return emulator::replace(at, *at + value);
}
inline unsigned __ballot_sync(unsigned lanes, bool value) {
  return __reduce_or_sync(lanes, value ? 1u << emulator::lane() : 0u);
}
inline bool __any_sync(unsigned lanes, unsigned value) {
  return __reduce_or_sync(lanes, value != 0 ? 1u : 0u) != 0;
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
template <class T>
T __ldg(const T* at) {
  return *at;
}
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline void __threadfence() {}
inline void __nanosleep(unsigned) { emulator::yield(); }
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}
template <class To, class From>
To __bits(From value) {
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline int __float_as_int(float value) { return __bits<int>(value); }
inline float __int_as_float(int bits) { return __bits<float>(bits); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float2uint_rz(float value) {  // saturates; NaN gives 0
  return !(value > 0) ? 0u : value >= 4294967296.0f ? ~0u : static_cast<unsigned>(value);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {  // shift < 32
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << shift >> 32);
}
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __vimin3_s32(int a, int b, int c) { return std::min({a, b, c}); }
inline int __viaddmax_s32(int a, int b, int c) {  // the sum wraps around
  return std::max(static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)), c);
}
