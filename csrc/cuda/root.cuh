// The square root by the instruction for it, at most 1 unit in the last place off or nearly so.
#pragma once

#include <cuda_runtime.h>

namespace musc::cuda {

__device__ inline float approximate_root(float x) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

}  // namespace musc::cuda
