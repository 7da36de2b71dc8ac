// The second pass: which images can enter a patch's interval, and their exact distances.
//
// For a block of patches of one query image: take each patch's k_max images of best score, find the
// exact distance to each, and call the largest T. Any other image whose bound is above T cannot
// enter; the rest are examined too, and T shrinks as they prove nearer. Within an image the
// candidate of best score is recomputed first; its distance excludes all but a few of the others.
// What is excluded has a larger *computed* distance, so the result is the minimum over everything,
// ties included, whatever the basis, the scale, the chunks or the threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/examine.hpp"
#include "cpu/interval.hpp"
#include "cpu/parallel.hpp"

namespace musc {
namespace {

constexpr int64_t kUsual = 94;   // percent of the segments whose scores need no correction

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

  void run(int64_t image, int64_t begin, int64_t end);
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
  void estimate(int64_t image, int64_t begin, int64_t end);
  void take_nearest(int64_t image, int64_t rows);
  void take_possible(int64_t image, int64_t begin, int64_t rows);
  void examine_nearest(const Question& question);
  void examine_possible(const Question& question);
  void examine(Question question);
  void finish(int64_t image, int64_t p, Hit* hits);
  Hit* hits_of(int64_t p) { return hits_.data() + p * k_; }
  // The largest score, as kept, of an image that may matter to row p of the block.
  int64_t most(int64_t image, int64_t begin, int64_t p) {
    const double reach = examiner_.distance(hits_of(p)->square) +
                         q_.bounds[image * q_.rows + begin + p].rho + usual_rho_;
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
  std::vector<uint16_t> nearest_;              // [rows of the block][columns]: least t >> shift
  std::vector<uint16_t> first_;                // [columns][rows of the block]: its segment
  std::vector<uint8_t> taken_;                 // [rows of the block][columns]
  std::vector<std::vector<int32_t>> members_;  // [columns]: rows of the block to examine
  int64_t k_ = 0;                              // neighbours kept of a row
  std::vector<Hit> hits_, found_;              // [rows of the block][k_], heaps; of one column
  std::vector<int64_t> kept_;                  // [rows of the block]: how many so far
  std::vector<Wanted> wanted_;
  std::vector<uint64_t> keys_;
  std::vector<float> values_;
};

void Refiner::estimate(int64_t image, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  nearest_.assign(static_cast<size_t>(rows * columns_), 65535);
  first_.assign(static_cast<size_t>(rows * columns_), 0);
  uint16_t least[kBlock], lowered[kBlock];
  for (int64_t column = 0; column < columns_; ++column) {
    if (own(image, column)) continue;
    const int64_t j = examiner_.image_of(image, column);
    const uint16_t* t = examiner_.best(image, column) + begin;
    std::fill_n(least, rows, static_cast<uint16_t>(65535));
    std::fill_n(lowered, rows, static_cast<uint16_t>(65535));
    uint16_t* first = first_.data() + column * rows;
    for (int64_t s = 0; s < segments_; ++s) {
      const uint16_t* scores = t + s * q_.padded;
      const double excess = (segment_bounds_[j * segments_ + s].rho - usual_rho_) * inverse_;
      isa_.fold_least(scores, rows, static_cast<uint16_t>(s), least, first);
      if (!(excess > 0.0)) continue;
      for (int64_t p = 0; p < rows; ++p) lowered[p] = std::min(lowered[p], lower(scores[p], excess));
    }
    for (int64_t p = 0; p < rows; ++p) {
      nearest_[static_cast<size_t>(p * columns_ + column)] = std::min(least[p], lowered[p]);
    }
  }
}

// Into members_: for every row the k images of best score.
void Refiner::take_nearest(int64_t image, int64_t rows) {
  taken_.assign(static_cast<size_t>(rows * columns_), 0);
  for (int64_t p = 0; p < rows; ++p) {
    keys_.clear();
    for (int64_t column = 0; column < columns_; ++column) {
      if (own(image, column)) continue;
      const uint64_t t = nearest_[static_cast<size_t>(p * columns_ + column)];
      keys_.push_back(t << 32 | static_cast<uint64_t>(column));
    }
    if (k_ < static_cast<int64_t>(keys_.size())) {
      std::nth_element(keys_.begin(), keys_.begin() + k_, keys_.end());
    }
    for (int64_t n = 0; n < k_; ++n) {
      const uint64_t column = keys_[static_cast<size_t>(n)] & 0xffffffffu;
      members_[column].push_back(static_cast<int32_t>(p));
      taken_[static_cast<size_t>(p * columns_) + column] = 1;
    }
  }
}

// Into members_: for every row the other images that its bound cannot exclude.
void Refiner::take_possible(int64_t image, int64_t begin, int64_t rows) {
  for (int64_t p = 0; p < rows; ++p) {
    const int64_t limit = most(image, begin, p);
    for (int64_t column = 0; column < columns_; ++column) {
      const size_t at = static_cast<size_t>(p * columns_ + column);
      if (taken_[at] || own(image, column) || nearest_[at] > limit) continue;
      members_[static_cast<size_t>(column)].push_back(static_cast<int32_t>(p));
    }
  }
}

// The exact distances of the column's members, which are among the k of best score.
void Refiner::examine_nearest(const Question& question) {
  const auto& rows = members_[static_cast<size_t>(question.column)];
  const uint16_t* first = first_.data() + question.column * question.rows;
  for (const int32_t p : rows) {
    wanted_.push_back({static_cast<int32_t>(question.begin) + p, kInfinity, first[p]});
  }
  examine(question);
  for (size_t n = 0; n < rows.size(); ++n) {
    hits_of(rows[n])[kept_[static_cast<size_t>(rows[n])]++] = found_[n];
  }
}

// Those of the members that may be nearer than a row's k so far; T may have shrunk since.
void Refiner::examine_possible(const Question& question) {
  const int64_t column = question.column;
  auto& rows = members_[static_cast<size_t>(column)];
  for (const int32_t p : rows) {
    const uint16_t nearest = nearest_[static_cast<size_t>(p * columns_ + column)];
    if (nearest > most(question.image, question.begin, p)) continue;
    rows[wanted_.size()] = p;
    wanted_.push_back({static_cast<int32_t>(question.begin) + p, hits_of(p)->square, -1});
  }
  examine(question);
  for (size_t n = 0; n < wanted_.size(); ++n) {
    Hit* hits = hits_of(rows[n]);
    if (found_[n].patch < 0 || !(found_[n] < *hits)) continue;
    std::pop_heap(hits, hits + k_);
    hits[k_ - 1] = found_[n];
    std::push_heap(hits, hits + k_);
  }
}

// The question about wanted_, into found_.
void Refiner::examine(Question question) {
  found_.resize(wanted_.size());
  question.wanted = wanted_.data();
  question.count = static_cast<int64_t>(wanted_.size());
  question.hits = found_.data();
  examiner_.examine(question);
}

void Refiner::run(int64_t image, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const int64_t candidates = columns_ - (args_.symmetric && args_.images == nullptr ? 1 : 0);
  k_ = std::min(args_.k_max, candidates);
  estimate(image, begin, end);
  members_.resize(static_cast<size_t>(columns_));
  hits_.resize(static_cast<size_t>(rows * k_));
  kept_.assign(static_cast<size_t>(rows), 0);
  const auto examine_all = [&](auto examine) {
    for (int64_t column = 0; column < columns_; ++column) {
      auto& rows_of = members_[static_cast<size_t>(column)];
      wanted_.clear();
      if (!rows_of.empty()) (this->*examine)({image, column, begin, rows, nullptr, 0, nullptr});
      rows_of.clear();
    }
  };
  take_nearest(image, rows);
  examine_all(&Refiner::examine_nearest);
  for (int64_t p = 0; p < rows; ++p) std::make_heap(hits_of(p), hits_of(p) + k_);
  if (args_.certified && k_ < candidates) {
    take_possible(image, begin, rows);
    examine_all(&Refiner::examine_possible);
  }
  for (int64_t p = 0; p < rows; ++p) finish(image, begin + p, hits_of(p));
  examiner_.counters[3] += rows;
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

// Rows of a task: in large blocks more rows meet an image's data while it is near, but every thread
// needs two tasks.
int64_t block_rows(int64_t images, int64_t rows, int64_t workers) {
  const int64_t least = (rows + kBlock - 1) / kBlock, most = (rows + kPanel - 1) / kPanel;
  const int64_t wanted = (2 * workers + images - 1) / images;
  const int64_t blocks = std::max(least, std::min(wanted, most));
  return (rows + blocks - 1) / blocks;
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
  const int64_t size = block_rows(args.end - args.begin, queries.rows, workers);
  const int64_t blocks = (queries.rows + size - 1) / size;
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < workers; ++worker) {
    refiners.emplace_back(isa, queries, references, shape, args, *usual, segment_bounds.data());
  }
  parallel_for((args.end - args.begin) * blocks, workers, [&](int64_t task, int worker) {
    const int64_t begin = (task % blocks) * size;
    refiners[static_cast<size_t>(worker)].run(args.begin + task / blocks, begin,
                                              std::min(begin + size, queries.rows));
  });
  for (const Refiner& refiner : refiners) {
    for (int n = 0; n < 6; ++n) args.counters[n] += refiner.counters()[n];
  }
}

}  // namespace musc
