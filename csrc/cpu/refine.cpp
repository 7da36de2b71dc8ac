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

constexpr int64_t kUsual = 94;         // percent of the segments whose scores need no correction
constexpr int64_t kMostImages = 8;     // at a time
constexpr int64_t kStates = 16 << 20;  // bytes of all Blocks at a time, about

// What is known of some patches of one query image.
struct Block {
  int64_t image, begin, rows;
  std::vector<uint16_t> nearest;              // [rows][columns]: least t >> shift
  std::vector<uint16_t> first;                // [columns][rows]: its segment
  std::vector<uint8_t> taken;                 // [rows][columns]
  std::vector<std::vector<int32_t>> members;  // [columns]: rows to examine
  std::vector<Hit> hits;                      // [rows][k], heaps
  std::vector<int64_t> kept;                  // [rows]: how many so far

  static int64_t bytes_of_row(int64_t columns, int64_t k) {
    return columns * static_cast<int64_t>(sizeof(uint16_t) * 2 + 1 + sizeof(int32_t)) +
           k * static_cast<int64_t>(sizeof(Hit)) + 8;
  }
};

class Refiner {
 public:
  Refiner(const Isa& isa, const Operands& queries, const Operands& references,
          const SearchShape& shape, const RefineArgs& args, float usual_rho,
          const Bounds* segment_bounds)
      : isa_(isa), examiner_(isa, queries, references, shape, args, segment_bounds),
        q_(queries), shape_(shape), args_(args), columns_(args.columns),
        usual_rho_(usual_rho), segment_bounds_(segment_bounds),
        segments_((references.padded + shape.segment - 1) / shape.segment),
        inverse_(1.0 / shape.scale) {}

  // Finishes the patches [begin, end) of `images` query images from `image` on.
  void run(int64_t image, int64_t images, int64_t begin, int64_t end);
  const int64_t* counters() const { return examiner_.counters; }

 private:
  // The score of a distance shorter by `excess` (in steps of the scale), rounded down.
  uint16_t lower(uint16_t score, double excess) const {
    const double t = static_cast<double>(static_cast<int64_t>(score) << shape_.shift);
    const double shorter = std::max(0.0, std::sqrt(2.0 * t) - excess);
    return static_cast<uint16_t>(static_cast<int64_t>(shorter * shorter * 0.5) >> shape_.shift);
  }
  // Whether a column is the query itself.
  bool own(int64_t image, int64_t column) const {
    return args_.symmetric && args_.images == nullptr && column == image;
  }
  void estimate(Block& block);
  void take_nearest(Block& block);
  void take_possible(Block& block);
  void examine_nearest(Block& block, int64_t column);
  void examine_possible(Block& block, int64_t column);
  void examine(const Block& block, int64_t column);
  void finish(int64_t image, int64_t p, Hit* hits);
  Hit* hits_of(Block& block, int64_t p) { return block.hits.data() + p * k_; }
  // The largest score, as kept, of an image that may matter to row p of the block.
  int64_t most(Block& block, int64_t p) {
    const double reach = examiner_.distance(hits_of(block, p)->square) +
                         q_.bounds[block.image * q_.rows + block.begin + p].rho + usual_rho_;
    return examiner_.limit(reach) >> shape_.shift;
  }

  const Isa& isa_;
  Examiner examiner_;
  const Operands& q_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const int64_t columns_;
  // The rho of most segments. Where a segment's is larger, estimate() lowers its scores instead,
  // so that one badly rounded patch does not loosen the bound of its whole image.
  const double usual_rho_;
  const Bounds* segment_bounds_;  // the largest of each, [references][segments]
  const int64_t segments_;
  const double inverse_;
  int64_t k_ = 0;  // neighbours kept of a row
  std::vector<Block> blocks_;
  std::vector<Wanted> wanted_;
  std::vector<Hit> found_;
  std::vector<uint64_t> keys_;
  std::vector<float> values_;
};

