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

// Makes this thread's writes to shared memory visible to matrix products, after the next barrier.
__device__ inline void publish_shared_memory() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// How columns of 128 bytes (64 bytes with kNarrow) lie in shared memory, from `address` on: one
// after another, in groups of 8, whose 16-byte chunks are exchanged: chunk c of the column at
// address a is at c ^ (a / 128 % 8), with kNarrow c ^ (a / 128 % 4). The description of the columns
// 16 bytes on is greater by 1.
__device__ inline uint32_t describe_columns(uint32_t address) { return address >> 4 | 1u << 16; }

// Registers that products write may have been read; products may begin.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

// Starts sum [64, 32] = a [64, 32] b [32, 32] of int8 for the four warps of a group, or sum += where
// `add`. With g = lane / 4 and t = lane % 4, lanes of warp w (of 4) hold of `sum`, for each 8
// columns, rows 16 w + g (two entries) and 8 below (two entries), columns 2 t and 2 t + 1; of a the
// channels 4 t to 4 t + 3 of rows 16 w + g and 8 below, then channels 16 + 4 t on of both.
template <bool kNarrow>
__device__ inline void multiply(int (&sum)[4][4], const uint32_t (&a)[4], uint32_t b, bool add) {
  constexpr uint32_t kUpper = kNarrow ? 512 >> 4 | 2u << 30 : 1024 >> 4 | 1u << 30;
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 columns;\nsetp.ne.b32 p, %21, 0;\n"
      "mov.b64 columns, {%20, %22};\n"
      "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, columns, p;\n}\n"
      : "+r"(sum[0][0]), "+r"(sum[0][1]), "+r"(sum[0][2]), "+r"(sum[0][3]), "+r"(sum[1][0]),
        "+r"(sum[1][1]), "+r"(sum[1][2]), "+r"(sum[1][3]), "+r"(sum[2][0]), "+r"(sum[2][1]),
        "+r"(sum[2][2]), "+r"(sum[2][3]), "+r"(sum[3][0]), "+r"(sum[3][1]), "+r"(sum[3][2]),
        "+r"(sum[3][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(static_cast<int>(add)),
        "n"(kUpper));
}

// Waits for the products that were started.
__device__ inline void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n" ::: "memory");
}

// Keeps the compiler from reading `sum` before `end_products`.
__device__ inline void keep_order(int (&sum)[4][4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+r"(sum[n][e])::"memory");
}

}  // namespace musc::cuda
