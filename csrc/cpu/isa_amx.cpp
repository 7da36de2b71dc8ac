// int8 on AMX: the tile unit multiplies 16 rows x 64 channels by 64 channels x 16 columns, an order
// of magnitude faster than VNNI. `right` is a tile's columns as they lie; `left` lies row by row.
#include "cpu/amx_pair.hpp"
#include "cpu/isa_bf16.hpp"

namespace musc {
namespace {

void pair_amx(const PairInt& args) {
  const bool apart = args.segment == kPanel;
  if (args.right_best != nullptr) {
    apart ? Pair<true, true>(args).run() : Pair<true, false>(args).run();
  } else {
    apart ? Pair<false, true>(args).run() : Pair<false, false>(args).run();
  }
}

int64_t peak_amx(int64_t steps, const uint32_t* seed, void* result) {
  const Tiles tiles;
  alignas(64) uint32_t tile[kSide * kTileWords] = {};
  for (int i = 0; i < 16; ++i) tile[i] = seed[i];
  asm volatile("" : : "m"(tile));  // Nor does its loading say that it reads.
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, tile, kTileBytes);
  _tile_loadd(5, tile, kTileBytes);
  _tile_loadd(6, tile, kTileBytes);
  _tile_loadd(7, tile, kTileBytes);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, tile, kTileBytes);
  Vnni::store(static_cast<int32_t*>(result), Vnni::load(reinterpret_cast<int32_t*>(tile)));
  return 2 * steps * 4 * kSide * kSide * kTileWords;
}

constexpr Isa with_amx(Isa isa) {
  isa.int8 = {Vnni::kElements,
              kTileWords,
              pair_amx,
              round_panel_kernel<Vnni::kElements>,
              scan_kernel<Vnni>,
              peak_amx};
  return isa;
}

}  // namespace

extern const Isa kAmx = with_amx(with_bf16(with_vnni(make_isa<Vnni, Avx512Fp32>("amx-int8"))));

}  // namespace musc
