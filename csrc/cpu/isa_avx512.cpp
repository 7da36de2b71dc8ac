#include "cpu/ops_avx512.hpp"
#include "cpu/table.hpp"

namespace musc {

extern const Isa kAvx512 = make_isa<Avx512Int16, Avx512Fp32>("avx512");

}  // namespace musc
