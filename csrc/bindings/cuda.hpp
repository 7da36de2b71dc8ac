// What the bindings of CUDA kernels share.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "cuda/pairs.hpp"

namespace musc::cuda {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT: an address is what crosses.
}

inline void check(int error) {
  if (error != 0)
    throw std::runtime_error(std::string("CUDA refused a launch: ") + describe_error(error));
}

// Add the functions of csrc/cuda/{find_nearest_16,lnamd,interval_mean}.hpp to the module.
void bind_find_nearest_16(pybind11::module_& module);
void bind_lnamd(pybind11::module_& module);
void bind_interval_mean(pybind11::module_& module);

}  // namespace musc::cuda
