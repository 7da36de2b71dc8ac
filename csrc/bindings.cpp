// Python's door to the kernels. Arrays cross as addresses, so that nothing here depends on torch;
// musc_fast/native owns shapes, dtypes and lifetimes. Every function releases the GIL while it works.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "bindings.hpp"
#include "cpu/interval.hpp"
#include "cpu/lnamd.hpp"

namespace py = pybind11;

namespace {

using musc::isa_named;
using musc::pointer;
using musc::require;

void bind_search(py::module_& module) {
  using musc::Operands;
  using musc::SearchShape;
  py::class_<Operands>(module, "Operands")
      .def(py::init([](uintptr_t left, uintptr_t right, uintptr_t left_init, uintptr_t right_init,
                       uintptr_t bounds, uintptr_t deltas, uintptr_t x, int64_t rows,
                       int64_t padded, uintptr_t fine, uintptr_t rest) {
             require(rows > 0 && padded >= rows && padded % musc::kPanel == 0, "padding");
             return Operands{pointer<const uint32_t>(left),       pointer<const uint32_t>(right),
                             pointer<const int32_t>(left_init),   pointer<const int32_t>(right_init),
                             pointer<const musc::Bounds>(bounds), pointer<const float>(deltas),
                             pointer<const float>(x),             rows,
                             padded,                              pointer<const int16_t>(fine),
                             pointer<const int8_t>(rest)};
           }),
           py::arg("left"), py::arg("right"), py::arg("left_init"), py::arg("right_init"),
           py::arg("bounds"), py::arg("deltas"), py::arg("x"), py::arg("rows"), py::arg("padded"),
           py::arg("fine"), py::arg("rest"));
  py::class_<SearchShape>(module, "SearchShape")
      .def(py::init([](int64_t words, int64_t channels, int64_t segment, int shift, double scale,
                       double stretch, int threads, int64_t fine_stride, int64_t rest_stride,
                       double fine_scale, double rest_scale,
                       double largest_rho, double ratio) {
             require(musc::is_segment(segment), "a segment is 16 or a multiple of 48, 1536 at most");
             require(scale > 0 && stretch >= 1 && shift >= 0 && shift < 16, "scale or shift");
             return SearchShape{words,      channels,    segment,     shift,      scale,
                                stretch,    threads,     fine_stride, rest_stride, fine_scale,
                                rest_scale, largest_rho, ratio};
           }),
           py::arg("words"), py::arg("channels"), py::arg("segment"), py::arg("shift"),
           py::arg("scale"), py::arg("stretch"), py::arg("threads"), py::arg("fine_stride"),
           py::arg("rest_stride"), py::arg("fine_scale"),
           py::arg("rest_scale"), py::arg("largest_rho"), py::arg("ratio"));

  module.def(
      "quantise",
      [](const std::string& isa_name, uintptr_t x, uintptr_t mean, uintptr_t basis,
         uintptr_t signs, int64_t images,
         int64_t rows, int64_t channels, int64_t prefix, bool tail, float tail_centre,
         double scale, double basis_error, int64_t words, int64_t padded, uintptr_t left,
         uintptr_t right, uintptr_t left_init, uintptr_t right_init, uintptr_t bounds,
         uintptr_t deltas, int threads, uintptr_t fine, int64_t fine_stride, double fine_scale,
         int64_t fine_levels, uintptr_t back, uintptr_t rest, int64_t rest_stride,
         double rest_scale) {
        const musc::Isa& isa = isa_named(isa_name);
        require(words * isa.int8.elements >= prefix + (tail ? 1 : 0), "too few words");
        require(scale > 0, "scale");
        require(fine_levels >= 0 && fine_levels < (1 << 14), "differences must fit 16 bits");
        require(4 * fine_levels * fine_levels * (prefix + (tail ? 1 : 0)) < INT64_C(1) << 31,
                "fine sums must fit 32 bits");
        require(fine_stride % 32 == 0 && rest_stride % 64 == 0, "strides of whole vectors");
        require(basis != 0 || prefix == channels, "without a basis every channel is searched");
        require(rest == 0 || (fine != 0 && back != 0), "the rest goes with fine");
        require(tail == (rest != 0), "the tail is the norm of the rest");
        const musc::QuantiseArgs args{pointer<const float>(x),
                                      pointer<const float>(mean),
                                      pointer<const float>(basis),
                                      pointer<const float>(signs),
                                      images,
                                      rows,
                                      channels,
                                      prefix,
                                      tail,
                                      tail_centre,
                                      scale,
                                      basis_error,
                                      isa.int8.elements,
                                      words,
                                      padded,
                                      pointer<uint32_t>(left),
                                      pointer<uint32_t>(right),
                                      pointer<int32_t>(left_init),
                                      pointer<int32_t>(right_init),
                                      pointer<musc::Bounds>(bounds),
                                      pointer<float>(deltas),
                                      threads,
                                      pointer<int16_t>(fine),
                                      fine_stride,
                                      fine_scale,
                                      fine_levels,
                                      pointer<const float>(back),
                                      pointer<int8_t>(rest),
                                      rest_stride,
                                      rest_scale};
        const py::gil_scoped_release release;
        musc::quantise(isa, args);
      },
      py::arg("isa"), py::arg("x"), py::arg("mean"), py::arg("basis"), py::arg("signs"), py::arg("images"),
      py::arg("rows"), py::arg("channels"), py::arg("prefix"), py::arg("tail"),
      py::arg("tail_centre"), py::arg("scale"), py::arg("basis_error"), py::arg("words"),
      py::arg("padded"), py::arg("left"), py::arg("right"), py::arg("left_init"),
      py::arg("right_init"), py::arg("bounds"), py::arg("deltas"), py::arg("threads"),
      py::arg("fine"),
      py::arg("fine_stride"), py::arg("fine_scale"), py::arg("fine_levels"), py::arg("back"),
      py::arg("rest"), py::arg("rest_stride"), py::arg("rest_scale"));

  module.def(
      "multiply",
      [](const std::string& isa_name, uintptr_t x, uintptr_t mean, int64_t rows, int64_t channels,
         uintptr_t basis, int64_t panels, uintptr_t out, int threads) {
        const musc::Isa& isa = isa_named(isa_name);
        const musc::MultiplyArgs args{pointer<const float>(x), pointer<const float>(mean),
                                      rows, channels, pointer<const float>(basis), panels,
                                      pointer<float>(out), threads};
        const py::gil_scoped_release release;
        musc::multiply(isa, args);
      },
      py::arg("isa"), py::arg("x"), py::arg("mean"), py::arg("rows"), py::arg("channels"),
      py::arg("basis"), py::arg("panels"), py::arg("out"), py::arg("threads"));

  module.def(
      "search_pairs",
      [](const std::string& isa_name, const Operands& queries, const Operands& references,
         const SearchShape& shape, uintptr_t pairs, int64_t pair_count, int64_t first,
         int64_t columns, uintptr_t best, int64_t back_first, int64_t back_columns,
         uintptr_t back) {
        const musc::Isa& isa = isa_named(isa_name);
        const musc::PairsArgs args{pointer<const int32_t>(pairs), pair_count, first, columns,
                                   pointer<uint16_t>(best), back_first, back_columns,
                                   pointer<uint16_t>(back)};
        const py::gil_scoped_release release;
        musc::search_pairs(isa, queries, references, shape, args);
      },
      py::arg("isa"), py::arg("queries"), py::arg("references"), py::arg("shape"),
      py::arg("pairs"), py::arg("pair_count"), py::arg("first"), py::arg("columns"),
      py::arg("best"), py::arg("back_first"), py::arg("back_columns"), py::arg("back"));

  module.def(
      "refine",
      [](const std::string& isa_name, const Operands& queries, const Operands& references,
         const SearchShape& shape, int64_t first, int64_t begin, int64_t end,
         int64_t reference_count, int64_t columns, uintptr_t images, bool symmetric,
         bool certified, int64_t k_min, int64_t k_max,
         uintptr_t best, uintptr_t means, uintptr_t distances, uintptr_t nearest,
         uintptr_t nearest_image, uintptr_t nearest_patch, uintptr_t counters) {
        const musc::Isa& isa = isa_named(isa_name);
        require(0 <= k_min && k_min < k_max &&
                    k_max <= columns - (symmetric && images == 0 ? 1 : 0),
                "0 <= k_min < k_max <= images to compare with");
        const musc::RefineArgs args{first,
                                    begin,
                                    end,
                                    reference_count,
                                    columns,
                                    pointer<const int32_t>(images),
                                    symmetric,
                                    certified,
                                    k_min,
                                    k_max,
                                    pointer<const uint16_t>(best),
                                    pointer<float>(means),
                                    pointer<float>(distances),
                                    pointer<float>(nearest),
                                    pointer<int64_t>(nearest_image),
                                    pointer<int64_t>(nearest_patch),
                                    pointer<int64_t>(counters)};
        const py::gil_scoped_release release;
        musc::refine(isa, queries, references, shape, args);
      },
      py::arg("isa"), py::arg("queries"), py::arg("references"), py::arg("shape"),
      py::arg("first"), py::arg("begin"), py::arg("end"), py::arg("reference_count"),
      py::arg("columns"), py::arg("images"), py::arg("symmetric"), py::arg("certified"), py::arg("k_min"), py::arg("k_max"),
      py::arg("best"), py::arg("means"), py::arg("distances"), py::arg("nearest"),
      py::arg("nearest_image"), py::arg("nearest_patch"), py::arg("counters"));

  module.def(
      "search_plain",
      [](const std::string& isa_name, const std::string& kind, uintptr_t left, uintptr_t right,
         uintptr_t init, int64_t images, int64_t words, int64_t padded, int64_t segment,
         int64_t begin, int64_t end, uintptr_t best, int threads) {
        const musc::Isa& isa = isa_named(isa_name);
        const musc::FloatKernel& kernel = kind == "bf16" ? isa.bf16 : isa.fp32;
        require(kernel.pair != nullptr, "no bf16 dot product in this instruction set");
        require(musc::is_segment(segment), "segment");
        const musc::PlainArgs args{pointer<const uint32_t>(left),
                                   pointer<const uint32_t>(right),
                                   pointer<const float>(init),
                                   images,
                                   words,
                                   padded,
                                   segment,
                                   begin,
                                   end,
                                   pointer<float>(best),
                                   threads};
        const py::gil_scoped_release release;
        musc::search_plain(kernel, args);
      },
      py::arg("isa"), py::arg("kind"), py::arg("left"), py::arg("right"), py::arg("init"),
      py::arg("images"), py::arg("words"), py::arg("padded"), py::arg("segment"),
      py::arg("begin"), py::arg("end"), py::arg("best"), py::arg("threads"));

  module.def(
      "peak",
      [](const std::string& isa_name, const std::string& kind, int64_t steps) {
        const musc::Isa& isa = isa_named(isa_name);
        const uint32_t seed[16] = {0x3c013c01u, 0x3c023c02u, 0x3c033c03u, 0x3c043c04u};
        alignas(64) int32_t result[16];
        const py::gil_scoped_release release;
        if (kind == "int8") return isa.int8.elements * isa.int8.peak(steps, seed, result);
        const musc::FloatKernel& kernel = kind == "bf16" ? isa.bf16 : isa.fp32;
        require(kernel.peak != nullptr, "no bf16 dot product in this instruction set");
        return kernel.elements * kernel.peak(steps, seed, result);
      },
      "Operations done in `steps` steps of pure dot products, on one thread: the limit.",
      py::arg("isa"), py::arg("kind"), py::arg("steps"));

  module.def(
      "advise_huge_pages",
      [](uintptr_t address, uint64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        constexpr uintptr_t kPage = 4096;
        const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
        const uintptr_t end = (address + bytes) / kPage * kPage;
        // A wish: the system may refuse, and nothing is lost.
        if (begin < end) (void)madvise(pointer<void>(begin), end - begin, MADV_HUGEPAGE);
#else
        (void)address;
        (void)bytes;
#endif
      },
      "Asks for large pages under fresh memory: fewer faults to fill it, fewer misses to read it.",
      py::arg("address"), py::arg("bytes"));

  module.def(
      "words_of",
      [](const std::string& isa_name, int64_t channels) {
        const musc::IntKernel& kernel = isa_named(isa_name).int8;
        const int64_t unit = kernel.elements * kernel.unit;  // channels
        return (channels + unit - 1) / unit * kernel.unit;
      },
      "32-bit words of a rounded row of `channels` channels.", py::arg("isa"),
      py::arg("channels"));

  module.def("instruction_sets", [] {
    py::dict result;  // name -> elements per word, best first
    for (int index = 0; index < musc::isa_count(); ++index) {
      result[musc::isa_at(index).name] = musc::isa_at(index).int8.elements;
    }
    return result;
  });
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled CPU kernels of musc_fast; use them through musc_fast.native.";

  module.def(
      "interval_mean",
      [](uintptr_t distances, uintptr_t out, int64_t rows, int64_t count, int64_t k_min,
         int64_t k_max, int threads) {
        if (rows < 0 || k_min < 0 || k_min >= k_max || k_max > count) {
          throw py::value_error("interval_mean wants 0 <= k_min < k_max <= count");
        }
        const py::gil_scoped_release release;
        musc::interval_mean(pointer<const float>(distances), pointer<float>(out), rows, count,
                            k_min, k_max, threads);
      },
      py::arg("distances"), py::arg("out"), py::arg("rows"), py::arg("count"), py::arg("k_min"),
      py::arg("k_max"), py::arg("threads"));
  module.def(
      "lnamd",
      [](const std::string& isa_name, uintptr_t tokens, int64_t images, int64_t height,
         int64_t width, int64_t channels, const std::vector<int64_t>& degrees,
         const std::vector<uintptr_t>& out, int threads) {
        const musc::Isa& isa = isa_named(isa_name);
        require(degrees.size() == out.size(), "one output a degree");
        for (const int64_t degree : degrees) require(degree > 0 && degree % 2 == 1, "degree");
        std::vector<float*> outputs;
        for (const uintptr_t address : out) outputs.push_back(pointer<float>(address));
        const musc::LnamdArgs args{pointer<const float>(tokens),
                                   images,
                                   height,
                                   width,
                                   channels,
                                   degrees.data(),
                                   static_cast<int64_t>(degrees.size()),
                                   outputs.data(),
                                   threads};
        const py::gil_scoped_release release;
        musc::lnamd(isa, args);
      },
      py::arg("isa"), py::arg("tokens"), py::arg("images"), py::arg("height"), py::arg("width"),
      py::arg("channels"), py::arg("degrees"), py::arg("out"), py::arg("threads"));

  bind_search(module);
  musc::bind_parts(module);
}
