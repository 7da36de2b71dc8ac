// The search of whole images: rounding, first pass, second pass.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bind.hpp"
#include "bindings/convert.hpp"
#include "cpu/search/search.hpp"
#include "cpu/search/summary.hpp"

namespace py = pybind11;

namespace musc {
namespace {

// What Python holds: the addresses, and the sizes that were checked against the tensors.
struct HeldImages : RoundedImages {
  int64_t images = 0, channels = 0, words = 0, fine_stride = 0, rest_stride = 0;
};

struct HeldSummaries : Summaries {
  int64_t values = 0;  // 16-bit words from `data` on
};

// The query images that summaries of queries against references have room for.
int64_t images_in(const HeldSummaries& summaries, const HeldImages& queries,
                  const HeldImages& references, const SearchShape& shape) {
  const int64_t each = summary_size(queries.rows, whole(references.padded, shape.segment));
  return summaries.values / times(summaries.columns, each);
}

void require_same_sizes(const HeldImages& images, const SearchShape& shape) {
  require(images.words == shape.words && images.channels == shape.channels, "words or channels");
  require(images.fine_stride == shape.fine_stride && images.rest_stride == shape.rest_stride,
          "strides");
}

SearchSpace make_space(const py::kwargs& named) {
  SearchSpace space;
  Arguments arguments(named);
  arguments.read("channels", space.channels);
  arguments.read("prefix", space.prefix);
  require(0 < space.prefix && space.prefix <= space.channels, "0 < prefix <= channels");
  const int64_t panels = whole(space.prefix, kPanel);
  int64_t spread = 1;  // channels that a round of the rotation takes
  while (2 * spread <= space.channels) spread *= 2;
  arguments.tensor("mean", space.mean, space.channels);
  arguments.optional("basis", space.basis, times(panels * kPanel, space.channels));
  arguments.optional("basis_transposed", space.basis_transposed,
                     times(whole(space.channels, kPanel) * kPanel, space.prefix));
  arguments.optional("signs", space.signs, 2 * spread);
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
  require((space.basis == nullptr) == (space.signs != nullptr), "a basis or a rotation");
  return space;
}

HeldImages make_images(const py::kwargs& named) {
  HeldImages images;
  Arguments arguments(named);
  arguments.read("images", images.images);
  arguments.read("rows", images.rows);
  arguments.read("padded", images.padded);
  arguments.read("channels", images.channels);
  arguments.read("words", images.words);
  arguments.read("fine_stride", images.fine_stride);
  arguments.read("rest_stride", images.rest_stride);
  require(images.images >= 0 && images.rows > 0 && images.padded >= images.rows &&
              images.padded % kPanel == 0,
          "padding");
  require(images.channels > 0 && images.words > 0, "channels or words");
  const int64_t rows = times(images.images, images.rows);
  const int64_t padded = times(images.images, images.padded);
  arguments.tensor("x", images.x, times(rows, images.channels));
  arguments.tensor("left", images.left, times(padded, images.words));
  arguments.tensor("right", images.right, times(padded, images.words));
  arguments.tensor("left_init", images.left_init, padded);
  arguments.tensor("right_init", images.right_init, padded);
  arguments.tensor("bounds", images.bounds, rows);
  arguments.tensor("panel_errors", images.panel_errors, padded / kPanel);
  arguments.optional("fine", images.fine, times(rows, images.fine_stride));
  arguments.optional("rest", images.rest, times(rows, images.rest_stride));
  arguments.finish();
  require((images.fine != nullptr) == (images.fine_stride > 0), "fine");
  require((images.rest != nullptr) == (images.rest_stride > 0), "rest");
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

HeldSummaries make_summaries(const py::object& data, int64_t first, int64_t columns) {
  HeldSummaries summaries;
  require(first >= 0 && columns > 0, "summaries want first >= 0 and columns > 0");
  summaries.data = memory_of<uint16_t>(data, "data", 0);
  summaries.values = data.attr("numel")().cast<int64_t>();
  summaries.first = first;
  summaries.columns = columns;
  return summaries;
}

void call_quantise(const std::string& isa, const SearchSpace& space, const HeldImages& images,
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
  require(args.first >= 0 && args.count >= 0 && args.first <= images.images - args.count,
          "images to round");
  require(args.words == images.words && args.fine_stride == images.fine_stride &&
              args.rest_stride == images.rest_stride && space.channels == images.channels,
          "sizes of the rounded images");
  require(args.words * args.elements >= space.prefix + (space.tail ? 1 : 0), "too few words");
  require(args.fine_stride % kFineUnit == 0 && args.rest_stride % kRestUnit == 0,
          "strides of whole vectors");
  require(!fine || args.fine_stride >= space.prefix + (space.tail ? 1 : 0), "fine_stride");
  require(!rest || args.rest_stride >= space.channels, "rest_stride");
  require(!rest || (fine && space.basis_transposed != nullptr), "the rest goes with fine");
  require(space.tail == rest, "the tail is the norm of the rest");
  const py::gil_scoped_release release;
  quantise(kernels, args);
}

void call_multiply(const std::string& isa, const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  MultiplyArgs args;
  Arguments arguments(named);
  arguments.read("rows", args.rows);
  arguments.read("channels", args.channels);
  arguments.read("panels", args.panels);
  arguments.tensor("x", args.x, times(args.rows, args.channels));
  arguments.tensor("mean", args.mean, args.channels);
  arguments.tensor("basis", args.basis, times(times(args.panels, kPanel), args.channels));
  arguments.tensor("out", args.out, times(times(args.panels, kPanel), args.rows));
  arguments.read("threads", args.threads);
  arguments.finish();
  const py::gil_scoped_release release;
  multiply(kernels, args);
}

void call_search_pairs(const std::string& isa, const HeldImages& queries,
                       const HeldImages& references, const SearchShape& shape,
                       const HeldSummaries& best, const HeldSummaries& mirrored,
                       const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  PairsArgs args;
  args.best = best;
  args.mirrored = mirrored;
  Arguments arguments(named);
  arguments.read("pair_count", args.pair_count);
  arguments.tensor("pairs", args.pairs, times(args.pair_count, 4));
  arguments.finish();
  require_same_sizes(queries, shape);
  require_same_sizes(references, shape);
  const int64_t room = images_in(best, queries, references, shape);
  const int64_t back = images_in(mirrored, references, queries, shape);
  for (int64_t at = 0; at < args.pair_count; ++at) {
    const int32_t *pair = args.pairs + 4 * at, i = pair[0], j = pair[2];
    require(i >= best.first && i - best.first < room && i < queries.images, "query of a pair");
    require(pair[1] >= 0 && pair[1] < best.columns, "column of a pair");
    require(j >= 0 && j < references.images, "reference of a pair");
    require(pair[3] == -1 || (pair[3] >= 0 && pair[3] < mirrored.columns && j >= mirrored.first &&
                              j - mirrored.first < back),
            "mirrored column of a pair");
  }
  const py::gil_scoped_release release;
  search_pairs(kernels, queries, references, shape, args);
}

void call_refine(const std::string& isa, const HeldImages& queries, const HeldImages& references,
                 const SearchShape& shape, const HeldSummaries& best, Counters& counters,
                 const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  RefineArgs args;
  args.best = best;
  args.counters = &counters;
  Arguments arguments(named);
  arguments.read("begin", args.begin);
  arguments.read("end", args.end);
  arguments.read("symmetric", args.symmetric);
  arguments.read("certified", args.certified);
  arguments.read("k_min", args.k_min);
  arguments.read("k_max", args.k_max);
  require(args.begin <= args.end && best.first <= args.begin && args.end <= queries.images &&
              args.end - best.first <= images_in(best, queries, references, shape),
          "queries to finish");
  const int64_t count = args.end - args.begin, rows = times(count, queries.rows);
  arguments.optional("reference_lists", args.reference_lists, times(count, best.columns));
  arguments.optional("means", args.outputs.means, rows);
  arguments.optional("distances", args.outputs.distances, times(rows, best.columns));
  arguments.optional("nearest", args.outputs.nearest, times(rows, args.k_max));
  arguments.optional("nearest_image", args.outputs.nearest_image, times(rows, args.k_max));
  arguments.optional("nearest_patch", args.outputs.nearest_patch, times(rows, args.k_max));
  arguments.finish();
  require_same_sizes(queries, shape);
  require_same_sizes(references, shape);
  const int64_t own = args.symmetric && args.reference_lists == nullptr ? 1 : 0;
  require(0 <= args.k_min && args.k_min < args.k_max && args.k_max <= best.columns - own,
          "0 <= k_min < k_max <= images to compare with");
  if (args.reference_lists == nullptr) {
    require(best.columns <= references.images, "columns");
  } else {
    for (int64_t at = 0; at < count * best.columns; ++at) {
      require(args.reference_lists[at] >= 0 && args.reference_lists[at] < references.images,
              "reference_lists");
    }
  }
  const auto& outputs = args.outputs;
  const bool nearest = outputs.nearest != nullptr;
  require(nearest == (outputs.nearest_image != nullptr) &&
              nearest == (outputs.nearest_patch != nullptr),
          "the nearest go with their images and patches");
  const py::gil_scoped_release release;
  refine(kernels, queries, references, shape, args);
}

}  // namespace

void bind_search(py::module_& module) {
  py::class_<SearchSpace>(module, "SearchSpace").def(py::init(&make_space));
  py::class_<HeldImages>(module, "RoundedImages").def(py::init(&make_images));
  py::class_<SearchShape>(module, "SearchShape").def(py::init(&make_shape));
  py::class_<HeldSummaries>(module, "Summaries")
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
