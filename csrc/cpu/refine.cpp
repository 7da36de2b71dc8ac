// The second pass: which images can enter a patch's interval, and their exact distances.
//
// For a block of patches of a query image: take each patch's k_max images of best score, find the
// exact distance to each, and call the largest T. Any other image whose bound is above T cannot
// enter; the rest are examined too, and T shrinks as they prove nearer. Within an image the
// candidate of best score is recomputed first; its distance excludes all but a few of the others.
// What is excluded has a larger *computed* distance, so the result is the minimum over everything,
// ties included, whatever the basis, the scale, the chunks or the threads.
//
// Several query images go through the references together: what one of them looked at is still in a
// cache when the next needs it. The exact distances would else wait for memory.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/examine.hpp"
#include "cpu/interval.hpp"
#include "cpu/parallel.hpp"

namespace musc {
namespace {

constexpr int64_t kStates = 16 << 20;  // bytes of all Blocks at a time, about

// What is known of some patches of one query image.
struct Block {
  int64_t image, begin, rows;
  std::vector<uint32_t> nearest, possible;  // [columns][words]: rows to examine, a bit each
  std::vector<Hit> hits;                    // [rows][k], heaps
  std::vector<int64_t> kept;                // [rows]: how many so far
  std::vector<float> reach;                 // [rows]: the distance of the farthest hit, as a bound

  int64_t words() const { return lanes_of(rows) / kLanes; }
  static int64_t bytes_of_row(int64_t columns, int64_t k) {
    return columns / 4 + k * static_cast<int64_t>(sizeof(Hit)) + 12;
  }
};

class Refiner {
 public:
  Refiner(const Isa& isa, const Operands& queries, const Operands& references,
          const SearchShape& shape, const RefineArgs& args)
      : isa_(isa), examiner_(isa, queries, references, shape, args), q_(queries), shape_(shape),
        args_(args), columns_(args.columns) {}

  // Finishes the patches [begin, end) of `images` query images from `image` on.
  void run(int64_t image, int64_t images, int64_t begin, int64_t end);
  const int64_t* counters() const { return examiner_.counters; }

