// The epilogue of the search over all channels (find_nearest_16.cu): from products to keys.
//
// s = |x|^2 + |y|^2 - 2 x.y, whose lowest 8 bits take an index within the tile: one integer minimum
// finds value and index, as in kernels/min_distance.py. Rows are reduced in registers and by
// exchanges among four lanes; columns by way of shared memory, in which each warp puts 32 columns
// at a time, for a lane to read a column: fewer instructions than exchanges between lanes take.
#pragma once

#include <climits>

#include "hopper.cuh"
#include "ptx.cuh"
#include "tiles_16.cuh"

namespace musc::cuda {

__device__ inline void lower_key(int64_t* key, int packed, int index) {
  const long long value = static_cast<long long>(packed & ~255) << 32;
  atomicMin(reinterpret_cast<long long*>(key), value | static_cast<unsigned>(index));
}

// A group's part of a tile: 64 rows, for one pair of images at a time.
template <class S, bool kTriangle>
class Reduction {
 public:
  // mask: ~255, which the compiler must not know: only with one of mask and index in a register
  // does it clear and set bits by one instruction.
  __device__ Reduction(const Work& work, int8_t* memory, int group, int mask)
      : work_(work),
        group_(group),
        mask_(mask),
        thread_(static_cast<int>(threadIdx.x) % 128),
        norms_(reinterpret_cast<float*>(memory + S::kNorms) + group * S::kColumns),
        minima_(reinterpret_cast<int*>(memory + S::kMinima) + group * 4 * S::kColumns),
        exchange_(reinterpret_cast<int*>(memory + S::kExchange +
                                         static_cast<int>(threadIdx.x - 128) / 32 * S::kExchanges *
                                             S::kExchangeBytes)) {}

  // Reads the norms that the tile will need, long before.
  __device__ void prepare(Tile tile) {
    tile_ = tile;
    row_ = tile.row + 64 * group_ + thread_ / 32 * 16 + thread_ % 32 / 4;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int row = row_ + 8 * k, column = tile.column + thread_ + 128 * k;
      row_norm_[k] = row < work_.rows ? __ldg(work_.x_norms + row) : 0.0f;
      column_norm_[k] = column < work_.columns && thread_ + 128 * k < S::kColumns
                            ? __ldg(work_.y_norms + column)
                            : 0.0f;
    }
  }

  // Lowers the keys of all pairs of images in the tile.
  __device__ void reduce(const float (&sums)[S::kColumns / 2]) {
    const int top = tile_.row + 64 * group_;
    const int bottom = min(top + 64, work_.rows);
    const int right = min(tile_.column + S::kColumns, work_.columns);
    for (int i = tile_.i; i * work_.patches < bottom; ++i) {
      if ((i + 1) * work_.patches <= top) continue;
      for (int j = tile_.j; j * work_.other_patches < right; ++j)
        if (!kTriangle || i < j) reduce_pair(sums, i, j);
    }
  }

