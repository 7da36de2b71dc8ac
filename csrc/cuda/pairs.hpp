// The search over few channels on a GPU: what the two passes take. Nothing here needs CUDA headers.
#pragma once

#include <cstdint>

namespace musc::cuda {

// The first pass stores the least distance of a patch of x to each kRange patches of an image of y,
// a range; they tell the second pass where to look.
constexpr int kRange = 128;

// Images x [N, P, K] against images y [M, Q, K], int8, K = 64, 128 or 256, values within +-127.
// Image j of y is image `first` + j of `all`; keys are [N, all, P] int64, a key is
// (squared distance of the rounded rows) << 32 | patch of y. With `triangle` x and y are the same
// images, a pair i < j is multiplied once, and its columns give the keys of j against i.
struct Pairs {
  const int8_t* x;
  const int8_t* y;
  const int32_t* x_norms;  // [N, P] squared norms
  const int32_t* y_norms;  // [M, Q]
  int64_t* keys;
  uint16_t* least;  // [N, all, ceil(Q / kRange), P], upper halves of float32; null: not stored
  int images;         // N
  int others;         // M
  int patches;        // P
  int other_patches;  // Q
  int channels;       // K
  int all;
  int first;
  bool triangle;
};

// Candidates of patches of x within limits [N, all, P] (squared distances; below 0: none wanted), but
// for the winners. All pairs are looked at in one direction, whether `triangle` or not.
struct Candidates {
  const float* limits;
  uint64_t* count;    // how many there are, also of those beyond `room`
  int64_t* slots;     // [room], (i * all + first + j) * P + p
  int32_t* patches;   // [room], the patch of the other image
  int64_t room;
};

// Both launch on `stream` and return a cudaError_t (0: success). `find_nearest` lowers the keys and
// sets `least`, which `list_candidates` needs.
int find_nearest(const Pairs& pairs, void* stream);
int list_candidates(const Pairs& pairs, const Candidates& candidates, void* stream);
const char* describe_error(int error);

}  // namespace musc::cuda
