// A search in rows that lie in registers, for interval_mean.cu.
//
// A row lies in the registers of kLanes lanes, kValues in each, so it is read once and a count costs
// two instructions a value and a few exchanges. A search narrows a bracket by interpolation of the
// counts, from the eighth probe on in turn with halving the bits of floats, whose order is that of
// integers. It ends where k or k - 1 values lie below the probe, since the least value not below it is
// then the k-th, or where the bracket is one value, which then ties. A warp waits for the slowest of
// its 32 / kLanes rows only. Sums run in a fixed order.
#pragma once

#include <climits>

#include "interval_mean.hpp"
#include "ptx.cuh"
#include "root.cuh"

namespace musc::cuda {

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

  // The row of this lane, of a warp's.
  static __device__ int place() {
    const int lane = threadIdx.x % 32;
    return kLayout == kRows ? lane % kOfWarp : lane / kLanes;
  }

  // Loads what this lane holds, +inf beyond the row. stride: between columns.
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
  template <class T, class Operation>
  static __device__ __forceinline__ T reduce(T value, Operation combine) {
#pragma unroll
    for (int bit = kFirstBit; bit < kFirstBit * kLanes; bit *= 2)
      value = combine(value, __shfl_xor_sync(kAllLanes, value, bit));
    return value;
  }
  static __device__ float sum(float value) {
    return reduce(value, [](float a, float b) { return a + b; });
  }
  template <class T>
  static __device__ T least(T value) {
    return reduce(value, [](T a, T b) { return min(a, b); });
  }
  template <class T>
  static __device__ T greatest(T value) {
    return reduce(value, [](T a, T b) { return max(a, b); });
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

// Keys of a row's least value and of its greatest finite one, +inf where there is none.
struct Range {
  int least, greatest;
};

template <class R>
__device__ __forceinline__ Range find_range(const R& row) {
  // Without negative values the bits of floats are their keys; the infinite overflow to the least.
  constexpr int kOverflow = 1 << 23;  // 2^31 less the key of +inf
  int low = INT_MAX, high = INT_MIN;
#pragma unroll
  for (int i = 0; i < R::kHeld; i += 2) {
    const int a = __float_as_int(row.x[i]), b = __float_as_int(row.x[i + 1]);
    low = __vimin3_s32(low, a, b);
    high = __viaddmax_s32(a, kOverflow, high);
    high = __viaddmax_s32(b, kOverflow, high);
  }
  low = R::least(low);
  high = static_cast<int>(static_cast<uint32_t>(R::greatest(high)) - kOverflow);
  if (!__any_sync(kAllLanes, low < 0)) return {low, high};
  float least = INFINITY, greatest = -INFINITY;
#pragma unroll
  for (int i = 0; i < R::kHeld; ++i) {
    const float each = row.x[i];
    least = fminf(least, each);
    greatest = fmaxf(greatest, fmaf(each, 0.0f, each));  // inf * 0 is NaN, which fmaxf passes over
  }
  least = R::least(least);
  greatest = R::greatest(greatest);
  return {key_of(least), greatest == -INFINITY ? kInfinity : key_of(greatest)};
}

template <class R>
__device__ __forceinline__ Bound find_bound(const R& row, const Range& range, int columns,
                                            int place) {
  const float k = static_cast<float>(place);
  // Invariant: `below` <= k values lie below `low`, and, if so many are finite, `upto` > k below `high`.
  float low = value_of(range.least), high = value_of(range.greatest + 1);
  float below = 0.0f, upto = static_cast<float>(columns);
  bool active = below < k - 1;
  for (int turn = 0; __any_sync(kAllLanes, active); ++turn) {
    float probe = fmaf(high - low, __fdividef(k - 0.5f - below, upto - below), low);
    if ((turn > 7 && turn % 2 == 0) || !(low < probe && probe < high)) {
      const int from = key_of(low);
      const uint32_t half = (static_cast<uint32_t>(key_of(high)) - static_cast<uint32_t>(from)) / 2;
      probe = value_of(from + static_cast<int>(half));
      active = active && half > 0;
    }
    const float count = row.count(probe);
    if (active) {
      if (count <= k) {
        low = probe;
        below = count;
      } else {
        high = probe;
        upto = count;
      }
      active = below < k - 1;
    }
  }
  if (__any_sync(kAllLanes, below < k - 1)) {  // a tie, or fewer than k - 1 values are finite
    const float finite = row.count(INFINITY);
    if (below < k - 1 && finite < k) {
      low = INFINITY;
      below = finite;
    }
  }
  return {low, below};
}

// The value at place k - 1 of the sorted row.
template <class R>
__device__ __forceinline__ float select(const R& row, const Range& range, int columns,
                                       int k) {
  const Bound bound = find_bound(row, range, columns, k);
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
__device__ __forceinline__ float average(const R& row, const Range& range, int columns,
                                        int k_min, int k_max) {
  const Bound last = find_bound(row, range, columns, k_max);
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
  const Bound start = find_bound(row, range, columns, k_min);
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

template <class R>
__device__ __forceinline__ float find(const R& row, const Rows& rows) {
  const Range range = find_range(row);
  if (rows.kth) return select(row, range, rows.columns, rows.k_max);
  if (rows.squared) return average<true>(row, range, rows.columns, rows.k_min, rows.k_max);
  return average<false>(row, range, rows.columns, rows.k_min, rows.k_max);
}

}  // namespace musc::cuda
