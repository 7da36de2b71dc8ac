// int8 on AMX: the tile unit multiplies 16 rows x 64 channels by 64 channels x 16 columns, an order
// of magnitude faster than VNNI. A tile of columns is stored in `right` as the unit reads it; a
// tile of rows is 16 rows of `left`.
#include "cpu/isa/amx_pair.hpp"
#include "cpu/isa/amx_place.hpp"
#include "cpu/isa/define.hpp"

namespace musc {
namespace {

void pair_amx(const PairInt& args) {
  const bool per_panel = args.segment == kPanel;
  if (args.right_best != nullptr) {
    per_panel ? Pair<true, true>(args).run() : Pair<true, false>(args).run();
  } else {
    per_panel ? Pair<false, true>(args).run() : Pair<false, false>(args).run();
  }
}

constexpr KernelTable with_amx(KernelTable table) {
  table = with_vnni(table);
  table.int8.unit = kTileWords;
  table.int8.pair = pair_amx;
  table.place.unit = kSplitWords;
  table.place.round_row = round_row_amx;
  table.place.best = best_amx;
  return table;
}

}  // namespace
}  // namespace musc

MUSC_DEFINE_ISA(kAmx, Vnni, Avx512Fp32, with_amx)
