// Four products a lane in 256 bits, for processors with VNNI but without AVX-512 (Alder Lake and
// later). The same code in the encoding of AVX-512 runs, and is tested, where there is only that.
#include "cpu/ops_avx2.hpp"
#include "cpu/table.hpp"

namespace musc {
namespace {

// Unsigned x signed bytes: see ops_vnni.hpp, also for why this is assembly.
struct Avx2Bytes : Avx2Int {
  static constexpr int kElements = 4;
};

struct VexVnni : Avx2Bytes {
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.low) : "x"(columns.low), "x"(row));
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.high) : "x"(columns.high), "x"(row));
    return sums;
  }
};

struct EvexVnni : Avx2Bytes {
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    asm("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sums.low) : "x"(columns.low), "x"(row));
    asm("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sums.high) : "x"(columns.high), "x"(row));
    return sums;
  }
};

}  // namespace

extern const Isa kAvxVnni = make_isa<VexVnni, Avx2Float>("avx-vnni");
extern const Isa kAvx512VlVnni = make_isa<EvexVnni, Avx2Float>("avx512vl-vnni");

}  // namespace musc
