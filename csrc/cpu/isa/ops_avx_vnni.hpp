// The tile operations for VNNI in 256 bits. The instruction multiplies unsigned by signed bytes,
// and is written as assembly: ops_vnni.hpp says why.
#pragma once

#include "cpu/isa/ops_avx2.hpp"

namespace musc {
namespace {

struct Avx2Bytes : Avx2Int {
  static constexpr int kElements = 4;
};

struct VexVnniInt16 : Avx2Int {
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sums.low) : "x"(columns.low), "x"(row));
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sums.high) : "x"(columns.high), "x"(row));
    return sums;
  }
};

struct VexVnni : Avx2Bytes {
  using Pairs = VexVnniInt16;
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.low) : "x"(columns.low), "x"(row));
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.high) : "x"(columns.high), "x"(row));
    return sums;
  }
};

struct EvexVnniInt16 : Avx2Int {
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    asm("%{evex%} vpdpwssd %2, %1, %0" : "+x"(sums.low) : "x"(columns.low), "x"(row));
    asm("%{evex%} vpdpwssd %2, %1, %0" : "+x"(sums.high) : "x"(columns.high), "x"(row));
    return sums;
  }
};

struct EvexVnni : Avx2Bytes {
  using Pairs = EvexVnniInt16;
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    asm("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sums.low) : "x"(columns.low), "x"(row));
    asm("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sums.high) : "x"(columns.high), "x"(row));
    return sums;
  }
};

}  // namespace
}  // namespace musc
