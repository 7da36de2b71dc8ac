#include "cpu/isa/define.hpp"
#include "cpu/isa/ops_vnni.hpp"

MUSC_DEFINE_ISA(kAvx512Vnni, Vnni, Avx512Fp32, with_vnni)
