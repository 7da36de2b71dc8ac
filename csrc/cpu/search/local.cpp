#include "cpu/search/local.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/interval.hpp"
#include "cpu/parallel.hpp"
#include "cpu/search/cut.hpp"
#include "cpu/search/pairs.hpp"

namespace musc {
namespace {

constexpr int64_t kTogether = 64;  // rows of a product, where it serves one side alone
constexpr int64_t kCached = 512 << 10;  // bytes of panels at a time, which fit a core's own cache
constexpr int64_t kBlock = kTileRows * kBest * kPanel;  // keys of kTileRows rows of a panel
constexpr float kFar = std::numeric_limits<float>::infinity();
// Bytes of a pair to compute, with the room that vectors grow by, where every row has one alone.
constexpr int64_t kPairBytes = 72;

// Exact distances are computed when so many are wanted: those of places nearby share rows, which
// are then used while they are in a cache. Of small searches a part.
int64_t pairs_together(const LocalGrid& grid, int64_t images, int64_t references) {
  return std::min<int64_t>(32768, images * references * grid.places() / 16);
}

// Writes the results of one patch of one image: the `count` squared distances to the images of
// `columns` (null: to all), which are all that can enter the mean. Roots are taken in place.
void put_results(const LocalArgs& args, int64_t image, int64_t place, float* squares,
                 const int32_t* columns, int64_t count) {
  const int64_t at = (image - args.begin) * args.grid.places() + place;
  for (int64_t n = 0; n < count; ++n) squares[n] = std::sqrt(squares[n]);
  if (args.means != nullptr) {
    args.means[at] = interval_mean_row(squares, count, args.k_min, args.k_max);
  }
  if (args.distances == nullptr) return;
  float* out = args.distances + at * args.columns;
  std::fill_n(out, args.columns, kFar);
  for (int64_t n = 0; n < count; ++n) out[columns == nullptr ? n : columns[n]] = squares[n];
}

// Finishes the patches of a part of the grid, with memory of its own.
class Matcher {
 public:
  Matcher(const KernelTable& kernels, const PlacedRows& queries, const PlacedRows& references,
          const PlaceScale& scale, const LocalArgs& args, int64_t height)
      : kernels_(kernels), q_(queries), r_(references), scale_(scale), args_(args),
        inverse_(1.0 / scale.scale),
        stretch_(1.0 + (static_cast<double>(references.channels) / 8 + 64) * 0x1p-24),
        across_(2 * args.grid.reach_of(args.grid.width) + 1), height_(height),
        panels_(references.padded / kPanel),
        together_(scale.both_ways ? queries.padded : std::min(queries.padded, kTogether)),
        most_pairs_(pairs_together(args.grid, queries.images, references.images)),
        best_(sized(references.padded)), listed_(sized(args.columns)), near_(sized(panels_)),
        keys_(sized(block_at(together_))), left_(sized((together_ + kPanel) * queries.words)) {
    while ((int64_t{1} << bits_) < args.grid.slots()) ++bits_;
    offsets_.resize(size_t{1} << bits_);
    for (int64_t s = 0; s < args.grid.slots(); ++s) {
      const int64_t down = s / across_ - args.grid.reach_of(args.grid.height);
      offsets_[sized(s)] =
          static_cast<int32_t>(down * args.grid.width + s % across_ - across_ / 2);
    }
    if (scale.both_ways) {
      const int64_t turns = args.grid.reach_of(args.grid.width) + 1;
      waiting_.resize(sized(turns * height * block_at(together_)));
    }
  }

  // One column of a part after another, as long as there are any. Where a product serves both of
  // its places, one whose turn comes has met all those that came before it in this call, and now
  // meets all others.
  void match(Columns& columns, int64_t part, bool from_right) {
    part_ = columns.part(part);
    from_right_ = from_right;
    std::fill(waiting_.begin(), waiting_.end(), kNoKey);
    while (const auto taken = columns.take(part, from_right)) {
      const int64_t column = *taken;
      for (int64_t row = part_.top; row < part_.bottom; ++row) {
        for (int64_t top = args_.begin / kTileRows * kTileRows; top < args_.end; top += together_) {
          begin(row, column);
          separate(row, column, top);
          meet_all(row, column, top);
          finish(row, column, top);
        }
      }
    }
    compute();
  }

  int64_t computed = 0;

 private:
  // A patch whose images are chosen: those in kept_ before `end`, from the end of the one before.
  struct Chosen {
    int64_t image, place, end;
  };

