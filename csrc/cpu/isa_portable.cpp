#include "cpu/ops_portable.hpp"
#include "cpu/table.hpp"

namespace musc {

extern const Isa kPortable = make_isa<PortableInt, PortableFloat>("portable");

}  // namespace musc
