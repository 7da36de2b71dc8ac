#include "cpu/isa/define.hpp"
#include "cpu/isa/ops_portable.hpp"

MUSC_DEFINE_ISA(kPortable, PortableInt, PortableFloat, unchanged)
