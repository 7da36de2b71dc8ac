// The module musc_fast._C: Python's door to the kernels. Every function that works long releases
// the GIL while it does.
#include <pybind11/pybind11.h>

#include <string>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "bindings/bind.hpp"
#include "bindings/convert.hpp"
#include "cpu/search/summary.hpp"

namespace py = pybind11;

namespace musc {
namespace {

void advise_huge_pages(const py::object& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(memory_of<uint8_t>(tensor, "tensor", 0));
  const auto bytes = tensor.attr("numel")().cast<uint64_t>();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + bytes) / kPage * kPage;
  // Only speed depends on the advice, so a refusal is ignored.
  if (begin < end) (void)madvise(pointer<void>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)address;
  (void)bytes;
#endif
}

int64_t words_of(const std::string& isa, int64_t channels) {
  const Int8Kernels& kernels = kernels_named(isa).int8;
  const int64_t unit = kernels.elements * kernels.unit;  // channels
  return (channels + unit - 1) / unit * kernels.unit;
}

void bind_instruction_sets(py::module_& module) {
  py::class_<InstructionSet>(module, "InstructionSet")
      .def_property_readonly("elements",
                             [](const InstructionSet& set) { return set.kernels->int8.elements; },
                             "Channels of a 32-bit word: 4 or 2.")
      .def_readonly("tile_unit", &InstructionSet::tile_unit,
                    "Whether matrix products are so fast that no basis pays.");
  module.def(
      "instruction_sets",
      [] {
        py::dict result;
        for (const InstructionSet& set : instruction_sets()) result[set.name] = set;
        return result;
      },
      "The instruction sets of this build and processor by name, best first.");
  module.def("words_of", words_of, "32-bit words of a rounded row of `channels` channels.",
             py::arg("isa"), py::arg("channels"));
}

// The memory layout that Python allocates for: docs/exact-search.md.
void bind_layout(py::module_& module) {
  module.attr("PANEL") = kPanel;
  module.attr("LANES") = kLanes;
  module.attr("SEGMENT_UNIT") = kSegmentUnit;
  module.attr("MAX_SEGMENT") = kMaxSegment;
  module.attr("BOUNDS") = sizeof(Bounds) / sizeof(float);
  module.attr("FINE_UNIT") = kFineUnit;
  module.attr("REST_UNIT") = kRestUnit;
  module.def(
      "summary_bytes",
      [](int64_t rows, int64_t segments) {
        return static_cast<int64_t>(sizeof(uint16_t)) * summary_size(rows, segments);
      },
      "Bytes of the summary of an image's rows against the segments of one other image.",
      py::arg("rows"), py::arg("segments"));
}

}  // namespace
}  // namespace musc

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled CPU kernels of musc_fast; use them through musc_fast.backends.cpu.";
  musc::bind_instruction_sets(module);
  musc::bind_layout(module);
  musc::bind_lnamd(module);
  musc::bind_local(module);
  musc::bind_search(module);
  module.def(
      "advise_huge_pages", musc::advise_huge_pages,
      "Asks for large pages under fresh memory: fewer faults to fill it, fewer misses to read it.",
      py::arg("tensor"));
}
