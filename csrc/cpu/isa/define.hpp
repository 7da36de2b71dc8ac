// What every isa/*.cpp file is made with.
#pragma once

#include "cpu/inner/table.hpp"
#include "cpu/isa/list.hpp"

#ifdef MUSC_BENCH
#include "bench/kernels.hpp"
#define MUSC_DEFINE_BENCH(table, Int, Float) \
  extern const BenchKernels table##Bench = make_bench<Int, Float>();
#else
#define MUSC_DEFINE_BENCH(table, Int, Float)
#endif

// Defines `table` from the operations Int and Float; `adapt` puts in the kernels that the
// instruction set has of its own (`unchanged` where it has none).
#define MUSC_DEFINE_ISA(table, Int, Float, adapt)                     \
  namespace musc {                                                    \
  extern const KernelTable table = adapt(make_table<Int, Float>());   \
  MUSC_DEFINE_BENCH(table, Int, Float)                                \
  }
