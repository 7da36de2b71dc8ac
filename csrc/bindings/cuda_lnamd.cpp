#include "cuda.hpp"
#include "cuda/lnamd.hpp"

namespace py = pybind11;

namespace musc::cuda {
namespace {

void call(uintptr_t x, int64_t stride_n, int64_t stride_p, uintptr_t sums, uintptr_t count,
          uintptr_t out_1, uintptr_t out_3, uintptr_t out_5, int images, int height, int width,
          int channels, int rows, int lag, uintptr_t stream) {
  Tokens tokens;
  tokens.x = pointer<const float>(x);
  tokens.stride_n = stride_n;
  tokens.stride_p = stride_p;
  tokens.sums = pointer<double>(sums);
  tokens.count = pointer<int32_t>(count);
  tokens.out_1 = pointer<float>(out_1);
  tokens.out_3 = pointer<float>(out_3);
  tokens.out_5 = pointer<float>(out_5);
  tokens.images = images;
  tokens.height = height;
  tokens.width = width;
  tokens.channels = channels;
  tokens.rows = rows;
  tokens.lag = lag;
  check(aggregate_neighbourhoods(tokens, pointer<void>(stream)));
}

}  // namespace

void bind_lnamd(py::module_& module) {
  module.def("count_tiles", &count_tiles, "How many blocks share an image.", py::arg("height"),
             py::arg("width"), py::arg("channels"), py::arg("rows"));
  module.def("aggregate_neighbourhoods", &call, "LNAMD of tokens: csrc/cuda/lnamd.hpp.",
             py::kw_only(), py::arg("x"), py::arg("stride_n"), py::arg("stride_p"),
             py::arg("sums"), py::arg("count"), py::arg("out_1"), py::arg("out_3"),
             py::arg("out_5"), py::arg("images"), py::arg("height"), py::arg("width"),
             py::arg("channels"), py::arg("rows"), py::arg("lag"), py::arg("stream"));
}

}  // namespace musc::cuda
