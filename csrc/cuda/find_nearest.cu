// First pass over few channels: the nearest patch of image j for every patch of image i, and, with
// symmetry, of image i for every patch of j. No distance leaves the registers.
//
// A product d of patch p of i and patch q of j is used twice, each time by one multiplication and
// one minimum: |y|^2 - 2 d with q in its low bits for the rows, |x|^2 - 2 d with p in its low bits
// for the columns. Both are exact integers, so ties go to the smaller index and the keys do not
// depend on the order of blocks.
//
// Work a pair of images: 2 P Q K operations on the tensor cores, 4 integer operations an entry.

#include <climits>
#include <cstdint>

#include "tile.cuh"

namespace musc::cuda {
namespace {

__device__ inline int min3(int a, int b, int c) { return __vimin3_s32(a, b, c); }

// The smallest of each value over the lanes that differ in `bit`, half of the values a lane: lanes
// without `bit` keep the first half.
template <int kCount>
__device__ inline void halve(int (&values)[kCount], int bit) {
  const bool upper = threadIdx.x & bit;
#pragma unroll
  for (int k = 0; k < kCount / 2; ++k) {
    const int own = upper ? values[k + kCount / 2] : values[k];
    const int other = upper ? values[k] : values[k + kCount / 2];
    values[k] = min(own, __shfl_xor_sync(kAllLanes, other, bit));
  }
}

template <int kCount, int kFrom>
__device__ inline int (&first_of(int (&values)[kFrom]))[kCount] {
  return reinterpret_cast<int(&)[kCount]>(values);
}

__device__ inline int64_t make_key(int squared, int index) {
  return static_cast<int64_t>(squared) << 32 | static_cast<unsigned>(index);
}

__device__ inline void lower(int64_t* key, int64_t value) {
  atomicMin(reinterpret_cast<long long*>(key), static_cast<long long>(value));
}

// What `least` holds of a squared distance, which is less than 2^24: rounded down.
__device__ inline uint16_t upper_half(int squared) {
  return static_cast<uint16_t>(__float_as_int(static_cast<float>(squared)) >> 16);
}

// Lowers a warp's part of `keys` (of the block's rows, in shared memory) to the packed minima over
// a range of columns, which it resets. A row is always the same lane's.
// first: of the thread's rows; row 0 of the block is `first_of_block`. macro: the column that
// packed indices count from. least: of the range, or null.
template <int K>
__device__ inline void store_rows(int (&best)[Shape<K>::kRowsHeld], const int32_t* norms,
                                  int64_t* keys, uint16_t* least, int first, int first_of_block,
                                  int patches, int macro) {
  constexpr int kHeld = Shape<K>::kRowsHeld, kLeft = kHeld / 4, kBits = Shape<K>::kBits;
  const int lane = threadIdx.x % 32;
  halve<kHeld>(best, 1);
  halve<kHeld / 2>(first_of<kHeld / 2>(best), 2);
  const int held = (lane & 1) * (kHeld / 2) + (lane >> 1 & 1) * kLeft;
#pragma unroll
  for (int k = 0; k < kLeft; ++k) {
    const int row = first + Shape<K>::row_offset(held + k);
    if (row < patches && best[k] != INT_MAX) {
      const int squared = (best[k] >> kBits) + norms[row];
      int64_t& key = keys[row - first_of_block];
      key = min(key, make_key(squared, macro + (best[k] & (Shape<K>::kMacro - 1))));
      if (least != nullptr) least[row] = upper_half(squared);
    }
  }
#pragma unroll
  for (int k = 0; k < kHeld; ++k) best[k] = INT_MAX;
}

// The column, of those that a warp has at a time, whose minimum `reduce_columns` leaves to this lane.
__device__ inline int column_of_lane() {
  const int lane = threadIdx.x % 32;
  const int held = (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1);
  return held / 2 * 8 + 2 * (lane % 4) + held % 2;
}

// The packed minimum of this lane's column over the warp's rows.
__device__ inline int reduce_columns(int (&best)[8]) {
  halve<8>(best, 16);
  halve<4>(first_of<4>(best), 8);
  halve<2>(first_of<2>(best), 4);
  return best[0];
}

template <int K, bool kTriangle>
__global__ void __launch_bounds__(Shape<K>::kThreads, Shape<K>::kBlocks) find_nearest_kernel(const Pairs pairs) {
  using S = Shape<K>;
  constexpr int kFactor = -2 * S::kMacro;
  extern __shared__ __align__(1024) int8_t memory[];
  const Place place = place_of(pairs, S::kRows);
  const int columns = place.last_column - place.first_column;
  const int padded = (columns + S::kStageColumns - 1) / S::kStageColumns * S::kStageColumns;
  int* column_terms = reinterpret_cast<int*>(memory + kStages * S::kStageBytes);
  int* column_best = column_terms + padded;  // [kWarps, padded]: atomics would take turns
  // Of the block's rows, for this segment alone.
  int64_t* row_keys =
      reinterpret_cast<int64_t*>(column_best + (kTriangle ? S::kWarps * padded : 0));
  for (int row = threadIdx.x; row < S::kRows; row += S::kThreads) row_keys[row] = INT64_MAX;
  const int32_t* y_norms =
      pairs.y_norms + static_cast<int64_t>(place.j) * pairs.other_patches + place.first_column;
  for (int q = threadIdx.x; q < padded; q += S::kThreads) {
    column_terms[q] =
        q < columns ? y_norms[q] * S::kMacro + (q & (S::kMacro - 1)) : INT_MAX;
  }
  const int t = threadIdx.x % 4;
  const int first = place.first_row + S::first_row();
  const int32_t* x_norms = pairs.x_norms + static_cast<int64_t>(place.i) * pairs.patches;
  Rows<K> rows;
  rows.load(pairs.x + static_cast<int64_t>(place.i) * pairs.patches * K, first, pairs.patches);
  int row_terms[S::kRowsHeld], row_best[S::kRowsHeld];
#pragma unroll
  for (int r = 0; r < S::kRowsHeld; ++r) {
    const int row = first + S::row_offset(r);
    row_terms[r] = row < pairs.patches
                       ? x_norms[row] * S::kMacro + (row - place.first_row)
                       : INT_MAX;
    row_best[r] = INT_MAX;
  }
  static_assert(S::kColumnsHeld == 8);
  int* own_column = column_best + static_cast<int>(threadIdx.x) / 32 * padded + column_of_lane();
  const int64_t pair = static_cast<int64_t>(place.i) * pairs.all + pairs.first + place.j;
  const int ranges = (pairs.other_patches + kRange - 1) / kRange;
  uint16_t* least = pairs.least;  // of the first range of the segment
  if (least != nullptr)
    least += (pair * ranges + place.first_column / kRange) * pairs.patches;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const bool busy = place.first_row + 128 * group < pairs.patches;
  walk_columns<K>(
      rows, pairs.y + static_cast<int64_t>(place.j) * pairs.other_patches * K, place, memory, busy,
      [&](const Products<K>& products, int column) {
        int best[S::kColumnsHeld];
#pragma unroll
        for (int n = 0; n < S::NT; ++n) {
          const int2 term = *reinterpret_cast<const int2*>(column_terms + column + n * 8 + 2 * t);
          int left = INT_MAX, right = INT_MAX;
#pragma unroll
          for (int m = 0; m < S::MT; ++m) {
            const int(&d)[4] = products[m][n];
            row_best[2 * m] =
                min3(row_best[2 * m], d[0] * kFactor + term.x, d[1] * kFactor + term.y);
            row_best[2 * m + 1] =
                min3(row_best[2 * m + 1], d[2] * kFactor + term.x, d[3] * kFactor + term.y);
            if constexpr (kTriangle) {
              left = min3(left, d[0] * kFactor + row_terms[2 * m],
                          d[2] * kFactor + row_terms[2 * m + 1]);
              right = min3(right, d[1] * kFactor + row_terms[2 * m],
                           d[3] * kFactor + row_terms[2 * m + 1]);
            }
          }
          best[2 * n] = left;
          best[2 * n + 1] = right;
        }
        if constexpr (kTriangle) own_column[column] = reduce_columns(best);
        if ((column + S::kColumns) % kRange == 0 || column + S::kColumns == padded) {
          store_rows<K>(row_best, x_norms, row_keys, least, first, place.first_row, pairs.patches,
                        place.first_column + column / S::kMacro * S::kMacro);
          if (least != nullptr) least += pairs.patches;
        }
      });
  __syncthreads();
  for (int row = threadIdx.x; row < S::kRows; row += S::kThreads)
    if (row_keys[row] != INT64_MAX)
      lower(pairs.keys + pair * pairs.patches + place.first_row + row, row_keys[row]);
  if constexpr (kTriangle) {
    const int64_t other_pair = static_cast<int64_t>(place.j) * pairs.all + pairs.first + place.i;
    int64_t* other_keys = pairs.keys + other_pair * pairs.other_patches + place.first_column;
    uint16_t* other_least = pairs.least;  // rows are columns of the other: ranges alike
    if (other_least != nullptr)
      other_least += (other_pair * ranges + place.first_row / kRange) * pairs.other_patches +
                     place.first_column;
    for (int q = threadIdx.x; q < columns; q += S::kThreads) {
      int64_t key = INT64_MAX;
#pragma unroll
      for (int group = 0; group < S::kGroups; ++group) {
        if (place.first_row + 128 * group >= pairs.patches) break;
        int best = INT_MAX;
#pragma unroll
        for (int warp = 0; warp < 4; ++warp)
          best = min(best, column_best[(4 * group + warp) * padded + q]);
        const int squared = (best >> S::kBits) + y_norms[q];
        key = min(key, make_key(squared, place.first_row + (best & (S::kMacro - 1))));
        if (other_least != nullptr)
          other_least[static_cast<int64_t>(group) * pairs.other_patches + q] = upper_half(squared);
      }
      lower(other_keys + q, key);
    }
  }
}

template <int K, bool kTriangle>
cudaError_t launch(const Pairs& pairs, cudaStream_t stream) {
  const long long blocks = count_blocks(pairs, Shape<K>::kRows);
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const int columns = pairs.other_patches < kSegment ? pairs.other_patches : kSegment;
  constexpr int kUnit = Shape<K>::kStageColumns;
  const int padded = (columns + kUnit - 1) / kUnit * kUnit;
  const int rows = 1 + (kTriangle ? Shape<K>::kWarps : 0);  // of `padded` integers
  const int bytes = kStages * Shape<K>::kStageBytes + 4 * rows * padded + 8 * Shape<K>::kRows;
  const auto kernel = find_nearest_kernel<K, kTriangle>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), Shape<K>::kThreads, bytes, stream>>>(pairs);
  return cudaGetLastError();
}

template <bool kTriangle>
cudaError_t launch_channels(const Pairs& pairs, cudaStream_t stream) {
  switch (pairs.channels) {
    case 64: return launch<64, kTriangle>(pairs, stream);
    case 128: return launch<128, kTriangle>(pairs, stream);
    case 256: return launch<256, kTriangle>(pairs, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int find_nearest(const Pairs& pairs, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return pairs.triangle ? launch_channels<true>(pairs, on) : launch_channels<false>(pairs, on);
}

const char* describe_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace musc::cuda
