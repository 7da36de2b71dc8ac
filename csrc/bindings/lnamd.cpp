// LNAMD and the interval mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/bind.hpp"
#include "bindings/convert.hpp"
#include "cpu/interval.hpp"
#include "cpu/lnamd.hpp"

namespace py = pybind11;

namespace musc {
namespace {

void call_interval_mean(const py::kwargs& named) {
  const float* distances = nullptr;
  float* out = nullptr;
  int64_t rows = 0, count = 0, k_min = 0, k_max = 0;
  int threads = 1;
  Arguments arguments(named);
  arguments.read("rows", rows);
  arguments.read("count", count);
  require(rows >= 0 && count >= 0, "interval_mean wants sizes of 0 or more");
  arguments.tensor("distances", distances, times(rows, count));
  arguments.tensor("out", out, rows);
  arguments.read("k_min", k_min);
  arguments.read("k_max", k_max);
  arguments.read("threads", threads);
  arguments.finish();
  require(rows >= 0 && k_min >= 0 && k_min < k_max && k_max <= count,
          "interval_mean wants 0 <= k_min < k_max <= count");
  const py::gil_scoped_release release;
  interval_mean(distances, out, rows, count, k_min, k_max, threads);
}

void call_lnamd(const std::string& isa, const std::vector<int64_t>& degrees, const py::list& out,
                const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  require(degrees.size() == out.size(), "one output a degree");
  for (const int64_t degree : degrees) require(degree > 0 && degree % 2 == 1, "degree");
  LnamdArgs args;
  Arguments arguments(named);
  arguments.read("images", args.images);
  arguments.read("height", args.height);
  arguments.read("width", args.width);
  arguments.read("channels", args.channels);
  arguments.read("threads", args.threads);
  require(args.images >= 0 && args.height > 0 && args.width > 0 && args.channels > 0, "sizes");
  const int64_t values = times(times(args.images, args.height), times(args.width, args.channels));
  arguments.tensor("tokens", args.tokens, values);
  arguments.finish();
  std::vector<float*> outputs;
  for (const py::handle& tensor : out) outputs.push_back(memory_of<float>(tensor, "out", values));
  args.degrees = degrees.data();
  args.degree_count = static_cast<int64_t>(degrees.size());
  args.out = outputs.data();
  const py::gil_scoped_release release;
  lnamd(kernels, args);
}

}  // namespace

void bind_lnamd(py::module_& module) {
  module.def("interval_mean", call_interval_mean);
  module.def("lnamd", call_lnamd, py::arg("isa"), py::arg("degrees"), py::arg("out"));
}

}  // namespace musc
