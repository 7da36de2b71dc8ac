#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/search.hpp"

namespace musc {
namespace {

constexpr double kUnit = 5.9604644775390625e-08;  // 2^-24, the rounding unit of fp32
constexpr int32_t kNever = -(1 << 29);            // the init of padding

inline float upwards(double value) {
  return std::nextafter(static_cast<float>(value), std::numeric_limits<float>::max());
}

struct alignas(64) Line {
  float values[kPanel];
};

// The most roundings that an addend of a projection goes through.
double projection_steps(int64_t channels) {
  return static_cast<double>(std::min(channels, kSummed) + (channels - 1) / kSummed + 2);
}

// Of a sum of squares in fp32, not below the true one.
double root(float square) { return std::sqrt(static_cast<double>(square)) * 1.0001; }

// floor(x^2/2) + floor(y^2/2) - x.y is at most |x - y|^2 / 2: the bound stays a bound.
void put_inits(const QuantiseArgs& args, int64_t row, int32_t square, int32_t sum) {
  const int bias = args.elements == 4 ? 128 : 0;
  args.left_init[row] = -(square / 2) - bias * sum;
  args.right_init[row] = -(square / 2);
}

// The largest rho of the panel of rows from `top` on.
void put_delta(const QuantiseArgs& args, int64_t image, int64_t top) {
  const Bounds* bounds = args.bounds + image * args.rows;
  float rho = 0.0f;
  for (int64_t r = top; r < std::min(top + kPanel, args.rows); ++r) {
    rho = bounds[r].rho < rho ? rho : bounds[r].rho;
  }
  args.deltas[(image * args.padded + top) / kPanel] = steps_of(rho, 1.0 / args.scale);
}

// A row of levels into its words of both operands: 4 int8 (`right` plus 128) or 2 int16 a word.
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

// What is known of one row: x', which the rest will replace, V^T x' in w (with room for the tail
// norm), V w in back.
struct Row {
  float* centred;
  float* w;
  const float* back;
};

// Memory of a thread for groups of rows in a basis.
struct Scratch {
  int64_t panels, width;  // of the basis; C in whole panels
  std::vector<float> centred, edge, projected, turned, back, w, row, zero;
  std::vector<int8_t> levels, ones;

