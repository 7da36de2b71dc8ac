#include "cuda.hpp"
#include "cuda/find_nearest_16.hpp"

namespace py = pybind11;

namespace musc::cuda {
namespace {

void call(uintptr_t x, uintptr_t y, uintptr_t x_norms, uintptr_t y_norms, uintptr_t keys,
          int images, int others, int patches, int other_patches, int channels, int all, int first,
          bool triangle, bool bfloat, uintptr_t stream) {
  Pairs16 pairs;
  pairs.x = pointer<const void>(x);
  pairs.y = pointer<const void>(y);
  pairs.x_norms = pointer<const float>(x_norms);
  pairs.y_norms = pointer<const float>(y_norms);
  pairs.keys = pointer<int64_t>(keys);
  pairs.images = images;
  pairs.others = others;
  pairs.patches = patches;
  pairs.other_patches = other_patches;
  pairs.channels = channels;
  pairs.all = all;
  pairs.first = first;
  pairs.triangle = triangle;
  pairs.bfloat = bfloat;
  check(find_nearest_16(pairs, pointer<void>(stream)));
}

}  // namespace

void bind_find_nearest_16(py::module_& module) {
  module.def("find_nearest_16", &call, "Lower the keys by products of 16-bit values.",
             py::kw_only(), py::arg("x"), py::arg("y"), py::arg("x_norms"), py::arg("y_norms"),
             py::arg("keys"), py::arg("images"), py::arg("others"), py::arg("patches"),
             py::arg("other_patches"), py::arg("channels"), py::arg("all"), py::arg("first"),
             py::arg("triangle"), py::arg("bfloat"), py::arg("stream"));
}

}  // namespace musc::cuda
