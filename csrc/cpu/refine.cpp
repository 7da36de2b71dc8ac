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
#include <limits>
#include <vector>

#include "cpu/interval.hpp"
#include "cpu/parallel.hpp"
#include "cpu/search.hpp"

namespace musc {
namespace {

constexpr int64_t kBlock = 512;  // patches of one task
constexpr int kFastCandidates = 4;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Hit {
  float square;  // computed |x - y|^2
  int32_t image, patch;
  bool operator<(const Hit& other) const {
    if (square != other.square) return square < other.square;
    return image < other.image;
  }
};

class Refiner {
 public:
  Refiner(const Isa& isa, const Operands& queries, const Operands& references,
          const SearchShape& shape, const RefineArgs& args, float usual_rho,
          const Bounds* segment_bounds)
      : isa_(isa), q_(queries), r_(references), shape_(shape), args_(args),
        usual_rho_(usual_rho), segment_bounds_(segment_bounds),
        segments_((references.padded + shape.segment - 1) / shape.segment),
        inverse_(1.0 / shape.scale),
        fine_inverse_(shape.fine_stride != 0 ? 1.0 / shape.fine_scale : 0.0),
        scores_(static_cast<size_t>(shape.segment)),
        chosen_(static_cast<size_t>(shape.segment + kPanel)),
        squares_(static_cast<size_t>(shape.segment)),
        rests_(static_cast<size_t>(shape.segment)) {}

  void run(int64_t image, int64_t begin, int64_t end);
  int64_t counters[6] = {};

 private:
  // The largest integer -score of a candidate within `reach` (a distance, rho and all).
  int64_t limit(double reach) const {
    const double t = reach * inverse_ * (reach * inverse_) * 0.5 + 1.0;
    return t < 2147483646.0 ? static_cast<int64_t>(t) : std::numeric_limits<int32_t>::max();
  }
  // A computed squared distance as a bound on true ones: above it, the computed one is larger too.
  double distance(float square) const {
    return square == kInfinity
               ? 1e30
               : std::sqrt(static_cast<double>(square)) * shape_.stretch + 1e-18;
  }
  // The score of a distance shorter by `excess` (in steps of the scale), rounded down.
  uint16_t lower(uint16_t score, double excess) const {
    const double t = static_cast<double>(static_cast<int64_t>(score) << shape_.shift);
    const double shorter = std::max(0.0, std::sqrt(2.0 * t) - excess);
    return static_cast<uint16_t>(static_cast<int64_t>(shorter * shorter * 0.5) >> shape_.shift);
  }
  const uint16_t* best(int64_t image, int64_t j) const {
    return args_.best +
           ((image - args_.first) * args_.references + j) * segments_ * q_.padded;
  }
  int64_t scan(int64_t image, int64_t p, int64_t j, int64_t segment);
  void examine_segment(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit);
  int64_t closer(int64_t row, int64_t j, int64_t segment, int64_t count, double bound);
  void prefetch(const float* row) const {  // enough for the hardware to see where it goes
    const char* at = reinterpret_cast<const char*>(row);
    for (int64_t line = 0; line < 8 && line * 16 < shape_.channels; ++line) {
      __builtin_prefetch(at + line * 64);
    }
  }
  void look_at_best(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit);
  Hit examine(int64_t image, int64_t p, int64_t j, float worst);
  void estimate(int64_t image, int64_t begin, int64_t end);
  void by_image(int64_t begin, int64_t end, const std::vector<std::vector<int32_t>>& wanted);
  void finish(int64_t image, int64_t p, std::vector<Hit>* hits);

