// Instructions of Hopper that CUDA C++ has no function for: barriers in shared memory that count
// arrivals and bytes, copies of tiles by the copy engine, registers passed between groups of warps.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace musc::cuda {

// A barrier in shared memory: a phase ends when `count` arrivals and all expected bytes have come.
__device__ inline void make_barrier(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}

// Makes the barriers that this thread made known to the copy engine and to the cluster.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  asm volatile("fence.proxy.async;\n" ::: "memory");
}

__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

// Arrives at the same barrier of block `block` of the cluster.
__device__ inline void arrive_at(uint32_t barrier, int block) {
  asm volatile(
      "{\n.reg .b32 far;\nmapa.shared::cluster.u32 far, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [far];\n}\n" ::"r"(barrier),
      "r"(block)
      : "memory");
}

// Arrives and tells the barrier how many bytes the phase waits for.
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier),
               "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity has ended.
// For first runs of a kernel, MUSC_BOUNDED ends the wait after many tries: a fault then gives wrong
// results and no hang. A trap instead would keep the compiler from using what `take_registers` gives.
__device__ inline void wait_for(uint32_t barrier, uint32_t parity) {
  uint32_t ended = 0;
  for (int tries = 0;; ++tries) {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(ended)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (ended) return;
#ifdef MUSC_BOUNDED
    if (tries > 1 << 16) return;
#endif
  }
}

// Copies rows from `row` on, 64 channels from `channel` on, as `map` says; the bytes count at
// `barrier`. Rows and channels beyond the tensor are zeros.
template <class Map>
__device__ inline void load_tile(uint32_t to, const Map* map, int channel, int row,
                                 uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];\n" ::"r"(to),
      "l"(map), "r"(channel), "r"(row), "r"(barrier)
      : "memory");
}

// The same, to the same place of all blocks of a cluster whose bit is set in `blocks`.
template <class Map>
__device__ inline void load_tile_for(uint32_t to, const Map* map, int channel, int row,
                                     uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(to),
      "l"(map), "r"(channel), "r"(row), "r"(barrier), "h"(blocks)
      : "memory");
}

// This block's number within its cluster.
__device__ inline int block_of_cluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return static_cast<int>(rank);
}

// Waits for all threads of the cluster.
__device__ inline void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" :::
                   "memory");
}

// Waits for the kThreads threads that meet at barrier `number` (1 to 15).
template <int kThreads>
__device__ inline void meet(int number) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(number), "n"(kThreads) : "memory");
}

// Gives back registers beyond kCount, or takes registers up to kCount, for a group of four warps.
template <int kCount>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}
template <int kCount>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

// Registers that products write may have been read; products may begin.
__device__ inline void start_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits for the committed products but the last kLeft groups.
template <int kLeft>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
}

}  // namespace musc::cuda
