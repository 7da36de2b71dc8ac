// Z = normalise(mean over the window of (x - mu) / sqrt(var + eps)). The window's sum is a running
// sum down the rows and then along the row, in fp64: what is added comes out again without a trace
// that fp32 could show. Padding counts as zero *after* the LayerNorm, so a window of n cells inside
// the image sums to S - n mu; the division by r^2 and the deviation only scale.
#include "cpu/lnamd.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.hpp"

namespace musc {
namespace {

constexpr double kEpsilon = 1e-5;    // of the LayerNorm
constexpr double kNormFloor = 1e-12;  // of the L2 normalisation
constexpr int64_t kStrip = 8;        // rows of one task; the tokens stay in L2 for every degree

struct Moments {
  double mean, inverse_deviation, noise;
};

Moments moments_of(const Isa& isa, const float* x, int64_t count) {
  const double mean = isa.sum(x, count) / static_cast<double>(count);
  const double variance = isa.sum_of_squares(x, count, mean) / static_cast<double>(count);
  const double inverse = 1.0 / std::sqrt(variance + kEpsilon);
  // What is left of a zero vector after sums of numbers of this size, in units of the output.
  return {mean, inverse, 1e-13 * (std::abs(mean) + std::sqrt(variance)) * inverse};
}

// Rows [top, bottom) of one image at one degree.
void strip(const Isa& isa, const LnamdArgs& args, const Moments& moments, const float* x,
           int64_t degree, int64_t top, int64_t bottom, float* out, std::vector<double>* down,
           std::vector<double>* along) {
  const int64_t h = args.height, w = args.width, c = args.channels, reach = degree / 2;
  const int64_t row = w * c;
  std::fill(down->begin(), down->end(), 0.0);
  for (int64_t y = std::max<int64_t>(0, top - reach); y < std::min(h, top + reach); ++y) {
    isa.slide(down->data(), x + y * row, nullptr, row);
  }
  for (int64_t y = top; y < bottom; ++y) {
    const int64_t enters = y + reach, leaves = y - reach - 1;
    isa.slide(down->data(), enters < h ? x + enters * row : nullptr,
              leaves >= 0 && y > top ? x + leaves * row : nullptr, row);
    const int64_t rows = std::min(h, y + reach + 1) - std::max<int64_t>(0, y - reach);
    std::fill(along->begin(), along->end(), 0.0);
    for (int64_t i = 0; i < std::min(w, reach); ++i) {
      isa.slide_sums(along->data(), down->data() + i * c, nullptr, c);
    }
    for (int64_t i = 0; i < w; ++i) {
      isa.slide_sums(along->data(), i + reach < w ? down->data() + (i + reach) * c : nullptr,
                     i - reach - 1 >= 0 ? down->data() + (i - reach - 1) * c : nullptr, c);
      const int64_t columns = std::min(w, i + reach + 1) - std::max<int64_t>(0, i - reach);
      const double centre = static_cast<double>(rows * columns) * moments.mean;
      const double scale = moments.inverse_deviation / static_cast<double>(degree * degree);
      const double norm = std::sqrt(isa.sum_of_squares_double(along->data(), c, centre)) * scale;
      const double zero = moments.noise * std::sqrt(static_cast<double>(c));
      isa.centre_and_scale(along->data(), c, centre,
                           norm <= zero ? 0.0 : scale / std::max(norm, kNormFloor),
                           out + (y * w + i) * c);
    }
  }
}

}  // namespace

void lnamd(const Isa& isa, const LnamdArgs& args) {
  const int64_t size = args.height * args.width * args.channels;
  std::vector<Moments> moments(static_cast<size_t>(args.images));
  parallel_for(args.images, args.threads, [&](int64_t image, int) {
    moments[static_cast<size_t>(image)] = moments_of(isa, args.tokens + image * size, size);
  });
  const int64_t strips = (args.height + kStrip - 1) / kStrip;
  parallel_for(args.images * strips, args.threads, [&](int64_t task, int) {
    const int64_t image = task / strips, top = (task % strips) * kStrip;
    const int64_t bottom = std::min(args.height, top + kStrip);
    std::vector<double> down(static_cast<size_t>(args.width * args.channels));
    std::vector<double> along(static_cast<size_t>(args.channels));
    for (int64_t d = 0; d < args.degree_count; ++d) {
      strip(isa, args, moments[static_cast<size_t>(image)], args.tokens + image * size,
            args.degrees[d], top, bottom, args.out[d] + image * size, &down, &along);
    }
  });
}

}  // namespace musc
