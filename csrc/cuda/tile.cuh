// The product of 128 patches of x by 32 patches of y on the integer tensor cores of Hopper, and the
// walk of a block of the first pass over all patches of an image of y.
//
// A group of four warps keeps its 128 patches of x in registers, for all patches of y. Patches of y
// pass through shared memory in stages, copied asynchronously, in the layout of
// `describe_columns`. `multiply` in ptx.cuh says which rows and columns of a product a lane holds.
// While a group waits for its products, other groups of the multiprocessor reduce theirs.
#pragma once

#include <cstdint>

#include "pairs.hpp"
#include "ptx.cuh"

namespace musc::cuda {

constexpr int kStages = 3;
constexpr int kSegment = 2048;  // patches of y that a block walks at most

template <int K>
struct Shape {
  static constexpr int kSteps = K / 32;            // products of 32 channels
  static constexpr int kChunks = K / 16;           // 16-byte chunks of a row
  static constexpr int kGroups = K <= 128 ? 2 : 1;  // of four warps a block
  static constexpr int kWarps = 4 * kGroups;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = K <= 128 ? 2 : 3;  // that share a multiprocessor
  static constexpr int MT = 2;                     // row tiles of 64 a group
  static constexpr int NT = 4;                     // column tiles of 8 at a time
  static constexpr int kRows = 128 * kGroups;      // patches of x a block
  static constexpr int kBits = K <= 128 ? 8 : 7;   // of a packed index: 2^kBits = kRows
  static constexpr int kMacro = 1 << kBits;        // columns whose index fits
  static constexpr int kRowsHeld = 2 * MT;         // rows of a thread
  static constexpr int kColumnsHeld = 2 * NT;      // columns of a thread at a time
  static constexpr int kColumns = 8 * NT;          // columns at a time
  static constexpr int kStageColumns = K <= 128 ? 128 : 64;
  static constexpr int kStageBytes = kStageColumns * K;
  // |x|^2 - 2 x.y of values within 127 lies within 3 K 127^2: packed, it fits in 32 bits.
  static_assert(3ll * K * 127 * 127 * kMacro + kMacro < (1ll << 31));
  static_assert(kRows == kMacro);

  // The first of a thread's rows, counted from the block's first, and how far row r lies below it.
  static __device__ int first_row() {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
    return warp / 4 * 128 + warp % 4 * 16 + lane / 4;
  }
  static __device__ constexpr int row_offset(int r) { return r / 2 * 64 + r % 2 * 8; }
};

// Which pair of images, rows and columns a block takes.
struct Place {
  int i, j;           // images of x and y
  int first_row;      // of the block
  int first_column, last_column;  // columns of the segment
};

__device__ inline Place place_of(const Pairs& pairs, int rows_a_block) {
  const int row_blocks = (pairs.patches + rows_a_block - 1) / rows_a_block;
  const int segments = (pairs.other_patches + kSegment - 1) / kSegment;
  const long long block = blockIdx.x;
  const int within = static_cast<int>(block % (row_blocks * segments));
  const long long pair = block / (row_blocks * segments);
  Place place;
  if (pairs.triangle) {  // pair = j (j - 1) / 2 + i with i < j; the root is off by at most one
    long long j = static_cast<long long>((1.0 + sqrt(1.0 + 8.0 * static_cast<double>(pair))) / 2);
    while (j * (j - 1) / 2 > pair) --j;
    while ((j + 1) * j / 2 <= pair) ++j;
    place.j = static_cast<int>(j);
    place.i = static_cast<int>(pair - j * (j - 1) / 2);
  } else {
    place.j = static_cast<int>(pair / pairs.images);
    place.i = static_cast<int>(pair % pairs.images);
  }
  place.first_row = within % row_blocks * rows_a_block;
  place.first_column = within / row_blocks * kSegment;
  place.last_column = min(place.first_column + kSegment, pairs.other_patches);
  return place;
}

inline long long count_blocks(const Pairs& pairs, int rows_a_block) {
  const long long images = pairs.images, others = pairs.others;
  const long long number = pairs.triangle ? images * (images - 1) / 2 : images * others;
  const long long row_blocks = (pairs.patches + rows_a_block - 1) / rows_a_block;
  const long long segments = (pairs.other_patches + kSegment - 1) / kSegment;
  return number * row_blocks * segments;
}

// Where chunk `chunk` of row `row` lies in a stage, in bytes; 256 channels lie in two halves.
template <int K>
__device__ inline int chunk_offset(int row, int chunk) {
  if (K == 64) return row * K + (chunk ^ (row >> 1 & 3)) * 16;
  return chunk / 8 * Shape<K>::kStageColumns * 128 + row * 128 + (chunk % 8 ^ (row & 7)) * 16;
}

// Copies the rows of a stage of y from `column` on into `stage`, zeros beyond `last`.
template <int K, int kThreads = Shape<K>::kThreads>
__device__ inline void copy_stage(int8_t* stage, const int8_t* y, int column, int last) {
  constexpr int kCopies = Shape<K>::kStageColumns * Shape<K>::kChunks / kThreads;
#pragma unroll
  for (int copy = 0; copy < kCopies; ++copy) {
    const int at = copy * kThreads + static_cast<int>(threadIdx.x);
    const int row = at / Shape<K>::kChunks, chunk = at % Shape<K>::kChunks;
    const bool inside = column + row < last;
    const int8_t* from = y + static_cast<int64_t>(inside ? column + row : 0) * K + chunk * 16;
    copy_16_bytes(shared_address(stage + chunk_offset<K>(row, chunk)), from, inside);
  }
  commit_copies();
}

// A thread's part of a group's rows of x.
template <int K>
struct Rows {
  uint32_t values[Shape<K>::MT][Shape<K>::kSteps][4];

