// Rounding rows by place: local.hpp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/search/local.hpp"

namespace musc {
namespace {

constexpr double kUnit = 5.9604644775390625e-08;  // 2^-24, the rounding unit of fp32

float upwards(double value) {
  return std::nextafter(static_cast<float>(value), std::numeric_limits<float>::max());
}

}  // namespace

// Errors of a row of C channels, all in fp32: x - mean rounds to 2^-24 |x - mean|; s q and the
// difference from it round to 2^-23 |x - mean| together; a sum of C squares is off by C 2^-24 of
// itself, and by 2^-149 a square where squares vanish.
float place_rows(const KernelTable& kernels, const PlaceArgs& args) {
  const PlacedRows& rows = args.rows;
  const int64_t panels = rows.padded / kPanel, width = args.grid.width;
  const auto channels = static_cast<double>(rows.channels);
  std::vector<std::vector<uint32_t>> lines(sized(std::max(1, args.threads)));
  const double wider = 1.0 + channels * kUnit, least = std::sqrt(channels) * 4e-23;
  std::vector<float> largest(sized(std::max(1, args.threads)), 0.0f);
  const int64_t count = (args.last_row - args.first_row) * panels;
  parallel_for(count, args.threads, [&](int64_t task, int worker) {
    const int64_t line = args.first_row - rows.row + task / panels, top = task % panels * kPanel;
    float most = largest[sized(worker)];
    std::vector<uint32_t>& left = lines[sized(worker)];
    left.resize(sized(kPanel * rows.words));
    for (int64_t column = 0; column < width; ++column) {
      const int64_t place = line * width + column, base = place * rows.padded + top;
      RowOfPairs row{};
      row.mean = args.mean;
      row.channels = rows.channels;
      row.words = rows.words;
      row.scale = args.scale;
      row.inverse = 1.0f / args.scale;
      for (int64_t r = 0; r < kPanel; ++r) {
        const int64_t at = (top + r) * args.grid.places() + rows.row * width + place;
        row.x = rows.x + at * rows.channels;
        row.out = left.data() + r * rows.words;
        if (top + r >= rows.images) {
          std::fill_n(row.out, rows.words, 0u);
          row.norm = row.lost = 0.0f;
          row.square = 0;
        } else {
          if (column + 1 < width) fetch(row.x + rows.channels, rows.channels);
          kernels.place.round_row(row);
        }
        const double norm = std::sqrt(static_cast<double>(row.norm)) * wider;
        const double lost = std::sqrt(static_cast<double>(row.lost)) * wider;
        rows.init[base + r] = -static_cast<int32_t>(row.square / 2);
        rows.rho[base + r] = upwards(lost + 8.0 * kUnit * norm + least);
        most = std::max(most, upwards(norm + least));
      }
      kernels.place.interleave(left.data(), rows.words, rows.right + base * rows.words);
    }
    largest[sized(worker)] = most;
  });
  return *std::max_element(largest.begin(), largest.end());
}

}  // namespace musc
