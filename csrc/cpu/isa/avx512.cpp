#include "cpu/isa/define.hpp"
#include "cpu/isa/ops_avx512.hpp"

MUSC_DEFINE_ISA(kAvx512, Avx512Int16, Avx512Fp32, unchanged)
