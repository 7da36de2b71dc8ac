// What the files of the bindings share. Tensors cross as Python objects, of which the methods that a
// torch tensor has are called: so nothing here depends on torch at build time, and every tensor's
// place, kind and size is checked before its memory is touched. Lifetimes are for
// musc_fast/backends/cpu to care for: handles hold addresses alone.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

#include "cpu/isa/dispatch.hpp"

namespace musc {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT: an address is what crosses.
}

inline void require(bool holds, const char* what) {
  if (!holds) throw pybind11::value_error(what);
}

// The product of two sizes; ValueError where it is no int64_t.
inline int64_t times(int64_t a, int64_t b) {
  if (a < 0 || b < 0 || (b > 0 && a > INT64_MAX / b)) {
    throw pybind11::value_error("a size is negative or too large");
  }
  return a * b;
}

inline int64_t whole(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// What a tensor's elements must be to hold values of T.
template <class T>
struct Elements {
  using Scalar = std::remove_const_t<T>;
  static constexpr int64_t kEach = 1;  // elements a value
};
template <>
struct Elements<Bounds> {
  using Scalar = float;
  static constexpr int64_t kEach = sizeof(Bounds) / sizeof(float);
};

// The memory of a tensor of at least `count` values; ValueError where the tensor does not lie
// contiguous in the CPU's memory, or has elements of another size or kind, or too few of them.
template <class T>
T* memory_of(const pybind11::handle& tensor, const std::string& name, int64_t count) {
  using Each = Elements<std::remove_const_t<T>>;
  using Scalar = typename Each::Scalar;
  const auto fail = [&](const std::string& what) { throw pybind11::value_error(name + ": " + what); };
  const std::string place = pybind11::str(tensor.attr("device").attr("type"));
  if (place != "cpu") fail("wanted a tensor on the cpu, not on " + place);
  const bool floating = tensor.attr("is_floating_point")().cast<bool>();
  if (tensor.attr("element_size")().cast<size_t>() != sizeof(Scalar) ||
      floating != std::is_floating_point<Scalar>::value) {
    fail("wanted elements of another dtype than " +
         std::string(pybind11::str(tensor.attr("dtype"))));
  }
  if (!tensor.attr("is_contiguous")().cast<bool>()) fail("wanted a contiguous tensor");
  const int64_t found = tensor.attr("numel")().cast<int64_t>();
  if (count < 0 || found / Each::kEach < count) {
    fail("wanted " + std::to_string(count * Each::kEach) + " elements, found " +
         std::to_string(found));
  }
  const auto address = tensor.attr("data_ptr")().cast<uintptr_t>();
  if (address % alignof(Scalar) != 0) fail("wanted aligned memory");
  return pointer<T>(address);
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
  // An address, of the parts that tests call by themselves; 0 becomes null.
  template <class T>
  void read(const char* name, T*& value) {
    value = pointer<T>(named(name).cast<uintptr_t>());
  }
  // A tensor of at least `count` values.
  template <class T>
  void tensor(const char* name, T*& value, int64_t count) {
    value = memory_of<T>(named(name), name, count);
  }
  // The same, or None, which becomes null.
  template <class T>
  void optional(const char* name, T*& value, int64_t count) {
    const pybind11::object given = named(name);
    value = given.is_none() ? nullptr : memory_of<T>(given, name, count);
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
