// The table of kernels that one instruction set offers, and the operand layouts that all tables
// share. Words and formulas: docs/exact-search.md.
//
// An operand is a matrix of 32-bit words, K a row; a word holds 4 int8 (VNNI), 2 int16 (the same
// int8 values widened, where there is no VNNI), 2 bf16 or 1 fp32 (csrc/bench). Rows are padded to
// `padded`, a multiple of 16, and stored twice:
//   left  [padded][K]           read by broadcast: the rows of a tile
//   right [padded / 16][K][16]  read by vector: the columns of a tile A score is -|x - y|^2 / 2 up
//   to rounding, so the largest score is the nearest: the accumulators start from left_init[x] +
//   right_init[y] (-|x|^2 / 2 and -|y|^2 / 2) and collect x . y. Padding has inits so low that it
//   never wins.
#pragma once

#include <cstdint>

namespace musc {

constexpr int64_t kTileRows = 8;
constexpr int64_t kPanel = 16;       // rows that lie interleaved in `right`
constexpr int64_t kSummed = 64;      // products that `project` sums at a time
constexpr int64_t kLanes = 32;       // rows of a summary that one vector holds; bits of a word
constexpr int64_t kFineUnit = 32;    // a row of the fine look is padded to so many int16
constexpr int64_t kRestUnit = 64;    // a row of the rest is padded to so many int8
// A segment is one panel, or a multiple of both tile sides, 8 and 3 * 16.
constexpr int64_t kSegmentUnit = 48;
constexpr int64_t kMaxSegment = 32 * kSegmentUnit;
inline bool is_segment(int64_t size) {
  return size == kPanel || (size > 0 && size % kSegmentUnit == 0 && size <= kMaxSegment);
}

// All scores of a pair of images, reduced to the best of every row in every segment of the other
// image. Score is int32_t or float; a maximum is stored as Best, uint16_t or float.
template <class Score, class Best>
struct PairArgs {
  const uint32_t* left;
  const uint32_t* right;
  const Score* left_init;
  const Score* right_init;
  int64_t words;          // K
  int64_t left_padded;    // rows of the left image, a multiple of 16
  int64_t right_padded;   // rows of the right image
  int64_t segment;        // see is_segment()
  int shift;              // an integer score is stored as (-score) >> shift
  Best* left_best;        // [segments of right][left_padded]
  Best* right_best;       // [segments of left][right_padded]; null: not wanted
};

// Best is (-score) >> shift, saturated: smaller is nearer.
using PairInt = PairArgs<int32_t, uint16_t>;

// Prefetches `count` values. The linkage is internal, so that no copy compiled for a newer
// processor is linked into code for an older one.
namespace {
template <class T>
inline void fetch(const T* from, int64_t count) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < count; at += kLine) __builtin_prefetch(from + at);
}
}  // namespace

// One row's rounding errors (upper bounds of the lost length) in its three representations, and the
// integers that the closer looks need of it. Python reads these as rows of six 32-bit fields.
struct Bounds {
  float rho;             // of the int8 row that the first pass compares
  float fine;            // of the 12-bit row
  float rest;            // of the int8 rest
  int32_t rest_square;   // |r|^2 of the rounded rest r
  int32_t rest_own;      // the same plus 2 * rest_bias * sum(r): see KernelTable::rest_dots
  int32_t tail;          // the tail norm as the fine row holds it
};

// Summarises the best scores of an image's rows in every segment of another image: see SummaryAt.
struct SummaryArgs {
  const uint16_t* scores;    // [segments][padded], and 32 more that can be read
  int64_t segments, padded, rows;
  const Bounds* bounds;      // [rows]
  double rho, scale;         // rho: at least the largest of the other image's rows
  // A segment is marked if its score is within an estimate of the exact distance to the best row:
  // bits: `ratio` times the distance of the rounded rows, plus `slack` steps and both rounding
  // errors; close_bits: that distance plus `share` of both rounding errors.
  float ratio, slack, share;
  int shift;
  uint16_t *nearest, *first, *outside, *close_outside;
  uint32_t *bits, *close_bits;
};

// Marks the k smallest of the scores that every row has in `columns` columns, `stride` apart, in
// bits [columns][words]; the column `skip` does not take part.
struct SmallestArgs {
  const uint16_t* scores;
  int64_t columns, stride, skip, k, words;
  uint32_t* bits;
};

