// z = normalise(mean over the window of (x - mu) / sqrt(var + eps)). The sum over the window is a
// running sum down the rows and then along a row, in fp64, where adding and subtracting a value
// leaves an error far below fp32. Padding counts as zero *after* the LayerNorm, so a window of n
// cells inside the image sums to S - n mu; the division by r^2 and the deviation only scale.
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

Moments moments_of(const KernelTable& kernels, const float* x, int64_t count) {
  const double mean = kernels.sum(x, count) / static_cast<double>(count);
  const double variance = kernels.sum_of_squares(x, count, mean) / static_cast<double>(count);
  const double inverse = 1.0 / std::sqrt(variance + kEpsilon);
  // noise: the rounding error that a zero vector has after sums of such numbers, as an output.
  return {mean, inverse, 1e-13 * (std::abs(mean) + std::sqrt(variance)) * inverse};
}

// Rows [top, bottom) of one image at one degree.
void strip(const KernelTable& kernels, const LnamdArgs& args, const Moments& moments,
           const float* x, int64_t degree, int64_t top, int64_t bottom, float* out,
           std::vector<double>* down, std::vector<double>* along) {
  const int64_t h = args.height, w = args.width, c = args.channels, reach = degree / 2;
  const int64_t row = w * c;
  std::fill(down->begin(), down->end(), 0.0);
  for (int64_t y = std::max<int64_t>(0, top - reach); y < std::min(h, top + reach); ++y) {
    kernels.slide(down->data(), x + y * row, nullptr, row);
  }
  for (int64_t y = top; y < bottom; ++y) {
    const int64_t enters = y + reach, leaves = y - reach - 1;
    kernels.slide(down->data(), enters < h ? x + enters * row : nullptr,
              leaves >= 0 && y > top ? x + leaves * row : nullptr, row);
    const int64_t rows = std::min(h, y + reach + 1) - std::max<int64_t>(0, y - reach);
    std::fill(along->begin(), along->end(), 0.0);
    for (int64_t i = 0; i < std::min(w, reach); ++i) {
      kernels.slide_sums(along->data(), down->data() + i * c, nullptr, c);
    }
    for (int64_t i = 0; i < w; ++i) {
      kernels.slide_sums(along->data(), i + reach < w ? down->data() + (i + reach) * c : nullptr,
                     i - reach - 1 >= 0 ? down->data() + (i - reach - 1) * c : nullptr, c);
      const int64_t columns = std::min(w, i + reach + 1) - std::max<int64_t>(0, i - reach);
      const double centre = static_cast<double>(rows * columns) * moments.mean;
      const double scale = moments.inverse_deviation / static_cast<double>(degree * degree);
      const double square = kernels.sum_of_squares_double(along->data(), c, centre);
      const double norm = std::sqrt(square) * scale;
      const double zero = moments.noise * std::sqrt(static_cast<double>(c));
      kernels.centre_and_scale(along->data(), c, centre,
                           norm <= zero ? 0.0 : scale / std::max(norm, kNormFloor),
                           out + (y * w + i) * c);
    }
  }
}

}  // namespace

void lnamd(const KernelTable& kernels, const LnamdArgs& args) {
  const int64_t size = args.height * args.width * args.channels;
  std::vector<Moments> moments(static_cast<size_t>(args.images));
  parallel_for(args.images, args.threads, [&](int64_t image, int) {
    moments[static_cast<size_t>(image)] = moments_of(kernels, args.tokens + image * size, size);
  });
  const int64_t strips = (args.height + kStrip - 1) / kStrip;
  parallel_for(args.images * strips, args.threads, [&](int64_t task, int) {
    const int64_t image = task / strips, top = (task % strips) * kStrip;
    const int64_t bottom = std::min(args.height, top + kStrip);
    std::vector<double> down(static_cast<size_t>(args.width * args.channels));
    std::vector<double> along(static_cast<size_t>(args.channels));
    for (int64_t d = 0; d < args.degree_count; ++d) {
      strip(kernels, args, moments[static_cast<size_t>(image)], args.tokens + image * size,
            args.degrees[d], top, bottom, args.out[d] + image * size, &down, &along);
    }
  });
}

}  // namespace musc
