// The tile registers of AMX. Included by amx.cpp alone, see tile.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace musc {
namespace {

constexpr int kSide = 16;            // rows and columns of a tile
constexpr int64_t kTileWords = 16;   // 64 channels
constexpr int kWidth = 2 * kSide;    // rows and columns of a step
constexpr int kTileBytes = 64;       // of a tile's row

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Configures the tiles of this thread, until it is destroyed: 0 to 3 for sums, 4 and 5 for rows, 6
// and 7 for columns.
class Tiles {
 public:
  // rows: of the tiles 0 to 5, for rows of a product and their sums.
  explicit Tiles(uint8_t rows = kSide) {
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      config.bytes[t] = kTileBytes;
      config.rows[t] = t < 6 ? rows : static_cast<uint8_t>(kSide);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));  // GCC 12's intrinsic claims to read 8 bytes
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace
}  // namespace musc
