// The products of csrc/cuda/products_16.cuh on a CPU, written after their description.
#pragma once

#include "hopper.cuh"

namespace musc::cuda {

inline uint32_t describe_rows(uint32_t address) { return address >> 4; }

inline float value_of_16_bits(uint16_t bits, bool bfloat) {
  if (bfloat) return __bits<float>(static_cast<uint32_t>(bits) << 16);
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25);
  return bits >> 15 ? -size : size;
}

// Channel k of row r: the exchange looks at the bits of the address, as the hardware does.
inline float entry_of(uint32_t rows, int r, int k, bool bfloat) {
  uint32_t at = rows * 16 + r * 128 + k * 2;
  at ^= (at >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, emulator::shared_memory + at, 2);
  return value_of_16_bits(bits, bfloat);
}

template <int kColumns, bool kBfloat>
void multiply_16(float (&sum)[kColumns / 2], uint32_t a, uint32_t b, bool add) {
  const int lane = emulator::lane(), warp = static_cast<int>(threadIdx.x) / 32 % 4;
  float rows[2][16];
  for (int r = 0; r < 2; ++r)
    for (int k = 0; k < 16; ++k) rows[r][k] = entry_of(a, 16 * warp + lane / 4 + 8 * r, k, kBfloat);
  for (int n = 0; n < kColumns / 8; ++n)
    for (int c = 0; c < 2; ++c) {
      float* sums[2] = {&sum[4 * n + c], &sum[4 * n + 2 + c]};
      for (float* each : sums)
        if (!add) *each = 0;
      for (int k = 0; k < 16; ++k) {
        const float column = entry_of(b, 8 * n + 2 * (lane % 4) + c, k, kBfloat);
        for (int r = 0; r < 2; ++r) *sums[r] += rows[r][k] * column;
      }
    }
}

template <int kCount>
void keep_order(float (&)[kCount]) {}

}  // namespace musc::cuda
