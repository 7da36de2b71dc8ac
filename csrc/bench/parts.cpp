// Parts of the search by themselves, for tests.
#include <string>
#include <vector>

#include "bench/bind.hpp"
#include "bindings/convert.hpp"
#include "cpu/search/search.hpp"

namespace py = pybind11;

namespace musc {
namespace {

void call_summarise(const std::string& isa, const py::kwargs& named) {
  PairScores scores;
  SearchShape shape;
  uint16_t* best = nullptr;
  Arguments arguments(named);
  arguments.read("scores", scores.scores);
  arguments.read("segments", scores.segments);
  arguments.read("padded", scores.padded);
  arguments.read("rows", scores.rows);
  arguments.read("bounds", scores.bounds);
  arguments.read("rho", shape.largest_rho);
  arguments.read("scale", shape.scale);
  arguments.read("ratio", shape.ratio);
  arguments.read("shift", shape.shift);
  arguments.read("best", best);
  arguments.finish();
  summarise(kernels_named(isa), scores, shape, best);
}

void call_choose(const std::string& isa, const py::kwargs& named) {
  ChooseArgs args;
  const float* rho = nullptr;
  double limit_distance = 0.0, inverse = 0.0;
  Arguments arguments(named);
  arguments.read("scores", args.scores);
  arguments.read("rho", rho);
  arguments.read("panels", args.panels);
  arguments.read("limit_distance", limit_distance);
  arguments.read("inverse", inverse);
  arguments.read("masks", args.masks);
  arguments.finish();
  std::vector<float> panel_errors;
  for (int64_t panel = 0; panel < args.panels; ++panel) {
    panel_errors.push_back(steps_of(rho[panel], inverse));
  }
  args.row_limit = steps_of(limit_distance, inverse);
  args.panel_errors = panel_errors.data();
  kernels_named(isa).choose(args);
}

// With scores 0 the masks are written.
void call_scan(const std::string& isa, const py::kwargs& named) {
  ScanArgs args{};
  const uint32_t* left = nullptr;
  const int32_t* left_init = nullptr;
  const float* row_limits = nullptr;
  Arguments arguments(named);
  arguments.read("left", left);
  arguments.read("left_init", left_init);
  arguments.read("rows", args.rows);
  arguments.read("words", args.words);
  arguments.read("panels", args.panels);
  arguments.read("right", args.right);
  arguments.read("right_init", args.right_init);
  arguments.read("row_limits", row_limits);
  arguments.read("panel_errors", args.panel_errors);
  arguments.read("scores", args.out);
  arguments.read("masks", args.masks);
  arguments.finish();
  require(0 < args.rows && args.rows <= 8, "up to eight rows");
  for (int64_t r = 0; r < args.rows; ++r) {
    args.left[r] = left + r * args.words;
    args.left_init[r] = left_init[r];
    args.row_limits[r] = row_limits[r];
  }
  std::vector<uint32_t> block(sized(8 * args.words));
  std::vector<int32_t> least(sized(8 * args.panels));
  args.block = block.data();
  args.least = least.data();
  args.stride = args.panels * kPanel;
  args.mask_stride = args.panels;
  kernels_named(isa).int8.scan(args);
}

int64_t call_keep(const std::string& isa, bool rest, const py::kwargs& named) {
  CloserLookArgs args;
  Arguments arguments(named);
  arguments.read("row_bounds", args.row_bounds);
  arguments.read("other_bounds", args.other_bounds);
  arguments.read("limit_distance", args.limit_distance);
  arguments.read("slots", args.slots);
  arguments.read("rows", args.rows);
  arguments.read("others", args.others);
  arguments.read("squares", args.squares);
  arguments.read("count", args.count);
  arguments.read("fine_inverse", args.fine_inverse);
  arguments.read("rest_steps", args.rest_steps);
  arguments.read("dots", args.dots);
  arguments.finish();
  const KernelTable& kernels = kernels_named(isa);
  return rest ? kernels.keep_rest(args) : kernels.keep_fine(args);
}

}  // namespace

void bind_parts(py::module_& module) {
  module.def("summarise", call_summarise, py::arg("isa"));
  module.def("choose", call_choose, py::arg("isa"));
  module.def("scan", call_scan, py::arg("isa"));
  module.def("keep", call_keep, py::arg("isa"), py::arg("rest"));
  module.def(
      "rest_bias", [](const std::string& isa) { return kernels_named(isa).rest_bias; },
      py::arg("isa"));
}

}  // namespace musc