 private:
  // Whether a column is the query itself.
  bool own(int64_t image, int64_t column) const {
    return args_.symmetric && args_.images == nullptr && column == image;
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
  // The largest score, as kept, of an image that may matter to row p of the block.
  int64_t most(Block& block, int64_t p) {
    const double reach = shape_.largest_rho + block.reach[sized(p)] +
                         q_.bounds[block.image * q_.rows + block.begin + p].rho;
    return examiner_.limit(reach) >> shape_.shift;
  }
  template <class Body>
  static void for_rows(const uint32_t* bits, int64_t words, const Body& body) {
    for (int64_t w = 0; w < words; ++w) for_bits(bits[w], w * kLanes, body);
  }

  const Isa& isa_;
  Examiner examiner_;
  const Operands& q_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const int64_t columns_;
  int64_t k_ = 0;  // neighbours kept of a row
  std::vector<Block> blocks_;
  std::vector<Wanted> wanted_;
  std::vector<Hit> found_;
  std::vector<uint16_t> limits_;
  std::vector<float> values_;
};

// For every row the k images of best score.
void Refiner::take_nearest(Block& block) {
  block.nearest.resize(sized(columns_ * block.words()));
  SmallestArgs args;
  args.scores = scores_of(block, 0);
  args.columns = columns_;
  args.stride = columns_ > 1 ? scores_of(block, 1) - args.scores : 0;
  args.skip = args_.symmetric && args_.images == nullptr ? block.image : -1;
  args.k = k_;
  args.words = block.words();
  args.bits = block.nearest.data();
  isa_.smallest(args);
}

// For every row the other images that its bound cannot exclude.
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
    isa_.within(scores_of(block, column), limits_.data(), words, bits);
    for (int64_t w = 0; w < words; ++w) {
      bits[w] &= ~block.nearest[sized(column * words + w)];
    }
  }
}

// The rows that have the column's image among their k of best score.
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

// Those to which the image may be nearer than their k so far; T may have shrunk since.
void Refiner::ask_possible(size_t image, int64_t column) {
  Block& block = blocks_[image];
  const uint16_t* scores = scores_of(block, column);
  for_rows(block.possible.data() + column * block.words(), block.words(), [&](int64_t p) {
    if (p >= block.rows || scores[p] > most(block, p)) return;
    wanted_.push_back({static_cast<int32_t>(image), static_cast<int32_t>(block.begin + p),
                       hits_of(block, p)->square, block.reach[sized(p)], -1});
  });
}

void Refiner::keep_possible(Block& block, int64_t p, const Hit& found) {
  Hit* hits = hits_of(block, p);
  if (found.patch < 0 || !(found < *hits)) return;
  std::pop_heap(hits, hits + k_);
  hits[k_ - 1] = found;
  std::push_heap(hits, hits + k_);
  block.reach[sized(p)] = examiner_.distance(hits->square);
}

// Column by column: what `ask` lists of each query image, and what `keep` does with what is found.
// A column is the same reference for all of them: images with lists of their own come alone, see cut().
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

// The question about wanted_, into found_.
void Refiner::examine(int64_t column) {
  found_.resize(wanted_.size());
  const Block& block = blocks_[0];
  examiner_.examine({block.image, static_cast<int64_t>(blocks_.size()), column, block.begin,
                     block.rows, wanted_.data(), static_cast<int64_t>(wanted_.size()),
                     found_.data()});
}

void Refiner::run(int64_t image, int64_t images, int64_t begin, int64_t end) {
  const int64_t candidates = columns_ - (args_.symmetric && args_.images == nullptr ? 1 : 0);
  k_ = std::min(args_.k_max, candidates);
  const bool certify = args_.certified && k_ < candidates;
  blocks_.resize(sized(images));
  for (Block& block : blocks_) {
    block.image = image++;
    block.begin = begin;
    block.rows = end - begin;
    block.hits.resize(sized(block.rows * k_));
    block.kept.assign(sized(block.rows), 0);
    block.reach.resize(sized(block.rows));
    take_nearest(block);
  }
  examine_all([&](size_t n, int64_t column) { ask_nearest(n, column); },
              [&](Block& block, int64_t p, const Hit& found) { keep_nearest(block, p, found); });
  for (Block& block : blocks_) {
    for (int64_t p = 0; p < block.rows; ++p) {
      std::make_heap(hits_of(block, p), hits_of(block, p) + k_);
      block.reach[sized(p)] = examiner_.distance(hits_of(block, p)->square);
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
    examiner_.counters[3] += block.rows;
  }
}

void Refiner::finish(int64_t image, int64_t p, Hit* hits) {
  const int64_t row = (image - args_.begin) * q_.rows + p;
  if (args_.distances != nullptr) {
    float* out = args_.distances + row * columns_;
    std::fill(out, out + columns_, kInfinity);
    for (int64_t n = 0; n < k_; ++n) out[hits[n].column] = std::sqrt(hits[n].square);
  }
  if (args_.means != nullptr) {
    values_.clear();
    for (int64_t n = 0; n < k_; ++n) values_.push_back(std::sqrt(hits[n].square));
    args_.means[row] = interval_mean_row(values_.data(), k_, args_.k_min, args_.k_max);
  }
  if (args_.nearest != nullptr) {
    std::sort(hits, hits + k_);
    for (int64_t n = 0; n < k_; ++n) {
      const Hit& hit = hits[n];
      const int64_t at = row * args_.k_max + n;
      args_.nearest[at] = std::sqrt(hit.square);
      args_.nearest_image[at] = examiner_.image_of(image, hit.column);
      args_.nearest_patch[at] = hit.patch;
    }
  }
}

// How the work is cut: query images and rows of a task.
struct Cut {
  int64_t images, rows;
};

// At most: rows of all images and images of a task; at least: tasks of a thread.
struct Limits {
  int64_t rows, images, tasks;
};
// The same few rows of many images want much the same of a reference, and what they want of their own
// stays in a cache from one reference to the next. In all channels what they want lies anywhere: then
// as many rows as possible should use what a segment brings.
constexpr Limits kLongSegments{1536, 16, 6}, kPanelSegments{kMostRows, 4, 2};

// What is known of the rows of all threads' tasks must not take much memory.
Cut cut(const RefineArgs& args, int64_t segment, int64_t rows, int64_t workers) {
  const Limits& limits = segment == kPanel ? kPanelSegments : kLongSegments;
  // Images that have references of their own share none.
  const int64_t all = args.end - args.begin, together = args.images == nullptr ? all : 1;
  const int64_t row_bytes = Block::bytes_of_row(args.columns, std::min(args.k_max, args.columns));
  const int64_t most = std::max(kLanes, std::min(limits.rows, kStates / workers / row_bytes));
  const int64_t images = std::min({limits.images, together, most / kLanes});
  const int64_t tasks = (images > 1 ? limits.tasks : 2) * workers;
  const int64_t groups = (all - 1) / images + 1;
  const int64_t least = (rows - 1) / (most / images) + 1, enough = (tasks - 1) / groups + 1;
  const int64_t blocks = std::min(std::max(least, enough), (rows - 1) / kLanes + 1);
  return {images, std::min(lanes_of((rows - 1) / blocks + 1), most / images / kLanes * kLanes)};
}

}  // namespace

void refine(const Isa& isa, const Operands& queries, const Operands& references,
            const SearchShape& shape, const RefineArgs& args) {
  const int workers = std::max(1, shape.threads);
  const Cut size = cut(args, shape.segment, queries.rows, workers);
  const int64_t groups = (args.end - args.begin - 1) / size.images + 1;
  const int64_t blocks = (queries.rows - 1) / size.rows + 1;
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < workers; ++worker) {
    refiners.emplace_back(isa, queries, references, shape, args);
  }
  parallel_for(groups * blocks, workers, [&](int64_t task, int worker) {
    const int64_t image = args.begin + task / blocks * size.images;
    const int64_t begin = (task % blocks) * size.rows;
    const int64_t images = std::min(size.images, args.end - image);
    refiners[sized(worker)].run(image, images, begin, std::min(begin + size.rows, queries.rows));
  });
  for (const Refiner& refiner : refiners) {
    for (int n = 0; n < 6; ++n) args.counters[n] += refiner.counters()[n];
  }
}

}  // namespace musc