  // Where the keys of rows from `row` on, a multiple of kTileRows, begin.
  int64_t block_at(int64_t row) const { return row / kTileRows * panels_ * kBlock; }
  // The keys of all rows at a place of this part for which its turn has not come.
  int32_t* waiting(int64_t row, int64_t column) {
    const int64_t turn = column % (args_.grid.reach_of(args_.grid.width) + 1);
    return waiting_.data() + (turn * height_ + row - part_.top) * block_at(together_);
  }
  int32_t slot(int64_t row, int64_t column, int64_t v, int64_t u) const {
    const int64_t down = v - row + args_.grid.reach_of(args_.grid.height);
    return static_cast<int32_t>(down * across_ + u - column + across_ / 2);
  }

  // Sets keys_ to what the rows of a place have met so far: in waiting(), rows and columns are
  // exchanged.
  void begin(int64_t row, int64_t column) {
    if (!scale_.both_ways) {
      std::fill(keys_.begin(), keys_.end(), kNoKey);
      return;
    }
    int32_t* from = waiting(row, column);
    kernels_.place.exchange(from, panels_, keys_.data());
    std::fill_n(from, block_at(together_), kNoKey);
  }

  // Sets left_ to the rows of a place from the panel of `top` on.
  void separate(int64_t row, int64_t column, int64_t top) {
    const int64_t first = top / kPanel, last = (rows_from(top) + top + kPanel - 1) / kPanel;
    const int64_t panel = kPanel * q_.words;
    const uint32_t* right =
        q_.right + ((row - q_.row) * args_.grid.width + column) * q_.padded * q_.words;
    for (int64_t p = first; p < last; ++p) {
      kernels_.place.separate(right + p * panel, q_.words, left_.data() + (p - first) * panel);
    }
  }
  // How many rows from `top` on a product takes.
  int64_t rows_from(int64_t top) const {
    return std::min(together_, (args_.end + kTileRows - 1) / kTileRows * kTileRows - top);
  }

  void meet_all(int64_t row, int64_t column, int64_t top) {
    const LocalGrid& grid = args_.grid;
    others_.clear();
    for (int64_t u = grid.first(column); u <= grid.last(column, grid.width); ++u) {
      for (int64_t v = grid.first(row); v <= grid.last(row, grid.height); ++v) {
        const bool mine = scale_.both_ways && part_.holds(v, u);
        const bool before = u == column ? v < row : (u < column) != from_right_;
        const bool self = u == column && v == row;
        if (mine && before) continue;
        const int64_t first = ((v - r_.row) * grid.width + u) * r_.padded;
        others_.push_back({r_.right + first * r_.words, r_.init + first, slot(row, column, v, u),
                           slot(v, u, row, column), mine && !self ? waiting(v, u) : nullptr});
      }
    }
    BestArgs best{};
    best.left = left_.data() + top % kPanel * q_.words;
    best.init = q_.init + ((row - q_.row) * grid.width + column) * q_.padded + top;
    best.words = r_.words;
    best.rows = rows_from(top);
    best.panels = panels_;
    best.clear = -(1 << bits_);
    best.best = keys_.data();
    // A kernel may read a panel of all these places again for the next rows (amx_place.hpp).
    const auto all = static_cast<int64_t>(others_.size());
    const int64_t most = std::max<int64_t>(1, kCached / (4 * kPanel * r_.words));
    for (int64_t n = 0; n < all; n += most) {
      best.others = others_.data() + n;
      best.count = std::min(most, all - n);
      kernels_.place.best(best);
    }
  }

  // Columns that do not count get the key kNoKey: the image itself, those that are not listed, and
  // padding.
  void leave_out(int64_t image) {
    std::fill(best_.begin() + r_.images, best_.end(), kNoKey);
    if (args_.reference_lists != nullptr) {
      const int32_t* list = args_.reference_lists + (image - args_.begin) * args_.columns;
      for (int64_t c = 0; c < args_.columns; ++c) listed_[sized(c)] = best_[sized(list[c])];
      std::fill(best_.begin(), best_.begin() + r_.images, kNoKey);
      for (int64_t c = 0; c < args_.columns; ++c) best_[sized(list[c])] = listed_[sized(c)];
    } else if (args_.symmetric) {
      best_[sized(image)] = kNoKey;
    }
  }