// A candidate within a row's limit distance scores at least -(row_limit + panel_error)^2 / 2 - 1.
// Both are lengths in steps (steps_of()): row_limit is the limit distance plus the row's rho,
// panel_error the largest rho of the candidate's panel. Both, and the limit made of them, are
// enlarged by 2^-20, so that rounding in float excludes no candidate.
constexpr float kWider = 1.0f + 1.0f / (1 << 20);
namespace {
inline int32_t least_score(float row_limit, float panel_error) {
  constexpr float kLeast = -2147483648.0f;
  const float sum = row_limit + panel_error, least = -(0.5f * sum * sum + 1.0f) * kWider;
  return static_cast<int32_t>(least > kLeast ? least : kLeast);  // towards zero: scores are whole
}
inline void least_scores(float row_limit, const float* panel_errors, int64_t panels,
                         int32_t* least) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    least[panel] = least_score(row_limit, panel_errors[panel]);
  }
}
}  // namespace

// Compares up to eight rows with `panels` panels of `right`. The scores go to out [rows][stride],
// panels * 16 of each; where out is null, bits of the scores within the limits go to masks
// [rows][mask_stride].
struct ScanArgs {
  const uint32_t* left[8];
  uint32_t* block;  // [8][words] of scratch memory: the rows are copied there, side by side
  int32_t left_init[8];
  int64_t rows, words, panels;
  const uint32_t* right;
  const int32_t* right_init;
  int32_t* out;
  int64_t stride;
  float row_limits[8];        // see least_score
  const float* panel_errors;  // [panels]
  int32_t* least;             // [rows][mask_stride] of scratch memory
  uint16_t* masks;
  int64_t mask_stride;
};

// Marks the scores of one row, `panels` panels, that are within its limit: see least_score.
struct ChooseArgs {
  const int32_t* scores;
  int64_t panels;
  float row_limit;
  const float* panel_errors;  // [panels]
  uint16_t* masks;
};

// Pairs of rows to compare: rows[n] of x with others[n] of y.
struct Picks {
  const int32_t* rows;
  const int32_t* others;
  int64_t count;
};

// The candidates of a closer look: those that its bound does not exclude are moved to the front of
// the lists, which have room up to a whole panel.
struct CloserLookArgs {
  const Bounds *row_bounds, *other_bounds;
  const float* limit_distance;  // by slot: farther candidates do not matter
  int32_t *slots, *rows, *others, *squares;  // squares: |x - y|^2 of the fine rows
  int64_t count;
  float fine_inverse, rest_steps;  // 1 / the fine step; the step of the rest in fine steps
  const int32_t* dots;             // rest_dots of the candidates, for the look at the rest
};

// A panel of 16 rows to rotate and round in all channels; the first `rows` of them are real.
struct RotatedPanel {
  const float* x;      // [rows][channels]
  const float* mean;   // [channels]
  const float* signs;  // [2][size], +-1 / sqrt(size)
  int64_t rows, channels, size, words;
  float scale, inverse;
  float* scratch;      // [channels][16], on a cache line
  uint32_t* left;
  uint32_t* right;
  // Results, of each row: |x - mean|^2, the squared rounding error, and the sums of squares and of
  // the rounded values.
  float norms[kPanel], lost[kPanel];
  int32_t squares[kPanel], sums[kPanel];
};

// The kernels of the first pass, which depend on how int8 values lie in a word.
struct Int8Kernels {
  int elements = 0;  // per word: 4 (int8) or 2 (int16)
  int64_t unit = 0;  // K is a multiple of it
  void (*pair)(const PairInt&) = nullptr;
  void (*round_panel)(RotatedPanel&) = nullptr;
  void (*scan)(const ScanArgs&) = nullptr;
};

// Scores of rows of `left` with panels of `right` of several places, of int16 values. A score
// becomes a key, of whose low bits a slot takes the place: (score & clear) | slot. The three largest
// keys of every row and column of all calls so far are kept as blocks
// [rows / 8][panels][8][3][16], the largest first. `back` keeps the same scores with another slot,
// for the rows of `right`; null: not wanted.
constexpr int64_t kBest = 3;
constexpr int32_t kNoKey = INT32_MIN;  // below every key
struct OtherPlace {
  const uint32_t* right;
  const int32_t* init;
  int32_t slot, back_slot;
  int32_t* back;
};
struct BestArgs {
  const uint32_t* left;  // [rows][words]
  const int32_t* init;
  int64_t words, rows, panels;  // rows: whole tiles of kTileRows
  int32_t clear;
  int32_t* best;
  const OtherPlace* others;
  int64_t count;
};

