// The search: rounding, first pass, second pass.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bind.hpp"
#include "bindings/convert.hpp"
#include "cpu/search/search.hpp"

namespace py = pybind11;

namespace musc {
namespace {

SearchSpace make_space(const py::kwargs& named) {
  SearchSpace space;
  Arguments arguments(named);
  arguments.read("mean", space.mean);
  arguments.read("basis", space.basis);
  arguments.read("basis_transposed", space.basis_transposed);
  arguments.read("signs", space.signs);
  arguments.read("channels", space.channels);
  arguments.read("prefix", space.prefix);
  arguments.read("tail", space.tail);
  arguments.read("tail_centre", space.tail_centre);
  arguments.read("scale", space.scale);
  arguments.read("basis_error", space.basis_error);
  arguments.read("fine_scale", space.fine_scale);
  arguments.read("fine_levels", space.fine_levels);
  arguments.read("rest_scale", space.rest_scale);
  arguments.finish();
  const int64_t channels = space.prefix + (space.tail ? 1 : 0), levels = space.fine_levels;
  require(space.scale > 0, "scale");
  require(levels >= 0 && levels < (1 << 14), "differences must fit 16 bits");
  require(4 * levels * levels * channels < INT64_C(1) << 31, "fine sums must fit 32 bits");
  require(space.basis != nullptr || space.prefix == space.channels,
          "without a basis every channel is searched");
  return space;
}

RoundedImages make_images(const py::kwargs& named) {
  RoundedImages images;
  Arguments arguments(named);
  arguments.read("x", images.x);
  arguments.read("rows", images.rows);
  arguments.read("padded", images.padded);
  arguments.read("left", images.left);
  arguments.read("right", images.right);
  arguments.read("left_init", images.left_init);
  arguments.read("right_init", images.right_init);
  arguments.read("bounds", images.bounds);
  arguments.read("panel_errors", images.panel_errors);
  arguments.read("fine", images.fine);
  arguments.read("rest", images.rest);
  arguments.finish();
  require(images.rows > 0 && images.padded >= images.rows && images.padded % kPanel == 0,
          "padding");
  return images;
}

SearchShape make_shape(const py::kwargs& named) {
  SearchShape shape;
  Arguments arguments(named);
  arguments.read("words", shape.words);
  arguments.read("channels", shape.channels);
  arguments.read("segment", shape.segment);
  arguments.read("shift", shape.shift);
  arguments.read("scale", shape.scale);
  arguments.read("stretch", shape.stretch);
  arguments.read("threads", shape.threads);
  arguments.read("fine_stride", shape.fine_stride);
  arguments.read("rest_stride", shape.rest_stride);
  arguments.read("fine_scale", shape.fine_scale);
  arguments.read("rest_scale", shape.rest_scale);
  arguments.read("largest_rho", shape.largest_rho);
  arguments.read("ratio", shape.ratio);
  arguments.finish();
  require(is_segment(shape.segment), "a segment is 16 or a multiple of 48, 1536 at most");
  require(shape.scale > 0 && shape.stretch >= 1 && shape.shift >= 0 && shape.shift < 16,
          "scale or shift");
  return shape;
}

Summaries make_summaries(uintptr_t data, int64_t first, int64_t columns) {
  Summaries summaries;
  summaries.data = pointer<uint16_t>(data);
  summaries.first = first;
  summaries.columns = columns;
  return summaries;
}

void call_quantise(const std::string& isa, const SearchSpace& space, const RoundedImages& images,
                   const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  QuantiseArgs args;
  args.space = space;
  args.images = images;
  args.elements = kernels.int8.elements;
  Arguments arguments(named);
  arguments.read("first", args.first);
  arguments.read("count", args.count);
  arguments.read("words", args.words);
  arguments.read("fine_stride", args.fine_stride);
  arguments.read("rest_stride", args.rest_stride);
  arguments.read("threads", args.threads);
  arguments.finish();
  const bool fine = images.fine != nullptr, rest = images.rest != nullptr;
  require(args.words * args.elements >= space.prefix + (space.tail ? 1 : 0), "too few words");
  require(args.fine_stride % kFineUnit == 0 && args.rest_stride % kRestUnit == 0,
          "strides of whole vectors");
  require(!rest || (fine && space.basis_transposed != nullptr), "the rest goes with fine");
  require(space.tail == rest, "the tail is the norm of the rest");
  const py::gil_scoped_release release;
  quantise(kernels, args);
}

void call_multiply(const std::string& isa, const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  MultiplyArgs args;
  Arguments arguments(named);
  arguments.read("x", args.x);
  arguments.read("mean", args.mean);
  arguments.read("basis", args.basis);
  arguments.read("out", args.out);
  arguments.read("rows", args.rows);
  arguments.read("channels", args.channels);
  arguments.read("panels", args.panels);
  arguments.read("threads", args.threads);
  arguments.finish();
  const py::gil_scoped_release release;
  multiply(kernels, args);
}

void call_search_pairs(const std::string& isa, const RoundedImages& queries,
                       const RoundedImages& references, const SearchShape& shape,
                       const Summaries& best, const Summaries& mirrored,
                       const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  PairsArgs args;
  args.best = best;
  args.mirrored = mirrored;
  Arguments arguments(named);
  arguments.read("pairs", args.pairs);
  arguments.read("pair_count", args.pair_count);
  arguments.finish();
  const py::gil_scoped_release release;
  search_pairs(kernels, queries, references, shape, args);
}

void call_refine(const std::string& isa, const RoundedImages& queries,
                 const RoundedImages& references, const SearchShape& shape, const Summaries& best,
                 Counters& counters, const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  RefineArgs args;
  args.best = best;
  args.counters = &counters;
  Arguments arguments(named);
  arguments.read("begin", args.begin);
  arguments.read("end", args.end);
  arguments.read("reference_lists", args.reference_lists);
  arguments.read("symmetric", args.symmetric);
  arguments.read("certified", args.certified);
  arguments.read("k_min", args.k_min);
  arguments.read("k_max", args.k_max);
  arguments.read("means", args.outputs.means);
  arguments.read("distances", args.outputs.distances);
  arguments.read("nearest", args.outputs.nearest);
  arguments.read("nearest_image", args.outputs.nearest_image);
  arguments.read("nearest_patch", args.outputs.nearest_patch);
  arguments.finish();
  const int64_t own = args.symmetric && args.reference_lists == nullptr ? 1 : 0;
  require(0 <= args.k_min && args.k_min < args.k_max && args.k_max <= best.columns - own,
          "0 <= k_min < k_max <= images to compare with");
  const py::gil_scoped_release release;
  refine(kernels, queries, references, shape, args);
}

}  // namespace

void bind_search(py::module_& module) {
  py::class_<SearchSpace>(module, "SearchSpace").def(py::init(&make_space));
  py::class_<RoundedImages>(module, "RoundedImages").def(py::init(&make_images));
  py::class_<SearchShape>(module, "SearchShape").def(py::init(&make_shape));
  py::class_<Summaries>(module, "Summaries")
      .def(py::init(&make_summaries), py::kw_only(), py::arg("data"), py::arg("first"),
           py::arg("columns"));
  py::class_<Counters>(module, "Counters")
      .def(py::init<>())
      .def_readonly("examined", &Counters::examined)
      .def_readonly("scanned", &Counters::scanned)
      .def_readonly("recomputed", &Counters::recomputed)
      .def_readonly("rows", &Counters::rows)
      .def_readonly("fine", &Counters::fine)
      .def_readonly("rest", &Counters::rest);

  module.def("quantise", call_quantise, py::arg("isa"), py::arg("space"), py::arg("images"));
  module.def("multiply", call_multiply, py::arg("isa"));
  module.def("search_pairs", call_search_pairs, py::arg("isa"), py::arg("queries"),
             py::arg("references"), py::arg("shape"), py::arg("best"), py::arg("mirrored"));
  module.def("refine", call_refine, py::arg("isa"), py::arg("queries"), py::arg("references"),
             py::arg("shape"), py::arg("best"), py::arg("counters"));
}

}  // namespace musc
