// The tile operations in plain C++: 16 lanes in an array, which compilers turn into the vectors of
// the target (SSE2, NEON). Of the float operations, the product uses load, store, broadcast, add
// and multiply_add; csrc/bench uses the others.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/inner/tile.hpp"

namespace musc {
namespace {

template <class T>
struct Lanes {
  T at[kPanel];
};

template <class ScoreType>
struct PortableBase {
  using Score = ScoreType;
  using Vector = Lanes<Score>;
  static constexpr int kRows = 2;
  static constexpr int kPanels = 1;

  static MUSC_INLINE Vector load(const Score* from) {
    Vector out;
    for (int i = 0; i < kPanel; ++i) out.at[i] = from[i];
    return out;
  }
  static MUSC_INLINE void store(Score* to, const Vector& value) {
    for (int i = 0; i < kPanel; ++i) to[i] = value.at[i];
  }
  static MUSC_INLINE Vector broadcast(Score value) {
    Vector out;
    for (int i = 0; i < kPanel; ++i) out.at[i] = value;
    return out;
  }
  static MUSC_INLINE Vector add(Vector a, const Vector& b) {
    for (int i = 0; i < kPanel; ++i) a.at[i] += b.at[i];
    return a;
  }
  static MUSC_INLINE Vector max(Vector a, const Vector& b) {
    for (int i = 0; i < kPanel; ++i) a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];
    return a;
  }
};

// Words of two int16.
struct PortableInt : PortableBase<int32_t> {
  using Pairs = PortableInt;
  static constexpr int kElements = 2;
  using Best = uint16_t;
  using Words = Lanes<uint32_t>;
  static MUSC_INLINE Vector lowest() { return broadcast(-(1 << 30)); }
  static MUSC_INLINE Words load_words(const uint32_t* from) {
    Words out;
    for (int i = 0; i < kPanel; ++i) out.at[i] = from[i];
    return out;
  }
  static MUSC_INLINE uint32_t broadcast_word(uint32_t word) { return word; }
  static MUSC_INLINE Vector dot(Vector sums, uint32_t row, const Words& columns) {
    const int32_t low = static_cast<int16_t>(row & 0xffffu);
    const int32_t high = static_cast<int16_t>(row >> 16);
    for (int i = 0; i < kPanel; ++i) {
      sums.at[i] += low * static_cast<int16_t>(columns.at[i] & 0xffffu) +
                    high * static_cast<int16_t>(columns.at[i] >> 16);
    }
    return sums;
  }
  static MUSC_INLINE Best pack(Score score, int shift) {
    const int32_t t = score < 0 ? (-score) >> shift : 0;
    return static_cast<Best>(t < 65535 ? t : 65535);
  }
  static MUSC_INLINE void store_best(Best* to, const Vector& score, int shift) {
    for (int i = 0; i < kPanel; ++i) to[i] = pack(score.at[i], shift);
  }
  static MUSC_INLINE void reduce_rows(const Vector* rows, int shift, Best* out) {
    for (int r = 0; r < kTileRows; ++r) out[r] = pack(largest(rows[r]), shift);
  }
  // Bits of the 32 scores that are at most their limits; the other scores lower `outside`.
  static MUSC_INLINE uint32_t split(const uint16_t* scores, const Shorts& limits,
                                    Shorts& outside) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) {
      const bool keep = scores[i] <= limits[i];
      bits |= (keep ? 1u : 0u) << i;
      outside[i] = keep || outside[i] < scores[i] ? outside[i] : scores[i];
    }
    return bits;
  }
  // Bits of the 16 values that are at most their limits.
  static MUSC_INLINE uint32_t within(const float* values, const float* limits) {
    uint32_t bits = 0;
    for (int i = 0; i < kPanel; ++i) bits |= (values[i] <= limits[i] ? 1u : 0u) << i;
    return bits;
  }
  // Moves those of 16 numbers that `keep` marks to the front of out, which has room for 16.
  static MUSC_INLINE void compress(const int32_t* from, uint32_t keep, int32_t* out) {
    for (int i = 0; i < kPanel; ++i) {
      *out = from[i];
      out += keep >> i & 1u;
    }
  }
  // Bits of the scores that are at least `least`.
  static MUSC_INLINE uint32_t reached(const Vector& scores, Score least) {
    uint32_t bits = 0;
    for (int i = 0; i < kPanel; ++i) bits |= (scores.at[i] >= least ? 1u : 0u) << i;
    return bits;
  }
  static MUSC_INLINE Vector min(Vector a, const Vector& b) {
    for (int i = 0; i < kPanel; ++i) a.at[i] = a.at[i] < b.at[i] ? a.at[i] : b.at[i];
    return a;
  }
  // See BestArgs.
  static MUSC_INLINE Vector key(Vector scores, int32_t clear, int32_t slot) {
    for (int i = 0; i < kPanel; ++i) scores.at[i] = (scores.at[i] & clear) | slot;
    return scores;
  }
  static MUSC_INLINE Score largest(const Vector& scores) {
    Score best = scores.at[0];
    for (int i = 1; i < kPanel; ++i) best = scores.at[i] > best ? scores.at[i] : best;
    return best;
  }
};

struct PortableFloat : PortableBase<float> {
  using Best = float;
  using Words = Vector;
  static MUSC_INLINE Vector lowest() { return broadcast(-3.4e38f); }
  static MUSC_INLINE Words load_words(const uint32_t* from) {
    Words out;
    std::memcpy(out.at, from, sizeof out.at);
    return out;
  }
  static MUSC_INLINE float broadcast_word(uint32_t word) {
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
  static MUSC_INLINE Vector dot(Vector sums, float row, const Words& columns) {
    for (int i = 0; i < kPanel; ++i) sums.at[i] += row * columns.at[i];
    return sums;
  }
  static MUSC_INLINE Vector multiply_add(Vector sums, float a, const Vector& b) {
    for (int i = 0; i < kPanel; ++i) sums.at[i] += a * b.at[i];
    return sums;
  }
  static MUSC_INLINE void store_best(Best* to, const Vector& score, int) {
    for (int i = 0; i < kPanel; ++i) to[i] = -score.at[i];
  }
  static MUSC_INLINE void reduce_rows(const Vector* rows, int, Best* out) {
    for (int r = 0; r < kTileRows; ++r) {
      Score best = rows[r].at[0];
      for (int i = 1; i < kPanel; ++i) best = rows[r].at[i] > best ? rows[r].at[i] : best;
      out[r] = -best;
    }
  }
};

}  // namespace
}  // namespace musc
