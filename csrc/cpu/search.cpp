#include "cpu/search.hpp"

#include "cpu/parallel.hpp"

namespace musc {

void search_pairs(const Isa& isa, const Operands& queries, const Operands& references,
                  const SearchShape& shape, const PairsArgs& args) {
  const auto block = [&](const Operands& rows, const Operands& others) {  // of best, per pair
    return (others.padded + shape.segment - 1) / shape.segment * rows.padded;
  };
  const int64_t there = block(queries, references), back = block(references, queries);
  parallel_for(args.pair_count, shape.threads, [&](int64_t task, int) {
    const int32_t* listed = args.pairs + 4 * task;
    const int64_t i = listed[0], column = listed[1], j = listed[2], back_column = listed[3];
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
    pair.left_best = args.best + ((i - args.first) * args.columns + column) * there;
    pair.right_best =
        back_column < 0
            ? nullptr
            : args.back + ((j - args.back_first) * args.back_columns + back_column) * back;
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
