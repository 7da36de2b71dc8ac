#include "cpu/search/local.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "cpu/interval.hpp"
#include "cpu/parallel.hpp"
#include "cpu/search/summary.hpp"

namespace musc {
namespace {

constexpr int64_t kTogether = 8;  // query rows of a scan
constexpr int64_t kChosen = kMaxSegment / kPanel;  // panels whose scores are chosen at a time
constexpr float kFar = std::numeric_limits<float>::infinity();
constexpr int32_t kOut = std::numeric_limits<int32_t>::min();  // of a column that does not count

// Pairs of rows whose distances are wanted, and the columns that these belong to.
struct Pairs {
  std::vector<int32_t> rows, others, columns;
  std::vector<float> squares;

  void clear() {
    rows.clear();
    others.clear();
    columns.clear();
  }
  void resize(size_t count) {
    rows.resize(count);
    others.resize(count);
    columns.resize(count);
  }
  void add(int64_t row, int64_t other, int64_t column) {
    rows.push_back(static_cast<int32_t>(row));
    others.push_back(static_cast<int32_t>(other));
    columns.push_back(static_cast<int32_t>(column));
  }
  // Lowers nearest[column] to the squared distances of the pairs.
  void compute(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
               float* nearest) {
    const auto count = static_cast<int64_t>(rows.size());
    squares.resize(rows.size());
    kernels.squared_distances(x, y, channels, {rows.data(), others.data(), count}, squares.data());
    for (int64_t n = 0; n < count; ++n) {
      float& least = nearest[columns[sized(n)]];
      least = squares[sized(n)] < least ? squares[sized(n)] : least;
    }
  }
};

// Writes the results of one patch of one image, of whose squared distances roots are taken in
// place.
void put_results(const LocalArgs& args, int64_t image, int64_t place, float* squares) {
  const int64_t places = args.grid.height * args.grid.width;
  const int64_t at = (image - args.begin) * places + place;
  for (int64_t c = 0; c < args.columns; ++c) squares[c] = std::sqrt(squares[c]);
  if (args.means != nullptr) {
    args.means[at] = interval_mean_row(squares, args.columns, args.k_min, args.k_max);
  }
  if (args.distances != nullptr) {
    std::copy_n(squares, args.columns, args.distances + at * args.columns);
  }
}

// Finishes the patches at one place after another, with memory of its own.
class Matcher {
 public:
  Matcher(const KernelTable& kernels, const PlacedRows& queries, const PlacedRows& references,
          const SearchShape& shape, const LocalArgs& args)
      : kernels_(kernels), q_(queries), r_(references), shape_(shape), args_(args),
        inverse_(1.0 / shape.scale), images_(references.rounded.rows),
        padded_(references.rounded.padded),
        best_(sized(padded_)), order_(sized(padded_)), which_(sized(padded_)),
        known_(sized(padded_)),
        masks_(sized(padded_ / kPanel)), block_(sized(kTogether * shape.words)),
        nearest_(sized(padded_)), limits_(sized(padded_)), listed_(sized(args.columns)) {}

  void match(int64_t place) {
    near_.clear();
    const LocalGrid& grid = args_.grid;
    const int64_t row = place / grid.width, column = place % grid.width;
    for (int64_t y = grid.first(row); y <= grid.last(row, grid.height); ++y) {
      for (int64_t x = grid.first(column); x <= grid.last(column, grid.width); ++x) {
        near_.push_back((y - r_.row) * grid.width + x);
      }
    }
    const auto count = static_cast<int64_t>(near_.size());
    scores_.resize(sized(kTogether * count * padded_));
    const int64_t own = place - q_.row * grid.width;
    for (int64_t top = args_.begin; top < args_.end; top += kTogether) {
      const int64_t rows = std::min(kTogether, args_.end - top);
      scan(own, top, rows);
      for (int64_t r = 0; r < rows; ++r) finish(own, place, top + r, row_scores(r));
    }
  }

  int64_t computed = 0;

 private:
  int32_t* row_scores(int64_t r) {
    return scores_.data() + r * static_cast<int64_t>(near_.size()) * padded_;
  }

  // The scores of some rows at place `own` with the rows of all images at the places near it.
  void scan(int64_t own, int64_t top, int64_t rows) {
    const RoundedImages &q = q_.rounded, &r = r_.rounded;
    ScanArgs scan{};
    scan.block = block_.data();
    scan.words = shape_.words;
    scan.rows = rows;
    scan.panels = padded_ / kPanel;
    scan.stride = static_cast<int64_t>(near_.size()) * padded_;
    const int64_t row = own * q.padded + top;
    scan.left[0] = q.left + row * shape_.words;
    std::copy_n(q.left_init + row, rows, scan.left_init);
    for (size_t n = 0; n < near_.size(); ++n) {
      const int64_t column = near_[n] * padded_;
      scan.right = r.right + column * shape_.words;
      scan.right_init = r.right_init + column;
      scan.out = scores_.data() + static_cast<int64_t>(n) * padded_;
      kernels_.int8.score(scan);
    }
  }

