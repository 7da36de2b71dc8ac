// LNAMD, degrees 1, 3 and 5: kernels/lnamd.py says what is computed, and why in this order.
//
// A thread holds four channels and a block all of them. A block sums a part of image k, and then
// aggregates a tile of image k - lag, a strip of columns by some rows, which the L2 cache still
// holds. It walks down the rows: x - mean of a row is added over 3 and 5 columns in registers, these
// sums enter running sums over rows, and nothing is ever subtracted. Rows arrive by asynchronous
// copies, some ahead; a thread reads what it copied itself. All norms of a row are reduced together
// with one barrier, and results leave the cache first.
//
// Blocks take their place in the order in which they start. A block waits for sums that only blocks
// before it make, and every block sums before it waits, so none waits for ever.

#include <climits>

#include "lnamd.hpp"
#include "ptx.cuh"
#include "root.cuh"

namespace musc::cuda {
namespace {

constexpr int kStages = 4;  // rows of the grid in shared memory
constexpr int kFewThreads = 256, kManyThreads = 512;
constexpr int kFewColumns = 2;  // of a strip, where a block has many threads

// Degrees 1, 3 and 5 are bits 0, 1 and 2 of kTaken; a block takes kColumns columns.
template <int kColumns, int kTaken>
struct Shape {
  static constexpr int kHalo = kTaken & 4 ? 2 : kTaken & 2 ? 1 : 0;
  static constexpr int kLoaded = kColumns + 2 * kHalo;
  static constexpr int kDegrees = (kTaken & 1) + (kTaken >> 1 & 1) + (kTaken >> 2);
  static constexpr int kNorms = kColumns * kDegrees;
  static constexpr int kPadded = kNorms > 8 ? 16 : kNorms > 4 ? 8 : kNorms > 2 ? 4 : 2;
};

struct Place {
  int strips, tiles;
};

__device__ __host__ inline Place count_places(int height, int width, int rows, int columns) {
  const int strips = (width + columns - 1) / columns;
  return {strips, strips * ((height + rows - 1) / rows)};
}

__device__ inline float4 add(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

__device__ inline float add_squares(float sum, float4 v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

struct Moments {
  double total = 0, square = 0;
  float least = INFINITY, greatest = -INFINITY;

  // Adds what the lanes of a warp hold, the same in all of them.
  __device__ void reduce() {
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
      total += __shfl_xor_sync(kAllLanes, total, bit);
      square += __shfl_xor_sync(kAllLanes, square, bit);
      least = fminf(least, __shfl_xor_sync(kAllLanes, least, bit));
      greatest = fmaxf(greatest, __shfl_xor_sync(kAllLanes, greatest, bit));
    }
  }
};

// Sums part `part` of `parts` of an image, and says so. scratch: a Moments a warp.
__device__ inline void add_part(const Tokens& tokens, int image, int part, int parts,
                                Moments* scratch) {
  const int size = (tokens.height * tokens.width + parts - 1) / parts;
  const int last = min((part + 1) * size, tokens.height * tokens.width);
  const int stride = static_cast<int>(tokens.stride_p);
  const float* base = tokens.x + image * tokens.stride_n + 4 * threadIdx.x;
  float4 total{}, square{};
  Moments moments;
  if (static_cast<int>(4 * threadIdx.x) < tokens.channels) {
#pragma unroll 8
    for (int token = part * size; token < last; ++token) {
      const float4 v = *reinterpret_cast<const float4*>(base + token * stride);
      total = add(total, v);
      square = {fmaf(v.x, v.x, square.x), fmaf(v.y, v.y, square.y), fmaf(v.z, v.z, square.z),
                fmaf(v.w, v.w, square.w)};
      moments.least = fminf(moments.least, fminf(fminf(v.x, v.y), fminf(v.z, v.w)));
      moments.greatest = fmaxf(moments.greatest, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
    }
  }
  moments.total = (static_cast<double>(total.x) + total.y) + (static_cast<double>(total.z) + total.w);
  moments.square =
      (static_cast<double>(square.x) + square.y) + (static_cast<double>(square.z) + square.w);
  moments.reduce();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = moments;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) {
    moments.total += scratch[warp].total;
    moments.square += scratch[warp].square;
    moments.least = fminf(moments.least, scratch[warp].least);
    moments.greatest = fmaxf(moments.greatest, scratch[warp].greatest);
  }
  double* to = tokens.sums + static_cast<int64_t>(image) * 4 * parts + part;
  to[0] = moments.total;
  to[parts] = moments.square;
  to[2 * parts] = moments.least;
  to[3 * parts] = moments.greatest;
  __threadfence();
  atomicAdd(tokens.count + 1 + image, 1);
}

// Waits until all parts of an image are summed; returns its mean, between its least and its
// greatest value, and 1 / sqrt(variance + 1e-5).
__device__ inline float2 wait_for_statistics(const Tokens& tokens, int image, int parts) {
  if (threadIdx.x == 0) {
    const volatile int32_t* count = tokens.count + 1 + image;
    while (*count < parts) __nanosleep(64);
    __threadfence();
  }
  __syncthreads();
  const double* from = tokens.sums + static_cast<int64_t>(image) * 4 * parts;
  Moments moments;
  for (int part = threadIdx.x % 32; part < parts; part += 32) {
    moments.total += __ldcg(from + part);
    moments.square += __ldcg(from + parts + part);
    moments.least = fminf(moments.least, static_cast<float>(__ldcg(from + 2 * parts + part)));
    moments.greatest = fmaxf(moments.greatest, static_cast<float>(__ldcg(from + 3 * parts + part)));
  }
  moments.reduce();
  const double values = static_cast<double>(tokens.height) * tokens.width * tokens.channels;
  const float mean = fminf(fmaxf(static_cast<float>(moments.total / values), moments.least),
                           moments.greatest);
  const float variance =
      static_cast<float>(moments.square / values - static_cast<double>(mean) * mean);
  return {mean, 1.0f / sqrtf(fmaxf(variance, 0.0f) + 1e-5f)};
}

// Halves the values that a lane holds, and adds those of the lane that keeps the same ones.
template <int kHalf, int kCount>
__device__ inline void halve(float (&values)[kCount]) {
  if constexpr (kHalf > 0) {
    const bool upper = (threadIdx.x & kHalf) != 0;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      const float sent = upper ? values[k] : values[k + kHalf];
      const float kept = upper ? values[k + kHalf] : values[k];
      values[k] = kept + __shfl_xor_sync(kAllLanes, sent, kHalf);
    }
    halve<kHalf / 2>(values);
  }
}

// Adds each of the values over the lanes of a warp; lane l receives the sum of value l % kCount.
template <int kCount>
__device__ inline float add_over_lanes(float (&values)[kCount]) {
  halve<kCount / 2>(values);
  float sum = values[0];
#pragma unroll
  for (int bit = kCount; bit < 32; bit *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
  return sum;
}

// A tile of an image: columns first_column on, rows first_row to last_row - 1.
template <int kColumns, int kTaken>
struct Walk {
  using S = Shape<kColumns, kTaken>;
  const Tokens& tokens;
  int image, first_column, first_row, last_row;
  bool active;         // whether this thread has channels
  const float* base;   // of the image, at this thread's channels
  uint32_t stages;     // this thread's 16 bytes of the first token in shared memory
  unsigned loaded;     // bit j: loaded column j lies in the grid, and this thread has channels
  unsigned stored;     // bit j: the same of the tile's column j

  __device__ Walk(const Tokens& tokens, int image, int column, int row, const int8_t* memory)
      : tokens(tokens), image(image), first_column(column), first_row(row),
        last_row(min(row + tokens.rows, tokens.height)),
        active(static_cast<int>(4 * threadIdx.x) < tokens.channels),
        base(tokens.x + image * tokens.stride_n + (active ? 4 * threadIdx.x : 0)),
        stages(shared_address(memory) + 16 * threadIdx.x), loaded(0), stored(0) {
    for (int j = 0; j < S::kLoaded; ++j) {
      const int at = column - S::kHalo + j;
      if (active && at >= 0 && at < tokens.width) loaded |= 1u << j;
    }
    stored = loaded >> S::kHalo & ((1u << kColumns) - 1);
  }

  // Which of the loaded columns of a row lie in the grid.
  __device__ unsigned inside(int row) const {
    return row >= 0 && row < tokens.height ? loaded : 0u;
  }

  // Starts the copies of a row into a stage; zeros beyond the grid.
  __device__ void fetch(int row, int stage) const {
    if (row < last_row + S::kHalo) {
      const unsigned has = inside(row);
      const int stride = static_cast<int>(tokens.stride_p);
      const int start = (row * tokens.width + first_column - S::kHalo) * stride;
      uint32_t to = stages + static_cast<uint32_t>(stage * S::kLoaded) * 16 * blockDim.x;
#pragma unroll
      for (int j = 0; j < S::kLoaded; ++j) {
        const bool wanted = (has & 1u << j) != 0;
        copy_16_bytes(to, base + (wanted ? start + j * stride : 0), wanted);
        to += 16 * blockDim.x;
      }
    }
    commit_copies();
  }

  // v [kColumns] times the factors that lanes at, at + 1, ... hold, to a row, if it is in the tile.
  __device__ void store(float* out, int row, const float4* v, float factor, int at) const {
    const int channels = tokens.channels;
    float* to = out +
                ((static_cast<int64_t>(image) * tokens.height + row) * tokens.width + first_column) *
                    channels +
                4 * threadIdx.x;
    const unsigned wanted = row >= first_row && row < last_row ? stored : 0u;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float by = __shfl_sync(kAllLanes, factor, at + j);
      const float4 z{v[j].x * by, v[j].y * by, v[j].z * by, v[j].w * by};
      if (wanted & 1u << j) __stcs(reinterpret_cast<float4*>(to + j * channels), z);
    }
  }

  // The factors of all norms of a row: lane l has that of norm l. sums: [warps, kPadded].
  __device__ float find_factor(float (&norms)[S::kPadded], float rstd, float* sums) const {
    const int lane = threadIdx.x % 32, slot = lane % S::kPadded;
    const float own = add_over_lanes(norms);
    if (lane < S::kPadded) sums[threadIdx.x / 32 * S::kPadded + lane] = own;
    __syncthreads();
    float total = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += sums[warp * S::kPadded + slot];
    // Degrees follow each other by kColumns norms.
    int degree = slot / kColumns;
    if constexpr ((kTaken & 1) == 0) ++degree;
    if constexpr ((kTaken & 2) == 0) degree += degree > 0;
    const float scale = rstd * (degree == 0 ? 1.0f : degree == 1 ? 1.0f / 9 : 1.0f / 25);
    return __fdividef(scale, fmaxf(approximate_root(total) * scale, 1e-12f));
  }

  // memory: what the stages occupy; sums: [2, warps, kPadded].
  __device__ void run(const int8_t* memory, float* sums, float mean, float rstd) const {
    float4 three_1[kColumns] = {}, three_2[kColumns] = {};
    float4 five_1[kColumns] = {}, five_2[kColumns] = {}, five_3[kColumns] = {};
    float4 five_4[kColumns] = {};
    int stage = 0;
    unsigned turn = 0;
    for (int row = first_row - S::kHalo; row < last_row + S::kHalo; ++row) {
      fetch(row + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
      wait_for_copies<kStages - 1>();
      const unsigned has = inside(row);
      float4 x[S::kLoaded];
#pragma unroll
      for (int j = 0; j < S::kLoaded; ++j) {
        const float less = has & 1u << j ? mean : 0.0f;
        const float4 v = *reinterpret_cast<const float4*>(
            memory + (static_cast<size_t>(stage * S::kLoaded + j) * blockDim.x + threadIdx.x) * 16);
        x[j] = {v.x - less, v.y - less, v.z - less, v.w - less};
      }
      float4 v3[kColumns], v5[kColumns];
      float norms[S::kPadded] = {};
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        int at = j;
        if constexpr (kTaken & 1) {
          norms[at] = add_squares(0, x[j + S::kHalo]);
          at += kColumns;
        }
        if constexpr (S::kHalo > 0) {
          float4 h = add(add(x[j + S::kHalo], x[j + S::kHalo - 1]), x[j + S::kHalo + 1]);
          if constexpr (kTaken & 2) {
            v3[j] = add(three_2[j], h);
            three_2[j] = add(three_1[j], h);
            three_1[j] = h;
            norms[at] = add_squares(0, v3[j]);
            at += kColumns;
          }
          if constexpr (kTaken & 4) {
            h = add(add(h, x[j]), x[j + 4]);
            v5[j] = add(five_4[j], h);
            five_4[j] = add(five_3[j], h);
            five_3[j] = add(five_2[j], h);
            five_2[j] = add(five_1[j], h);
            five_1[j] = h;
            norms[at] = add_squares(0, v5[j]);
          }
        }
      }
      const float factor =
          find_factor(norms, rstd, sums + turn * (blockDim.x / 32) * S::kPadded);
      int at = 0;
      if constexpr (kTaken & 1) {
        store(tokens.out_1, row, x + S::kHalo, factor, at);
        at += kColumns;
      }
      if constexpr (kTaken & 2) {
        store(tokens.out_3, row - 1, v3, factor, at);
        at += kColumns;
      }
      if constexpr (kTaken & 4) store(tokens.out_5, row - 2, v5, factor, at);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      turn ^= 1;
    }
  }
};

template <int kColumns, int kThreads, int kTaken>
__global__ void __launch_bounds__(kThreads, 1) lnamd_kernel(const Tokens tokens) {
  using S = Shape<kColumns, kTaken>;
  extern __shared__ __align__(128) int8_t memory[];
  int8_t* behind = memory + static_cast<size_t>(kStages) * S::kLoaded * 16 * blockDim.x;
  int* ticket = reinterpret_cast<int*>(behind);
  Moments* scratch = reinterpret_cast<Moments*>(behind + 16);
  float* sums = reinterpret_cast<float*>(scratch + blockDim.x / 32);
  if (threadIdx.x == 0) *ticket = atomicAdd(tokens.count, 1);
  __syncthreads();
  const Place place = count_places(tokens.height, tokens.width, tokens.rows, kColumns);
  const int step = *ticket / place.tiles, tile = *ticket % place.tiles;
  const int image = step - tokens.lag;
  const int first_row = tile / place.strips * tokens.rows;
  const Walk<kColumns, kTaken> walk(tokens, image, tile % place.strips * kColumns, first_row,
                                    memory);
  if (image >= 0)
    for (int k = 0; k < kStages - 1; ++k) walk.fetch(first_row - S::kHalo + k, k);
  if (step < tokens.images) add_part(tokens, step, tile, place.tiles, scratch);
  if (image < 0) return;
  const float2 statistics = wait_for_statistics(tokens, image, place.tiles);
  walk.run(memory, sums, statistics.x, statistics.y);
}

template <int kColumns, int kThreads, int kTaken>
cudaError_t launch(const Tokens& tokens, cudaStream_t stream) {
  using S = Shape<kColumns, kTaken>;
  const int tiles = count_places(tokens.height, tokens.width, tokens.rows, kColumns).tiles;
  const long long blocks = static_cast<long long>(tokens.images + tokens.lag) * tiles;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const int threads = (tokens.channels / 4 + 31) / 32 * 32;
  const int warps = threads / 32;
  const int bytes = kStages * S::kLoaded * 16 * threads + 16 +
                    warps * static_cast<int>(sizeof(Moments)) + 2 * warps * S::kPadded * 4;
  const auto kernel = lnamd_kernel<kColumns, kThreads, kTaken>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, stream>>>(tokens);
  return cudaGetLastError();
}

template <int kColumns, int kThreads>
cudaError_t launch_degrees(const Tokens& tokens, cudaStream_t stream) {
  switch ((tokens.out_1 ? 1 : 0) | (tokens.out_3 ? 2 : 0) | (tokens.out_5 ? 4 : 0)) {
    case 1: return launch<kColumns, kThreads, 1>(tokens, stream);
    case 2: return launch<kColumns, kThreads, 2>(tokens, stream);
    case 3: return launch<kColumns, kThreads, 3>(tokens, stream);
    case 4: return launch<kColumns, kThreads, 4>(tokens, stream);
    case 5: return launch<kColumns, kThreads, 5>(tokens, stream);
    case 6: return launch<kColumns, kThreads, 6>(tokens, stream);
    case 7: return launch<kColumns, kThreads, 7>(tokens, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

#ifndef MUSC_LNAMD_COLUMNS
#define MUSC_LNAMD_COLUMNS 4
#endif
constexpr int kManyColumns = MUSC_LNAMD_COLUMNS;

int count_tiles(int height, int width, int channels, int rows) {
  const int columns = channels <= 4 * kFewThreads ? kManyColumns : kFewColumns;
  return count_places(height, width, rows, columns).tiles;
}

int aggregate_neighbourhoods(const Tokens& tokens, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (tokens.channels % 4 != 0 || tokens.channels > 4 * kManyThreads || tokens.rows < 1 ||
      tokens.lag < 1)
    return cudaErrorInvalidValue;
  if (tokens.channels <= 4 * kFewThreads)
    return launch_degrees<kManyColumns, kFewThreads>(tokens, on);
  return launch_degrees<kFewColumns, kManyThreads>(tokens, on);
}

}  // namespace musc::cuda
