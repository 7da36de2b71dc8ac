#include "cpu/search.hpp"

#include "cpu/parallel.hpp"

namespace musc {

void search_pairs(const Isa& isa, const Operands& queries, const Operands& references,
                  const SearchShape& shape, const PairsArgs& args) {
  const int64_t row_segments = (references.padded + shape.segment - 1) / shape.segment;
  const int64_t block = row_segments * queries.padded;  // of best, per pair of images
  const auto at = [&](int64_t i, int64_t j) {
    return args.best + ((i - args.first) * args.references + j) * block;
  };
  parallel_for(args.pair_count, shape.threads, [&](int64_t task, int) {
    const int64_t i = args.pairs[2 * task], j = args.pairs[2 * task + 1];
    const bool both = args.symmetric && j >= args.first && j < args.first + args.count;
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
    pair.left_best = at(i, j);
    pair.right_best = both ? at(j, i) : nullptr;
    isa.int8.pair(pair);
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
