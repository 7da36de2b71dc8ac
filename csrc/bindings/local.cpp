// Local matching: rounding by place, and both ways to match.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bind.hpp"
#include "bindings/convert.hpp"
#include "cpu/search/local.hpp"

namespace py = pybind11;

namespace musc {
namespace {

// What both ways of local matching read, of queries and references of these numbers of images.
LocalArgs local_args(Arguments& arguments, int64_t queries, int64_t references) {
  LocalArgs args;
  arguments.read("height", args.grid.height);
  arguments.read("width", args.grid.width);
  arguments.read("reach", args.grid.reach);
  require(args.grid.height > 0 && args.grid.width > 0 && args.grid.reach >= 0, "a grid");
  arguments.read("first_row", args.first_row);
  arguments.read("last_row", args.last_row);
  require(0 <= args.first_row && args.first_row <= args.last_row &&
              args.last_row <= args.grid.height,
          "rows of the grid");
  arguments.read("begin", args.begin);
  arguments.read("end", args.end);
  require(0 <= args.begin && args.begin <= args.end && args.end <= queries, "queries to finish");
  arguments.read("columns", args.columns);
  arguments.read("symmetric", args.symmetric);
  arguments.read("k_min", args.k_min);
  arguments.read("k_max", args.k_max);
  arguments.read("threads", args.threads);
  const int64_t count = args.end - args.begin;
  const int64_t rows = times(count, times(args.grid.height, args.grid.width));
  arguments.optional("reference_lists", args.reference_lists, times(count, args.columns));
  arguments.optional("means", args.means, rows);
  arguments.optional("distances", args.distances, times(rows, args.columns));
  const bool listed = args.reference_lists != nullptr;
  require(!args.symmetric || queries == references, "a batch is its own reference");
  require(args.columns > 0 && (listed || args.columns == references), "columns");
  const int64_t own = args.symmetric && !listed ? 1 : 0;
  require(0 <= args.k_min && args.k_min < args.k_max && args.k_max <= args.columns - own,
          "0 <= k_min < k_max <= images to compare with");
  require(!listed || args.distances == nullptr, "lists go with means");
  for (int64_t at = 0; listed && at < count * args.columns; ++at) {
    require(args.reference_lists[at] >= 0 && args.reference_lists[at] < references,
            "reference_lists");
  }
  return args;
}

// Words of a row, as the instruction set lays them.
int64_t place_words(const KernelTable& kernels, int64_t channels) {
  return whole(whole(channels, 2), kernels.place.unit) * kernels.place.unit;
}

struct HeldRows : PlacedRows {
  const KernelTable* kernels = nullptr;  // which alone read these rows
  int64_t places = 0, all = 0;           // that there is memory for; of the whole grid
};

HeldRows make_placed(const std::string& isa, const py::kwargs& named) {
  HeldRows rows;
  rows.kernels = &kernels_named(isa);
  Arguments arguments(named);
  arguments.read("images", rows.images);
  arguments.read("padded", rows.padded);
  arguments.read("channels", rows.channels);
  arguments.read("row", rows.row);
  arguments.read("places", rows.places);
  require(rows.images > 0 && rows.padded >= rows.images && rows.padded % kPanel == 0, "padding");
  require(rows.channels > 0 && rows.row >= 0, "channels or row");
  rows.words = place_words(*rows.kernels, rows.channels);
  arguments.read("all", rows.all);
  require(times(rows.images, rows.all) <= INT32_MAX, "too many patches");
  arguments.tensor("x", rows.x, times(times(rows.images, rows.all), rows.channels));
  const int64_t padded = times(rows.places, rows.padded);
  arguments.tensor("right", rows.right, times(padded, rows.words));
  arguments.tensor("init", rows.init, padded);
  arguments.tensor("rho", rows.rho, padded);
  arguments.finish();
  return rows;
}

// Whether there are the rows [first, last) of the grid.
bool covers(const HeldRows& rows, const LocalGrid& grid, int64_t first, int64_t last) {
  return rows.all == grid.places() && rows.row <= first &&
         times(last - rows.row, grid.width) <= rows.places;
}

float call_place_rows(const HeldRows& rows, const py::kwargs& named) {
  PlaceArgs args;
  args.rows = rows;
  Arguments arguments(named);
  arguments.read("height", args.grid.height);
  arguments.read("width", args.grid.width);
  arguments.read("first_row", args.first_row);
  arguments.read("last_row", args.last_row);
  arguments.tensor("mean", args.mean, rows.channels);
  arguments.read("scale", args.scale);
  arguments.read("threads", args.threads);
  arguments.finish();
  require(args.grid.height > 0 && args.grid.width > 0 && args.last_row <= args.grid.height &&
              args.first_row <= args.last_row &&
              covers(rows, args.grid, args.first_row, args.last_row),
          "rows of the grid");
  require(args.scale > 0.0f, "scale");
  const py::gil_scoped_release release;
  return place_rows(*rows.kernels, args);
}

int64_t call_match_places(const HeldRows& queries, const HeldRows& references,
                          const py::kwargs& named) {
  Arguments arguments(named);
  const LocalArgs args = [&] {
    LocalArgs read = local_args(arguments, queries.images, references.images);
    arguments.read("certified", read.certified);
    return read;
  }();
  PlaceScale scale;
  arguments.read("scale", scale.scale);
  arguments.read("largest_rho", scale.largest_rho);
  arguments.read("both_ways", scale.both_ways);
  arguments.finish();
  const LocalGrid& grid = args.grid;
  require(queries.kernels == references.kernels, "rows of one instruction set");
  require(queries.channels == references.channels && scale.scale > 0, "channels or scale");
  require(grid.slots() <= kMostSlots, "a smaller window");
  require(!scale.both_ways || (args.symmetric && args.begin == 0 && args.end == queries.images &&
                               queries.padded == references.padded),
          "both ways want a batch against itself");
  require(args.first_row == args.last_row ||
              (covers(queries, grid, args.first_row, args.last_row) &&
               covers(references, grid, grid.first(args.first_row),
                      grid.last(args.last_row - 1, grid.height) + 1)),
          "rows of the grid that are there");
  const py::gil_scoped_release release;
  return match_places(*queries.kernels, queries, references, scale, args);
}

// Bytes of all threads beside the rows.
int64_t call_place_bytes(const py::kwargs& named) {
  Arguments arguments(named);
  LocalGrid grid;
  int64_t images = 0, references = 0, words = 0;
  int threads = 1;
  bool both_ways = false;
  arguments.read("height", grid.height);
  arguments.read("width", grid.width);
  arguments.read("reach", grid.reach);
  arguments.read("images", images);
  arguments.read("references", references);
  arguments.read("words", words);
  arguments.read("threads", threads);
  arguments.read("both_ways", both_ways);
  arguments.finish();
  return place_bytes(grid, images, references, words, threads, both_ways);
}

void call_match_directly(const std::string& isa, int64_t images, int64_t others,
                         int64_t channels, const py::kwargs& named) {
  const KernelTable& kernels = kernels_named(isa);
  Arguments arguments(named);
  const LocalArgs args = local_args(arguments, images, others);
  const int64_t row = times(times(args.grid.height, args.grid.width), channels);
  const float *x = nullptr, *y = nullptr;
  arguments.tensor("x", x, times(images, row));
  arguments.tensor("y", y, times(others, row));
  arguments.finish();
  require(channels > 0, "channels");
  const py::gil_scoped_release release;
  match_directly(kernels, x, y, channels, args);
}

}  // namespace

void bind_local(py::module_& module) {
  py::class_<HeldRows>(module, "PlacedRows").def(py::init(&make_placed), py::arg("isa"));
  module.attr("PLACE_LEVELS") = kPlaceLevels;
  module.attr("MOST_SLOTS") = kMostSlots;
  module.def(
      "place_words",
      [](const std::string& isa, int64_t channels) {
        return place_words(kernels_named(isa), channels);
      },
      py::arg("isa"), py::arg("channels"));
  module.def("place_rows", call_place_rows, py::arg("rows"));
  module.def("place_bytes", call_place_bytes);
  module.def("match_places", call_match_places, py::arg("queries"),
             py::arg("references"));
  module.def("match_directly", call_match_directly, py::arg("isa"), py::arg("images"),
             py::arg("others"), py::arg("channels"));
}

}  // namespace musc
