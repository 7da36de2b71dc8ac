#include "cpu/isa.hpp"
#include "cpu/ops_portable.hpp"

namespace musc {

extern const Isa kPortable = make_isa<PortableInt, PortableFloat>("portable");

}  // namespace musc
