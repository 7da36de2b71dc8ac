// The kernel table of an instruction set. Included by the isa/*.cpp files alone, see tile.hpp.
#pragma once

#include "cpu/inner/closer_looks.hpp"
#include "cpu/inner/lnamd_loops.hpp"
#include "cpu/inner/place.hpp"
#include "cpu/inner/project.hpp"
#include "cpu/inner/rotate_and_round.hpp"
#include "cpu/inner/rows.hpp"
#include "cpu/inner/scan.hpp"
#include "cpu/inner/summarise.hpp"
#include "cpu/inner/tile.hpp"
#include "cpu/kernel_table.hpp"

namespace musc {
namespace {

// The table of kernels written with the operations of `Int` (scores in int32; Int::Pairs are those
// of words of two int16) and `Float`; loops without `Ops` are plain C++ that the compiler vectorises
// for the flags of the including file.
template <class Int, class Float>
constexpr KernelTable make_table() {
  KernelTable table;
  table.int8.elements = Int::kElements;
  table.int8.unit = 1;
  table.int8.pair = pair_kernel<Int>;
  table.int8.round_panel = round_panel_kernel<Int::kElements>;
  table.int8.scan = scan_kernel<Int>;
  table.place.round_row = round_row_kernel;
  table.place.interleave = interleave_kernel;
  table.place.separate = separate_kernel;
  table.place.best = best_kernel<typename Int::Pairs>;
  table.place.exchange = exchange_kernel;
  table.place.kth_best = kth_best_kernel<typename Int::Pairs>;
  table.place.reached = reached_kernel<typename Int::Pairs>;
  table.project = project_kernel<Float>;
  table.squared_distances = squared_distances_kernel;
  table.subtract = subtract_kernel;
  table.round_bytes = round_kernel<int8_t>;
  table.round_fine = round_kernel<int16_t>;
  table.fine_squares = compare_kernel<int16_t, fine_square, 8>;
  table.rest_dots = compare_kernel<int8_t, rest_dot, 3>;
  table.rest_bias = 0;
  table.keep_fine = keep_fine_kernel<Int>;
  table.keep_rest = keep_rest_kernel<Int>;
  table.largest = largest_kernel<Int>;
  table.summarise = summarise_kernel<Int>;
  table.smallest = smallest_kernel<Int>;
  table.within = within_kernel<Int>;
  table.choose = choose_kernel<Int>;
  table.sum = sum_kernel;
  table.sum_of_squares = squares_about_kernel;
  table.sum_of_squares_double = squares_about_double_kernel;
  table.slide = slide_kernel<float>;
  table.slide_sums = slide_kernel<double>;
  table.centre_and_scale = centre_and_scale_kernel;
  return table;
}

// For instruction sets that have no kernels of their own.
constexpr KernelTable unchanged(KernelTable table) { return table; }

}  // namespace
}  // namespace musc
