#include "cpu/isa_bf16.hpp"

namespace musc {

extern const Isa kBf16 = with_bf16(with_vnni(make_isa<Vnni, Avx512Fp32>("avx512-bf16")));

}  // namespace musc
