// Second pass over few channels: every candidate whose distance lies within the limit of its patch.
//
// The first pass has stored the least distance of each patch to each range of 128 patches of an
// image (`Pairs::least`). A patch asks for the ranges where that lies within its limit: about one
// and a half of an image that matters. A block takes a range of an image of y, gathers the patches
// of many images of x that ask for it, and multiplies these alone, 128 at a time.
//
// Work: 6 bytes are read a patch, image and range; a patch that asks costs 128 K multiplications,
// K bytes, a key, and three integer operations an entry of its row.

#include <climits>
#include <cstdint>

#include "tile.cuh"

namespace musc::cuda {
namespace {

constexpr int kThreads = 128;  // a group of four warps
constexpr int kTile = 128;     // patches of x at a time
constexpr int kLooks = 6;      // patches that a thread looks at at a time
constexpr int kGathered = kTile + kLooks * kThreads;
constexpr int kImages = 32;       // of x that a block takes
constexpr int kPatchBits = 26;    // of a code: image (from the block's first) << kPatchBits | patch
constexpr int kListed = 256;      // candidates of a warp in shared memory
constexpr int kNever = 1 << 29;   // a norm and (negative) a limit that no distance reaches
constexpr float kLargest = 1 << 25;  // above any squared distance

// What a block takes: images `first_image` to `last_image` - 1 of x, a range of image j of y.
struct Work {
  int j, first_image, last_image, first_column;
};

__device__ inline Work work_of(const Pairs& pairs) {
  const int ranges = (pairs.other_patches + kRange - 1) / kRange;
  const int block = static_cast<int>(blockIdx.x);
  Work work;
  work.first_column = block % ranges * kRange;
  work.j = block / ranges % pairs.others;
  work.first_image = block / ranges / pairs.others * kImages;
  work.last_image = min(work.first_image + kImages, pairs.images);
  return work;
}

// The patches of x that a block has gathered, in shared memory.
struct Gathered {
  int* codes;     // [kGathered]
  float* limits;  // [kGathered]
  int* appended;  // how many were gathered in all
};

// A warp's list of (code, patch of y) in shared memory.
struct List {
  int2* entries;  // [kListed]
  int count = 0;  // the same in all lanes
};

// Slot of patch 0 of image `image` (from the block's first) against image j.
__device__ inline int64_t slot_of(const Pairs& pairs, const Work& work, int image) {
  return (static_cast<int64_t>(work.first_image + image) * pairs.all + pairs.first + work.j) *
         pairs.patches;
}

// Sends a warp's list out.
__device__ inline void flush(List& list, const Pairs& pairs, const Candidates& candidates,
                             const Work& work) {
  __syncwarp();
  const int lane = threadIdx.x % 32;
  unsigned long long base = 0;
  if (lane == 0)
    base = atomicAdd(reinterpret_cast<unsigned long long*>(candidates.count),
                     static_cast<unsigned long long>(list.count));
  base = __shfl_sync(kAllLanes, base, 0);
  for (int k = lane; k < list.count; k += 32) {
    if (base + k >= static_cast<unsigned long long>(candidates.room)) break;
    const int2 entry = list.entries[k];
    candidates.slots[base + k] =
        slot_of(pairs, work, entry.x >> kPatchBits) + (entry.x & ((1 << kPatchBits) - 1));
    candidates.patches[base + k] = entry.y;
  }
  list.count = 0;
  __syncwarp();
}

// Appends those of image `image`'s patches from `from` on, kLooks a thread, that ask for the range.
// held: how many the block has, `before` of all that it ever had. Returns how many it has then.
__device__ inline int gather(const Gathered& gathered, const Pairs& pairs,
                             const Candidates& candidates, const Work& work, int image, int from,
                             int held, int before) {
  const int64_t slots = slot_of(pairs, work, image);
  const int ranges = (pairs.other_patches + kRange - 1) / kRange;
  const float* limits = candidates.limits + slots;
  const uint16_t* least = pairs.least + slots * ranges +
                          static_cast<int64_t>(work.first_column / kRange) * pairs.patches;
  float limit[kLooks];
  unsigned asking[kLooks];
  int total = 0;
#pragma unroll
  for (int k = 0; k < kLooks; ++k) {
    const int p = from + k * kThreads + static_cast<int>(threadIdx.x);
    limit[k] = p < pairs.patches ? limits[p] : -1.0f;
    const int half = p < pairs.patches ? least[p] : 0;
    asking[k] = limit[k] >= 0 && __int_as_float(half << 16) <= limit[k];
  }
#pragma unroll
  for (int k = 0; k < kLooks; ++k) {
    asking[k] = __ballot_sync(kAllLanes, asking[k]);
    total += __popc(asking[k]);
  }
  __syncthreads();  // the patches of the last tile have been read
  const int lane = threadIdx.x % 32;
  int at = 0;
  if (lane == 0) at = atomicAdd(gathered.appended, total);
  at = held + __shfl_sync(kAllLanes, at, 0) - before;
#pragma unroll
  for (int k = 0; k < kLooks; ++k) {
    if (asking[k] >> lane & 1) {
      const int place = at + __popc(asking[k] & ((1u << lane) - 1));
      gathered.codes[place] =
          image << kPatchBits | (from + k * kThreads + static_cast<int>(threadIdx.x));
      gathered.limits[place] = limit[k];
    }
    at += __popc(asking[k]);
  }
  __syncthreads();
  return held + *gathered.appended - before;
}

// A thread's four rows of a tile.
template <int K>
struct Asking {
  Rows<K> rows;
  int limits[4];         // the largest |y|^2 - 2 d within the limit
  uint32_t winners[4];   // by 32 columns: a bit for each of the thread's entries

