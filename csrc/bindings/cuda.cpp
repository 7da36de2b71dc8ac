// The module musc_fast._C_cuda: Python's door to the CUDA kernels. Arrays cross as addresses of the
// current device, streams as handles; musc_fast/backends/triton owns shapes, dtypes and lifetimes.
#include "cuda.hpp"

namespace py = pybind11;

namespace musc::cuda {
namespace {

Pairs make_pairs(uintptr_t x, uintptr_t y, uintptr_t x_norms, uintptr_t y_norms, uintptr_t keys,
                 int images, int others, int patches, int other_patches, int channels, int all,
                 int first, bool triangle) {
  Pairs pairs;
  pairs.x = pointer<const int8_t>(x);
  pairs.y = pointer<const int8_t>(y);
  pairs.x_norms = pointer<const int32_t>(x_norms);
  pairs.y_norms = pointer<const int32_t>(y_norms);
  pairs.keys = pointer<int64_t>(keys);
  pairs.images = images;
  pairs.others = others;
  pairs.patches = patches;
  pairs.other_patches = other_patches;
  pairs.channels = channels;
  pairs.all = all;
  pairs.first = first;
  pairs.triangle = triangle;
  return pairs;
}

void call_list_candidates(const Pairs& pairs, uintptr_t limits, uintptr_t count, uintptr_t slots,
                          uintptr_t patches, int64_t room, uintptr_t stream) {
  Candidates candidates;
  candidates.limits = pointer<const float>(limits);
  candidates.count = pointer<uint64_t>(count);
  candidates.slots = pointer<int64_t>(slots);
  candidates.patches = pointer<int32_t>(patches);
  candidates.room = room;
  check(list_candidates(pairs, candidates, pointer<void>(stream)));
}

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
  py::class_<Pairs>(module, "Pairs", "Images against images: csrc/cuda/pairs.hpp.")
      .def(py::init(&make_pairs), py::kw_only(), py::arg("x"), py::arg("y"), py::arg("x_norms"),
           py::arg("y_norms"), py::arg("keys"), py::arg("images"), py::arg("others"),
           py::arg("patches"), py::arg("other_patches"), py::arg("channels"), py::arg("all"),
           py::arg("first"), py::arg("triangle"));
  module.def(
      "find_nearest",
      [](const Pairs& pairs, uintptr_t stream) {
        check(find_nearest(pairs, pointer<void>(stream)));
      },
      "Lower the keys of the pairs.", py::arg("pairs"), py::kw_only(), py::arg("stream"));
  module.def("list_candidates", &call_list_candidates, "List candidates within limits.",
             py::arg("pairs"), py::kw_only(), py::arg("limits"), py::arg("count"),
             py::arg("slots"), py::arg("patches"), py::arg("room"), py::arg("stream"));
  bind_lnamd(module);
  bind_interval_mean(module);
}

}  // namespace musc::cuda
