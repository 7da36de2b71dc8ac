#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/search/search.hpp"

namespace musc {
namespace {

constexpr double kUnit = 5.9604644775390625e-08;  // 2^-24, the rounding unit of fp32
constexpr int32_t kNever = -(1 << 29);            // the init of padding, which never wins

inline float upwards(double value) {
  return std::nextafter(static_cast<float>(value), std::numeric_limits<float>::max());
}

struct alignas(64) Line {
  float values[kPanel];
};

// The most roundings of any addend of a projection, which sums kSummed products at a time.
double projection_steps(int64_t channels) {
  return static_cast<double>(std::min(channels, kSummed) + (channels - 1) / kSummed + 2);
}

// The root of a sum of squares in fp32, enlarged so that it is not below the true one.
double root(float square) { return std::sqrt(static_cast<double>(square)) * 1.0001; }

// Sets the inits of a row. Halves are rounded down: floor(x^2/2) + floor(y^2/2) - x.y is at most
// |x - y|^2 / 2, so the bound holds.
void put_inits(const QuantiseArgs& args, int64_t row, int32_t square, int32_t sum) {
  const RoundedImages& images = args.images;
  const int bias = args.elements == 4 ? 128 : 0;
  images.left_init[row] = -(square / 2) - bias * sum;
  images.right_init[row] = -(square / 2);
}

// Stores the largest rho of the panel of rows from `top` on.
void put_panel_error(const QuantiseArgs& args, int64_t image, int64_t top) {
  const SearchSpace& space = args.space;
  const RoundedImages& images = args.images;
  const Bounds* bounds = images.bounds + image * images.rows;
  float rho = 0.0f;
  for (int64_t r = top; r < std::min(top + kPanel, images.rows); ++r) {
    rho = bounds[r].rho < rho ? rho : bounds[r].rho;
  }
  images.panel_errors[(image * images.padded + top) / kPanel] = steps_of(rho, 1.0 / space.scale);
}

// Packs a row of levels into its words of both operands: 4 int8 (plus 128 in `right`) or 2 int16.
void put_words(const int8_t* levels, int elements, int64_t words, uint32_t* left,
               uint32_t* right) {
  for (int64_t k = 0; k < words; ++k) {
    uint32_t word = 0;
    if (elements == 4) {
      std::memcpy(&word, levels + 4 * k, sizeof word);
      right[k * kPanel] = word ^ 0x80808080u;
    } else {
      word = (static_cast<uint32_t>(levels[2 * k]) & 0xffffu) |
             static_cast<uint32_t>(levels[2 * k + 1]) << 16;
      right[k * kPanel] = word;
    }
    left[k] = word;
  }
}

// One row: centred = x - mean, which round_row() replaces by the rest; w = V^T centred, with room
// for the tail norm; back = V w.
struct Row {
  float* centred;
  float* w;
  const float* back;
};

// A thread's memory for projecting and rounding groups of rows.
struct Scratch {
  int64_t panels, width;  // of the basis; C in whole panels
  std::vector<float> centred, edge, projected, turned, back, w, row, zero;
  std::vector<int8_t> levels, ones;

