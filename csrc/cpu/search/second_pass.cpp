// The second pass: which images can be among the k_max nearest of a patch, and their exact
// distances.
//
// For a block of patches of a query image: the exact distances of each patch to its k_max images of
// best score are found first; T is the largest of them. An image whose bound exceeds T cannot be
// among the nearest; every other image is examined too, and T shrinks as nearer images are found.
// Within an image the candidate of best score is recomputed first; its distance excludes most other
// candidates. Every excluded candidate has a larger *computed* distance, so the result is the
// minimum over all patches, ties included, whatever the basis, the scale, the chunks or the
// threads.
//
// Several query images go through the references together, so that the rows that one image compared
// with are still in a cache when the next image needs them. Otherwise the exact distances would
// wait for memory.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/search/examine.hpp"
#include "cpu/interval.hpp"
#include "cpu/parallel.hpp"

namespace musc {
namespace {

constexpr int64_t kStates = 16 << 20;  // bytes of all Blocks that exist at a time, roughly

// The state of some patches of one query image.
struct Block {
  int64_t image, begin, rows;
  // Rows that have an image among their k of best score; further rows that an image may be near to:
  // a bit each, [columns][words].
  std::vector<uint32_t> nearest, possible;
  std::vector<Hit> hits;                    // [rows][k], heaps
  std::vector<int64_t> kept;                // [rows]: how many hits so far
  std::vector<float> limit_distance;        // [rows]: Examiner::distance of the farthest hit

  int64_t words() const { return lanes_of(rows) / kLanes; }
  static int64_t bytes_of_row(int64_t columns, int64_t k) {
    return columns / 4 + k * static_cast<int64_t>(sizeof(Hit)) + 12;
  }
};

class Refiner {
 public:
  Refiner(const KernelTable& kernels, const RoundedImages& queries,
          const RoundedImages& references, const SearchShape& shape, const RefineArgs& args)
      : kernels_(kernels), examiner_(kernels, queries, references, shape, args), q_(queries),
        shape_(shape), args_(args), columns_(args.best.columns) {}

  // Finishes the patches [begin, end) of `images` query images from `image` on.
  void run(int64_t image, int64_t images, int64_t begin, int64_t end);
  const Counters& counters() const { return examiner_.counters; }

 private:
  // Whether the reference of `column` is the query image itself.
  bool own(int64_t image, int64_t column) const {
    return args_.symmetric && args_.reference_lists == nullptr && column == image;
  }
  const uint16_t* scores_of(const Block& block, int64_t column) const {
    return examiner_.summary(block.image, column).nearest + block.begin;
  }
  void take_nearest(Block& block);
  void take_possible(Block& block);
  void ask_nearest(size_t image, int64_t column);
  void ask_possible(size_t image, int64_t column);
  void keep_nearest(Block& block, int64_t p, const Hit& found);
  void keep_possible(Block& block, int64_t p, const Hit& found);
  template <class Ask, class Keep>
  void examine_all(const Ask& ask, const Keep& keep);
  void examine(int64_t column);
  void finish(int64_t image, int64_t p, Hit* hits);
  Hit* hits_of(Block& block, int64_t p) { return block.hits.data() + p * k_; }
  // The largest stored score at which an image may still be among the k nearest of row p.
  int64_t most(Block& block, int64_t p) {
    const double reach = shape_.largest_rho + block.limit_distance[sized(p)] +
                         q_.bounds[block.image * q_.rows + block.begin + p].rho;
    return examiner_.limit(reach) >> shape_.shift;
  }
  template <class Body>
  static void for_rows(const uint32_t* bits, int64_t words, const Body& body) {
    for (int64_t w = 0; w < words; ++w) for_bits(bits[w], w * kLanes, body);
  }

