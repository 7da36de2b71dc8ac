#include "cpu/ops_vnni.hpp"
#include "cpu/table.hpp"

namespace musc {

extern const Isa kVnni = with_vnni(make_isa<Vnni, Avx512Fp32>("avx512-vnni"));

}  // namespace musc