  // x: the image; rows beyond `patches` are zeros. first: the thread's first row.
  __device__ void load(const int8_t* x, int first, int patches) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < Shape<K>::MT; ++m)
#pragma unroll
      for (int step = 0; step < Shape<K>::kSteps; ++step)
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const int row = first + Shape<K>::row_offset(2 * m + part % 2);
          const int channel = step * 32 + part / 2 * 16 + 4 * t;
          values[m][step][part] =
              row < patches ? *reinterpret_cast<const uint32_t*>(
                                  x + static_cast<int64_t>(row) * K + channel)
                            : 0u;
        }
  }
};

template <int K>
using Products = int[Shape<K>::MT][Shape<K>::NT][4];

// products = rows . columns, for the kColumns columns from `column` of the stage on.
template <int K>
__device__ inline void multiply_tile(Products<K>& products, const Rows<K>& rows, uint32_t stage,
                                     int column) {
  const uint32_t columns = describe_columns(stage + column * (K == 64 ? 64 : 128));
  begin_products();
#pragma unroll
  for (int step = 0; step < Shape<K>::kSteps; ++step) {
    const int half = step / 4 * Shape<K>::kStageColumns * 128;  // of 256 channels
#pragma unroll
    for (int m = 0; m < Shape<K>::MT; ++m)
      multiply<K == 64>(products[m], rows.values[m][step], columns + (half + step % 4 * 32) / 16,
                        step > 0);
  }
  end_products();
#pragma unroll
  for (int m = 0; m < Shape<K>::MT; ++m) keep_order(products[m]);
}

// Calls use(products, column) for every kColumns columns of the segment, column counted from the
// segment's first. Every thread of the block takes part in the copies; `busy` groups multiply.
template <int K, class Use>
__device__ inline void walk_columns(const Rows<K>& rows, const int8_t* y, const Place& place,
                                    int8_t* stages, bool busy, Use use) {
  const int columns = place.last_column - place.first_column;
  const int count = (columns + Shape<K>::kStageColumns - 1) / Shape<K>::kStageColumns;
  Products<K> products = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s)
    copy_stage<K>(stages + s * Shape<K>::kStageBytes, y, place.first_column + s * Shape<K>::kStageColumns,
                  place.last_column);
  for (int s = 0; s < count; ++s) {
    wait_for_copies<kStages - 2>();
    publish_shared_memory();
    __syncthreads();  // the stage has arrived, and the one before it is no longer read
    const int next = s + kStages - 1;
    copy_stage<K>(stages + next % kStages * Shape<K>::kStageBytes, y,
                  place.first_column + next * Shape<K>::kStageColumns, place.last_column);
    if (!busy) continue;
    const uint32_t stage = shared_address(stages + s % kStages * Shape<K>::kStageBytes);
#pragma unroll 1
    for (int column = 0; column < Shape<K>::kStageColumns; column += Shape<K>::kColumns) {
      multiply_tile<K>(products, rows, stage, column);
      use(products, s * Shape<K>::kStageColumns + column);
    }
  }
  wait_for_copies<0>();
}

}  // namespace musc::cuda