  // The gathered patches from `begin` on, of which `count` are taken.
  __device__ void load(const Gathered& gathered, const Pairs& pairs, const Work& work, int begin,
                       int count) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int s = 0; s < 4; ++s) winners[s] = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = Shape<K>::first_row() + Shape<K>::row_offset(r);
      const bool inside = row < count;
      const int code = gathered.codes[inside ? begin + row : begin];
      const int image = code >> kPatchBits, p = code & ((1 << kPatchBits) - 1);
      const int64_t at = static_cast<int64_t>(work.first_image + image) * pairs.patches + p;
      const int8_t* x = pairs.x + at * K;
#pragma unroll
      for (int step = 0; step < Shape<K>::kSteps; ++step)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          rows.values[r / 2][step][2 * half + r % 2] =
              *reinterpret_cast<const uint32_t*>(x + step * 32 + half * 16 + 4 * t);
      const float limit = fminf(gathered.limits[inside ? begin + row : begin], kLargest);
      limits[r] = inside ? static_cast<int>(limit) - pairs.x_norms[at] : -kNever;
      const int winner = static_cast<int>(pairs.keys[slot_of(pairs, work, image) + p]);
      const int column = winner - work.first_column;
      const bool own = column >= 0 && column < kRange && column % 8 / 2 == t;
      const uint32_t bit = 0x80000000u >> (8 * r + column % 32 / 8 * 2 + column % 2);
#pragma unroll
      for (int s = 0; s < 4; ++s) winners[s] |= own && column / 32 == s ? bit : 0u;
    }
  }
};

// Lists the entries of a tile that are within the limits of their rows.
template <int K>
__device__ inline void list_tile(const Asking<K>& asking, const int8_t* stages, const int* norms,
                                 const int* codes, List& list, const Pairs& pairs,
                                 const Candidates& candidates, const Work& work) {
  using S = Shape<K>;
  const int lane = threadIdx.x % 32, t = lane % 4;
  Products<K> products = {};
#pragma unroll
  for (int s = 0; s < kRange / S::kColumns; ++s) {
    const int column = s * S::kColumns;
    multiply_tile<K>(products, asking.rows,
                     shared_address(stages + column / S::kStageColumns * S::kStageBytes),
                     column % S::kStageColumns);
    int2 norm[S::NT];
#pragma unroll
    for (int n = 0; n < S::NT; ++n)
      norm[n] = *reinterpret_cast<const int2*>(norms + column + n * 8 + 2 * t);
    uint32_t beyond = 0;  // entry c of row r: bit 31 - (8 r + c)
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int n = 0; n < S::NT; ++n) {
        const int(&d)[4] = products[r / 2][n];
        const int left = 2 * d[r % 2 * 2] - norm[n].x + asking.limits[r];
        const int right = 2 * d[r % 2 * 2 + 1] - norm[n].y + asking.limits[r];
        beyond = __funnelshift_l(static_cast<uint32_t>(left), beyond, 1);  // appends the sign
        beyond = __funnelshift_l(static_cast<uint32_t>(right), beyond, 1);
      }
    uint32_t within = ~beyond & ~asking.winners[s];
    for (unsigned have; (have = __ballot_sync(kAllLanes, within != 0)) != 0;) {
      if (list.count > kListed - 32) flush(list, pairs, candidates, work);
      if (within != 0) {
        const int bit = __clz(static_cast<int>(within)), r = bit / 8, c = bit % 8;
        within &= ~(0x80000000u >> bit);
        list.entries[list.count + __popc(have & ((1u << lane) - 1))] = {
            codes[S::first_row() + S::row_offset(r)],
            work.first_column + column + c / 2 * 8 + 2 * t + c % 2};
      }
      list.count += __popc(have);
    }
  }
}

