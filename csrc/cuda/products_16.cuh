// Matrix products of 16-bit values on the tensor cores of Hopper, both operands in shared memory.
//
// Operands lie as `load_tile` (hopper.cuh) writes them: rows of 64 channels (128 bytes) one after
// another, in groups of 8, whose 16-byte chunks are exchanged: chunk c of row r is at c ^ (r % 8).
#pragma once

#include <cstdint>

namespace musc::cuda {

// Describes rows from `address` on; 16 channels further on the description is greater by 2.
__device__ inline uint32_t describe_rows(uint32_t address) { return address >> 4 | 1u << 16; }

#define MUSC_SUMS_128 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"
#define MUSC_SUMS_192 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, " \
  "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, " \
  "%92, %93, %94, %95"
#define MUSC_SUMS_256 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, " \
  "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, " \
  "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, " \
  "%106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, " \
  "%119, %120, %121, %122, %123, %124, %125, %126, %127"

#define MUSC_8(i)                                                                             \
  "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3]), "+f"(sum[i + 4]), \
      "+f"(sum[i + 5]), "+f"(sum[i + 6]), "+f"(sum[i + 7])
#define MUSC_32(i) MUSC_8(i), MUSC_8(i + 8), MUSC_8(i + 16), MUSC_8(i + 24)
#define MUSC_64(i) MUSC_32(i), MUSC_32(i + 32)
#define MUSC_96(i) MUSC_64(i), MUSC_32(i + 64)
#define MUSC_128(i) MUSC_64(i), MUSC_64(i + 64)
#define MUSC_MULTIPLY(columns, type, count, rows_at, columns_at, add_at, upper_at)                \
  asm volatile(                                                                                   \
      "{\n.reg .pred p;\n.reg .b64 a, b;\nsetp.ne.b32 p, %" #add_at ", 0;\n"                      \
      "mov.b64 a, {%" #rows_at ", %" #upper_at "};\nmov.b64 b, {%" #columns_at ", %" #upper_at    \
      "};\nwgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type                 \
      " {" MUSC_SUMS_##columns "}, a, b, p, 1, 1, 0, 0;\n}\n"                                     \
      : MUSC_##count(0)                                                                           \
      : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(kUpper))

// Starts sum [64, kColumns] = a [64, 16] b [kColumns, 16]^T for the four warps of a group, or sum +=
// where `add`. With g = lane / 4 and t = lane % 4, lanes of warp w (of 4) hold for each 8 columns
// row 16 w + g, columns 2 t and 2 t + 1, then the same of the row 8 below. Sums are of float32.
template <int kColumns, bool kBfloat>
__device__ inline void multiply_16(float (&sum)[kColumns / 2], uint32_t a, uint32_t b, bool add) {
  static_assert(kColumns == 128 || kColumns == 192 || kColumns == 256);
  constexpr uint32_t kUpper = 1024 >> 4 | 1u << 30;
  if constexpr (kColumns == 128 && kBfloat)
    MUSC_MULTIPLY(128, bf16, 64, 64, 65, 66, 67);
  if constexpr (kColumns == 128 && !kBfloat)
    MUSC_MULTIPLY(128, f16, 64, 64, 65, 66, 67);
  if constexpr (kColumns == 192 && kBfloat)
    MUSC_MULTIPLY(192, bf16, 96, 96, 97, 98, 99);
  if constexpr (kColumns == 192 && !kBfloat)
    MUSC_MULTIPLY(192, f16, 96, 96, 97, 98, 99);
  if constexpr (kColumns == 256 && kBfloat)
    MUSC_MULTIPLY(256, bf16, 128, 128, 129, 130, 131);
  if constexpr (kColumns == 256 && !kBfloat)
    MUSC_MULTIPLY(256, f16, 128, 128, 129, 130, 131);
}

// Keeps the compiler from reading `sum` before the products have ended.
template <int kCount>
__device__ inline void keep_order(float (&sum)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) asm volatile("" : "+f"(sum[k])::"memory");
}

#undef MUSC_MULTIPLY

}  // namespace musc::cuda
