// The tables that the isa_*.cpp files define; which of them exist is the build's decision.
#pragma once

#include "cpu/kernels.hpp"

namespace musc {

extern const Isa kPortable;
extern const Isa kAvx2;
extern const Isa kAvxVnni;
extern const Isa kAvx512VlVnni;
extern const Isa kAvx512;
extern const Isa kVnni;
extern const Isa kBf16;
extern const Isa kAmx;

}  // namespace musc