 private:
  __device__ void reduce_pair(const float (&sums)[S::kColumns / 2], int i, int j) {
    const float far = __int_as_float(0x7f800000);
    const int first_column = j * work_.other_patches, first_row = i * work_.patches;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int at = thread_ + 128 * k, column = tile_.column + at - first_column;
      if (at < S::kColumns)
        norms_[place_of_norm(at)] = column >= 0 && column < work_.other_patches ? column_norm_[k] : far;
    }
    const int row = row_ - first_row;
    const bool inside_0 = row >= 0 && row < work_.patches;
    const bool inside_8 = row + 8 >= 0 && row + 8 < work_.patches;
    const float x[2] = {inside_0 ? row_norm_[0] : far, inside_8 ? row_norm_[1] : far};
    meet<128>(1 + group_);
    int best[2];
    reduce_sums(sums, x, best);
    const int64_t pair = static_cast<int64_t>(i) * work_.all + work_.first + j;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      best[k] = with_column(best[k]);
      best[k] = min(best[k], __shfl_xor_sync(kAllLanes, best[k], 1));
      best[k] = min(best[k], __shfl_xor_sync(kAllLanes, best[k], 2));
    }
    const bool second = thread_ & 1;
    const int least = second ? best[1] : best[0];
    if ((second ? inside_8 : inside_0) && thread_ % 4 < 2)
      lower_key(work_.keys + pair * work_.patches + row + 8 * second, least,
            tile_.column - first_column + (least & 255));
    meet<128>(1 + group_);  // the minima are there, and the norms are no longer read
    if (kTriangle) {
      const int64_t other = static_cast<int64_t>(j) * work_.all + work_.first + i;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int at = thread_ + 128 * k, column = tile_.column + at - first_column;
        if (at >= S::kColumns || column < 0 || column >= work_.other_patches) continue;
        int least = minima_[at];
#pragma unroll
        for (int warp = 1; warp < 4; ++warp) least = min(least, minima_[warp * S::kColumns + at]);
        lower_key(work_.keys + other * work_.other_patches + column, least,
              tile_.row - first_row + (least & 255));
      }
    }
  }

  // Norms lie so that a thread finds those of its columns of 16 together.
  static __device__ int place_of_norm(int column) {
    return (column & ~15) + (column >> 1 & 3) * 4 + (column >> 3 & 1) * 2 + (column & 1);
  }

  // What an entry is packed with: column 8 n + 2 t + e of row g + 8 r of a warp, but for g and t
  // (lane = 4 g + t), which all of a thread's entries share. The order is right along a row (n, e)
  // as along a column (r), so that one packed value serves both.
  static __device__ constexpr int mark(int n, int e, int r) {
    return (n >> 2) << 4 | r << 3 | (n & 3) << 1 | e;
  }

  // A packed minimum along a row, with its column in place of its mark.
  __device__ int with_column(int packed) const {
    const int n = (packed >> 4 & 7) << 2 | (packed >> 1 & 3);
    return (packed & ~255) | (8 * n + 2 * (thread_ % 4) + (packed & 1));
  }

  // best: packed minima of the thread's two rows over its columns, with their marks.
  // Leaves the packed minima of the columns over the warp's rows in shared memory. What is read from
  // there is used a turn later, when it has arrived.
  __device__ void reduce_sums(const float (&sums)[S::kColumns / 2], const float (&x)[2],
                              int (&best)[2]) {
    constexpr int kTurns = S::kColumns / 32;
    const int lane = thread_ % 32, t = lane % 4, g = lane / 4;
    const float4* norms = reinterpret_cast<const float4*>(norms_) + t;
    int* own = exchange_ + g * S::kExchangeWidth + 2 * t;
    float4 y[2] = {norms[0], norms[4]};
    int seen[8];
    best[0] = best[1] = INT_MAX;
#pragma unroll
    for (int c = 0; c < kTurns; ++c) {
      const int next = c + 1 < kTurns ? 8 * (c + 1) : 0;
      const float4 y_next[2] = {norms[next], norms[next + 4]};
      int least[4][2];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int n = 4 * c + k;
        const float4 four = y[k / 2];
        const float y_left = k % 2 == 0 ? four.x : four.z, y_right = k % 2 == 0 ? four.y : four.w;
        int packed[2][2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float left = __fmaf_rn(-2.0f, sums[4 * n + 2 * r], y_left + x[r]);
          const float right = __fmaf_rn(-2.0f, sums[4 * n + 2 * r + 1], y_right + x[r]);
          packed[r][0] = (__float_as_int(left) & mask_) | mark(n, 0, r);
          packed[r][1] = (__float_as_int(right) & mask_) | mark(n, 1, r);
          best[r] = __vimin3_s32(best[r], packed[r][0], packed[r][1]);
        }
#pragma unroll
        for (int e = 0; e < 2; ++e)  // keeps of the mark its row, and adds g
          least[k][e] = (min(packed[0][e], packed[1][e]) & (~255 | 8)) | g;
      }
      if constexpr (kTriangle) {
        if (c > 0) store_columns(seen, c - 1);
        if (S::kExchanges == 1) __syncwarp();  // the last turn's values have been read
        int* exchange = own + c % S::kExchanges * (S::kExchangeBytes / 4);
#pragma unroll
        for (int k = 0; k < 4; ++k)
          *reinterpret_cast<int2*>(exchange + 8 * k) = {least[k][0], least[k][1]};
        __syncwarp();
#pragma unroll
        for (int row = 0; row < 8; ++row)
          seen[row] = exchange_[c % S::kExchanges * (S::kExchangeBytes / 4) +
                                row * S::kExchangeWidth + lane];
      }
      y[0] = y_next[0];
      y[1] = y_next[1];
    }
    if constexpr (kTriangle) store_columns(seen, kTurns - 1);
  }

  // seen: packed minima of a column of turn `turn` over two rows each.
  __device__ void store_columns(const int (&seen)[8], int turn) {
    int least = min(seen[0], seen[1]);
#pragma unroll
    for (int k = 2; k < 8; k += 2) least = __vimin3_s32(least, seen[k], seen[k + 1]);
    minima_[thread_ / 32 * S::kColumns + 32 * turn + thread_ % 32] =
        least | (64 * group_ + thread_ / 32 * 16);
  }

  const Work& work_;
  const int group_, mask_, thread_;
  float* norms_;
  int* minima_;
  int* exchange_;  // of the warp
  Tile tile_;
  int row_;  // the thread's first row, the other is 8 below
  float row_norm_[2], column_norm_[2];
};

}  // namespace musc::cuda
