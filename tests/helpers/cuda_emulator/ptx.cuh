// The instructions of csrc/cuda/ptx.cuh on a CPU, written after their description.
#pragma once

#include "cuda_runtime.h"

namespace musc::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const int8_t*>(pointer) - emulator::shared_memory);
}

inline void copy_16_bytes(uint32_t to, const void* from, bool inside) {
  if (inside)
    std::memcpy(emulator::shared_memory + to, from, 16);
  else
    std::memset(emulator::shared_memory + to, 0, 16);
}

inline void commit_copies() {}

template <int kLeft>
void wait_for_copies() {}

inline void publish_shared_memory() {}

inline uint32_t describe_columns(uint32_t address) { return address >> 4; }

inline void begin_products() {}
inline void end_products() {}
inline void keep_order(int (&)[4][4]) {}

// Channel k of row r of a warp's 16, held by lane 4 (r % 8) + k % 16 / 4.
inline int entry_of_a(const emulator::Warp& warp, int r, int k) {
  const uint32_t four = warp.words[4 * (r % 8) + k % 16 / 4][r / 8 + k / 16 * 2];
  return static_cast<int8_t>(four >> 8 * (k % 4));
}

// Channel k of column n: the exchange looks at the bits of the address, as the hardware does.
inline int entry_of_b(bool narrow, uint32_t columns, int k, int n) {
  uint32_t at = columns * 16 + n * (narrow ? 64 : 128) + k;
  at ^= (at >> 7 & (narrow ? 3 : 7)) << 4;
  return emulator::shared_memory[at];
}

template <bool kNarrow>
void multiply(int (&sum)[4][4], const uint32_t (&a)[4], uint32_t b, bool add) {
  emulator::Warp& own = emulator::warp();
  const int lane = emulator::lane(), g = lane / 4, t = lane % 4;
  for (int k = 0; k < 4; ++k) own.words[lane][k] = a[k];
  emulator::wait(own.barrier);
  for (int n = 0; n < 4; ++n)
    for (int e = 0; e < 4; ++e) {
      const int row = g + e / 2 * 8, column = 8 * n + 2 * t + e % 2;
      if (!add) sum[n][e] = 0;
      for (int k = 0; k < 32; ++k)
        sum[n][e] += entry_of_a(own, row, k) * entry_of_b(kNarrow, b, k, column);
    }
  emulator::wait(own.barrier);
}

}  // namespace musc::cuda
