#include "cpu/isa.hpp"
#include "cpu/ops_avx2.hpp"

namespace musc {

extern const Isa kAvx2 = make_isa<Avx2Int, Avx2Float>("avx2");

}  // namespace musc
