// The int8 limit of the tile unit.
#include "bench/kernels.hpp"
#include "cpu/isa/amx_tiles.hpp"
#include "cpu/isa/ops_vnni.hpp"

namespace musc {

int64_t peak_amx(int64_t steps, const uint32_t* seed, void* result) {
  const Tiles tiles;
  alignas(64) uint32_t tile[kSide * kTileWords] = {};
  for (int i = 0; i < 16; ++i) tile[i] = seed[i];
  asm volatile("" : : "m"(tile));  // GCC 12's intrinsics do not say that they read the tile.
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

}  // namespace musc