  // A candidate's score lies between its key without the slot, and less than 1 << bits_ above; half
  // the square of the distance of the rounded rows lies between -score and 1 - score.
  // No candidate of a larger true distance has a smaller computed one than a candidate of this key:
  // in steps. `errors`: of both rows.
  double limit_of(int32_t key, double errors) const {
    const double half = 1.0 - static_cast<double>(key & -(1 << bits_));
    return (std::sqrt(2.0 * half) + errors) * stretch_ + 1e-18 * inverse_;
  }
  // The least key of a candidate within a limit.
  int32_t least_key(double limit, double errors) const {
    const double reach = limit + errors, half = reach * reach * (0.5 + 1e-9);
    return half < 2e9 ? -static_cast<int32_t>(half) - (1 << bits_) : kNoKey + 1;
  }
  // How far the least key of a candidate within limit_of(key, errors) lies below `key`, at most,
  // for every key from `least` on: half the square of d + more exceeds half that of d by at most
  // (d + more) more. Most second candidates are farther, and need no bound of their own.
  int64_t most_below(int32_t least, double errors) const {
    const double d = std::sqrt(2.0 * (2.0 + (1 << bits_) - static_cast<double>(least)));
    const double more = d * (stretch_ - 1.0) + errors * (stretch_ + 1.0) + 1e-17 * inverse_;
    const double all = (d + more) * (d + more) * 2e-9 + (d + more) * more;
    return static_cast<int64_t>(std::min(all, 4e9)) + (2 << bits_) + 4;
  }

  // Adds the pair of a row with the candidate of a key.
  void add(int64_t row, int64_t column, int64_t image, int32_t key) {
    const int64_t own = row_ * args_.grid.width + column_;
    const int64_t place = own + offsets_[sized(key & ((1 << bits_) - 1))];
    pairs_.add(row, image * args_.grid.places() + place, column);
  }
  void add_all(int64_t row, int64_t column, int64_t image) {
    const LocalGrid& grid = args_.grid;
    for (int64_t v = grid.first(row_); v <= grid.last(row_, grid.height); ++v) {
      for (int64_t u = grid.first(column_); u <= grid.last(column_, grid.width); ++u) {
        pairs_.add(row, image * grid.places() + v * grid.width + u, column);
      }
    }
  }

  // Calls `take` for every column whose bit is set.
  template <class Take>
  static void for_each_bit(const std::vector<uint16_t>& masks, const Take& take) {
    for (size_t panel = 0; panel < masks.size(); ++panel) {
      for (uint32_t bits = masks[panel]; bits != 0; bits &= bits - 1) {
        take(static_cast<int64_t>(panel) * kPanel + __builtin_ctz(bits));
      }
    }
  }

  // Chooses the images that may be among the k_max nearest of a patch, and of each of these the
  // candidates that may be the nearest.
  void choose(int64_t r, int64_t image, double rho) {
    const int32_t* keys = keys_.data() + block_at(r) + r % kTileRows * kBest * kPanel;
    for (int64_t panel = 0; panel < panels_; ++panel) {
      std::copy_n(keys + panel * kBlock, kPanel, best_.data() + panel * kPanel);
    }
    leave_out(image);
    const int32_t enough =
        kernels_.place.kth_best(best_.data(), r_.padded, args_.k_max, 1 << bits_);
    const double errors = (rho + scale_.largest_rho) * inverse_;
    const double farthest = limit_of(enough, errors);
    const int32_t least = args_.certified ? least_key(farthest, errors) : enough;
    const int64_t below = most_below(least, errors);
    const int64_t row = image * args_.grid.places() + row_ * args_.grid.width + column_;
    kernels_.place.reached(best_.data(), panels_, least, near_.data());
    for_each_bit(near_, [&](int64_t c) {
      const int32_t best = best_[sized(c)];
      const auto column = static_cast<int64_t>(kept_.size());
      kept_.push_back(static_cast<int32_t>(c));
      const int32_t* others = keys + c / kPanel * kBlock + c % kPanel;
      if (!args_.certified || others[kPanel] < best - below) {
        add(row, column, c, best);
        return;
      }
      const int32_t near = least_key(std::min(farthest, limit_of(best, errors)), errors);
      if (others[2 * kPanel] >= near) {
        add_all(row, column, c);
        return;
      }
      add(row, column, c, best);
      if (others[kPanel] >= near) add(row, column, c, others[kPanel]);
    });
  }

