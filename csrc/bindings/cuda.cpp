// The module musc_fast._C_cuda: Python's door to the CUDA kernels. Arrays cross as addresses of the
// current device, streams as handles; musc_fast/backends/triton owns shapes, dtypes and lifetimes.
#include "cuda.hpp"
#include "cuda/winners.hpp"

namespace py = pybind11;

namespace musc::cuda {
namespace {

Pairs make_pairs(uintptr_t x, uintptr_t y, uintptr_t x_norms, uintptr_t y_norms, uintptr_t keys,
                 uintptr_t least, int images, int others, int patches, int other_patches,
                 int channels, int all, int first, bool triangle) {
  Pairs pairs;
  pairs.x = pointer<const int8_t>(x);
  pairs.y = pointer<const int8_t>(y);
  pairs.x_norms = pointer<const int32_t>(x_norms);
  pairs.y_norms = pointer<const int32_t>(y_norms);
  pairs.keys = pointer<int64_t>(keys);
  pairs.least = pointer<uint16_t>(least);
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

void call_recompute_winners(uintptr_t x, uintptr_t y, uintptr_t keys, uintptr_t kth,
                            uintptr_t x_errors, uintptr_t y_errors, uintptr_t error, uintptr_t out,
                            int images, int held, int others, int patches, int other_patches,
                            int channels, int first, float scale_squared, bool integers,
                            bool certified, uintptr_t stream) {
  Winners winners;
  winners.x = pointer<const float>(x);
  winners.y = pointer<const float>(y);
  winners.keys = pointer<const int64_t>(keys);
  winners.kth = pointer<const float>(kth);
  winners.x_errors = pointer<const float>(x_errors);
  winners.y_errors = pointer<const float>(y_errors);
  winners.error = pointer<const float>(error);
  winners.out = pointer<float>(out);
  winners.images = images;
  winners.held = held;
  winners.others = others;
  winners.patches = patches;
  winners.other_patches = other_patches;
  winners.channels = channels;
  winners.first = first;
  winners.scale_squared = scale_squared;
  winners.integers = integers;
  winners.certified = certified;
  check(recompute_winners(winners, pointer<void>(stream)));
}

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
  py::class_<Pairs>(module, "Pairs", "Images against images: csrc/cuda/pairs.hpp.")
      .def(py::init(&make_pairs), py::kw_only(), py::arg("x"), py::arg("y"), py::arg("x_norms"),
           py::arg("y_norms"), py::arg("keys"), py::arg("least"), py::arg("images"),
           py::arg("others"), py::arg("patches"), py::arg("other_patches"), py::arg("channels"),
           py::arg("all"), py::arg("first"), py::arg("triangle"));
  module.attr("RANGE") = kRange;
  module.def(
      "find_nearest",
      [](const Pairs& pairs, uintptr_t stream) {
        check(find_nearest(pairs, pointer<void>(stream)));
      },
      "Lower the keys of the pairs.", py::arg("pairs"), py::kw_only(), py::arg("stream"));
  module.def("list_candidates", &call_list_candidates, "List candidates within limits.",
             py::arg("pairs"), py::kw_only(), py::arg("limits"), py::arg("count"),
             py::arg("slots"), py::arg("patches"), py::arg("room"), py::arg("stream"));
  module.def("recompute_winners", &call_recompute_winners,
             "Squared distances of the winners that matter; kth = 0: of all.", py::kw_only(),
             py::arg("x"), py::arg("y"), py::arg("keys"), py::arg("kth"), py::arg("x_errors"),
             py::arg("y_errors"), py::arg("error"), py::arg("out"), py::arg("images"),
             py::arg("held"), py::arg("others"), py::arg("patches"), py::arg("other_patches"),
             py::arg("channels"), py::arg("first"), py::arg("scale_squared"), py::arg("integers"),
             py::arg("certified"), py::arg("stream"));
  bind_find_nearest_16(module);
  bind_lnamd(module);
  bind_interval_mean(module);
}

}  // namespace musc::cuda
