// Instructions that CUDA C++ has no function for: matrix products, matrix loads and asynchronous copies.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace musc::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, zeros unless `inside`; done once a wait says so.
__device__ inline void copy_16_bytes(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Ends a group of copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until all groups but the last kLeft have arrived for this thread.
template <int kLeft>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

// Loads four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8
// and receives of each matrix the 4 bytes l % 4 of row l / 4.
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// sum [16, 8] += a [16, 32] b [32, 8] of int8. With g = lane / 4 and t = lane % 4 a lane holds of
// `sum` rows g (two entries) and g + 8, columns 2 t and 2 t + 1; of a the channels 4 t to 4 t + 3 of
// rows g, g + 8, then channels 16 + 4 t on of both; of b the same channels of column g.
__device__ inline void multiply(int (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace musc::cuda
