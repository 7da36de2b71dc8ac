#include "cuda.hpp"
#include "cuda/interval_mean.hpp"

namespace py = pybind11;

namespace musc::cuda {
namespace {

void call(uintptr_t x, uintptr_t out, int64_t stride_b, int64_t stride_r, int64_t stride_m,
          int batch, int rows, int columns, int k_min, int k_max, bool squared, bool kth,
          uintptr_t stream) {
  Rows each;
  each.x = pointer<const float>(x);
  each.out = pointer<float>(out);
  each.stride_b = stride_b;
  each.stride_r = stride_r;
  each.stride_m = stride_m;
  each.batch = batch;
  each.rows = rows;
  each.columns = columns;
  each.k_min = k_min;
  each.k_max = k_max;
  each.squared = squared;
  each.kth = kth;
  check(average_interval(each, pointer<void>(stream)));
}

}  // namespace

void bind_interval_mean(py::module_& module) {
  module.attr("MOST_COLUMNS") = kMostColumns;
  module.def("average_interval", &call, "Means of intervals: csrc/cuda/interval_mean.hpp.",
             py::kw_only(), py::arg("x"), py::arg("out"), py::arg("stride_b"),
             py::arg("stride_r"), py::arg("stride_m"), py::arg("batch"), py::arg("rows"),
             py::arg("columns"), py::arg("k_min"), py::arg("k_max"), py::arg("squared"),
             py::arg("kth"), py::arg("stream"));
}

}  // namespace musc::cuda