  // Columns that do not count get the score kOut: the image itself, those that are not listed, and
  // padding.
  void leave_out(int64_t image) {
    std::fill(best_.begin() + images_, best_.end(), kOut);
    if (args_.reference_lists != nullptr) {
      const int32_t* list = args_.reference_lists + (image - args_.begin) * args_.columns;
      for (int64_t c = 0; c < args_.columns; ++c) listed_[sized(c)] = best_[sized(list[c])];
      std::fill(best_.begin(), best_.begin() + images_, kOut);
      for (int64_t c = 0; c < args_.columns; ++c) best_[sized(list[c])] = listed_[sized(c)];
    } else if (args_.symmetric) {
      best_[sized(image)] = kOut;
    }
  }

  // The score of the k_max-th best column.
  int32_t kth_best() {
    std::copy(best_.begin(), best_.end(), order_.begin());
    const auto kth = order_.begin() + (args_.k_max - 1);
    std::nth_element(order_.begin(), kth, order_.end(), std::greater<int32_t>());
    return *kth;
  }

  void finish(int64_t own, int64_t place, int64_t image, const int32_t* scores) {
    const RoundedImages &q = q_.rounded, &r = r_.rounded;
    const int64_t row = own * q.rows + image;
    kernels_.best_rows(scores, static_cast<int64_t>(near_.size()), padded_, best_.data());
    leave_out(image);
    std::fill(nearest_.begin(), nearest_.end(), kFar);
    // The candidates of best score of the k_max best images, or of more where scores tie: the
    // largest of their distances bounds the k_max-th smallest.
    const int32_t enough = kth_best();
    pairs_.clear();
    for (int64_t c = 0; c < images_; ++c) {
      if (best_[sized(c)] < enough || best_[sized(c)] == kOut) continue;
      int32_t n = 0;
      while (scores[n * padded_ + c] != best_[sized(c)]) ++n;
      which_[sized(c)] = n;
      pairs_.add(row, near_[sized(n)] * r.rows + c, c);
    }
    compute();
    if (args_.certified) {
      float worst = 0.0f;
      for (const int32_t c : pairs_.columns) worst = std::max(worst, nearest_[sized(c)]);
      collect(row, worst, scores);
      look_closer(row, worst);
      compute();
    }
    if (args_.reference_lists != nullptr) {
      const int32_t* list = args_.reference_lists + (image - args_.begin) * args_.columns;
      std::vector<float>& squares = gathered_;
      squares.resize(sized(args_.columns));
      for (int64_t c = 0; c < args_.columns; ++c) squares[sized(c)] = nearest_[sized(list[c])];
      put_results(args_, image, place, squares.data());
    } else {
      put_results(args_, image, place, nearest_.data());
    }
  }

  void compute() {
    pairs_.compute(kernels_, q_.rounded.x, r_.rounded.x, shape_.channels, nearest_.data());
    computed += static_cast<int64_t>(pairs_.rows.size());
  }

  // The limit of true distances for a computed squared distance, plus the row's rounding error, in
  // steps: of a candidate beyond it, the computed squared distance is larger too. 1e-7 covers the
  // rounding to float.
  float limit_of(float square, float rho) const {
    return square == kFar ? kFarthest : steps_of(true_distance(square) + rho, inverse_);
  }
  double true_distance(float square) const {
    const double distance = std::sqrt(static_cast<double>(square)) * shape_.stretch;
    return distance * (1.0 + 2e-7) + 1e-18;
  }

  // Collects all other candidates that may be nearer than what is known of their image, and not
  // farther than `worst`, squared.
  void collect(int64_t row, float worst, const int32_t* scores) {
    const RoundedImages& r = r_.rounded;
    const float rho = q_.rounded.bounds[row].rho;
    const float most = limit_of(worst, rho);
    std::fill(limits_.begin(), limits_.end(), most);
    std::fill(known_.begin(), known_.end(), -1);
    for (const int32_t c : pairs_.columns) {
      limits_[sized(c)] = limit_of(nearest_[sized(c)], rho);
      known_[sized(c)] = which_[sized(c)];
    }
    pairs_.clear();
    const int64_t panels = padded_ / kPanel;
    for (size_t n = 0; n < near_.size(); ++n, scores += padded_) {
      const float* errors = r.panel_errors + near_[n] * panels;
      for (int64_t at = 0; at < panels; at += kChosen) {
        kernels_.choose({scores + at * kPanel, std::min(kChosen, panels - at), most, errors + at,
                         masks_.data() + at});
      }
      for (int64_t panel = 0; panel < panels; ++panel) {
        for_bits(masks_[sized(panel)], panel * kPanel, [&](int64_t c) {
          if (best_[sized(c)] == kOut || known_[sized(c)] == static_cast<int32_t>(n) ||
              scores[c] < least_score(limits_[sized(c)], errors[panel])) {
            return;
          }
          pairs_.add(row, near_[n] * r.rows + c, c);
        });
      }
    }
  }