void Refiner::estimate(Block& block) {
  const int64_t rows = block.rows;
  block.nearest.assign(static_cast<size_t>(rows * columns_), 65535);
  block.first.assign(static_cast<size_t>(rows * columns_), 0);
  uint16_t least[kBlock], lowered[kBlock];
  for (int64_t column = 0; column < columns_; ++column) {
    if (own(block.image, column)) continue;
    const int64_t j = examiner_.image_of(block.image, column);
    const uint16_t* scores = examiner_.best(block.image, column) + block.begin;
    std::fill_n(least, rows, static_cast<uint16_t>(65535));
    std::fill_n(lowered, rows, static_cast<uint16_t>(65535));
    uint16_t* first = block.first.data() + column * rows;
    for (int64_t s = 0; s < segments_; ++s, scores += q_.padded) {
      const double excess = (segment_bounds_[j * segments_ + s].rho - usual_rho_) * inverse_;
      isa_.fold_least(scores, rows, static_cast<uint16_t>(s), least, first);
      if (!(excess > 0.0)) continue;
      for (int64_t p = 0; p < rows; ++p) lowered[p] = std::min(lowered[p], lower(scores[p], excess));
    }
    for (int64_t p = 0; p < rows; ++p) {
      block.nearest[static_cast<size_t>(p * columns_ + column)] = std::min(least[p], lowered[p]);
    }
  }
}

// Into members: for every row the k images of best score.
void Refiner::take_nearest(Block& block) {
  block.taken.assign(static_cast<size_t>(block.rows * columns_), 0);
  for (int64_t p = 0; p < block.rows; ++p) {
    keys_.clear();
    for (int64_t column = 0; column < columns_; ++column) {
      if (own(block.image, column)) continue;
      const uint64_t t = block.nearest[static_cast<size_t>(p * columns_ + column)];
      keys_.push_back(t << 32 | static_cast<uint64_t>(column));
    }
    if (k_ < static_cast<int64_t>(keys_.size())) {
      std::nth_element(keys_.begin(), keys_.begin() + k_, keys_.end());
    }
    for (int64_t n = 0; n < k_; ++n) {
      const uint64_t column = keys_[static_cast<size_t>(n)] & 0xffffffffu;
      block.members[column].push_back(static_cast<int32_t>(p));
      block.taken[static_cast<size_t>(p * columns_) + column] = 1;
    }
  }
}

// Into members: for every row the other images that its bound cannot exclude.
void Refiner::take_possible(Block& block) {
  for (int64_t p = 0; p < block.rows; ++p) {
    const int64_t limit = most(block, p);
    for (int64_t column = 0; column < columns_; ++column) {
      const size_t at = static_cast<size_t>(p * columns_ + column);
      if (block.taken[at] || own(block.image, column) || block.nearest[at] > limit) continue;
      block.members[static_cast<size_t>(column)].push_back(static_cast<int32_t>(p));
    }
  }
}

// The exact distances of the column's members, which are among the k of best score.
void Refiner::examine_nearest(Block& block, int64_t column) {
  const auto& rows = block.members[static_cast<size_t>(column)];
  const uint16_t* first = block.first.data() + column * block.rows;
  for (const int32_t p : rows) {
    wanted_.push_back({static_cast<int32_t>(block.begin) + p, kInfinity, first[p]});
  }
  examine(block, column);
  for (size_t n = 0; n < rows.size(); ++n) {
    hits_of(block, rows[n])[block.kept[static_cast<size_t>(rows[n])]++] = found_[n];
  }
}

// Those of the members that may be nearer than a row's k so far; T may have shrunk since.
void Refiner::examine_possible(Block& block, int64_t column) {
  auto& rows = block.members[static_cast<size_t>(column)];
  for (const int32_t p : rows) {
    const uint16_t nearest = block.nearest[static_cast<size_t>(p * columns_ + column)];
    if (nearest > most(block, p)) continue;
    rows[wanted_.size()] = p;
    wanted_.push_back({static_cast<int32_t>(block.begin) + p, hits_of(block, p)->square, -1});
  }
  examine(block, column);
  for (size_t n = 0; n < wanted_.size(); ++n) {
    Hit* hits = hits_of(block, rows[n]);
    if (found_[n].patch < 0 || !(found_[n] < *hits)) continue;
    std::pop_heap(hits, hits + k_);
    hits[k_ - 1] = found_[n];
    std::push_heap(hits, hits + k_);
  }
}

// The question about wanted_, into found_.
void Refiner::examine(const Block& block, int64_t column) {
  found_.resize(wanted_.size());
  examiner_.examine({block.image, column, block.begin, block.rows, wanted_.data(),
                     static_cast<int64_t>(wanted_.size()), found_.data()});
}

