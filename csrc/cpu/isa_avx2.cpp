#include "cpu/ops_avx2.hpp"
#include "cpu/table.hpp"

namespace musc {

extern const Isa kAvx2 = make_isa<Avx2Int, Avx2Float>("avx2");

}  // namespace musc
