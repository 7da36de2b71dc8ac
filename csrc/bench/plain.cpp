#include "bench/plain.hpp"

#include "cpu/parallel.hpp"

namespace musc {

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
