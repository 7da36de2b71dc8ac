// Descriptions of matrices and launches of csrc/cuda/hopper.hpp on a CPU.
#pragma once

#include "cuda_runtime.h"

namespace musc::cuda {

struct TensorMap {
  const uint16_t* values;
  int64_t rows;
  int channels, tile_rows;
};

inline cudaError_t describe(TensorMap* map, const void* values, int64_t rows, int channels,
                            int tile_rows, bool) {
  *map = {static_cast<const uint16_t*>(values), rows, channels, tile_rows};
  return cudaSuccess;
}

template <class... Parameters>
cudaError_t launch_clusters(void (*kernel)(Parameters...), int blocks, int cluster, int threads, int,
                            cudaStream_t, const Parameters&... arguments) {
  emulator::cluster = cluster;
  emulator::launch(static_cast<unsigned>(blocks), threads, [&] { kernel(arguments...); });
  emulator::cluster = 1;
  return cudaSuccess;
}

}  // namespace musc::cuda
