// The instructions of csrc/cuda/hopper.cuh on a CPU, written after their description. A copy is done
// at once; what waits for it still goes through the barrier.
#pragma once

#include <map>

#include "ptx.cuh"
#include "hopper.hpp"

namespace emulator {

struct CountingBarrier {
  int count = 0, left = 0, bytes = 0;
  uint32_t phase = 0;
  void check() {
    if (left != 0 || bytes != 0) return;
    left = count;
    ++phase;
  }
};

inline std::map<uint32_t, CountingBarrier> counting_barriers[kLargestCluster];  // by their address
inline Barrier numbered_barriers[kLargestCluster][16];

inline CountingBarrier& barrier_at(uint32_t address, int block = rank) {
  return counting_barriers[block].at(address);
}

}  // namespace emulator

namespace musc::cuda {

inline void make_barrier(uint32_t barrier, int count) {
  emulator::counting_barriers[emulator::rank][barrier] = {count, count, 0, 0};
  for (auto& each : emulator::numbered_barriers[emulator::rank]) each = {};
}

inline void publish_barriers() {}

inline void arrive_at(uint32_t barrier, int block) {
  auto& at = emulator::barrier_at(barrier, block);
  --at.left;
  at.check();
}

inline void arrive(uint32_t barrier) { arrive_at(barrier, emulator::rank); }

inline void arrive_expecting(uint32_t barrier, int bytes) {
  emulator::barrier_at(barrier).bytes += bytes;
  arrive(barrier);
}

inline void wait_for(uint32_t barrier, uint32_t parity) {
  const auto& at = emulator::barrier_at(barrier);
  while ((at.phase & 1) == parity) emulator::yield();
}

inline void load_tile_for(uint32_t to, const TensorMap* map, int channel, int row, uint32_t barrier,
                          uint16_t blocks) {
  for (int block = 0; block < emulator::kLargestCluster; ++block) {
    if (!(blocks >> block & 1)) continue;
    for (int r = 0; r < map->tile_rows; ++r)
      for (int k = 0; k < 64; ++k) {
        const int64_t from = (row + r) * static_cast<int64_t>(map->channels) + channel + k;
        const bool inside = row + r < map->rows && channel + k < map->channels;
        const uint16_t value = inside ? map->values[from] : 0;
        const uint32_t at = to + r * 128 + ((k / 8 ^ r % 8) * 16 + k % 8 * 2);
        std::memcpy(emulator::shared_memories[block] + at, &value, 2);
      }
    auto& at = emulator::barrier_at(barrier, block);
    at.bytes -= map->tile_rows * 128;
    at.check();
  }
}

inline void load_tile(uint32_t to, const TensorMap* map, int channel, int row, uint32_t barrier) {
  load_tile_for(to, map, channel, row, barrier, 1 << emulator::rank);
}

inline int block_of_cluster() { return emulator::rank; }
inline void meet_cluster() { emulator::wait(emulator::cluster_barrier); }

template <int kThreads>
void meet(int number) {
  auto& barrier = emulator::numbered_barriers[emulator::rank][number];
  barrier.size = kThreads;
  emulator::wait(barrier);
}

template <int kCount>
void give_registers() {}
template <int kCount>
void take_registers() {}
inline void start_products() {}
inline void commit_products() {}
template <int kLeft>
void wait_for_products() {}

}  // namespace musc::cuda
