// What the files of the bindings share. Arrays cross as addresses, so that nothing here depends on
// torch: musc_fast/backends/cpu owns shapes, dtypes and lifetimes.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "cpu/isa/dispatch.hpp"

namespace musc {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT: an address is what crosses.
}

inline void require(bool holds, const char* what) {
  if (!holds) throw pybind11::value_error(what);
}

inline const InstructionSet& set_named(const std::string& name) {
  for (const InstructionSet& set : instruction_sets()) {
    if (name == set.name) return set;
  }
  throw pybind11::value_error("this processor or build has no instruction set " + name);
}

inline const KernelTable& kernels_named(const std::string& name) {
  return *set_named(name).kernels;
}

// Keyword arguments, read by name: TypeError for one that is missing, and by finish() for one that
// nobody has read.
class Arguments {
 public:
  explicit Arguments(const pybind11::kwargs& named) : named_(named) {}

  template <class T>
  void read(const char* name, T& value) {
    value = named(name).cast<T>();
  }
  // An address; 0 becomes null.
  template <class T>
  void read(const char* name, T*& value) {
    value = pointer<T>(named(name).cast<uintptr_t>());
  }
  void finish() const {
    if (read_ != named_.size()) throw pybind11::type_error("an unknown keyword argument");
  }

 private:
  pybind11::object named(const char* name) {
    if (!named_.contains(name)) {
      throw pybind11::type_error(std::string("missing keyword argument ") + name);
    }
    ++read_;
    return named_[name];
  }

  const pybind11::kwargs& named_;
  size_t read_ = 0;
};

}  // namespace musc
