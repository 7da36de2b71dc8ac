// The nearest patch of image j for every patch of image i, and with symmetry of i for every patch of
// j, by products of 16-bit values over all channels. No distance leaves the registers.
//
// The patches of all images are the rows of one matrix, cut into tiles without regard to images, so
// that no product is wasted but near the diagonal; a tile's epilogue passes over the few pairs of
// images within it and masks by norms of infinity. A block has a warp that copies (64 channels of
// 128 rows and kColumns columns a stage) and two groups of four warps that each multiply 64 rows.
// The second group runs kLag stages behind the first, so that one multiplies while the other
// reduces. Blocks of a cluster share columns: each copies a part for all. Blocks stay, and walk
// strips of kStrip column tiles row by row, so that a strip's columns stay in L2.
//
// Keys are those of kernels/min_distance.py; reduce_16.cuh says how they are packed.

#include "find_nearest_16.hpp"

#include <climits>

#include "hopper.cuh"
#include "hopper.hpp"
#include "products_16.cuh"
#include "ptx.cuh"
#include "reduce_16.cuh"
#include "tiles_16.cuh"

namespace musc::cuda {
namespace {

// Copies all stages of this block's tiles; one thread.
template <class S, bool kTriangle>
__device__ void copy_tiles(const Work& work, const TensorMap* x, const TensorMap* y,
                           int8_t* memory) {
  const uint32_t base = shared_address(memory);
  const int rank = S::kCluster > 1 ? block_of_cluster() : 0;
  const int clusters = static_cast<int>(gridDim.x) / S::kCluster;
  Walk<S, kTriangle> walk(work, rank);
  Ring<S::kStages> ring;
  for (long long index = blockIdx.x / S::kCluster;; index += clusters) {
    const Tile tile = walk.find(index);
    const bool last = tile.row < 0;
    for (int step = 0; step < (last ? 1 : work.steps); ++step) {
      wait_for(base + S::kEmpty + 8 * ring.stage, ring.parity ^ 1);
      const uint32_t full = base + S::kFull + 8 * ring.stage;
      if (step == 0) reinterpret_cast<Tile*>(memory + S::kTiles)[ring.stage] = tile;
      if (last) {
        arrive(full);
        return;
      }
      arrive_expecting(full, S::kStageBytes);
      const uint32_t stage = base + ring.stage * S::kStageBytes;
      load_tile(stage, x, 64 * step, tile.row, full);
      const int part = rank * S::kShare;
      if constexpr (S::kCluster == 1)
        load_tile(stage + S::kRowBytes, y, 64 * step, tile.column, full);
      else
        load_tile_for(stage + S::kRowBytes + part * 128, y, 64 * step, tile.column + part, full,
                      (1 << S::kCluster) - 1);
      ring.advance();
    }
  }
}

// Multiplies and reduces 64 rows of this block's tiles; a group of four warps.
template <class S, bool kTriangle, bool kBfloat>
__device__ void multiply_tiles(const Work& work, int8_t* memory, int group) {
  const uint32_t base = shared_address(memory);
  const bool leader = threadIdx.x % 128 == 0;
  const auto release = [&](int stage) {
    const uint32_t empty = base + S::kEmpty + 8 * stage;
    if constexpr (S::kCluster == 1) {
      if (leader) arrive(empty);
    } else {
      const int thread = static_cast<int>(threadIdx.x) % 128;
      if (thread < S::kCluster) arrive_at(empty, thread);
    }
  };
  Reduction<S, kTriangle> reduction(work, memory, group, work.all > 0 ? ~255 : ~0);
  Ring<S::kStages> ring;
  float sums[S::kColumns / 2];
  const bool lags = S::kLag > 0 && work.steps >= 2 * S::kStages;
  uint32_t turn = 0;
  for (;;) {
    if (lags && group == 1) wait_for(base + S::kTurn, turn);
    turn ^= 1;
    wait_for(base + S::kFull + 8 * ring.stage, ring.parity);
    const Tile tile = reinterpret_cast<const Tile*>(memory + S::kTiles)[ring.stage];
    if (tile.row < 0) {
      if (lags && group == 0 && leader) arrive(base + S::kTurn);
      return;
    }
    reduction.prepare(tile);
    int before = 0;
    for (int step = 0; step < work.steps; ++step) {
      if (step > 0) wait_for(base + S::kFull + 8 * ring.stage, ring.parity);
      const uint32_t stage = base + ring.stage * S::kStageBytes;
      const uint32_t a = describe_rows(stage + group * 64 * 128);
      const uint32_t b = describe_rows(stage + S::kRowBytes);
      start_products();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        multiply_16<S::kColumns, kBfloat>(sums, a + 2 * k, b + 2 * k, step > 0 || k > 0);
      commit_products();
      if (step > 0) {
        wait_for_products<1>();
        release(before);
      }
      if (S::kLag > 0 && step == S::kLag - 1 && lags && group == 0 && leader)
        arrive(base + S::kTurn);
      before = ring.stage;
      ring.advance();
    }
    wait_for_products<0>();
    release(before);
    keep_order(sums);
    reduction.reduce(sums);
  }
}

template <class S, bool kTriangle, bool kBfloat>
__global__ void __launch_bounds__(S::kThreads, 1)
    find_nearest_16_kernel(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap y,
                           const __grid_constant__ Work work) {
  extern __shared__ __align__(1024) int8_t memory[];
  const uint32_t base = shared_address(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < S::kStages; ++stage) {
      make_barrier(base + S::kFull + 8 * stage, 1);
      make_barrier(base + S::kEmpty + 8 * stage, 2 * S::kCluster);
    }
    make_barrier(base + S::kTurn, 1);
    publish_barriers();
  }
  if constexpr (S::kCluster > 1)
    meet_cluster();
  else
    __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (group == 0) {
    give_registers<56>();
    if (threadIdx.x == 0) copy_tiles<S, kTriangle>(work, &x, &y, memory);
  } else {
    take_registers<224>();
    multiply_tiles<S, kTriangle, kBfloat>(work, memory, group - 1);
  }
  if constexpr (S::kCluster > 1) {
    __syncthreads();
    meet_cluster();  // nobody leaves while others copy to its memory
  }
}

template <class S, bool kTriangle, bool kBfloat>
cudaError_t launch(const Pairs16& pairs, cudaStream_t stream) {
  const int64_t rows = static_cast<int64_t>(pairs.images) * pairs.patches;
  const int64_t columns = static_cast<int64_t>(pairs.others) * pairs.other_patches;
  if (rows == 0 || columns == 0) return cudaSuccess;
  if (rows > INT_MAX - 1024 || columns > INT_MAX - 1024) return cudaErrorInvalidConfiguration;
  TensorMap x, y;
  cudaError_t error = describe(&x, pairs.x, rows, pairs.channels, S::kRows, kBfloat);
  if (error != cudaSuccess) return error;
  error = describe(&y, pairs.y, columns, pairs.channels, S::kShare, kBfloat);
  if (error != cudaSuccess) return error;
  Work work;
  work.x_norms = pairs.x_norms;
  work.y_norms = pairs.y_norms;
  work.keys = pairs.keys;
  work.rows = static_cast<int>(rows);
  work.columns = static_cast<int>(columns);
  work.patches = pairs.patches;
  work.other_patches = pairs.other_patches;
  work.steps = (pairs.channels + 63) / 64;
  work.all = pairs.all;
  work.first = pairs.first;
  int device = 0, blocks = 0;
  error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  blocks -= blocks % S::kCluster;
  return launch_clusters(find_nearest_16_kernel<S, kTriangle, kBfloat>, blocks, S::kCluster,
                         S::kThreads, S::kBytes, stream, x, y, work);
}

using Usual = Shape16<256, 4, 2, 0, 8>;

template <bool kBfloat>
cudaError_t launch_usual(const Pairs16& pairs, cudaStream_t stream) {
  return pairs.triangle ? launch<Usual, true, kBfloat>(pairs, stream)
                        : launch<Usual, false, kBfloat>(pairs, stream);
}

}  // namespace

int find_nearest_16(const Pairs16& pairs, void* stream) {
  if (pairs.channels <= 0 || pairs.channels % 8 != 0) return cudaErrorInvalidValue;
  const auto on = static_cast<cudaStream_t>(stream);
  return pairs.bfloat ? launch_usual<true>(pairs, on) : launch_usual<false>(pairs, on);
}

}  // namespace musc::cuda
