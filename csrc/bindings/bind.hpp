// The parts that module.cpp joins into one module.
#pragma once

#include <pybind11/pybind11.h>

namespace musc {

void bind_lnamd(pybind11::module_& module);
void bind_local(pybind11::module_& module);
void bind_search(pybind11::module_& module);

}  // namespace musc
