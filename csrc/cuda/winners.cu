// See winners.hpp. A warp holds a row of x in registers and reads the rows of its winners, two at a
// time, so that the rows of y are all that moves.
//
// The sum over channels has the order of kernels/refine.py, hence its bits: channel c is added to
// the sum of channels c mod 128 by a fused multiply-add, then these sums are added in pairs that
// lie 64 apart, 32 apart, and so on.
//
// Memory: 4 C bytes of y a winner that matters. A block takes the same patch of eight images, and
// blocks of the same patch lie together: where parts lie alike their winners are the same rows of y,
// which then come from L1, or near them, from L2.

#include <cuda_runtime.h>

#include <climits>

#include "ptx.cuh"
#include "winners.hpp"

namespace musc::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kImages = 64;       // of y that a warp looks at
constexpr int kSums = 128;        // sums of channels that lie kSums apart

// Channels 128 b + 4 lane + e of a row, b < kParts; zeros beyond `channels`.
template <int kParts>
__device__ inline void load_row(float4 (&to)[kParts], const float* row, int channels) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int b = 0; b < kParts; ++b) {
    const int channel = kSums * b + 4 * lane;
    to[b] = channel < channels ? __ldg(reinterpret_cast<const float4*>(row + channel))
                               : make_float4(0.f, 0.f, 0.f, 0.f);
  }
}

// Sum over the lanes of four sums each, in the order that the head of this file names.
__device__ inline float add_sums(float4 sums) {
  const int lane = threadIdx.x % 32;
  // Sums 4 l + e and 64 apart lie 16 lanes apart: the upper lanes go on with e = 2, 3.
  const bool upper = lane & 16;
  float a = upper ? sums.z : sums.x, b = upper ? sums.w : sums.y;
  a += __shfl_xor_sync(kAllLanes, upper ? sums.x : sums.z, 16);
  b += __shfl_xor_sync(kAllLanes, upper ? sums.y : sums.w, 16);
  const bool second = lane & 8;
  float sum = second ? b : a;
  sum += __shfl_xor_sync(kAllLanes, second ? a : b, 8);
  sum += __shfl_xor_sync(kAllLanes, sum, 4);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 16);  // e and e + 2
  return sum + __shfl_xor_sync(kAllLanes, sum, 8);
}

template <int kParts>
__device__ inline float4 square_differences(const float4 (&x)[kParts], const float4 (&y)[kParts]) {
  float4 sums = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
  for (int b = 0; b < kParts; ++b) {
    const float dx = __fsub_rn(x[b].x, y[b].x), dy = __fsub_rn(x[b].y, y[b].y);
    const float dz = __fsub_rn(x[b].z, y[b].z), dw = __fsub_rn(x[b].w, y[b].w);
    sums.x = __fmaf_rn(dx, dx, sums.x);
    sums.y = __fmaf_rn(dy, dy, sums.y);
    sums.z = __fmaf_rn(dz, dz, sums.z);
    sums.w = __fmaf_rn(dw, dw, sums.w);
  }
  return sums;
}

// Whether the winner of image j matters to patch `at`; the bounds are those of kernels/bounds.py.
__device__ inline bool matters(const Winners& winners, int64_t key, int j, int64_t at) {
  constexpr float kUnit = 5.9604645e-08f;  // 2^-24
  const int high = static_cast<int>(key >> 32);
  if (high == INT_MAX) return false;
  const float value = winners.integers ? static_cast<float>(high) : __int_as_float(max(high, 0));
  const float squared = __fmul_rn(value, winners.scale_squared);
  if (winners.kth == nullptr) return true;
  const float kth = winners.kth[at];
  if (!winners.certified) return squared <= kth;
  const float slack = winners.x_errors[at] + winners.y_errors[j];
  const float root = __fsqrt_rn(fmaxf(squared - *winners.error, 0.f));
  return root - (slack + 8 * kUnit * root) <= kth;
}

// How many images and patches a block takes, and how many blocks take all.
struct Split {
  int images, patches, image_blocks, patch_blocks;

  __host__ __device__ explicit Split(const Winners& winners)
      : images(winners.images >= kWarps ? kWarps : 1),
        patches(kWarps / images),
        image_blocks((winners.images + images - 1) / images),
        patch_blocks((winners.patches + patches - 1) / patches) {}
};

template <int kParts>
__global__ void __launch_bounds__(32 * kWarps, 2) winners_kernel(const Winners winners) {
  const int lane = threadIdx.x % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const Split split(winners);
  const int within = static_cast<int>(blockIdx.x) / split.image_blocks;
  const int i = static_cast<int>(blockIdx.x) % split.image_blocks * split.images + warp % split.images;
  const int p = within % split.patch_blocks * split.patches + warp / split.images;
  if (i >= winners.images || p >= winners.patches) return;
  const int64_t at = static_cast<int64_t>(i) * winners.patches + p;
  float4 x[kParts];
  load_row<kParts>(x, winners.x + at * winners.channels, winners.channels);
  const int begin = within / split.patch_blocks * kImages;
  const int end = min(begin + kImages, winners.held);
  for (int from = begin; from < end; from += 32) {
    const int own = from + lane, j = winners.first + own;
    const int64_t slot =
        (static_cast<int64_t>(i) * winners.others + (own < end ? j : winners.first)) *
            winners.patches + p;
    const int64_t key = winners.keys[slot];
    const bool wanted = own < end && matters(winners, key, j, at);
    const int64_t row =
        static_cast<int64_t>(own) * winners.other_patches + static_cast<int>(key & INT_MAX);
    float found = __int_as_float(0x7f800000);  // +inf
    unsigned left = __ballot_sync(kAllLanes, wanted);
    while (left) {
      const int one = __ffs(static_cast<int>(left)) - 1;
      left &= left - 1;
      const int two = left ? __ffs(static_cast<int>(left)) - 1 : one;
      left &= left - 1;
      float4 y[kParts], z[kParts];
      const int64_t first = __shfl_sync(kAllLanes, row, one);
      const int64_t second = __shfl_sync(kAllLanes, row, two);
      load_row<kParts>(y, winners.y + first * winners.channels, winners.channels);
      load_row<kParts>(z, winners.y + second * winners.channels, winners.channels);
      const float of_one = add_sums(square_differences<kParts>(x, y));
      const float of_two = add_sums(square_differences<kParts>(x, z));
      if (lane == one) found = of_one;
      if (lane == two) found = of_two;
    }
    if (own < end) winners.out[slot] = found;
  }
}

template <int kParts>
cudaError_t launch(const Winners& winners, cudaStream_t stream) {
  const Split split(winners);
  const long long blocks = static_cast<long long>(split.image_blocks) * split.patch_blocks *
                           ((winners.held + kImages - 1) / kImages);
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const auto kernel = winners_kernel<kParts>;
  kernel<<<static_cast<unsigned>(blocks), 32 * kWarps, 0, stream>>>(winners);
  return cudaGetLastError();
}

}  // namespace

int recompute_winners(const Winners& winners, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (winners.channels % 4 != 0 || winners.channels <= 64) return cudaErrorInvalidValue;
  switch ((winners.channels + kSums - 1) / kSums) {
    case 1: return launch<1>(winners, on);
    case 2: return launch<2>(winners, on);
    case 3: return launch<3>(winners, on);
    case 4: return launch<4>(winners, on);
    case 5: return launch<5>(winners, on);
    case 6: return launch<6>(winners, on);
    case 7: return launch<7>(winners, on);
    case 8: return launch<8>(winners, on);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace musc::cuda
