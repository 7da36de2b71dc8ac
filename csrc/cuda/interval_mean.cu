// Mean of an interval of sorted values, or one of them, without sorting: kernels/interval_mean.py. A
// warp searches in 32 / kLanes rows, which it holds in registers (interval_search.cuh).

#include "interval_search.cuh"

namespace musc::cuda {
namespace {

constexpr int kThreads = 128;

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
  const float found = find(row, rows);
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
