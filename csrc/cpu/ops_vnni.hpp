// AVX512-VNNI: four products a lane. The instruction takes unsigned x signed bytes: `right` holds
// y + 128 and the operands' left_init makes up for the excess, -128 sum(x).
#pragma once

#include "cpu/ops_avx512.hpp"

namespace musc {
namespace {

struct Vnni : Avx512Score {
  static constexpr int kElements = 4;
  static MUSC_INLINE Vector dot(Vector sums, Words row, Words columns) {
    // As assembly, for GCC 12 copies the accumulator before and after the intrinsic: half the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(columns), "v"(row));
    return sums;
  }
};

}  // namespace
}  // namespace musc
