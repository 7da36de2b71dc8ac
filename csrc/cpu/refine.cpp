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

constexpr int64_t kBlock = 512;  // patches of one task
constexpr int64_t kUsual = 94;   // percent of the segments whose scores need no correction

class Refiner {
 public:
  Refiner(const Isa& isa, const Operands& queries, const Operands& references,
          const SearchShape& shape, const RefineArgs& args, float usual_rho,
          const Bounds* segment_bounds)
      : examiner_(isa, queries, references, shape, args, segment_bounds),
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
  void examine_nearest(int64_t image, int64_t begin, int64_t column);
  void examine_possible(int64_t image, int64_t begin, int64_t column);
  void finish(int64_t image, int64_t p, Hit* hits);
  Hit* hits_of(int64_t p) { return hits_.data() + p * k_; }
  // The largest score, as kept, of an image that may matter to row p of the block.
  int64_t most(int64_t image, int64_t begin, int64_t p) {
    const double reach = examiner_.distance(hits_of(p)->square) +
                         q_.bounds[image * q_.rows + begin + p].rho + usual_rho_;
    return examiner_.limit(reach) >> shape_.shift;
  }

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
  uint16_t least[kBlock];
  for (int64_t column = 0; column < columns_; ++column) {
    if (own(image, column)) continue;
    const int64_t j = examiner_.image_of(image, column);
    const uint16_t* t = examiner_.best(image, column) + begin;
    std::fill_n(least, rows, static_cast<uint16_t>(65535));
    for (int64_t s = 0; s < segments_; ++s) {
      const uint16_t* other = t + s * q_.padded;
      const double excess = (segment_bounds_[j * segments_ + s].rho - usual_rho_) * inverse_;
      if (excess > 0.0) {
        for (int64_t p = 0; p < rows; ++p) {
          const uint16_t lowered = lower(other[p], excess);
          least[p] = lowered < least[p] ? lowered : least[p];
        }
        continue;
      }
      for (int64_t p = 0; p < rows; ++p) least[p] = other[p] < least[p] ? other[p] : least[p];
    }
    for (int64_t p = 0; p < rows; ++p) {
      nearest_[static_cast<size_t>(p * columns_ + column)] = least[p];
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
void Refiner::examine_nearest(int64_t image, int64_t begin, int64_t column) {
  const auto& rows = members_[static_cast<size_t>(column)];
  wanted_.clear();
  for (const int32_t p : rows) {
    wanted_.push_back({static_cast<int32_t>(begin) + p, kInfinity});
  }
  found_.resize(rows.size());
  examiner_.examine(image, column, wanted_.data(), static_cast<int64_t>(rows.size()),
                    found_.data());
  for (size_t n = 0; n < rows.size(); ++n) {
    hits_of(rows[n])[kept_[static_cast<size_t>(rows[n])]++] = found_[n];
  }
}

// Those of the members that may be nearer than a row's k so far; T may have shrunk since.
void Refiner::examine_possible(int64_t image, int64_t begin, int64_t column) {
  auto& rows = members_[static_cast<size_t>(column)];
  wanted_.clear();
  for (const int32_t p : rows) {
    if (nearest_[static_cast<size_t>(p * columns_ + column)] > most(image, begin, p)) continue;
    rows[wanted_.size()] = p;
    wanted_.push_back({static_cast<int32_t>(begin) + p, hits_of(p)->square});
  }
  found_.resize(wanted_.size());
  examiner_.examine(image, column, wanted_.data(), static_cast<int64_t>(wanted_.size()),
                    found_.data());
  for (size_t n = 0; n < wanted_.size(); ++n) {
    Hit* hits = hits_of(rows[n]);
    if (found_[n].patch < 0 || !(found_[n] < *hits)) continue;
    std::pop_heap(hits, hits + k_);
    hits[k_ - 1] = found_[n];
    std::push_heap(hits, hits + k_);
  }
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
      if (!rows_of.empty()) (this->*examine)(image, begin, column);
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

}  // namespace

void refine(const Isa& isa, const Operands& queries, const Operands& references,
            const SearchShape& shape, const RefineArgs& args) {
  const int64_t segments = (references.padded + shape.segment - 1) / shape.segment;
  std::vector<Bounds> segment_bounds(static_cast<size_t>(args.references * segments), Bounds{});
  for (int64_t j = 0; j < args.references; ++j) {
    for (int64_t patch = 0; patch < references.rows; ++patch) {
      const Bounds& own = references.bounds[j * references.rows + patch];
      Bounds& most = segment_bounds[static_cast<size_t>(j * segments + patch / shape.segment)];
      most.rho = std::max(most.rho, own.rho);
      most.fine = std::max(most.fine, own.fine);
    }
  }
  std::vector<float> rhos;
  for (const Bounds& bounds : segment_bounds) rhos.push_back(bounds.rho);
  const auto usual = rhos.begin() + static_cast<int64_t>(rhos.size()) * kUsual / 100;
  std::nth_element(rhos.begin(), usual, rhos.end());
  const int64_t blocks = (queries.rows + kBlock - 1) / kBlock;
  const int workers = std::max(1, shape.threads);
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < workers; ++worker) {
    refiners.emplace_back(isa, queries, references, shape, args, *usual, segment_bounds.data());
  }
  parallel_for((args.end - args.begin) * blocks, workers, [&](int64_t task, int worker) {
    const int64_t begin = (task % blocks) * kBlock;
    refiners[static_cast<size_t>(worker)].run(args.begin + task / blocks, begin,
                                              std::min(begin + kBlock, queries.rows));
  });
  for (const Refiner& refiner : refiners) {
    for (int n = 0; n < 6; ++n) args.counters[n] += refiner.counters()[n];
  }
}

}  // namespace musc
