// Second pass over few channels: every candidate whose distance lies within the limit of its patch.
//
// The products are those of the first pass. Of each, |y|^2 - 2 d enters the minimum of its row and
// |x|^2 - 2 d that of its column, over the few entries that a thread holds; where a minimum is
// within a limit, which is rare, the thread looks at the entries one by one and lists those that
// are not the winner. Lists gather in shared memory and go out through one counter, many at a time.

#include <climits>

#include "tile.cuh"

namespace musc::cuda {
namespace {

constexpr int kListed = 256;  // candidates of a warp in shared memory

// A warp's list: [kListed] in shared memory; an entry is row << 12 | column << 1 | whether the column
// asks. Where the list is full, entries go out at once.
struct List {
  uint32_t* entries;
  int count = 0;  // the same in all lanes
};

// Where the candidates of a block go.
struct Target {
  const Candidates* candidates;
  int64_t row_slots;     // slot of patch 0 of image i against j
  int64_t column_slots;  // slot of patch 0 of image j against i
  int first_row, first_column;

  __device__ void store(unsigned long long at, uint32_t entry) const {
    if (at >= static_cast<unsigned long long>(candidates->room)) return;
    const int row = first_row + static_cast<int>(entry >> 12);
    const int column = first_column + static_cast<int>(entry >> 1 & 2047);
    candidates->slots[at] = entry & 1 ? column_slots + column : row_slots + row;
    candidates->patches[at] = entry & 1 ? row : column;
  }

  // Places for `count` entries.
  __device__ unsigned long long reserve(int count) const {
    return atomicAdd(reinterpret_cast<unsigned long long*>(candidates->count),
                     static_cast<unsigned long long>(count));
  }

  // Puts an entry at place `at` of the list.
  __device__ void add(const List& list, int at, int row, int column, bool asked_by_column) const {
    const uint32_t entry = static_cast<uint32_t>(row) << 12 | static_cast<uint32_t>(column) << 1 |
                           static_cast<uint32_t>(asked_by_column);
    if (at < kListed)
      list.entries[at] = entry;
    else
      store(reserve(1), entry);
  }

