// How the search over all channels (find_nearest_16.cu) cuts its work into tiles, and the order in
// which blocks take them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace musc::cuda {

constexpr int kLargestBytes = 232448;  // of shared memory that a block may take

template <int kColumnsOf, int kStagesOf, int kClusterOf, int kLagOf, int kStripOf>
struct Shape16 {
  static constexpr int kColumns = kColumnsOf;
  static constexpr int kStages = kStagesOf;
  static constexpr int kCluster = kClusterOf;
  static constexpr int kLag = kLagOf;
  static constexpr int kStrip = kStripOf;
  static constexpr int kThreads = 384;
  static constexpr int kRows = 128;                // of a block's tile
  static constexpr int kUnitRows = 128 * kCluster;  // of a cluster's
  static constexpr int kShare = kColumns / kCluster;  // columns that a block copies
  static constexpr int kRowBytes = kRows * 128;
  static constexpr int kStageBytes = kRowBytes + kColumns * 128;
  // After the stages: norms of columns and minima of columns of both groups, tiles, barriers.
  static constexpr int kNorms = kStages * kStageBytes;
  static constexpr int kMinima = kNorms + 2 * kColumns * 4;
  static constexpr int kTiles = kMinima + 8 * kColumns * 4;
  static constexpr int kFull = kTiles + kStages * 16;
  static constexpr int kEmpty = kFull + kStages * 8;
  static constexpr int kTurn = kEmpty + kStages * 8;
  // Packed minima of each warp, [8, kExchangeWidth], for 32 columns at a time.
  static constexpr int kExchange = (kTurn + 8 + 15) / 16 * 16;
  static constexpr int kExchangeWidth = 40;  // which spreads what a warp writes over all banks
  static constexpr int kExchangeBytes = 8 * kExchangeWidth * 4;
  static constexpr int kExchanges = kExchange + 16 * kExchangeBytes <= kLargestBytes ? 2 : 1;
  static constexpr int kBytes = kExchange + 8 * kExchanges * kExchangeBytes;
  static_assert(kBytes <= kLargestBytes);
};

struct Work {
  const float* x_norms;
  const float* y_norms;
  int64_t* keys;
  int rows, columns;  // of the matrices: N P and M Q
  int patches, other_patches;
  int steps;  // of 64 channels
  int all, first;
};

// A tile: its first row and column, and the images that they belong to; row < 0 after the last tile.
struct Tile {
  int row, column, i, j;
};

// The units (a cluster's tiles) of column tile `tile`: those with a pair i < j, or all.
template <class S, bool kTriangle>
__device__ inline int count_units(const Work& work, int tile) {
  const int units = (work.rows + S::kUnitRows - 1) / S::kUnitRows;
  if (!kTriangle) return units;
  const int last = min((tile + 1) * S::kColumns, work.columns) - 1;
  const int above = last / work.other_patches * work.patches;  // rows of images before the last
  return min(units, (above + S::kUnitRows - 1) / S::kUnitRows);
}

// Walks all units, strip by strip, row by row within a strip.
template <class S, bool kTriangle>
class Walk {
 public:
  __device__ Walk(const Work& work, int rank)
      : work_(work), rank_(rank), tiles_((work.columns + S::kColumns - 1) / S::kColumns) {
    enter(0);
  }

  // The unit `index`, which never decreases from call to call.
  __device__ Tile find(long long index) {
    while (tile_ < tiles_ && index >= base_ + size_) {
      base_ += size_;
      enter(tile_ + S::kStrip);
    }
    if (tile_ >= tiles_) return {-1, 0, 0, 0};
    const int width = min(S::kStrip, tiles_ - tile_);
    int at = static_cast<int>(index - base_);
    if (at < whole_ * width) return make_tile(at / width, tile_ + at % width);
    at -= whole_ * width;  // below, columns differ in length
    for (int c = 0;; ++c) {
      const int more = count_units<S, kTriangle>(work_, tile_ + c) - whole_;
      if (at < more) return make_tile(whole_ + at, tile_ + c);
      at -= more;
    }
  }

 private:
  // This block's tile of a unit.
  __device__ Tile make_tile(int unit, int tile) const {
    const int row = unit * S::kUnitRows + rank_ * S::kRows, column = tile * S::kColumns;
    return {row, column, row / work_.patches, column / work_.other_patches};
  }

  __device__ void enter(int tile) {
    tile_ = tile;
    size_ = 0;
    if (tile >= tiles_) return;
    whole_ = count_units<S, kTriangle>(work_, tile);
    for (int c = tile; c < min(tile + S::kStrip, tiles_); ++c)
      size_ += count_units<S, kTriangle>(work_, c);
  }

  const Work& work_;
  const int rank_, tiles_;
  int tile_, whole_, size_;
  long long base_ = 0;
};

// The next place in the ring of stages.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace musc::cuda
