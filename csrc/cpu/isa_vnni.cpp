#include "cpu/isa.hpp"
#include "cpu/ops_vnni.hpp"

namespace musc {

extern const Isa kVnni = make_isa<Vnni, Avx512Fp32>("avx512-vnni");

}  // namespace musc
