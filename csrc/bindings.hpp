// What the files of the bindings share.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "cpu/search.hpp"

namespace musc {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT: an address is what crosses.
}

inline const Isa& isa_named(const std::string& name) {
  for (int index = 0; index < isa_count(); ++index) {
    if (name == isa_at(index).name) return isa_at(index);
  }
  throw pybind11::value_error("this processor or build has no instruction set " + name);
}

inline void require(bool holds, const char* what) {
  if (!holds) throw pybind11::value_error(what);
}

// Parts of the search, which tests try by themselves.
void bind_parts(pybind11::module_& module);

}  // namespace musc
