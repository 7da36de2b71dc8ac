// What one instruction set offers to the search, and the operand layouts they all share.
//
// An operand is a matrix of 32-bit words, K a row; a word holds 4 int8 (VNNI), 2 int16 (the same
// int8 values widened, where there is no VNNI), 2 bf16 or 1 fp32. Rows are padded to `padded`, a
// multiple of 16, and held twice:
//   left  [padded][K]           read by broadcast: the rows of a tile
//   right [padded / 16][K][16]  read by vector: the columns of a tile
// A score is -|x - y|^2 / 2 up to rounding, so the largest score is the nearest: the accumulators
// start from left_init[x] + right_init[y] (-|x|^2 / 2 and -|y|^2 / 2) and collect x . y. Padding has
// inits so low that it never wins.
#pragma once

#include <cstdint>

namespace musc {

constexpr int64_t kTileRows = 8;
constexpr int64_t kPanel = 16;       // a group of `right`
constexpr int64_t kSummed = 64;      // products that `project` sums at a time
constexpr int64_t kLanes = 32;       // rows of a summary that are worked on together: bits of a word
// A segment is one panel, or a multiple of both tile sides, 8 and 3 * 16.
constexpr int64_t kSegmentUnit = 48;
constexpr int64_t kMaxSegment = 32 * kSegmentUnit;
inline bool is_segment(int64_t size) {
  return size == kPanel || (size > 0 && size % kSegmentUnit == 0 && size <= kMaxSegment);
}

// Score is int32_t or float; Best, what is kept of a maximum, is uint16_t or float.
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
  int shift;              // integer scores are kept as (-score) >> shift
  Best* left_best;        // [segments of right][left_padded]
  Best* right_best;       // [segments of left][right_padded], or null: not wanted
};

// int8: Best is (-score) >> shift, saturated: smaller is nearer. Floats: Best is -score.
using PairInt = PairArgs<int32_t, uint16_t>;
using PairFloat = PairArgs<float, float>;

// Asks for memory that is needed soon. Internal linkage: no copy built for a newer processor may be
// linked into an older path.
namespace {
template <class T>
inline void fetch(const T* from, int64_t count) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < count; at += kLine) __builtin_prefetch(from + at);
}
}  // namespace

// Bounds on what rounding took from a row, by representation, and what the looks need of it beside.
struct Bounds {
  float rho, fine, rest;
  int32_t rest_square, rest_own;  // |r|^2 of the rest as rounded; as a first factor, see rest_dots
  int32_t tail;                   // the tail norm in the fine look's steps
};

// The best scores of an image's rows in every segment of another, and what is kept of them: see
// SummaryAt.
struct SummaryArgs {
  const uint16_t* scores;    // [segments][padded], and 32 more that can be read
  int64_t segments, padded, rows;
  const Bounds* bounds;      // [rows]
  double rho, scale;         // rho: the largest of the other image's rows, at least
  // Limits: what is expected of the best score's exact distance, `ratio` of the rounded one as a rule
  // and `slack` steps; and for the close ones a share of what rounding may have changed.
  float ratio, slack, share;
  int shift;
  uint16_t *nearest, *first, *outside, *close_outside;
  uint32_t *bits, *close_bits;
};

// Scores [columns] of rows, `stride` apart; bits [columns][words] of the k smallest but `skip`'s.
struct SmallestArgs {
  const uint16_t* scores;
  int64_t columns, stride, skip, k, words;
  uint32_t* bits;
};

// A candidate's score is at least -(slope + delta)^2 / 2 - 1, in steps: slope of the row (the distance
// within reach, and its rho), delta of the column's panel (the largest rho there), see steps_of(). Both
// are a little enlarged, and so is the limit made of them, so that float's rounding loses nothing.
constexpr float kWider = 1.0f + 1.0f / (1 << 20);
namespace {
inline int32_t least_score(float slope, float delta) {
  constexpr float kLeast = -2147483648.0f;
  const float sum = slope + delta, least = -(0.5f * sum * sum + 1.0f) * kWider;
  return static_cast<int32_t>(least > kLeast ? least : kLeast);  // towards zero: scores are whole
}
inline void least_scores(float slope, const float* deltas, int64_t panels, int32_t* least) {
  for (int64_t panel = 0; panel < panels; ++panel) least[panel] = least_score(slope, deltas[panel]);
}
}  // namespace

// Up to eight rows against `panels` panels of `right`: their scores, out [rows][stride], panels * 16
// of each; or, where out is null, bits of those that are within reach, masks [rows][mask_stride].
struct ScanArgs {
  const uint32_t* left[8];
  uint32_t* block;  // [8][words], to be used: there the rows lie together
  int32_t left_init[8];
  int64_t rows, words, panels;
  const uint32_t* right;
  const int32_t* right_init;
  int32_t* out;
  int64_t stride;
  float slopes[8];      // see least_score
  const float* deltas;  // [panels]
  int32_t* least;       // [rows][mask_stride], to be used
  uint16_t* masks;
  int64_t mask_stride;
};

