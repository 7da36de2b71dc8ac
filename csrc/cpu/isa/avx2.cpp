#include "cpu/isa/define.hpp"
#include "cpu/isa/ops_avx2.hpp"

MUSC_DEFINE_ISA(kAvx2, Avx2Int, Avx2Float, unchanged)
