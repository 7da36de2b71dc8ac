// Parts of the search for tests: what the first pass keeps, what the second chooses and keeps.
#include <vector>

#include "bindings.hpp"

namespace py = pybind11;

namespace musc {

void bind_parts(py::module_& module) {
  module.def(
      "summarise",
      [](const std::string& isa_name, uintptr_t scores, int64_t segments, int64_t padded,
         int64_t rows, uintptr_t bounds, double rho, double scale, double ratio, int shift,
         uintptr_t best) {
        const Isa& isa = isa_named(isa_name);
        const py::gil_scoped_release release;
        summarise(isa, pointer<const uint16_t>(scores), segments, padded, rows,
                  pointer<const Bounds>(bounds), rho, scale, ratio, shift, pointer<uint16_t>(best));
      },
      "What is kept of one pair of images: a part of search_pairs, for tests.", py::arg("isa"),
      py::arg("scores"), py::arg("segments"), py::arg("padded"), py::arg("rows"),
      py::arg("bounds"), py::arg("rho"), py::arg("scale"), py::arg("ratio"), py::arg("shift"),
      py::arg("best"));

  module.def(
      "choose",
      [](const std::string& isa_name, uintptr_t scores, uintptr_t rho, int64_t panels, double reach,
         double inverse, uintptr_t masks) {
        std::vector<float> deltas;
        for (int64_t panel = 0; panel < panels; ++panel) {
          deltas.push_back(steps_of(pointer<const float>(rho)[panel], inverse));
        }
        isa_named(isa_name).choose({pointer<const int32_t>(scores), panels,
                                    steps_of(reach, inverse), deltas.data(),
                                    pointer<uint16_t>(masks)});
      },
      "ChooseArgs: a part of refine, for tests.", py::arg("isa"), py::arg("scores"),
      py::arg("rho"), py::arg("panels"), py::arg("reach"), py::arg("inverse"), py::arg("masks"));

  module.def(
      "scan",
      [](const std::string& isa_name, uintptr_t left, uintptr_t left_init, int64_t rows,
         int64_t words, int64_t panels, uintptr_t right, uintptr_t right_init, uintptr_t slopes,
         uintptr_t deltas, uintptr_t scores, uintptr_t masks) {
        require(0 < rows && rows <= 8, "up to eight rows");
        std::vector<uint32_t> block(static_cast<size_t>(8 * words));
        std::vector<int32_t> least(static_cast<size_t>(8 * panels));
        ScanArgs args{};
        for (int64_t r = 0; r < rows; ++r) {
          args.left[r] = pointer<const uint32_t>(left) + r * words;
          args.left_init[r] = pointer<const int32_t>(left_init)[r];
          args.slopes[r] = pointer<const float>(slopes)[r];
        }
        args.block = block.data();
        args.rows = rows;
        args.words = words;
        args.panels = panels;
        args.right = pointer<const uint32_t>(right);
        args.right_init = pointer<const int32_t>(right_init);
        args.out = pointer<int32_t>(scores);
        args.stride = panels * kPanel;
        args.deltas = pointer<const float>(deltas);
        args.least = least.data();
        args.masks = pointer<uint16_t>(masks);
        args.mask_stride = panels;
        isa_named(isa_name).int8.scan(args);
      },
      "ScanArgs: a part of refine, for tests; scores 0: masks are wanted.", py::arg("isa"),
      py::arg("left"), py::arg("left_init"), py::arg("rows"), py::arg("words"),
      py::arg("panels"), py::arg("right"), py::arg("right_init"), py::arg("slopes"),
      py::arg("deltas"), py::arg("scores"), py::arg("masks"));

  module.def(
      "keep",
      [](const std::string& isa_name, bool rest, uintptr_t mine, uintptr_t theirs, uintptr_t reach,
         uintptr_t slots, uintptr_t rows, uintptr_t others, uintptr_t squares, int64_t count,
         float fine_inverse, float rest_steps, uintptr_t dots) {
        const Isa& isa = isa_named(isa_name);
        const LookArgs args{pointer<const Bounds>(mine), pointer<const Bounds>(theirs),
                            pointer<const float>(reach), pointer<int32_t>(slots),
                            pointer<int32_t>(rows),      pointer<int32_t>(others),
                            pointer<int32_t>(squares),   count,
                            fine_inverse,                rest_steps,
                            pointer<const int32_t>(dots)};
        return rest ? isa.keep_rest(args) : isa.keep_fine(args);
      },
      "LookArgs: a part of refine, for tests.", py::arg("isa"), py::arg("rest"), py::arg("mine"),
      py::arg("theirs"), py::arg("reach"), py::arg("slots"), py::arg("rows"), py::arg("others"),
      py::arg("squares"), py::arg("count"), py::arg("fine_inverse"), py::arg("rest_steps"),
      py::arg("dots"));
}

}  // namespace musc