  const KernelTable& kernels_;
  Examiner examiner_;
  const RoundedImages& q_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const int64_t columns_;
  int64_t k_ = 0;  // hits of a row
  std::vector<Block> blocks_;
  std::vector<Wanted> wanted_;
  std::vector<Hit> found_;
  std::vector<uint16_t> limits_;
  std::vector<float> values_;
};

// Marks the k images of best score of every row.
void Refiner::take_nearest(Block& block) {
  block.nearest.resize(sized(columns_ * block.words()));
  SmallestArgs args;
  args.scores = scores_of(block, 0);
  args.columns = columns_;
  args.stride = columns_ > 1 ? scores_of(block, 1) - args.scores : 0;
  args.skip = args_.symmetric && args_.reference_lists == nullptr ? block.image : -1;
  args.k = k_;
  args.words = block.words();
  args.bits = block.nearest.data();
  kernels_.smallest(args);
}

// Marks the other images that the bound of a row does not exclude.
void Refiner::take_possible(Block& block) {
  const int64_t words = block.words();
  limits_.assign(sized(words * kLanes), 0);
  for (int64_t p = 0; p < block.rows; ++p) {
    limits_[sized(p)] =
        static_cast<uint16_t>(std::min<int64_t>(most(block, p), 65535));
  }
  block.possible.assign(sized(columns_ * words), 0);
  for (int64_t column = 0; column < columns_; ++column) {
    if (own(block.image, column)) continue;
    uint32_t* bits = block.possible.data() + column * words;
    kernels_.within(scores_of(block, column), limits_.data(), words, bits);
    for (int64_t w = 0; w < words; ++w) {
      bits[w] &= ~block.nearest[sized(column * words + w)];
    }
  }
}

// Asks for the rows that have the image of `column` among their k of best score.
void Refiner::ask_nearest(size_t image, int64_t column) {
  const Block& block = blocks_[image];
  const uint16_t* first = examiner_.summary(block.image, column).first + block.begin;
  for_rows(block.nearest.data() + column * block.words(), block.words(), [&](int64_t p) {
    if (p >= block.rows) return;
    wanted_.push_back({static_cast<int32_t>(image), static_cast<int32_t>(block.begin + p),
                       kInfinity, kInfinity, first[p]});
  });
}

void Refiner::keep_nearest(Block& block, int64_t p, const Hit& found) {
  hits_of(block, p)[block.kept[sized(p)]++] = found;
}

// Asks only for rows of which this image can still be among the k nearest. take_possible() tested
// that already; here it is tested again, since the k-th distance shrinks as images are examined.
void Refiner::ask_possible(size_t image, int64_t column) {
  Block& block = blocks_[image];
  const uint16_t* scores = scores_of(block, column);
  for_rows(block.possible.data() + column * block.words(), block.words(), [&](int64_t p) {
    if (p >= block.rows || scores[p] > most(block, p)) return;
    wanted_.push_back({static_cast<int32_t>(image), static_cast<int32_t>(block.begin + p),
                       hits_of(block, p)->square, block.limit_distance[sized(p)], -1});
  });
}

void Refiner::keep_possible(Block& block, int64_t p, const Hit& found) {
  Hit* hits = hits_of(block, p);
  if (found.patch < 0 || !(found < *hits)) return;
  std::pop_heap(hits, hits + k_);
  hits[k_ - 1] = found;
  std::push_heap(hits, hits + k_);
  block.limit_distance[sized(p)] = examiner_.distance(hits->square);
}

// Examines column by column the rows that `ask` lists for each query image, and gives each result
// to `keep`. All query images have the same reference in a column: cut() takes images with
// reference lists of their own one at a time.
template <class Ask, class Keep>
void Refiner::examine_all(const Ask& ask, const Keep& keep) {
  for (int64_t column = 0; column < columns_; ++column) {
    wanted_.clear();
    for (size_t image = 0; image < blocks_.size(); ++image) {
      const Block& block = blocks_[image];
      if (!own(block.image, column)) ask(image, column);
      if (column + 1 < columns_) {
        examiner_.fetch_summary(block.image, column + 1, block.begin, block.rows);
      }
    }
    examine(column);
    for (size_t n = 0; n < wanted_.size(); ++n) {
      Block& block = blocks_[sized(wanted_[n].image)];
      keep(block, wanted_[n].patch - block.begin, found_[n]);
    }
  }
}

// Answers wanted_ in found_.
void Refiner::examine(int64_t column) {
  found_.resize(wanted_.size());
  const Block& block = blocks_[0];
  examiner_.examine({block.image, static_cast<int64_t>(blocks_.size()), column, block.begin,
                     block.rows, wanted_.data(), static_cast<int64_t>(wanted_.size()),
                     found_.data()});
}

void Refiner::run(int64_t image, int64_t images, int64_t begin, int64_t end) {
  const int64_t own_columns = args_.symmetric && args_.reference_lists == nullptr ? 1 : 0;
  const int64_t candidates = columns_ - own_columns;
  k_ = std::min(args_.k_max, candidates);
  const bool certify = args_.certified && k_ < candidates;
  blocks_.resize(sized(images));
  for (Block& block : blocks_) {
    block.image = image++;
    block.begin = begin;
    block.rows = end - begin;
    block.hits.resize(sized(block.rows * k_));
    block.kept.assign(sized(block.rows), 0);
    block.limit_distance.resize(sized(block.rows));
    take_nearest(block);
  }
  examine_all([&](size_t n, int64_t column) { ask_nearest(n, column); },
              [&](Block& block, int64_t p, const Hit& found) { keep_nearest(block, p, found); });
  for (Block& block : blocks_) {
    for (int64_t p = 0; p < block.rows; ++p) {
      std::make_heap(hits_of(block, p), hits_of(block, p) + k_);
      block.limit_distance[sized(p)] = examiner_.distance(hits_of(block, p)->square);
    }
    if (certify) take_possible(block);
  }
  if (certify) {
    examine_all([&](size_t n, int64_t column) { ask_possible(n, column); },
                [&](Block& block, int64_t p, const Hit& found) { keep_possible(block, p, found); });
  }
  for (Block& block : blocks_) {
    for (int64_t p = 0; p < block.rows; ++p) {
      finish(block.image, block.begin + p, hits_of(block, p));
    }
    examiner_.counters.rows += block.rows;
  }
}

void Refiner::finish(int64_t image, int64_t p, Hit* hits) {
  const int64_t row = (image - args_.begin) * q_.rows + p;
  if (args_.outputs.distances != nullptr) {
    float* out = args_.outputs.distances + row * columns_;
    std::fill(out, out + columns_, kInfinity);
    for (int64_t n = 0; n < k_; ++n) out[hits[n].column] = std::sqrt(hits[n].square);
  }
  if (args_.outputs.means != nullptr) {
    values_.clear();
    for (int64_t n = 0; n < k_; ++n) values_.push_back(std::sqrt(hits[n].square));
    args_.outputs.means[row] = interval_mean_row(values_.data(), k_, args_.k_min, args_.k_max);
  }
  if (args_.outputs.nearest != nullptr) {
    std::sort(hits, hits + k_);
    for (int64_t n = 0; n < k_; ++n) {
      const Hit& hit = hits[n];
      const int64_t at = row * args_.k_max + n;
      args_.outputs.nearest[at] = std::sqrt(hit.square);
      args_.outputs.nearest_image[at] = examiner_.image_of(image, hit.column);
      args_.outputs.nearest_patch[at] = hit.patch;
    }
  }
}

// The query images and rows of a task.
struct Cut {
  int64_t images, rows;
};

// The most rows (of all its images together) and images of a task, and the least tasks a thread.
struct Limits {
  int64_t rows, images, tasks;
};
// In a basis segments are long, and the same rows of several images need the same segments of a
// reference: a task is a few rows of many images, whose own rows stay in a cache from one reference
// to the next. In all channels segments are one panel, and rows need segments all over a reference:
// a task is as many rows as possible of few images, to use each segment while it is in the cache.
constexpr Limits kLongSegments{1536, 16, 6}, kPanelSegments{kMostRows, 4, 2};

// Limits the rows of a task so that the Blocks of all threads stay below kStates.
Cut cut(const RefineArgs& args, int64_t segment, int64_t rows, int64_t workers) {
  const Limits& limits = segment == kPanel ? kPanelSegments : kLongSegments;
  // Images with reference lists of their own share no reference.
  const int64_t all = args.end - args.begin, together = args.reference_lists == nullptr ? all : 1;
  const int64_t columns = args.best.columns;
  const int64_t row_bytes = Block::bytes_of_row(columns, std::min(args.k_max, columns));
  const int64_t most = std::max(kLanes, std::min(limits.rows, kStates / workers / row_bytes));
  const int64_t images = std::min({limits.images, together, most / kLanes});
  const int64_t tasks = (images > 1 ? limits.tasks : 2) * workers;
  const int64_t groups = (all - 1) / images + 1;
  const int64_t least = (rows - 1) / (most / images) + 1, enough = (tasks - 1) / groups + 1;
  const int64_t blocks = std::min(std::max(least, enough), (rows - 1) / kLanes + 1);
  return {images, std::min(lanes_of((rows - 1) / blocks + 1), most / images / kLanes * kLanes)};
}

}  // namespace

void refine(const KernelTable& kernels, const RoundedImages& queries,
            const RoundedImages& references, const SearchShape& shape, const RefineArgs& args) {
  const int workers = std::max(1, shape.threads);
  const Cut size = cut(args, shape.segment, queries.rows, workers);
  const int64_t groups = (args.end - args.begin - 1) / size.images + 1;
  const int64_t blocks = (queries.rows - 1) / size.rows + 1;
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < workers; ++worker) {
    refiners.emplace_back(kernels, queries, references, shape, args);
  }
  parallel_for(groups * blocks, workers, [&](int64_t task, int worker) {
    const int64_t image = args.begin + task / blocks * size.images;
    const int64_t begin = (task % blocks) * size.rows;
    const int64_t images = std::min(size.images, args.end - image);
    refiners[sized(worker)].run(image, images, begin, std::min(begin + size.rows, queries.rows));
  });
  for (const Refiner& refiner : refiners) {
    const Counters& done = refiner.counters();
    args.counters->examined += done.examined;
    args.counters->scanned += done.scanned;
    args.counters->recomputed += done.recomputed;
    args.counters->rows += done.rows;
    args.counters->fine += done.fine;
    args.counters->rest += done.rest;
  }
}

}  // namespace musc