  void finish(int64_t row, int64_t column, int64_t top) {
    row_ = row;
    column_ = column;
    const int64_t first = std::max(top, args_.begin), last = std::min(top + together_, args_.end);
    const int64_t place = row * args_.grid.width + column;
    const float* rho = q_.rho + (place - q_.row * args_.grid.width) * q_.padded;
    for (int64_t image = first; image < last; ++image) {
      choose(image - top, image, static_cast<double>(rho[image]));
      chosen_.push_back({image, place, static_cast<int64_t>(kept_.size())});
      if (pairs_.count() >= most_pairs_) compute();
    }
  }

  // Computes the distances of the pairs that were chosen, and writes the results.
  void compute() {
    nearest_.assign(kept_.size(), kFar);
    pairs_.compute(kernels_, q_.x, r_.x, r_.channels, nearest_.data());
    computed += pairs_.count();
    int64_t from = 0;
    for (const Chosen& row : chosen_) {
      put_results(args_, row.image, row.place, nearest_.data() + from, kept_.data() + from,
                  row.end - from);
      from = row.end;
    }
    pairs_.clear();
    kept_.clear();
    chosen_.clear();
  }

  const KernelTable& kernels_;
  const PlacedRows& q_;
  const PlacedRows& r_;
  const PlaceScale& scale_;
  const LocalArgs& args_;
  const double inverse_, stretch_;
  const int64_t across_;             // slots of a row of the window
  const int64_t height_, panels_;    // of a part; of the references
  const int64_t together_;           // rows of a product
  const int64_t most_pairs_;         // before they are computed
  int bits_ = 0;                     // of a slot
  Part part_{};
  bool from_right_ = false;          // the order of its columns
  int64_t row_ = 0, column_ = 0;     // of the place to finish
  std::vector<int32_t> offsets_;     // of the places of the slots, from a patch's own
  std::vector<int32_t> best_, listed_;   // keys of a row, by column
  std::vector<uint16_t> near_;           // bits of those within the limit
  std::vector<int32_t> keys_, waiting_;  // BestArgs::best, of a place, and of those that wait
  std::vector<uint32_t> left_;       // the rows of a place, BestArgs::left
  std::vector<OtherPlace> others_;   // that a place meets
  std::vector<int32_t> kept_;        // images of the rows at a place that may enter the mean
  std::vector<Chosen> chosen_;       // the rows of these images
  std::vector<float> nearest_;       // squared distances to the images in kept_
  Pairs pairs_;
};

}  // namespace

int64_t place_bytes(const LocalGrid& grid, int64_t images, int64_t references, int64_t words,
                    int threads, bool both_ways) {
  const int64_t together = both_ways ? images : std::min(images, kTogether);
  const int64_t each = 4 * kBest * together * references;
  const int64_t beside = 4 * (together + kPanel) * words +
                         kPairBytes * pairs_together(grid, images, references);
  const int64_t workers = std::min<int64_t>(std::max(1, threads), Cut::most_parts(grid));
  if (!both_ways) return workers * (each + beside);
  // Of a call for fewer rows of the grid the parts may be higher than of one for all.
  const int64_t height = std::max(Cut(grid, 0, grid.height, threads).height,
                                  std::min(grid.height, 2 * Cut::least_side(grid)));
  return workers * (beside + each * (1 + height * (grid.reach_of(grid.width) + 1)));
}

int64_t match_places(const KernelTable& kernels, const PlacedRows& queries,
                     const PlacedRows& references, const PlaceScale& scale,
                     const LocalArgs& args) {
  const Cut cut(args.grid, args.first_row, args.last_row, args.threads);
  std::vector<Matcher> matchers;
  const auto workers = static_cast<int>(std::min<int64_t>(cut.parts(), std::max(1, args.threads)));
  for (int worker = 0; worker < workers; ++worker) {
    matchers.emplace_back(kernels, queries, references, scale, args, cut.height);
  }
  Columns columns(cut, args.grid, args.first_row, args.last_row);
  parallel_for(2 * cut.parts(), workers, [&](int64_t task, int worker) {
    const bool helps = task >= cut.parts();
    const int64_t part = helps ? columns.to_help() : task;
    if (part >= 0) matchers[sized(worker)].match(columns, part, helps);
  });
  int64_t computed = 0;
  for (const Matcher& matcher : matchers) computed += matcher.computed;
  return computed;
}

void match_directly(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
                    const LocalArgs& args) {
  const LocalGrid& grid = args.grid;
  const int64_t rows = args.last_row - args.first_row, places = grid.places();
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
      put_results(args, image, row * grid.width + column, squares.data() + column * args.columns,
                  nullptr, args.columns);
    }
  });
}

}  // namespace musc