  // Drops the candidates whose rows in about 12 bits exclude them: those in 8 bits leave three times
  // as many as the directions do.
  void look_closer(int64_t row, float worst) {
    const RoundedImages &q = q_.rounded, &r = r_.rounded;
    if (q.fine == nullptr || pairs_.rows.empty()) return;
    const auto count = static_cast<int64_t>(pairs_.rows.size());
    squares_.resize(pairs_.rows.size());
    kernels_.fine_squares(q.fine, r.fine, shape_.fine_stride,
                          {pairs_.rows.data(), pairs_.others.data(), count}, squares_.data());
    size_t kept = 0;
    for (size_t n = 0; n < squares_.size(); ++n) {
      const int32_t column = pairs_.columns[n], other = pairs_.others[n];
      const double limit = true_distance(std::min(nearest_[sized(column)], worst)) +
                           static_cast<double>(q.bounds[row].fine) +
                           static_cast<double>(r.bounds[other].fine);
      const double steps = limit / shape_.fine_scale;
      if (static_cast<double>(squares_[n]) > steps * steps * (1.0 + 1e-9)) continue;
      pairs_.rows[kept] = pairs_.rows[n];
      pairs_.others[kept] = other;
      pairs_.columns[kept++] = column;
    }
    pairs_.resize(kept);
  }

  const KernelTable& kernels_;
  const PlacedRows& q_;
  const PlacedRows& r_;
  const SearchShape& shape_;
  const LocalArgs& args_;
  const double inverse_;
  const int64_t images_, padded_;    // reference images, and those in whole panels
  std::vector<int64_t> near_;        // places of the references, counted from their first
  std::vector<int32_t> scores_;      // [kTogether][near][padded]
  std::vector<int32_t> best_, order_;   // of a column
  std::vector<int32_t> which_, known_;  // the place in near_ of its best score; and once computed
  std::vector<uint16_t> masks_;
  std::vector<uint32_t> block_;
  std::vector<float> nearest_, limits_, gathered_;
  std::vector<int32_t> listed_, squares_;
  Pairs pairs_;
};

}  // namespace

int64_t match_places(const KernelTable& kernels, const PlacedRows& queries,
                     const PlacedRows& references, const SearchShape& shape,
                     const LocalArgs& args) {
  const int64_t width = args.grid.width, first = args.first_row * width;
  std::vector<Matcher> matchers(sized(std::max(1, args.threads)),
                                Matcher(kernels, queries, references, shape, args));
  parallel_for(args.last_row * width - first, args.threads, [&](int64_t task, int worker) {
    matchers[sized(worker)].match(first + task);
  });
  int64_t computed = 0;
  for (const Matcher& matcher : matchers) computed += matcher.computed;
  return computed;
}

void match_directly(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
                    const LocalArgs& args) {
  const LocalGrid& grid = args.grid;
  const int64_t rows = args.last_row - args.first_row, places = grid.height * grid.width;
  parallel_for((args.end - args.begin) * rows, args.threads, [&](int64_t task, int) {
    const int64_t image = args.begin + task / rows, row = args.first_row + task % rows;
    std::vector<float> squares(sized(grid.width * args.columns), kFar);
    Pairs pairs;
    for (int64_t c = 0; c < args.columns; ++c) {
      const int64_t other = args.reference_lists == nullptr
                                ? c
                                : args.reference_lists[(image - args.begin) * args.columns + c];
      if (args.symmetric && other == image) continue;
      pairs.clear();
      for (int64_t column = 0; column < grid.width; ++column) {
        for (int64_t v = grid.first(row); v <= grid.last(row, grid.height); ++v) {
          for (int64_t u = grid.first(column); u <= grid.last(column, grid.width); ++u) {
            pairs.add(row * grid.width + column, v * grid.width + u, column * args.columns + c);
          }
        }
      }
      pairs.compute(kernels, x + image * places * channels, y + other * places * channels,
                    channels, squares.data());
    }
    for (int64_t column = 0; column < grid.width; ++column) {
      put_results(args, image, row * grid.width + column,
                  squares.data() + column * args.columns);
    }
  });
}

}  // namespace musc
