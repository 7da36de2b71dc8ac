#include "cpu/search.hpp"

#include <algorithm>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/summary.hpp"

namespace musc {

// See SummaryArgs. Larger ones make more segments be scanned again, smaller ones more images whole.
constexpr float kSlack = 5.0f;
constexpr float kShare = 0.75f;

namespace {

// The best scores of a pair on their way to a summary: of one thread.
struct Scores {
  std::vector<uint16_t> left, right;
};

int64_t segments_of(const Operands& side, int64_t segment) {
  return (side.padded + segment - 1) / segment;
}

// What is kept of `rows` of image i and the segments of another image.
void summarise_pair(const Isa& isa, const Operands& rows, int64_t i, const Operands& others,
                    const SearchShape& shape, const uint16_t* scores, uint16_t* best) {
  summarise(isa, scores, segments_of(others, shape.segment), rows.padded, rows.rows,
            rows.bounds + i * rows.rows, shape.largest_rho, shape.scale, shape.ratio, shape.shift,
            best);
}

}  // namespace

void summarise(const Isa& isa, const uint16_t* scores, int64_t segments, int64_t padded,
               int64_t rows, const Bounds* bounds, double rho, double scale, double ratio,
               int shift, uint16_t* best) {
  const SummaryOut out(best, rows, segments);
  SummaryArgs args;
  args.scores = scores;
  args.segments = segments;
  args.padded = padded;
  args.rows = rows;
  args.bounds = bounds;
  args.rho = rho;
  args.scale = scale;
  args.ratio = static_cast<float>(ratio);
  args.slack = kSlack;
  args.share = kShare;
  args.shift = shift;
  args.nearest = out.nearest;
  args.first = out.first;
  args.outside = out.outside;
  args.close_outside = out.close_outside;
  args.bits = out.bits;
  args.close_bits = out.close_bits;
  isa.summarise(args);
}

void search_pairs(const Isa& isa, const Operands& queries, const Operands& references,
                  const SearchShape& shape, const PairsArgs& args) {
  const int64_t there = segments_of(references, shape.segment);
  const int64_t back = segments_of(queries, shape.segment);
  std::vector<Scores> scores(sized(std::max(1, shape.threads)));
  parallel_for(args.pair_count, shape.threads, [&](int64_t task, int worker) {
    const int32_t* listed = args.pairs + 4 * task;
    const int64_t i = listed[0], column = listed[1], j = listed[2], back_column = listed[3];
    Scores& mine = scores[sized(worker)];
    mine.left.resize(sized(there * queries.padded + kLanes));
    mine.right.resize(sized(back_column < 0 ? 0 : back * references.padded + kLanes));
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
    pair.left_best = mine.left.data();
    pair.right_best = back_column < 0 ? nullptr : mine.right.data();
    isa.int8.pair(pair);
    summarise_pair(isa, queries, i, references, shape, mine.left.data(),
                   args.best + ((i - args.first) * args.columns + column) *
                                   summary_size(queries.rows, there));
    if (back_column < 0) return;
    summarise_pair(isa, references, j, queries, shape, mine.right.data(),
                   args.back + ((j - args.back_first) * args.back_columns + back_column) *
                                   summary_size(references.rows, back));
  });
}

void search_plain(const FloatKernel& kernel, const PlainArgs& args) {
  const int64_t block = (args.padded + args.segment - 1) / args.segment * args.padded;
  parallel_for(args.end - args.begin, args.threads, [&](int64_t task, int) {
    int64_t i = 0, rest = args.begin + task;
    while (rest >= args.images - 1 - i) rest -= args.images - 1 - i++;
    const int64_t j = i + 1 + rest;
    PairFloat pair;
    pair.left = args.left + i * args.padded * args.words;
    pair.right = args.right + j * args.padded * args.words;
    pair.left_init = args.init + i * args.padded;
    pair.right_init = args.init + j * args.padded;
    pair.words = args.words;
    pair.left_padded = pair.right_padded = args.padded;
    pair.segment = args.segment;
    pair.shift = 0;
    pair.left_best = args.best + (i * args.images + j) * block;
    pair.right_best = args.best + (j * args.images + i) * block;
    kernel.pair(pair);
  });
}

}  // namespace musc