// A row to round to int16: q = round((x - mean) / scale).
struct RowOfPairs {
  const float *x, *mean;  // [channels]
  int64_t channels, words;
  float scale, inverse;
  uint32_t* out;  // [words]
  // Results: |x - mean|^2, the squared rounding error, and |q|^2.
  float norm, lost;
  uint32_t square;
};

// The kernels of local matching. How two int16 a word lie in a row is the instruction set's own;
// rows of other instruction sets do not fit.
struct PlaceKernels {
  int64_t unit = 1;  // words of a row are a multiple of it
  void (*round_row)(RowOfPairs&) = nullptr;
  // Lays the 16 rows of left [16][words] side by side: right [words][16]; and back.
  void (*interleave)(const uint32_t* left, int64_t words, uint32_t* right) = nullptr;
  void (*separate)(const uint32_t* right, int64_t words, uint32_t* left) = nullptr;
  void (*best)(const BestArgs&) = nullptr;
  // `to` is best [columns / 8][panels][8][3][16] of the columns of `from`, as many as it has rows.
  void (*exchange)(const int32_t* from, int64_t panels, int32_t* to) = nullptr;
  // The k-th best of `count` keys, whole panels; its distance from the best is guessed as
  // first_step.
  int32_t (*kth_best)(const int32_t* keys, int64_t count, int64_t k, int32_t first_step) = nullptr;
  // Bits of the keys that are at least `least`.
  void (*reached)(const int32_t* keys, int64_t panels, int32_t least, uint16_t* masks) = nullptr;
};

struct KernelTable {
  Int8Kernels int8;
  PlaceKernels place;
  // out [8][panels * 16] = (x - mean) . basis for 8 rows `stride` apart; basis
  // [panels][channels][16]. centred [channels][8]: scratch memory.
  void (*project)(const float* x, int64_t stride, const float* mean, int64_t channels,
                  const float* basis, int64_t panels, float* centred, float* out) = nullptr;
  // sum((x - y)^2) in fp32, in one fixed order of additions on every instruction set.
  void (*squared_distances)(const float* x, const float* y, int64_t channels, const Picks& picks,
                            float* out) = nullptr;
  // out = x - y; out may be x.
  void (*subtract)(const float* x, const float* y, int64_t count, float* out) = nullptr;
  // out = round(value * inverse), of values clipped to +-most steps; returns the sum of the squared
  // rounding errors of the clipped values.
  float (*round_bytes)(const float* value, int64_t count, float scale, float inverse, float most,
                       int8_t* out) = nullptr;
  float (*round_fine)(const float* value, int64_t count, float scale, float inverse, float most,
                      int16_t* out) = nullptr;
  // |x - y|^2 of fine rows in int32; the caller ensures that differences and sums fit.
  void (*fine_squares)(const int16_t* x, const int16_t* y, int64_t stride, const Picks& picks,
                       int32_t* out) = nullptr;
  // x . y + rest_bias * sum(x) in int32: VNNI multiplies signed by unsigned bytes, so it adds 128
  // to y.
  void (*rest_dots)(const int8_t* x, const int8_t* y, int64_t stride, const Picks& picks,
                    int32_t* out) = nullptr;
  int32_t rest_bias = 0;
  // Drop the candidates that the look excludes; return how many remain.
  int64_t (*keep_fine)(const CloserLookArgs&) = nullptr;
  int64_t (*keep_rest)(const CloserLookArgs&) = nullptr;
  // The index of the largest score, the first of equal ones.
  int64_t (*largest)(const int32_t* scores, int64_t count) = nullptr;
  void (*summarise)(const SummaryArgs&) = nullptr;
  void (*smallest)(const SmallestArgs&) = nullptr;
  // Bits of scores <= limits, 32 a word.
  void (*within)(const uint16_t* scores, const uint16_t* limits, int64_t words,
                 uint32_t* bits) = nullptr;
  void (*choose)(const ChooseArgs&) = nullptr;
  // The loops of LNAMD: sum(x); sum((x - centre)^2); sums += enters - leaves (either may be null);
  // out = (x - centre) * scale.
  double (*sum)(const float* x, int64_t count) = nullptr;
  double (*sum_of_squares)(const float* x, int64_t count, double centre) = nullptr;
  double (*sum_of_squares_double)(const double* x, int64_t count, double centre) = nullptr;
  void (*slide)(double* sums, const float* enters, const float* leaves, int64_t count) = nullptr;
  void (*slide_sums)(double* sums, const double* enters, const double* leaves,
                     int64_t count) = nullptr;
  void (*centre_and_scale)(const double* x, int64_t count, double centre, double scale,
                           float* out) = nullptr;
};

}  // namespace musc
