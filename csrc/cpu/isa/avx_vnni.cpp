// VNNI in 256 bits, four products a lane: for processors without AVX-512 (Alder Lake and later),
// and the same code in the encoding of AVX-512, which runs, and is tested, on processors with
// AVX-512 only.
#include "cpu/isa/define.hpp"
#include "cpu/isa/ops_avx_vnni.hpp"

MUSC_DEFINE_ISA(kAvxVnni, VexVnni, Avx2Float, unchanged)
MUSC_DEFINE_ISA(kAvx512VlVnni, EvexVnni, Avx2Float, unchanged)