  explicit Scratch(const QuantiseArgs& args)
      : panels((args.prefix + kPanel - 1) / kPanel),
        width((args.channels + kPanel - 1) / kPanel * kPanel),
        centred(sized(args.channels * kTileRows)), edge(centred.size()),
        projected(sized(panels * kPanel * kTileRows)), turned(sized(args.prefix * kTileRows)),
        back(sized(width * kTileRows)), w(sized(args.prefix + 1)), row(sized(args.channels)),
        zero(sized(args.prefix)), levels(sized(args.words * args.elements)),
        ones(sized(args.rest_stride), 1) {}
};

// Rounds one row into levels (and fine, rest) and bounds the distances to what was rounded.
//   projection: partial sums of kSummed fused or unfused steps, then the sum of those; each
//     component is off by at most gamma |x'| |V_c|, together gamma |x'| sqrt(m) (1 + basis_error);
//     x - mean rounds to 2^-24 |x'|, and the rest v - s q in fp32 is off by 2^-23 |v|.
//   rest: x' - V w, w and V w each off by a projection's error.
//   tail: the rest's norm is off by what the rest is, and less the centre by 2^-22 of that.
// What clipping takes needs no allowance, what V lacks in orthonormality is `stretch`'s: see search.hpp.
Bounds round_row(const Isa& isa, const QuantiseArgs& args, const Row& row, const int8_t* ones,
                 int8_t* levels, int16_t* fine, int8_t* rest) {
  const double norm = std::sqrt(isa.sum_of_squares(row.centred, args.channels, 0.0));
  const double gamma = 1.01 * kUnit * projection_steps(args.channels);
  const double size = std::sqrt(static_cast<double>(args.prefix)) * (1.0 + args.basis_error);
  const double projection = gamma * norm * size + 6.0 * kUnit * norm;
  const double rest_error = 3.0 * projection;
  double error = projection;
  int64_t channels = args.prefix;
  if (args.tail) {
    isa.subtract(row.centred, row.back, args.channels, row.centred);
    const double tail = std::sqrt(isa.sum_of_squares(row.centred, args.channels, 0.0));
    error += rest_error + 4.0 * kUnit * args.tail_centre;
    row.w[channels++] = static_cast<float>(tail - args.tail_centre);
  }
  const auto inverse = [](double scale) { return static_cast<float>(1.0 / scale); };
  Bounds bounds{};
  bounds.rho = upwards(error + root(isa.round_bytes(row.w, channels, static_cast<float>(args.scale),
                                                    inverse(args.scale), 127.0f, levels)));
  if (fine != nullptr) {
    bounds.fine = upwards(
        error + root(isa.round_fine(row.w, channels, static_cast<float>(args.fine_scale),
                                    inverse(args.fine_scale),
                                    static_cast<float>(args.fine_levels), fine)));
  }
  if (rest != nullptr) {
    bounds.rest = upwards(
        rest_error +
        root(isa.round_bytes(row.centred, args.channels, static_cast<float>(args.rest_scale),
                             inverse(args.rest_scale), 127.0f, rest)));
    // The row's products with itself and with ones, each with an excess.
    const int32_t self = 0;
    int32_t square = 0, sum = 0;
    isa.rest_dots(rest, rest, args.rest_stride, {&self, &self, 1}, &square);
    isa.rest_dots(ones, rest, args.rest_stride, {&self, &self, 1}, &sum);
    sum -= isa.rest_bias * static_cast<int32_t>(args.rest_stride);
    bounds.rest_square = square - isa.rest_bias * sum;
    // As a first factor: less twice rest_dots, it is without the excess of those.
    bounds.rest_own = bounds.rest_square + 2 * isa.rest_bias * sum;
    bounds.tail = fine[args.prefix];
  }
  return bounds;
}

// Every channel, in the rotation.
void round_whole(const Isa& isa, const QuantiseArgs& args) {
  const int64_t groups = args.padded / kPanel;
  int64_t size = 1;
  while (2 * size <= args.channels) size *= 2;
  parallel_for(args.images * groups, args.threads, [&](int64_t task, int) {
    const int64_t image = task / groups, top = (task % groups) * kPanel;
    const int64_t base = image * args.padded + top, at = image * args.rows + top;
    thread_local std::vector<Line> scratch;
    scratch.resize(sized(args.channels));
    WholePanel panel;
    panel.x = args.x + at * args.channels;
    panel.mean = args.mean;
    panel.signs = args.signs;
    panel.rows = std::min(kPanel, args.rows - top);
    panel.channels = args.channels;
    panel.size = size;
    panel.words = args.words;
    panel.scale = static_cast<float>(args.scale);
    panel.inverse = static_cast<float>(1.0 / args.scale);
    panel.scratch = scratch[0].values;
    panel.left = args.left + base * args.words;
    panel.right = args.right + base * args.words;
    isa.int8.round_panel(panel);
    for (int64_t r = 0; r < kPanel; ++r) {
      if (r >= panel.rows) {
        args.left_init[base + r] = args.right_init[base + r] = kNever;
        continue;
      }
      // x - mean; then two rounds of at most 17 steps, each orthonormal up to 2^-24 of its result.
      const double error = 40.0 * kUnit * root(panel.norms[r]);
      const float rho = upwards(error + root(panel.lost[r]));
      args.bounds[at + r] = {rho, 0.0f, 0.0f, 0, 0, 0};
      put_inits(args, base + r, panel.squares[r], panel.sums[r]);
    }
    put_delta(args, image, top);
  });
}

// The projections of the rows [half, half + kTileRows) of an image that are `real`, and back; returns
// where the rows are.
const float* project_group(const Isa& isa, const QuantiseArgs& args, Scratch& own, int64_t image,
                           int64_t half, int64_t real) {
  const float* x = args.x + (image * args.rows + half) * args.channels;
  if (real <= 0) return x;
  if (real < kTileRows) {  // The last rows: a whole group must be readable.
    std::fill(own.edge.begin(), own.edge.end(), 0.0f);
    std::copy(x, x + real * args.channels, own.edge.begin());
    x = own.edge.data();
  }
  isa.project(x, args.channels, args.mean, args.channels, args.basis, own.panels,
              own.centred.data(), own.projected.data());
  if (args.rest != nullptr) {
    isa.project(own.projected.data(), own.panels * kPanel, own.zero.data(), args.prefix, args.back,
                own.width / kPanel, own.turned.data(), own.back.data());
  }
  return x;
}

// The rows [half, half + kTileRows) of an image, in the basis.
void round_group(const Isa& isa, const QuantiseArgs& args, Scratch& own, int64_t image,
                 int64_t half) {
  const int64_t top = half / kPanel * kPanel, base = image * args.padded;
  const int64_t real = std::min<int64_t>(kTileRows, args.rows - half);
  uint32_t* right = args.right + (base + top) * args.words + (half - top);
  const float* x = project_group(isa, args, own, image, half, real);
  for (int64_t r = 0; r < kTileRows; ++r) {
    const int64_t row = base + half + r;
    uint32_t* left = args.left + row * args.words;
    std::fill(own.levels.begin(), own.levels.end(), static_cast<int8_t>(0));
    if (r >= real) {
      args.left_init[row] = args.right_init[row] = kNever;
      put_words(own.levels.data(), args.elements, args.words, left, right + r);
      continue;
    }
    const int64_t at = image * args.rows + half + r;
    int16_t* fine = args.fine == nullptr ? nullptr : args.fine + at * args.fine_stride;
    int8_t* rest = args.rest == nullptr ? nullptr : args.rest + at * args.rest_stride;
    if (fine != nullptr) std::fill(fine, fine + args.fine_stride, static_cast<int16_t>(0));
    if (rest != nullptr) std::fill(rest, rest + args.rest_stride, static_cast<int8_t>(0));
    isa.subtract(x + r * args.channels, args.mean, args.channels, own.row.data());
    std::copy_n(own.projected.data() + r * own.panels * kPanel, args.prefix, own.w.data());
    const Row data{own.row.data(), own.w.data(), own.back.data() + r * own.width};
    args.bounds[at] = round_row(isa, args, data, own.ones.data(), own.levels.data(), fine, rest);
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

void quantise(const Isa& isa, const QuantiseArgs& args) {
  if (args.basis == nullptr) {
    round_whole(isa, args);
    return;
  }
  const int64_t groups = args.padded / kPanel;
  std::vector<Scratch> scratch(sized(std::max(1, args.threads)), Scratch(args));
  parallel_for(args.images * groups, args.threads, [&](int64_t task, int worker) {
    const int64_t image = task / groups, top = (task % groups) * kPanel;
    for (int64_t half = top; half < top + kPanel; half += kTileRows) {
      round_group(isa, args, scratch[sized(worker)], image, half);
    }
    put_delta(args, image, top);
  });
}

}  // namespace musc