template <int K>
__global__ void __launch_bounds__(kThreads, K <= 128 ? 4 : 3)
    list_candidates_kernel(const Pairs pairs, const Candidates candidates) {
  using S = Shape<K>;
  constexpr int kStagesHeld = kRange / S::kStageColumns;
  extern __shared__ __align__(1024) int8_t memory[];
  int* norms = reinterpret_cast<int*>(memory + kStagesHeld * S::kStageBytes);
  int2* entries = reinterpret_cast<int2*>(norms + kRange);
  int* codes = reinterpret_cast<int*>(entries + kThreads / 32 * kListed);
  float* limits = reinterpret_cast<float*>(codes + kGathered);
  const Gathered gathered{codes, limits, codes + 2 * kGathered};
  const Work work = work_of(pairs);
  const int64_t y = static_cast<int64_t>(work.j) * pairs.other_patches;
#pragma unroll
  for (int s = 0; s < kStagesHeld; ++s)
    copy_stage<K, kThreads>(memory + s * S::kStageBytes, pairs.y + y * K,
                            work.first_column + s * S::kStageColumns, pairs.other_patches);
  const int q = work.first_column + static_cast<int>(threadIdx.x);
  norms[threadIdx.x] = q < pairs.other_patches ? pairs.y_norms[y + q] : kNever;
  if (threadIdx.x == 0) *gathered.appended = 0;
  wait_for_copies<0>();
  publish_shared_memory();
  __syncthreads();
  List list{entries + static_cast<int>(threadIdx.x) / 32 * kListed};
  int held = 0, before = 0;
  for (int image = 0; image < work.last_image - work.first_image; ++image) {
    for (int from = 0; from < pairs.patches; from += kLooks * kThreads) {
      const int after = gather(gathered, pairs, candidates, work, image, from, held, before);
      before += after - held;
      const bool last = image + 1 == work.last_image - work.first_image &&
                        from + kLooks * kThreads >= pairs.patches;
      for (held = after; held >= (last ? 1 : kTile);) {
        const int count = min(held, kTile);
        held -= count;
        Asking<K> asking;
        asking.load(gathered, pairs, work, held, count);
        list_tile<K>(asking, memory, norms, gathered.codes + held, list, pairs, candidates, work);
      }
    }
  }
  if (list.count > 0) flush(list, pairs, candidates, work);
}

template <int K>
cudaError_t launch(const Pairs& pairs, const Candidates& candidates, cudaStream_t stream) {
  const int ranges = (pairs.other_patches + kRange - 1) / kRange;
  const long long parts = (pairs.images + kImages - 1) / kImages;
  const long long blocks = parts * pairs.others * ranges;
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX || pairs.patches >= 1 << kPatchBits) return cudaErrorInvalidConfiguration;
  const int bytes = kRange * K + 4 * (kRange + 2 * kGathered + 1) + 8 * kThreads / 32 * kListed;
  const auto kernel = list_candidates_kernel<K>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(pairs, candidates);
  return cudaGetLastError();
}

}  // namespace

int list_candidates(const Pairs& pairs, const Candidates& candidates, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (pairs.least == nullptr) return cudaErrorInvalidValue;
  switch (pairs.channels) {
    case 64: return launch<64>(pairs, candidates, on);
    case 128: return launch<128>(pairs, candidates, on);
    case 256: return launch<256>(pairs, candidates, on);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace musc::cuda