  const Isa& isa_;
  const Operands& q_;
  const Operands& r_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  // The rho of most segments. Where a segment's is larger, estimate() lowers its scores instead,
  // so that one badly rounded patch does not loosen the bound of its whole image.
  const double usual_rho_;
  const Bounds* segment_bounds_;  // the largest of each, [references][segments]
  const int64_t segments_;
  const double inverse_, fine_inverse_;
  std::vector<int32_t> scores_, chosen_, squares_, rests_;
  std::vector<uint16_t> nearest_;              // [rows of the block][references]: least t >> shift
  std::vector<std::vector<int32_t>> members_;  // [references]: rows of the block to examine
  std::vector<uint32_t> keys_;
  std::vector<float> values_;
};

// Scores of one patch against one segment, into scores_; returns how many.
int64_t Refiner::scan(int64_t image, int64_t p, int64_t j, int64_t segment) {
  const int64_t begin = segment * shape_.segment;
  const int64_t width = std::min(shape_.segment, r_.padded - begin);
  const int64_t row = image * q_.padded + p;
  const uint32_t* left = q_.left + (row - p % kTileRows) * shape_.words + p % kTileRows;
  isa_.int8.scan(left, r_.right + (j * r_.padded + begin) * shape_.words, shape_.words,
                 width / kPanel, q_.left_init[row], r_.right_init + j * r_.padded + begin,
                 scores_.data());
  ++counters[1];
  return width;
}

// The closer looks at the `count` candidates chosen_: those that stay are moved to the front.
int64_t Refiner::closer(int64_t row, int64_t j, int64_t segment, int64_t count, double bound) {
  const Bounds& mine = q_.bounds[row];
  const Bounds& others = segment_bounds_[j * segments_ + segment];
  const int64_t base = j * r_.rows + segment * shape_.segment;
  const int16_t* x = q_.fine + row * shape_.fine_stride;
  const int16_t* y = r_.fine + base * shape_.fine_stride;
  isa_.fine_squares(x, y, shape_.fine_stride, chosen_.data(), count, squares_.data());
  counters[4] += count;
  const double rho = static_cast<double>(mine.fine) + others.fine;
  const double reach = (bound + rho) * (1.0 + 1e-12) * fine_inverse_;
  const double most = std::min(reach * reach, 2147483647.0);
  const int32_t limit = static_cast<int32_t>(most);
  int64_t kept = 0;
  for (int64_t n = 0; n < count; ++n) {
    const int32_t index = chosen_[n], square = squares_[n];
    chosen_[kept] = index;
    squares_[kept] = square;
    kept += square <= limit ? 1 : 0;
  }
  if (shape_.rest_stride == 0 || kept == 0) return kept;

  count = kept;
  isa_.rest_squares(q_.rest + row * shape_.rest_stride, r_.rest + base * shape_.rest_stride,
                    shape_.rest_stride, chosen_.data(), count, rests_.data());
  counters[5] += count;
  const double ceiling = bound * bound * (1.0 + 1e-12);
  const int32_t own = x[shape_.prefix];  // the tail norm, not part of the prefix
  kept = 0;
  for (int64_t n = 0; n < count; ++n) {
    const int32_t index = chosen_[n];
    const int32_t apart = own - y[index * shape_.fine_stride + shape_.prefix];
    const double prefix = std::sqrt(static_cast<double>(squares_[n] - apart * apart));
    const double tail = std::sqrt(static_cast<double>(rests_[n]));
    const Bounds& other = r_.bounds[base + index];
    const double a =
        std::max(0.0, prefix * shape_.fine_scale - (static_cast<double>(mine.fine) + other.fine));
    const double b =
        std::max(0.0, tail * shape_.rest_scale - (static_cast<double>(mine.rest) + other.rest));
    chosen_[kept] = index;
    kept += a * a + b * b <= ceiling ? 1 : 0;
  }
  return kept;
}

// Recomputes what the bounds leave of the scanned segment.
void Refiner::examine_segment(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit) {
  const int64_t begin = segment * shape_.segment;
  double bound = distance(hit->square);
  const Bounds& mine = q_.bounds[row];
  const int64_t widest = limit(bound + mine.rho + segment_bounds_[j * segments_ + segment].rho);
  const int64_t count = isa_.select(scores_.data(), width, static_cast<int32_t>(-widest),
                                    chosen_.data());
  const float* x = q_.x + row * shape_.channels;
  const int64_t base = j * r_.rows + begin;
  int64_t kept = 0;  // padding may have been chosen where nothing is known yet
  while (kept < count && begin + chosen_[kept] < r_.rows) ++kept;
  if (shape_.fine_stride != 0) kept = closer(row, j, segment, kept, bound);
  for (int64_t n = 0; n < kept; ++n) {
    const int64_t patch = begin + chosen_[n];
    if (patch == hit->patch) continue;
    const int64_t other = base + chosen_[n];
    if (shape_.fine_stride == 0) {
      const int64_t t = -static_cast<int64_t>(scores_[chosen_[n]]);
      if (t > limit(bound + mine.rho + r_.bounds[other].rho)) continue;
    }
    if (n + 1 < kept) prefetch(r_.x + (base + chosen_[n + 1]) * shape_.channels);
    const float square =
        isa_.squared_distance(x, r_.x + other * shape_.channels, shape_.channels);
    ++counters[2];
    if (square < hit->square ||
        (square == hit->square && (hit->patch < 0 || patch < hit->patch))) {
      hit->square = square;
      hit->patch = static_cast<int32_t>(patch);
      bound = distance(square);
    }
  }
}

// Without the certificate: the next few scores of the segment, whatever the bound says.
void Refiner::look_at_best(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit) {
  const int64_t begin = segment * shape_.segment;
  scores_[static_cast<size_t>(hit->patch - begin)] = std::numeric_limits<int32_t>::min();
  for (int n = 1; n < kFastCandidates; ++n) {
    isa_.select(scores_.data(), width, isa_.largest(scores_.data(), width), chosen_.data());
    const int64_t patch = begin + chosen_[0];
    if (patch >= r_.rows) return;
    scores_[static_cast<size_t>(chosen_[0])] = std::numeric_limits<int32_t>::min();
    const float square = isa_.squared_distance(
        q_.x + row * shape_.channels, r_.x + (j * r_.rows + patch) * shape_.channels,
        shape_.channels);
    ++counters[2];
    if (square < hit->square || (square == hit->square && patch < hit->patch)) {
      hit->square = square;
      hit->patch = static_cast<int32_t>(patch);
    }
  }
}

// The nearest patch of image j, if it is not farther than `worst` (a squared distance).
Hit Refiner::examine(int64_t image, int64_t p, int64_t j, float worst) {
  ++counters[0];
  const uint16_t* t = best(image, j) + p;
  int64_t first = 0;
  for (int64_t s = 1; s < segments_; ++s) {
    if (t[s * q_.padded] < t[first * q_.padded]) first = s;
  }
  const int64_t row = image * q_.rows + p;
  Hit hit{worst, static_cast<int32_t>(j), -1};
  int64_t width = scan(image, p, j, first);
  if (worst == kInfinity) {  // Nothing is known yet: start from the best score.
    const int32_t top = isa_.largest(scores_.data(), width);
    isa_.select(scores_.data(), width, top, chosen_.data());
    const int64_t patch = first * shape_.segment + chosen_[0];
    hit.square = isa_.squared_distance(q_.x + row * shape_.channels,
                                       r_.x + (j * r_.rows + patch) * shape_.channels,
                                       shape_.channels);
    hit.patch = static_cast<int32_t>(patch);
    ++counters[2];
  }
  if (!args_.certified) {
    look_at_best(row, j, first, width, &hit);
    return hit;
  }
  examine_segment(row, j, first, width, &hit);
  double bound = distance(hit.square) + q_.bounds[row].rho;
  for (int64_t s = 0; s < segments_; ++s) {
    if (s == first) continue;
    const int64_t reach = limit(bound + segment_bounds_[j * segments_ + s].rho);
    if (t[s * q_.padded] > (reach >> shape_.shift)) continue;
    width = scan(image, p, j, s);
    examine_segment(row, j, s, width, &hit);
    bound = distance(hit.square) + q_.bounds[row].rho;
  }
  return hit;
}

void Refiner::estimate(int64_t image, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  nearest_.assign(static_cast<size_t>(rows * args_.references), 65535);
  uint16_t least[kBlock];
  for (int64_t j = 0; j < args_.references; ++j) {
    if (args_.symmetric && j == image) continue;
    const uint16_t* t = best(image, j) + begin;
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
      nearest_[static_cast<size_t>(p * args_.references + j)] = least[p];
    }
  }
}

void Refiner::run(int64_t image, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const int64_t candidates = args_.references - (args_.symmetric ? 1 : 0);
  const int64_t k = std::min(args_.k_max, candidates);
  estimate(image, begin, end);
  members_.assign(static_cast<size_t>(args_.references), {});
  std::vector<std::vector<Hit>> hits(static_cast<size_t>(rows));
  std::vector<uint8_t> taken(static_cast<size_t>(rows * args_.references), 0);
  for (int64_t p = 0; p < rows; ++p) {
    keys_.clear();
    for (int64_t j = 0; j < args_.references; ++j) {
      if (args_.symmetric && j == image) continue;
      const uint32_t t = nearest_[static_cast<size_t>(p * args_.references + j)];
      keys_.push_back(t << 16 | static_cast<uint32_t>(j));
    }
    if (k < candidates) std::nth_element(keys_.begin(), keys_.begin() + k, keys_.end());
    for (int64_t n = 0; n < k; ++n) {
      const uint32_t j = keys_[static_cast<size_t>(n)] & 0xffffu;
      members_[j].push_back(static_cast<int32_t>(p));
      taken[static_cast<size_t>(p * args_.references + j)] = 1;
    }
  }
  for (int64_t j = 0; j < args_.references; ++j) {
    for (const int32_t p : members_[static_cast<size_t>(j)]) {
      hits[static_cast<size_t>(p)].push_back(examine(image, begin + p, j, kInfinity));
    }
    members_[static_cast<size_t>(j)].clear();
  }
  for (auto& row : hits) std::make_heap(row.begin(), row.end());
  if (args_.certified && k < candidates) {
    for (int64_t p = 0; p < rows; ++p) {
      const double reach = distance(hits[static_cast<size_t>(p)].front().square) +
                           q_.bounds[image * q_.rows + begin + p].rho;
      for (int64_t j = 0; j < args_.references; ++j) {
        const size_t at = static_cast<size_t>(p * args_.references + j);
        if (taken[at] || (args_.symmetric && j == image)) continue;
        if (nearest_[at] <= (limit(reach + usual_rho_) >> shape_.shift)) {
          members_[static_cast<size_t>(j)].push_back(static_cast<int32_t>(p));
        }
      }
    }
    for (int64_t j = 0; j < args_.references; ++j) {
      for (const int32_t p : members_[static_cast<size_t>(j)]) {
        auto& row = hits[static_cast<size_t>(p)];
        const double reach = distance(row.front().square) +
                             q_.bounds[image * q_.rows + begin + p].rho + usual_rho_;
        const size_t at = static_cast<size_t>(p * args_.references + j);
        if (nearest_[at] > (limit(reach) >> shape_.shift)) continue;  // T has shrunk
        const Hit hit = examine(image, begin + p, j, row.front().square);
        if (hit.patch >= 0 && hit < row.front()) {
          std::pop_heap(row.begin(), row.end());
          row.back() = hit;
          std::push_heap(row.begin(), row.end());
        }
      }
    }
  }
  for (int64_t p = 0; p < rows; ++p) finish(image, begin + p, &hits[static_cast<size_t>(p)]);
  counters[3] += rows;
}

void Refiner::finish(int64_t image, int64_t p, std::vector<Hit>* hits) {
  const int64_t row = (image - args_.begin) * q_.rows + p;
  const int64_t count = static_cast<int64_t>(hits->size());
  if (args_.distances != nullptr) {
    float* out = args_.distances + row * args_.references;
    std::fill(out, out + args_.references, kInfinity);
    for (const Hit& hit : *hits) out[hit.image] = std::sqrt(hit.square);
  }
  if (args_.means != nullptr) {
    values_.clear();
    for (const Hit& hit : *hits) values_.push_back(std::sqrt(hit.square));
    args_.means[row] = interval_mean_row(values_.data(), count, args_.k_min, args_.k_max);
  }
  if (args_.nearest != nullptr) {
    std::sort(hits->begin(), hits->end());
    for (int64_t n = 0; n < count; ++n) {
      const Hit& hit = (*hits)[static_cast<size_t>(n)];
      args_.nearest[row * args_.k_max + n] = std::sqrt(hit.square);
      args_.nearest_image[row * args_.k_max + n] = hit.image;
      args_.nearest_patch[row * args_.k_max + n] = hit.patch;
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
  const auto usual = rhos.begin() + static_cast<int64_t>(rhos.size()) * 3 / 4;
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
    for (int n = 0; n < 6; ++n) args.counters[n] += refiner.counters[n];
  }
}

}  // namespace musc
