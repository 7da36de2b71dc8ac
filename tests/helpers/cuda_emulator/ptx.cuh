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

inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  emulator::Warp& own = emulator::warp();
  const int lane = emulator::lane();
  own.values[lane] = address;
  emulator::wait(own.barrier);
  for (int k = 0; k < 4; ++k)
    std::memcpy(&to[k],
                emulator::shared_memory + own.values[k * 8 + lane / 4] + lane % 4 * 4, 4);
  emulator::wait(own.barrier);
}

// Channel k of row (or column) r, held by lane 4 (r % 8) + k % 16 / 4.
inline int entry(const uint32_t (&words)[emulator::kLanes][8], int word, int r, int k) {
  const uint32_t four = words[4 * (r % 8) + k % 16 / 4][word];
  return static_cast<int8_t>(four >> 8 * (k % 4));
}

inline void multiply(int (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Warp& own = emulator::warp();
  const int lane = emulator::lane(), g = lane / 4, t = lane % 4;
  for (int k = 0; k < 4; ++k) own.words[lane][k] = a[k];
  own.words[lane][4] = b0;
  own.words[lane][5] = b1;
  emulator::wait(own.barrier);
  for (int e = 0; e < 4; ++e) {
    const int row = g + e / 2 * 8, column = 2 * t + e % 2;
    for (int k = 0; k < 32; ++k)
      sum[e] += entry(own.words, row / 8 + k / 16 * 2, row, k) *
                entry(own.words, 4 + k / 16, column, k);
  }
  emulator::wait(own.barrier);
}

}  // namespace musc::cuda