// Bits of the scores of a row, `panels` panels, that are within reach.
struct ChooseArgs {
  const int32_t* scores;
  int64_t panels;
  float slope;
  const float* deltas;  // [panels]
  uint16_t* masks;
};

// Rows to compare: rows[n] of x with others[n] of y.
struct Picks {
  const int32_t* rows;
  const int32_t* others;
  int64_t count;
};

// Candidates at which a closer look was taken; what it leaves is moved to the front. The lists can be
// written up to a whole panel.
struct LookArgs {
  const Bounds *mine, *theirs;  // of the rows, of the others
  const float* reach;           // by slot: no candidate beyond it matters
  int32_t *slots, *rows, *others, *squares;  // squares: of the fine look
  int64_t count;
  float fine_inverse, rest_steps;  // 1 / the fine look's step; the rest's step, in those of the fine
  const int32_t* dots;  // for the look at the rest: rest_dots
};

// 16 rows to round in all their channels, of which the first `rows` are real.
struct WholePanel {
  const float* x;      // [rows][channels]
  const float* mean;   // [channels]
  const float* signs;  // [2][size], +-1 / sqrt(size)
  int64_t rows, channels, size, words;
  float scale, inverse;
  float* scratch;      // [channels][16], on a line
  uint32_t* left;
  uint32_t* right;
  // Of each row: |x - mean|^2, the square of what rounding took, and of the levels.
  float norms[kPanel], lost[kPanel];
  int32_t squares[kPanel], sums[kPanel];
};

struct IntKernel {
  int elements;   // per word: 4 (int8) or 2 (int16)
  int64_t unit;   // K is a multiple of it
  void (*pair)(const PairInt&);
  void (*round_panel)(WholePanel&);
  void (*scan)(const ScanArgs&);
  // Runs `steps` steps of pure dot products (seed: 16 words, result: 16 scores); returns operations
  // divided by `elements`.
  int64_t (*peak)(int64_t steps, const uint32_t* seed, void* result);
};

struct FloatKernel {
  int elements;  // per word: 1 (fp32) or 2 (bf16)
  void (*pair)(const PairFloat&);
  int64_t (*peak)(int64_t steps, const uint32_t* seed, void* result);
};

struct Isa {
  const char* name;
  IntKernel int8;
  FloatKernel fp32;
  FloatKernel bf16;  // pair is null where there is no such instruction
  // out [8][panels * 16] = (x - mean) . basis for 8 rows `stride` apart; basis [panels][channels][16].
  // centred [channels][8]: scratch.
  void (*project)(const float* x, int64_t stride, const float* mean, int64_t channels,
                  const float* basis, int64_t panels, float* centred, float* out);
  // sum((x - y)^2) in fp32, in one fixed order of additions on every instruction set.
  void (*squared_distances)(const float* x, const float* y, int64_t channels, const Picks& picks,
                            float* out);
  // out = x - y; out may be x.
  void (*subtract)(const float* x, const float* y, int64_t count, float* out);
  // out = round(value * inverse), of values clipped to +-most steps; returns the sum of squares of
  // what rounding took from those.
  float (*round_bytes)(const float* value, int64_t count, float scale, float inverse, float most,
                       int8_t* out);
  float (*round_fine)(const float* value, int64_t count, float scale, float inverse, float most,
                      int16_t* out);
  // sum((x - y)^2) and x . (y + rest_bias) in int32; the caller sees to it that differences and sums
  // fit. VNNI multiplies unsigned with signed bytes.
  void (*fine_squares)(const int16_t* x, const int16_t* y, int64_t stride, const Picks& picks,
                       int32_t* out);
  void (*rest_dots)(const int8_t* x, const int8_t* y, int64_t stride, const Picks& picks,
                    int32_t* out);
  int32_t rest_bias;
  // What the looks leave of candidates; returns how many.
  int64_t (*keep_fine)(const LookArgs&);
  int64_t (*keep_rest)(const LookArgs&);
  // The place of the largest score, the first of equal ones.
  int64_t (*largest)(const int32_t* scores, int64_t count);
  void (*summarise)(const SummaryArgs&);
  void (*smallest)(const SmallestArgs&);
  // Bits of scores <= limits, 32 a word.
  void (*within)(const uint16_t* scores, const uint16_t* limits, int64_t words, uint32_t* bits);
  void (*choose)(const ChooseArgs&);
  // LNAMD's loops: sum(x); sum((x - centre)^2); sums += enters - leaves (either may be null);
  // out = (x - centre) * scale.
  double (*sum)(const float* x, int64_t count);
  double (*sum_of_squares)(const float* x, int64_t count, double centre);
  double (*sum_of_squares_double)(const double* x, int64_t count, double centre);
  void (*slide)(double* sums, const float* enters, const float* leaves, int64_t count);
  void (*slide_sums)(double* sums, const double* enters, const double* leaves, int64_t count);
  void (*centre_and_scale)(const double* x, int64_t count, double centre, double scale,
                           float* out);
};

// The instruction sets this processor can run, best first; the last is "portable".
int isa_count();
const Isa& isa_at(int index);

}  // namespace musc