  explicit Scratch(const QuantiseArgs& args)
      : panels((args.space.prefix + kPanel - 1) / kPanel),
        width((args.space.channels + kPanel - 1) / kPanel * kPanel),
        centred(sized(args.space.channels * kTileRows)), edge(centred.size()),
        projected(sized(panels * kPanel * kTileRows)), turned(sized(args.space.prefix * kTileRows)),
        back(sized(width * kTileRows)), w(sized(args.space.prefix + 1)),
        row(sized(args.space.channels)),
        zero(sized(args.space.prefix)), levels(sized(args.words * args.elements)),
        ones(sized(args.rest_stride), 1) {}
};

// Rounds one row into levels (and fine, rest) and bounds the rounding errors, floating errors
// included:
//   projection: partial sums of kSummed fused or unfused steps, then the sum of those; each
//     component is off by at most gamma |x'| |V_c|, together gamma |x'| sqrt(m) (1 + basis_error);
//     x - mean rounds to 2^-24 |x'|, and the rest v - s q in fp32 is off by 2^-23 |v|.
//   rest: x' - V w, w and V w each off by a projection's error.
//   tail: the norm of the rest is off by the error of the rest, and after subtracting the centre by
//     2^-22 of the centre more.
// Clipping needs no correction, and `stretch` covers |V^T V - I|: docs/exact-search.md.
Bounds round_row(const KernelTable& kernels, const QuantiseArgs& args, const Row& row,
                 const int8_t* ones, int8_t* levels, int16_t* fine, int8_t* rest) {
  const SearchSpace& space = args.space;
  const double norm = std::sqrt(kernels.sum_of_squares(row.centred, space.channels, 0.0));
  const double gamma = 1.01 * kUnit * projection_steps(space.channels);
  const double size = std::sqrt(static_cast<double>(space.prefix)) * (1.0 + space.basis_error);
  const double projection = gamma * norm * size + 6.0 * kUnit * norm;
  const double rest_error = 3.0 * projection;
  double error = projection;
  int64_t channels = space.prefix;
  if (space.tail) {
    kernels.subtract(row.centred, row.back, space.channels, row.centred);
    const double tail = std::sqrt(kernels.sum_of_squares(row.centred, space.channels, 0.0));
    error += rest_error + 4.0 * kUnit * space.tail_centre;
    row.w[channels++] = static_cast<float>(tail - space.tail_centre);
  }
  const auto inverse = [](double scale) { return static_cast<float>(1.0 / scale); };
  Bounds bounds{};
  bounds.rho = upwards(
      error + root(kernels.round_bytes(row.w, channels, static_cast<float>(space.scale),
                                       inverse(space.scale), 127.0f, levels)));
  if (fine != nullptr) {
    bounds.fine = upwards(
        error + root(kernels.round_fine(row.w, channels, static_cast<float>(space.fine_scale),
                                    inverse(space.fine_scale),
                                    static_cast<float>(space.fine_levels), fine)));
  }
  if (rest != nullptr) {
    bounds.rest = upwards(
        rest_error +
        root(kernels.round_bytes(row.centred, space.channels, static_cast<float>(space.rest_scale),
                             inverse(space.rest_scale), 127.0f, rest)));
    // rest_dots(x, y) returns x.y + rest_bias * sum(x): the bias is removed from |r|^2 and sum(r).
    const int32_t self = 0;
    int32_t square = 0, sum = 0;
    kernels.rest_dots(rest, rest, args.rest_stride, {&self, &self, 1}, &square);
    kernels.rest_dots(ones, rest, args.rest_stride, {&self, &self, 1}, &sum);
    sum -= kernels.rest_bias * static_cast<int32_t>(args.rest_stride);
    bounds.rest_square = square - kernels.rest_bias * sum;
    // As x in |x|^2 + |y|^2 - 2 rest_dots(x, y), where the added term cancels the bias.
    bounds.rest_own = bounds.rest_square + 2 * kernels.rest_bias * sum;
    bounds.tail = fine[space.prefix];
  }
  return bounds;
}

// Rounds rows in all channels, rotated.
void round_all_channels(const KernelTable& kernels, const QuantiseArgs& args) {
  const SearchSpace& space = args.space;
  const RoundedImages& images = args.images;
  const int64_t groups = images.padded / kPanel;
  int64_t size = 1;
  while (2 * size <= space.channels) size *= 2;
  parallel_for(args.count * groups, args.threads, [&](int64_t task, int) {
    const int64_t image = args.first + task / groups, top = (task % groups) * kPanel;
    const int64_t base = image * images.padded + top, at = image * images.rows + top;
    thread_local std::vector<Line> scratch;
    scratch.resize(sized(space.channels));
    RotatedPanel panel;
    panel.x = images.x + at * space.channels;
    panel.mean = space.mean;
    panel.signs = space.signs;
    panel.rows = std::min(kPanel, images.rows - top);
    panel.channels = space.channels;
    panel.size = size;
    panel.words = args.words;
    panel.scale = static_cast<float>(space.scale);
    panel.inverse = static_cast<float>(1.0 / space.scale);
    panel.scratch = scratch[0].values;
    panel.left = images.left + base * args.words;
    panel.right = images.right + base * args.words;
    kernels.int8.round_panel(panel);
    for (int64_t r = 0; r < kPanel; ++r) {
      if (r >= panel.rows) {
        images.left_init[base + r] = images.right_init[base + r] = kNever;
        continue;
      }
      // x - mean; then two rounds of at most 17 steps, each orthonormal up to 2^-24 of its result.
      const double error = 40.0 * kUnit * root(panel.norms[r]);
      const float rho = upwards(error + root(panel.lost[r]));
      images.bounds[at + r] = {rho, 0.0f, 0.0f, 0, 0, 0};
      put_inits(args, base + r, panel.squares[r], panel.sums[r]);
    }
    put_panel_error(args, image, top);
  });
}

// Projects the rows [half, half + kTileRows) of an image on the basis, and back where a rest is
// wanted; `real` of the rows exist. Returns the rows.
const float* project_group(const KernelTable& kernels, const QuantiseArgs& args, Scratch& own,
                           int64_t image, int64_t half, int64_t real) {
  const SearchSpace& space = args.space;
  const RoundedImages& images = args.images;
  const float* x = images.x + (image * images.rows + half) * space.channels;
  if (real <= 0) return x;
  if (real < kTileRows) {  // The last rows: a whole group must be readable.
    std::fill(own.edge.begin(), own.edge.end(), 0.0f);
    std::copy(x, x + real * space.channels, own.edge.begin());
    x = own.edge.data();
  }
  kernels.project(x, space.channels, space.mean, space.channels, space.basis, own.panels,
              own.centred.data(), own.projected.data());
  if (images.rest != nullptr) {
    kernels.project(own.projected.data(), own.panels * kPanel, own.zero.data(), space.prefix,
                    space.basis_transposed, own.width / kPanel, own.turned.data(),
                    own.back.data());
  }
  return x;
}

// Rounds the rows [half, half + kTileRows) of an image in the basis.
void round_group(const KernelTable& kernels, const QuantiseArgs& args, Scratch& own, int64_t image,
                 int64_t half) {
  const SearchSpace& space = args.space;
  const RoundedImages& images = args.images;
  const int64_t top = half / kPanel * kPanel, base = image * images.padded;
  const int64_t real = std::min<int64_t>(kTileRows, images.rows - half);
  uint32_t* right = images.right + (base + top) * args.words + (half - top);
  const float* x = project_group(kernels, args, own, image, half, real);
  for (int64_t r = 0; r < kTileRows; ++r) {
    const int64_t row = base + half + r;
    uint32_t* left = images.left + row * args.words;
    std::fill(own.levels.begin(), own.levels.end(), static_cast<int8_t>(0));
    if (r >= real) {
      images.left_init[row] = images.right_init[row] = kNever;
      put_words(own.levels.data(), args.elements, args.words, left, right + r);
      continue;
    }
    const int64_t at = image * images.rows + half + r;
    int16_t* fine = images.fine == nullptr ? nullptr : images.fine + at * args.fine_stride;
    int8_t* rest = images.rest == nullptr ? nullptr : images.rest + at * args.rest_stride;
    if (fine != nullptr) std::fill(fine, fine + args.fine_stride, static_cast<int16_t>(0));
    if (rest != nullptr) std::fill(rest, rest + args.rest_stride, static_cast<int8_t>(0));
    kernels.subtract(x + r * space.channels, space.mean, space.channels, own.row.data());
    std::copy_n(own.projected.data() + r * own.panels * kPanel, space.prefix, own.w.data());
    const Row data{own.row.data(), own.w.data(), own.back.data() + r * own.width};
    images.bounds[at] =
        round_row(kernels, args, data, own.ones.data(), own.levels.data(), fine, rest);
    put_words(own.levels.data(), args.elements, args.words, left, right + r);
    int32_t square = 0, sum = 0;
    for (const int8_t level : own.levels) {
      square += static_cast<int32_t>(level) * level;
      sum += level;
    }
    put_inits(args, row, square, sum);
  }
}

}  // namespace

void quantise(const KernelTable& kernels, const QuantiseArgs& args) {
  const SearchSpace& space = args.space;
  const RoundedImages& images = args.images;
  if (space.basis == nullptr) {
    round_all_channels(kernels, args);
    return;
  }
  const int64_t groups = images.padded / kPanel;
  std::vector<Scratch> scratch(sized(std::max(1, args.threads)), Scratch(args));
  parallel_for(args.count * groups, args.threads, [&](int64_t task, int worker) {
    const int64_t image = args.first + task / groups, top = (task % groups) * kPanel;
    for (int64_t half = top; half < top + kPanel; half += kTileRows) {
      round_group(kernels, args, scratch[sized(worker)], image, half);
    }
    put_panel_error(args, image, top);
  });
}

void multiply(const KernelTable& kernels, const MultiplyArgs& args) {
  const int64_t groups = (args.rows + kTileRows - 1) / kTileRows;
  const int64_t size = args.channels * kTileRows, stride = args.panels * kPanel;
  parallel_for(groups, args.threads, [&](int64_t group, int) {
    thread_local std::vector<float> centred, edge;
    centred.resize(sized(size));
    const int64_t top = group * kTileRows, rows = std::min(kTileRows, args.rows - top);
    const float* x = args.x + top * args.channels;
    if (rows == kTileRows) {
      kernels.project(x, args.channels, args.mean, args.channels, args.basis, args.panels,
                  centred.data(), args.out + top * stride);
      return;
    }
    edge.assign(sized(size + stride * kTileRows), 0.0f);  // whole groups are read
    std::copy_n(x, rows * args.channels, edge.data());
    kernels.project(edge.data(), args.channels, args.mean, args.channels, args.basis, args.panels,
                centred.data(), edge.data() + size);
    std::copy_n(edge.data() + size, rows * stride, args.out + top * stride);
  });
}

}  // namespace musc
