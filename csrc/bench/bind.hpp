// The parts that module.cpp joins into one module.
#pragma once

#include <pybind11/pybind11.h>

namespace musc {

void bind_parts(pybind11::module_& module);

}  // namespace musc