void Refiner::run(int64_t image, int64_t images, int64_t begin, int64_t end) {
  const int64_t candidates = columns_ - (args_.symmetric && args_.images == nullptr ? 1 : 0);
  k_ = std::min(args_.k_max, candidates);
  blocks_.resize(static_cast<size_t>(images));
  const auto examine_all = [&](auto examine) {
    for (int64_t column = 0; column < columns_; ++column) {
      for (Block& block : blocks_) {
        auto& rows = block.members[static_cast<size_t>(column)];
        wanted_.clear();
        if (!rows.empty()) (this->*examine)(block, column);
        rows.clear();
      }
    }
  };
  for (Block& block : blocks_) {
    block.image = image++;
    block.begin = begin;
    block.rows = end - begin;
    block.members.resize(static_cast<size_t>(columns_));
    block.hits.resize(static_cast<size_t>(block.rows * k_));
    block.kept.assign(static_cast<size_t>(block.rows), 0);
    estimate(block);
    take_nearest(block);
  }
  examine_all(&Refiner::examine_nearest);
  for (Block& block : blocks_) {
    for (int64_t p = 0; p < block.rows; ++p) {
      std::make_heap(hits_of(block, p), hits_of(block, p) + k_);
    }
    if (args_.certified && k_ < candidates) take_possible(block);
  }
  examine_all(&Refiner::examine_possible);
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

// How the work is cut: query images and rows of a task. Large tasks use what is near more often, but
// every thread needs some, and what is known of their rows must not take much memory.
struct Cut {
  int64_t images, rows;
};

Cut cut(const RefineArgs& args, int64_t rows, int64_t workers) {
  const int64_t images = args.end - args.begin, tasks = 2 * workers;
  const int64_t row_bytes = Block::bytes_of_row(args.columns, std::min(args.k_max, args.columns));
  const int64_t most = std::max(kPanel, kStates / workers / row_bytes);  // rows of a task
  if (rows > most || images < tasks) {
    const int64_t least = (rows - 1) / std::min(most, kBlock) + 1;
    const int64_t blocks = std::max(least, std::min((tasks - 1) / images + 1, rows / kPanel + 1));
    return {1, (rows - 1) / blocks + 1};
  }
  const int64_t blocks = (rows - 1) / kBlock + 1, size = (rows - 1) / blocks + 1;
  return {std::max<int64_t>(1, std::min({kMostImages, images / tasks, most / size})), size};
}

// The largest bounds of every segment, [references][segments].
std::vector<Bounds> bounds_of_segments(const Operands& references, int64_t count, int64_t segment) {
  const int64_t segments = (references.padded + segment - 1) / segment;
  std::vector<Bounds> bounds(static_cast<size_t>(count * segments), Bounds{});
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t patch = 0; patch < references.rows; ++patch) {
      Bounds& most = bounds[static_cast<size_t>(j * segments + patch / segment)];
      most.rho = std::max(most.rho, references.bounds[j * references.rows + patch].rho);
    }
  }
  return bounds;
}

}  // namespace

void refine(const Isa& isa, const Operands& queries, const Operands& references,
            const SearchShape& shape, const RefineArgs& args) {
  const std::vector<Bounds> segment_bounds =
      bounds_of_segments(references, args.references, shape.segment);
  std::vector<float> rhos;
  for (const Bounds& bounds : segment_bounds) rhos.push_back(bounds.rho);
  const auto usual = rhos.begin() + static_cast<int64_t>(rhos.size()) * kUsual / 100;
  std::nth_element(rhos.begin(), usual, rhos.end());
  const int workers = std::max(1, shape.threads);
  const Cut size = cut(args, queries.rows, workers);
  const int64_t groups = (args.end - args.begin - 1) / size.images + 1;
  const int64_t blocks = (queries.rows - 1) / size.rows + 1;
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < workers; ++worker) {
    refiners.emplace_back(isa, queries, references, shape, args, *usual, segment_bounds.data());
  }
  parallel_for(groups * blocks, workers, [&](int64_t task, int worker) {
    const int64_t image = args.begin + task / blocks * size.images;
    const int64_t begin = (task % blocks) * size.rows;
    refiners[static_cast<size_t>(worker)].run(image, std::min(size.images, args.end - image), begin,
                                              std::min(begin + size.rows, queries.rows));
  });
  for (const Refiner& refiner : refiners) {
    for (int n = 0; n < 6; ++n) args.counters[n] += refiner.counters()[n];
  }
}

}  // namespace musc
