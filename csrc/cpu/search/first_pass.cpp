#include "cpu/search/search.hpp"

#include <algorithm>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/search/summary.hpp"

namespace musc {

namespace {

// Estimates of SummaryArgs. Larger values mark more segments, which are then scanned again; smaller
// ones make more rows scan all segments of an image.
constexpr float kSlack = 5.0f;
constexpr float kShare = 0.75f;

// The best scores of one pair of images, both ways; a thread's own.
struct Scores {
  std::vector<uint16_t> left, right;
};

int64_t segments_of(const RoundedImages& side, int64_t segment) {
  return (side.padded + segment - 1) / segment;
}

// Summarises the scores of image i of `side` in the segments of one image of `others`.
void summarise_pair(const KernelTable& kernels, const RoundedImages& side, int64_t i,
                    const RoundedImages& others, const SearchShape& shape, const uint16_t* scores,
                    int64_t column, const Summaries& summaries) {
  PairScores pair;
  pair.scores = scores;
  pair.segments = segments_of(others, shape.segment);
  pair.padded = side.padded;
  pair.rows = side.rows;
  pair.bounds = side.bounds + i * side.rows;
  const int64_t place = (i - summaries.first) * summaries.columns + column;
  summarise(kernels, pair, shape, summaries.data + place * summary_size(pair.rows, pair.segments));
}

}  // namespace

void summarise(const KernelTable& kernels, const PairScores& scores, const SearchShape& shape,
               uint16_t* best) {
  const SummaryOut out(best, scores.rows, scores.segments);
  SummaryArgs args;
  args.scores = scores.scores;
  args.segments = scores.segments;
  args.padded = scores.padded;
  args.rows = scores.rows;
  args.bounds = scores.bounds;
  args.rho = shape.largest_rho;
  args.scale = shape.scale;
  args.ratio = static_cast<float>(shape.ratio);
  args.slack = kSlack;
  args.share = kShare;
  args.shift = shape.shift;
  args.nearest = out.nearest;
  args.first = out.first;
  args.outside = out.outside;
  args.close_outside = out.close_outside;
  args.bits = out.bits;
  args.close_bits = out.close_bits;
  kernels.summarise(args);
}

void search_pairs(const KernelTable& kernels, const RoundedImages& queries,
                  const RoundedImages& references, const SearchShape& shape,
                  const PairsArgs& args) {
  std::vector<Scores> scores(sized(std::max(1, shape.threads)));
  parallel_for(args.pair_count, shape.threads, [&](int64_t task, int worker) {
    const int32_t* numbers = args.pairs + 4 * task;
    const int64_t i = numbers[0], column = numbers[1], j = numbers[2], mirrored = numbers[3];
    std::vector<uint16_t>& left = scores[sized(worker)].left;
    std::vector<uint16_t>& right = scores[sized(worker)].right;
    left.resize(sized(segments_of(references, shape.segment) * queries.padded + kLanes));
    if (mirrored >= 0) {
      right.resize(sized(segments_of(queries, shape.segment) * references.padded + kLanes));
    }
    PairInt pair;
    pair.left = queries.left + i * queries.padded * shape.words;
    pair.left_init = queries.left_init + i * queries.padded;
    pair.right = references.right + j * references.padded * shape.words;
    pair.right_init = references.right_init + j * references.padded;
    pair.words = shape.words;
    pair.left_padded = queries.padded;
    pair.right_padded = references.padded;
    pair.segment = shape.segment;
    pair.shift = shape.shift;
    pair.left_best = left.data();
    pair.right_best = mirrored < 0 ? nullptr : right.data();
    kernels.int8.pair(pair);
    summarise_pair(kernels, queries, i, references, shape, left.data(), column, args.best);
    if (mirrored >= 0) {
      summarise_pair(kernels, references, j, queries, shape, right.data(), mirrored, args.mirrored);
    }
  });
}

}  // namespace musc
