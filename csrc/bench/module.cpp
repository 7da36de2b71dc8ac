// The module _C_bench: what only benchmarks and tests call. It is built on demand, together with
// all sources of musc_fast._C, and no part of a wheel.
#include <pybind11/pybind11.h>

#include <string>

#include "bench/bind.hpp"
#include "bench/kernels.hpp"
#include "bench/plain.hpp"
#include "bindings/convert.hpp"

namespace py = pybind11;

namespace musc {
namespace {

const FloatKernel& float_kernel(const std::string& isa, const std::string& kind) {
  set_named(isa);  // raises where the processor cannot run it
  const FloatKernel& kernel = kind == "bf16" ? bf16_kernel() : bench_kernels(isa)->fp32;
  require(kernel.pair != nullptr, "this processor or build has no bf16 dot product");
  return kernel;
}

void call_search_plain(const std::string& isa, const std::string& kind, const py::kwargs& named) {
  const FloatKernel& kernel = float_kernel(isa, kind);
  PlainArgs args;
  Arguments arguments(named);
  arguments.read("left", args.left);
  arguments.read("right", args.right);
  arguments.read("init", args.init);
  arguments.read("images", args.images);
  arguments.read("words", args.words);
  arguments.read("padded", args.padded);
  arguments.read("segment", args.segment);
  arguments.read("begin", args.begin);
  arguments.read("end", args.end);
  arguments.read("best", args.best);
  arguments.read("threads", args.threads);
  arguments.finish();
  require(is_segment(args.segment), "segment");
  const py::gil_scoped_release release;
  search_plain(kernel, args);
}

int64_t peak(const std::string& isa, const std::string& kind, int64_t steps) {
  const uint32_t seed[16] = {0x3c013c01u, 0x3c023c02u, 0x3c033c03u, 0x3c043c04u};
  alignas(64) int32_t result[16];
  if (kind != "int8") {
    const FloatKernel& kernel = float_kernel(isa, kind);
    const py::gil_scoped_release release;
    return kernel.elements * kernel.peak(steps, seed, result);
  }
  const InstructionSet& set = set_named(isa);
  const py::gil_scoped_release release;
  Peak run = bench_kernels(isa)->int8_peak;
  if constexpr (MUSC_BUILT_AMX != 0) {
    if (set.tile_unit) run = peak_amx;
  }
  return set.kernels->int8.elements * run(steps, seed, result);
}

}  // namespace
}  // namespace musc

PYBIND11_MODULE(_C_bench, module) {
  module.doc() = "Kernels and parts of the search that only benchmarks and tests call.";
  musc::bind_parts(module);
  module.def("search_plain", musc::call_search_plain, py::arg("isa"), py::arg("kind"));
  module.def("peak", musc::peak,
             "Operations done in `steps` steps of pure dot products, on one thread: the limit.",
             py::arg("isa"), py::arg("kind"), py::arg("steps"));
  module.def("has_bf16", [] { return musc::bf16_kernel().pair != nullptr; });
}
