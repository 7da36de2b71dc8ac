// Mean of an interval of sorted values, or one of them, without sorting: kernels/interval_mean.py.
//
// A row lies in the registers of kLanes lanes, kValues in each, so it is read once and a count costs
// two instructions a value and a few exchanges. A search over the bits of floats, whose order is that
// of integers, narrows a bracket by interpolation of the counts, from the eighth probe on in turn with
// halving. It ends where k or k - 1 values lie below the probe, since the least value not below it is
// then the k-th, or where the bracket is one value, which then ties. A warp waits for the slowest of
// its 32 / kLanes rows only. Sums run in a fixed order.

#include <climits>

#include "interval_mean.hpp"
#include "root.cuh"

namespace musc::cuda {
namespace {

constexpr unsigned kLanesOfAll = 0xffffffffu;
constexpr int kThreads = 128;
constexpr int kInfinity = 0x7f800000;

// How a row lies: by four columns on 16 bytes, by columns, or with the next row beside it.
enum Layout { kFours, kColumns, kRows };

// Float -> int in the same order (-0 just below +0); its own inverse on the bits.
__device__ inline int key_of(float x) {
  const int bits = __float_as_int(x);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

__device__ inline float value_of(int key) {
  return __int_as_float(key ^ (key >> 31 & 0x7fffffff));
}

template <int kLanes, int kValues, Layout kLayout>
struct Row {
  static constexpr int kHeld = kValues;
  static constexpr int kOfWarp = 32 / kLanes;  // rows
  static constexpr int kFirstBit = kLayout == kRows ? kOfWarp : 1;
  float x[kValues];

  static __device__ int place() {
    const int lane = threadIdx.x % 32;
    return kLayout == kRows ? lane % kOfWarp : lane / kLanes;
  }

  // Loads what this lane holds, +inf beyond the row.
  __device__ __forceinline__ void load(const float* from, int64_t stride, int columns) {
    const int lane = threadIdx.x % 32;
    const int part = kLayout == kRows ? lane / kOfWarp : lane % kLanes;
    if constexpr (kLayout == kFours) {
#pragma unroll
      for (int i = 0; i < kValues; i += 4) {
        const int column = (i / 4 * kLanes + part) * 4;
        float4 v{INFINITY, INFINITY, INFINITY, INFINITY};
        if (column < columns) v = __ldcs(reinterpret_cast<const float4*>(from + column));
        x[i] = v.x;
        x[i + 1] = v.y;
        x[i + 2] = v.z;
        x[i + 3] = v.w;
      }
    } else {
      from += part * stride;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        x[i] = i * kLanes + part < columns ? *from : INFINITY;
        from += kLanes * stride;
      }
    }
  }

  // Combines what the lanes of a row hold.
  template <class Operation>
  static __device__ __forceinline__ float reduce(float value, Operation combine) {
#pragma unroll
    for (int bit = kFirstBit; bit < kFirstBit * kLanes; bit *= 2)
      value = combine(value, __shfl_xor_sync(kLanesOfAll, value, bit));
    return value;
  }
  static __device__ float sum(float value) {
    return reduce(value, [](float a, float b) { return a + b; });
  }
  static __device__ float least(float value) {
    return reduce(value, [](float a, float b) { return fminf(a, b); });
  }
  static __device__ float greatest(float value) {
    return reduce(value, [](float a, float b) { return fmaxf(a, b); });
  }

  // How many values are below `bound`.
  __device__ __forceinline__ float count(float bound) const {
    float counts[4] = {};
#pragma unroll
    for (int i = 0; i < kValues; ++i) counts[i % 4] += x[i] < bound ? 1.0f : 0.0f;
    return sum((counts[0] + counts[1]) + (counts[2] + counts[3]));
  }

  // The least value that is not below `bound`.
  __device__ __forceinline__ float next(float bound) const {
    float found = INFINITY;
#pragma unroll
    for (int i = 0; i < kValues; ++i) found = fminf(found, x[i] < bound ? INFINITY : x[i]);
    return least(found);
  }
};

// `below` values lie below `value`, at most k; if fewer, the least value that is not below it stands
// at places `below` to k - 1.
struct Bound {
  float value, below;
};

// What a row's search starts from: its least and greatest finite value and how many are finite.
struct Range {
  float least, greatest, finite;
};

template <class R>
__device__ __forceinline__ Range find_range(const R& row) {
  float least = INFINITY, greatest = -INFINITY;
#pragma unroll
  for (int i = 0; i < R::kHeld; ++i) {
    const float each = row.x[i];
    least = fminf(least, each);
    greatest = fmaxf(greatest, fmaf(each, 0.0f, each));  // inf * 0 is NaN, which fmaxf passes over
  }
  return {R::least(least), R::greatest(greatest), row.count(INFINITY)};
}

template <class R>
__device__ __forceinline__ Bound find_bound(const R& row, const Range& range, int place) {
  const float k = static_cast<float>(place);
  // Invariant: `below` < k values lie below `low`, `upto` >= k values up to `high`.
  const bool ends = range.finite <= k;
  int low = ends ? kInfinity : key_of(range.least);
  int high = ends ? kInfinity : key_of(range.greatest);
  float below = ends ? range.finite : 0.0f, upto = range.finite;
  bool active = below < k - 1 && low < high;
  for (int turn = 0; __any_sync(kLanesOfAll, active); ++turn) {
    const uint32_t span = static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
    float share = __fdividef(k - 0.5f - below, upto - below);
    if (turn > 7 && turn % 2 == 0) share = 0.5f;
    const uint32_t step = __float2uint_rz(static_cast<float>(span) * share);
    const int probe =
        static_cast<int>(static_cast<uint32_t>(low) + min(max(step, 1u), span));
    const float count = row.count(value_of(probe));
    if (active) {
      if (count <= k) {
        low = probe;
        below = count;
      } else {
        high = probe - 1;
        upto = count;
      }
      active = below < k - 1 && low < high;
    }
  }
  return {value_of(low), below};
}

// The value at place k - 1 of the sorted row.
template <class R>
__device__ __forceinline__ float select(const R& row, const Range& range, int k) {
  const Bound bound = find_bound(row, range, k);
  float before = -INFINITY, next = INFINITY;
#pragma unroll
  for (int i = 0; i < R::kHeld; ++i) {
    const float each = row.x[i];
    if (each < bound.value)
      before = fmaxf(before, each);
    else
      next = fminf(next, each);
  }
  before = R::greatest(before);
  next = R::least(next);
  return bound.below < static_cast<float>(k) ? next : before;
}

// The mean of places k_min to k_max - 1. kRoots: of the roots.
template <bool kRoots, class R>
__device__ __forceinline__ float average(const R& row, const Range& range, int k_min, int k_max) {
  const Bound last = find_bound(row, range, k_max);
  const auto root = [](float x) { return kRoots ? approximate_root(x) : x; };
  const float places = static_cast<float>(k_max - k_min);
  float totals[2] = {};
  if (k_min == 0) {
    float next = INFINITY;
#pragma unroll
    for (int i = 0; i < R::kHeld; ++i) {
      const float each = row.x[i];
      if (each < last.value)
        totals[i % 2] += root(each);
      else
        next = fminf(next, each);
    }
    next = R::least(next);
    const float missing = static_cast<float>(k_max) - last.below;
    return (R::sum(totals[0] + totals[1]) + (missing > 0 ? root(next) * missing : 0.0f)) / places;
  }
  const float next = row.next(last.value);
  const Bound start = find_bound(row, range, k_min);
  const float first = row.next(start.value);
  // Some values that equal `first` lie before place k_min if fewer than k_min lie below it.
  const bool split = start.below < static_cast<float>(k_min);
  float upto = 0;
#pragma unroll
  for (int i = 0; i < R::kHeld; ++i) {
    const float each = row.x[i];
    if (each < last.value && each >= first && !(split && each == first)) totals[0] += root(each);
    upto += each <= first ? 1.0f : 0.0f;
  }
  const float missing = static_cast<float>(k_max) - last.below;
  float total = R::sum(totals[0]);
  upto = R::sum(upto);
  if (missing > 0) total += root(next) * missing;
  if (split) total += root(first) * (upto - static_cast<float>(k_min));
  const bool tie = split && !(first < last.value);  // the interval lies within a tie
  return tie ? root(first) : total / places;
}

template <int kLanes, int kValues, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kValues > 32 ? 5 : 8)
    interval_mean_kernel(const Rows rows) {
  using R = Row<kLanes, kValues, kLayout>;
  const int groups = (rows.rows + R::kOfWarp - 1) / R::kOfWarp;
  const int warp = static_cast<int>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int image = warp / groups;
  if (image >= rows.batch) return;  // the same for all lanes of a warp
  const int wanted = (warp - image * groups) * R::kOfWarp + R::place();
  const int at = min(wanted, rows.rows - 1);
  R row;
  row.load(rows.x + image * rows.stride_b + at * (kLayout == kRows ? 1 : rows.stride_r),
           rows.stride_m, rows.columns);
  const Range range = find_range(row);
  float found;
  if (rows.kth)
    found = select(row, range, rows.k_max);
  else if (rows.squared)
    found = average<true>(row, range, rows.k_min, rows.k_max);
  else
    found = average<false>(row, range, rows.k_min, rows.k_max);
  const int lane = threadIdx.x % 32;
  const bool stores = kLayout == kRows ? lane < R::kOfWarp : lane % kLanes == 0;
  if (stores && wanted < rows.rows) rows.out[static_cast<int64_t>(image) * rows.rows + wanted] = found;
}

template <int kLanes, int kValues, Layout kLayout>
cudaError_t launch(const Rows& rows, cudaStream_t stream) {
  constexpr int kOfWarp = 32 / kLanes, kWarps = kThreads / 32;
  const long long warps = static_cast<long long>(rows.rows + kOfWarp - 1) / kOfWarp * rows.batch;
  if (warps > INT_MAX - kWarps) return cudaErrorInvalidConfiguration;
  if (warps == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((warps + kWarps - 1) / kWarps);
  const auto kernel = interval_mean_kernel<kLanes, kValues, kLayout>;
  kernel<<<blocks, kThreads, 0, stream>>>(rows);
  return cudaGetLastError();
}

template <Layout kLayout>
cudaError_t launch_layout(const Rows& rows, cudaStream_t stream) {
  if (rows.columns <= 64) return launch<4, 16, kLayout>(rows, stream);
  if (rows.columns <= 128) return launch<4, 32, kLayout>(rows, stream);
  if (rows.columns <= 208) return launch<4, 52, kLayout>(rows, stream);
  if (rows.columns <= 416) return launch<8, 52, kLayout>(rows, stream);
  if (rows.columns <= 832) return launch<16, 52, kLayout>(rows, stream);
  if (rows.columns <= kMostColumns) return launch<32, 52, kLayout>(rows, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

int average_interval(const Rows& rows, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (rows.stride_r == 1 && rows.columns > 1) return launch_layout<kRows>(rows, on);
  const bool fours = rows.stride_m == 1 && reinterpret_cast<uintptr_t>(rows.x) % 16 == 0 &&
                     (rows.columns | rows.stride_b | rows.stride_r) % 4 == 0;
  return fours ? launch_layout<kFours>(rows, on) : launch_layout<kColumns>(rows, on);
}

}  // namespace musc::cuda
