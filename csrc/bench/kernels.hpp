// What one instruction set offers to the benchmarks beside its KernelTable: the search of the plain
// fp32 or bf16 product, and the speed limits of its dot products.
#pragma once

#include <cstdint>
#include <string>

#include "cpu/inner/tile.hpp"
#include "cpu/kernel_table.hpp"

namespace musc {

// Best is -score.
using PairFloat = PairArgs<float, float>;

// Runs `steps` steps of pure dot products (seed: 16 words, result: 16 scores); returns the
// operations divided by the elements of a word.
using Peak = int64_t (*)(int64_t steps, const uint32_t* seed, void* result);

struct FloatKernel {
  int elements = 0;  // per word: 1 (fp32) or 2 (bf16)
  void (*pair)(const PairFloat&) = nullptr;  // null: the processor has no such instruction
  Peak peak = nullptr;
};

struct BenchKernels {
  Peak int8_peak = nullptr;
  FloatKernel fp32;
};

// The kernels of an instruction set by name (null: not built), and this processor's bf16 kernel.
const BenchKernels* bench_kernels(const std::string& name);
const FloatKernel& bf16_kernel();

// The tile unit's int8 limit; bench/peak_amx.cpp.
int64_t peak_amx(int64_t steps, const uint32_t* seed, void* result);

namespace {

// The processor's limit for the dot products of `Ops`: full tiles whose operands stay in registers.
// `seed` and the result keep the compiler from computing the outcome in advance.
template <class Ops>
int64_t peak_kernel(int64_t steps, const uint32_t* seed, void* result) {
  constexpr int R = Ops::kRows, PANELS = Ops::kPanels;
  typename Ops::Vector sums[R][PANELS];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < PANELS; ++v) sums[r][v] = Ops::broadcast(typename Ops::Score(r + v));
  }
  const auto row = Ops::broadcast_word(seed[0]);
  const auto column = Ops::load_words(seed);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < PANELS; ++v) sums[r][v] = Ops::dot(sums[r][v], row, column);
    }
  }
  typename Ops::Vector all = sums[0][0];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < PANELS; ++v) all = Ops::add(all, sums[r][v]);
  }
  Ops::store(static_cast<typename Ops::Score*>(result), all);
  return 2 * steps * R * PANELS * kPanel;  // times the elements of a word, for operations
}

template <class Int, class Float>
constexpr BenchKernels make_bench() {
  BenchKernels kernels;
  kernels.int8_peak = peak_kernel<Int>;
  kernels.fp32.elements = 1;
  kernels.fp32.pair = pair_kernel<Float>;
  kernels.fp32.peak = peak_kernel<Float>;
  return kernels;
}

}  // namespace
}  // namespace musc