  // Sends a warp's list out if it holds more than `few`.
  __device__ void flush(List& list, int few) const {
    const int count = min(list.count, kListed);
    if (count <= few) return;
    __syncwarp();
    const int lane = threadIdx.x % 32;
    const unsigned long long base = __shfl_sync(kAllLanes, lane == 0 ? reserve(count) : 0ull, 0);
    for (int k = lane; k < count; k += 32) store(base + k, list.entries[k]);
    list.count = 0;
    __syncwarp();
  }
};

// Sum of `value` over the lanes below this one; `total` becomes that over all lanes.
__device__ inline int sum_below(int value, int& total) {
  const int lane = threadIdx.x % 32;
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_sync(kAllLanes, sum, (lane - step) & 31);
    if (lane >= step) sum += below;
  }
  total = __shfl_sync(kAllLanes, sum, 31);
  return sum - value;
}

// The largest |y|^2 - 2 d within `limit` on |x|^2 + |y|^2 - 2 d, for |x|^2 = norm.
__device__ inline int term_limit(float limit, int norm) {
  if (!(limit >= 0)) return INT_MIN;
  return static_cast<int>(fminf(limit, 1073741824.0f)) - norm;
}

template <int K, bool kTriangle>
__global__ void __launch_bounds__(Shape<K>::kThreads, Shape<K>::kBlocks)
    list_candidates_kernel(const Pairs pairs, const Candidates candidates) {
  using S = Shape<K>;
  extern __shared__ __align__(1024) int8_t memory[];
  const Place place = place_of(pairs, S::kRows);
  const int columns = place.last_column - place.first_column;
  const int padded = (columns + S::kStageColumns - 1) / S::kStageColumns * S::kStageColumns;
  int* column_norms = reinterpret_cast<int*>(memory + kStages * S::kStageBytes);
  int* column_limits = column_norms + padded;
  int* column_winners = column_limits + padded;  // counted from the block's first row
  int* row_winners = column_winners + padded;    // counted from the segment's first column
  uint32_t* entries = reinterpret_cast<uint32_t*>(row_winners + S::kRows);
  const int t = threadIdx.x % 4, warp = threadIdx.x / 32;
  const int64_t row_slots =
      (static_cast<int64_t>(place.i) * pairs.all + pairs.first + place.j) * pairs.patches;
  const int64_t column_slots =
      (static_cast<int64_t>(place.j) * pairs.all + pairs.first + place.i) * pairs.other_patches;
  const Target target{&candidates, row_slots, column_slots, place.first_row, place.first_column};
  List list{entries + warp * kListed};
  const int32_t* y_norms = pairs.y_norms + static_cast<int64_t>(place.j) * pairs.other_patches;
  bool wanted = false;
  for (int at = threadIdx.x; at < padded; at += S::kThreads) {
    const int q = place.first_column + at;
    const int norm = at < columns ? y_norms[q] : INT_MAX;
    column_norms[at] = norm;
    column_limits[at] = kTriangle && at < columns
                            ? term_limit(candidates.limits[column_slots + q], norm)
                            : INT_MIN;
    wanted |= column_limits[at] != INT_MIN;
    column_winners[at] = kTriangle && at < columns
                             ? static_cast<int>(pairs.keys[column_slots + q]) - place.first_row
                             : -1;
  }
  for (int at = threadIdx.x; at < S::kRows; at += S::kThreads) {
    const int row = place.first_row + at;
    row_winners[at] = row < pairs.patches ? static_cast<int>(pairs.keys[row_slots + row]) -
                                                place.first_column
                                          : -1;
  }
  const int block_row = S::first_row(), first = place.first_row + block_row;
  const int32_t* x_norms = pairs.x_norms + static_cast<int64_t>(place.i) * pairs.patches;
  int row_norms[S::kRowsHeld], row_limits[S::kRowsHeld];
#pragma unroll
  for (int r = 0; r < S::kRowsHeld; ++r) {
    const int row = first + S::row_offset(r);
    const bool inside = row < pairs.patches;
    row_norms[r] = inside ? x_norms[row] : INT_MAX;
    row_limits[r] = inside ? term_limit(candidates.limits[row_slots + row], row_norms[r]) : INT_MIN;
    wanted |= row_limits[r] != INT_MIN;
  }
  if (!__syncthreads_or(wanted)) return;
  Rows<K> rows;
  rows.load(pairs.x + static_cast<int64_t>(place.i) * pairs.patches * K, first, pairs.patches);
  walk_columns<K>(
      rows, pairs.y + static_cast<int64_t>(place.j) * pairs.other_patches * K, place, memory,
      place.first_row + warp / 4 * 128 < pairs.patches,
      [&](const Products<K>& products, int column) {
        int row_least[S::kRowsHeld];
        uint32_t asking_rows = 0, asking_columns = 0;
#pragma unroll
        for (int r = 0; r < S::kRowsHeld; ++r) row_least[r] = INT_MAX;
#pragma unroll
        for (int n = 0; n < S::NT; ++n) {
          const int at = column + n * 8 + 2 * t;
          const int2 norm = *reinterpret_cast<const int2*>(column_norms + at);
          const int2 limit = *reinterpret_cast<const int2*>(column_limits + at);
          int left = INT_MAX, right = INT_MAX;
#pragma unroll
          for (int m = 0; m < S::MT; ++m) {
            const int(&d)[4] = products[m][n];
            row_least[2 * m] = __vimin3_s32(row_least[2 * m], norm.x - 2 * d[0], norm.y - 2 * d[1]);
            row_least[2 * m + 1] =
                __vimin3_s32(row_least[2 * m + 1], norm.x - 2 * d[2], norm.y - 2 * d[3]);
            if constexpr (kTriangle) {
              left = __vimin3_s32(left, row_norms[2 * m] - 2 * d[0], row_norms[2 * m + 1] - 2 * d[2]);
              right =
                  __vimin3_s32(right, row_norms[2 * m] - 2 * d[1], row_norms[2 * m + 1] - 2 * d[3]);
            }
          }
          if constexpr (kTriangle)
            asking_columns |= (left <= limit.x ? 1u << 2 * n : 0u) | (right <= limit.y ? 2u << 2 * n : 0u);
        }
#pragma unroll
        for (int r = 0; r < S::kRowsHeld; ++r)
          asking_rows |= row_least[r] <= row_limits[r] ? 1u << r : 0u;
        const uint32_t asking = __reduce_or_sync(kAllLanes, asking_rows | asking_columns << 16);
        if (asking == 0) return;
        // One bit an entry, so that the code that lists an entry exists once.
        uint32_t of_rows = 0, of_columns = 0;
#pragma unroll
        for (int r = 0; r < S::kRowsHeld; ++r) {
          if (!(asking >> r & 1)) continue;
          const int winner = row_winners[block_row + S::row_offset(r)];
#pragma unroll
          for (int c = 0; c < S::kColumnsHeld; ++c) {
            const int at = column + c / 2 * 8 + 2 * t + c % 2;
            const int d = products[r / 2][c / 2][r % 2 * 2 + c % 2];
            if (column_norms[at] - 2 * d <= row_limits[r] && at != winner)
              of_rows |= 1u << (r * S::kColumnsHeld + c);
          }
        }
#pragma unroll
        for (int c = 0; c < S::kColumnsHeld; ++c) {
          if (!(asking >> (16 + c) & 1)) continue;
          const int at = column + c / 2 * 8 + 2 * t + c % 2;
          const int limit = column_limits[at], winner = column_winners[at];
#pragma unroll
          for (int r = 0; r < S::kRowsHeld; ++r) {
            const int d = products[r / 2][c / 2][r % 2 * 2 + c % 2];
            if (row_norms[r] - 2 * d <= limit && block_row + S::row_offset(r) != winner)
              of_columns |= 1u << (r * S::kColumnsHeld + c);
          }
        }
        if (!__any_sync(kAllLanes, of_rows | of_columns)) return;
        int total;
        int place_in_list = list.count + sum_below(__popc(of_rows) + __popc(of_columns), total);
        for (uint32_t left = of_rows; left; left &= left - 1) {
          const int bit = __ffs(static_cast<int>(left)) - 1;
          const int at = column + 2 * t + bit % S::kColumnsHeld / 2 * 8 + bit % 2;
          target.add(list, place_in_list++, block_row + S::row_offset(bit / S::kColumnsHeld), at,
                     false);
        }
        for (uint32_t left = of_columns; left; left &= left - 1) {
          const int bit = __ffs(static_cast<int>(left)) - 1;
          const int at = column + 2 * t + bit % S::kColumnsHeld / 2 * 8 + bit % 2;
          target.add(list, place_in_list++, block_row + S::row_offset(bit / S::kColumnsHeld), at,
                     true);
        }
        list.count += total;
        target.flush(list, kListed / 2);
      });
  target.flush(list, 0);
}

template <int K, bool kTriangle>
cudaError_t launch(const Pairs& pairs, const Candidates& candidates, cudaStream_t stream) {
  const long long blocks = count_blocks(pairs, Shape<K>::kRows);
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const int columns = pairs.other_patches < kSegment ? pairs.other_patches : kSegment;
  constexpr int kUnit = Shape<K>::kStageColumns;
  const int padded = (columns + kUnit - 1) / kUnit * kUnit;
  const int bytes = kStages * Shape<K>::kStageBytes + 4 * (3 * padded + Shape<K>::kRows + Shape<K>::kWarps * kListed);
  const auto kernel = list_candidates_kernel<K, kTriangle>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), Shape<K>::kThreads, bytes, stream>>>(pairs, candidates);
  return cudaGetLastError();
}

template <bool kTriangle>
cudaError_t launch_channels(const Pairs& pairs, const Candidates& candidates, cudaStream_t stream) {
  switch (pairs.channels) {
    case 64: return launch<64, kTriangle>(pairs, candidates, stream);
    case 128: return launch<128, kTriangle>(pairs, candidates, stream);
    case 256: return launch<256, kTriangle>(pairs, candidates, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int list_candidates(const Pairs& pairs, const Candidates& candidates, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return pairs.triangle ? launch_channels<true>(pairs, candidates, on)
                        : launch_channels<false>(pairs, candidates, on);
}

}  // namespace musc::cuda
