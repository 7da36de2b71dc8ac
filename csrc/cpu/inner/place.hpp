// Local matching: rounding rows to int16, and the scores of the images at one place with those at a
// place nearby, of which every row keeps the three best. Included by the isa/*.cpp files alone, see
// tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/inner/tile.hpp"
#include "cpu/inner/transpose.hpp"
#include "cpu/kernel_table.hpp"

namespace musc {
namespace {

// Values beyond int16 and sums of squares beyond 32 bits wrap: see place_rows(). Eight lanes, which
// compilers keep in registers, where they move 16 through memory on processors with AVX2.
void round_row_kernel(RowOfPairs& row) {
  constexpr int64_t kEight = 8;
  typedef float Values __attribute__((vector_size(4 * kEight)));
  typedef uint32_t Bits __attribute__((vector_size(4 * kEight)));
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer,
  constexpr uint32_t kItsBits = 0x4b400000;  // which the low bits of the sum then hold
  const float scale = row.scale, inverse = row.inverse;
  const int64_t whole = row.channels / kEight * kEight, left_over = row.channels - whole;
  Values norm{}, lost{};
  Bits square{};
  const auto round = [&](const float* x, const float* mean) __attribute__((always_inline)) {
    Values value, centre;
    __builtin_memcpy(&value, x, sizeof value);
    __builtin_memcpy(&centre, mean, sizeof centre);
    value -= centre;
    norm += value * value;
    const Values sum = value * inverse + kToInteger;
    const Values rest = value - scale * (sum - kToInteger);
    lost += rest * rest;
    const Bits bits = reinterpret_cast<Bits>(sum) - kItsBits;
    square += bits * bits;
    return bits;
  };
  uint32_t* out = row.out;
  for (int64_t c = 0; c < whole; c += kEight, out += kEight / 2) {
    const Bits bits = round(row.x + c, row.mean + c);
    typedef int16_t Levels __attribute__((vector_size(2 * kEight)));
    const Levels levels = __builtin_convertvector(bits, Levels);
    __builtin_memcpy(out, &levels, sizeof levels);
  }
  if (left_over > 0) {
    float x[kEight] = {}, mean[kEight] = {};
    for (int64_t i = 0; i < left_over; ++i) {
      x[i] = row.x[whole + i];
      mean[i] = row.mean[whole + i];
    }
    const Bits bits = round(x, mean);
    for (int64_t k = 0; k < row.words - whole / 2; ++k) {
      out[k] = (bits[2 * k] & 0xffffu) | bits[2 * k + 1] << 16;
    }
  }
  row.norm = row.lost = 0.0f;
  row.square = 0;
  for (int i = 0; i < kEight; ++i) {
    row.norm += norm[i];
    row.lost += lost[i];
    row.square += square[i];
  }
}

// Writes 16 lines of 16 values to `to` with rows and columns exchanged. `begins` and `to_begins`
// tell where a line begins.
template <class Value, class Begins, class ToBegins>
MUSC_INLINE void exchange_tile(const Value* from, const Begins& begins, Value* to,
                               const ToBegins& to_begins) {
  if (kTranspose) {
    Floats keys[kPanel];
    for (int64_t i = 0; i < kPanel; ++i) {
      __builtin_memcpy(&keys[i], from + begins(i), sizeof keys[i]);
    }
    transpose(keys);
    for (int64_t i = 0; i < kPanel; ++i) {
      __builtin_memcpy(to + to_begins(i), &keys[i], sizeof keys[i]);
    }
    return;
  }
  constexpr int64_t kFour = 4;
  for (int64_t r = 0; r < kPanel; r += kFour) {
    for (int64_t c = 0; c < kPanel; c += kFour) {
      FourInts keys[kFour];
      for (int64_t i = 0; i < kFour; ++i) {
        __builtin_memcpy(&keys[i], from + begins(r + i) + c, sizeof keys[i]);
      }
      transpose_four(keys);
      for (int64_t i = 0; i < kFour; ++i) {
        __builtin_memcpy(to + to_begins(c + i) + r, &keys[i], sizeof keys[i]);
      }
    }
  }
}

void interleave_kernel(const uint32_t* left, int64_t words, uint32_t* right) {
  int64_t k = 0;
  for (; k + kPanel <= words; k += kPanel) {
    exchange_tile(left + k, [=](int64_t r) { return r * words; }, right + k * kPanel,
                  [](int64_t i) { return i * kPanel; });
  }
  for (; k < words; ++k) {
    for (int64_t r = 0; r < kPanel; ++r) right[k * kPanel + r] = left[r * words + k];
  }
}

void separate_kernel(const uint32_t* right, int64_t words, uint32_t* left) {
  int64_t k = 0;
  for (; k + kPanel <= words; k += kPanel) {
    exchange_tile(right + k * kPanel, [](int64_t i) { return i * kPanel; }, left + k,
                  [=](int64_t r) { return r * words; });
  }
  for (; k < words; ++k) {
    for (int64_t r = 0; r < kPanel; ++r) left[r * words + k] = right[k * kPanel + r];
  }
}

// Exchanges rows and columns of BestArgs::best, of as many rows as columns.
void exchange_kernel(const int32_t* from, int64_t panels, int32_t* to) {
  constexpr int64_t kLine = kBest * kPanel, kBlock = kTileRows * kLine;
  const int64_t half = panels * kBlock;
  const auto begins = [half](int64_t i) { return i / kTileRows * half + i % kTileRows * kLine; };
  for (int64_t top = 0; top < panels; ++top) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t n = 0; n < kLine; n += kPanel) {
        exchange_tile(from + 2 * top * half + panel * kBlock + n, begins,
                      to + 2 * panel * half + top * kBlock + n, begins);
      }
    }
  }
}

template <class Ops>
void reached_kernel(const int32_t* keys, int64_t panels, int32_t least, uint16_t* masks) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    masks[panel] = static_cast<uint16_t>(Ops::reached(Ops::load(keys + panel * kPanel), least));
  }
}

// Bounds close in on the key, which is among `count` keys, a multiple of kPanel.
template <class Ops>
int32_t kth_best_kernel(const int32_t* keys, int64_t count, int64_t k, int32_t first_step) {
  const auto above = [=](int64_t key) __attribute__((always_inline)) {
    int64_t found = 0;
    for (int64_t at = 0; at < count; at += kPanel) {
      found += __builtin_popcount(Ops::reached(Ops::load(keys + at), static_cast<int32_t>(key + 1)));
    }
    return found;
  };
  auto largest = Ops::load(keys);
  for (int64_t at = kPanel; at < count; at += kPanel) {
    largest = Ops::max(largest, Ops::load(keys + at));
  }
  int64_t high = Ops::largest(largest), step = high < -first_step ? -high : first_step;
  int64_t low = high - step;
  for (; low > kNoKey && above(low) < k; low = high - step) {
    high = low;
    step *= 2;
  }
  low = low < kNoKey ? kNoKey : low;
  while (high - low > 1) {
    const int64_t middle = (high + low) / 2, found = above(middle);
    if (found == k) {
      for (int64_t at = 0; at < count; at += kPanel) {
        const auto least = static_cast<int32_t>(middle + 1);
        for (uint32_t bits = Ops::reached(Ops::load(keys + at), least); bits != 0;
             bits &= bits - 1) {
          const int32_t key = keys[at + __builtin_ctz(bits)];
          high = key < high ? key : high;
        }
      }
      return static_cast<int32_t>(high);
    }
    (found < k ? high : low) = middle;
  }
  return static_cast<int32_t>(high);
}

// Puts a panel of keys among the three largest so far, at `best` [3][16].
template <class Ops>
MUSC_INLINE void keep_best(typename Ops::Vector key, int32_t* best) {
  const auto first = Ops::load(best), second = Ops::load(best + kPanel),
             third = Ops::load(best + 2 * kPanel);
  Ops::store(best, Ops::max(first, key));
  key = Ops::min(first, key);
  Ops::store(best + kPanel, Ops::max(second, key));
  key = Ops::min(second, key);
  Ops::store(best + 2 * kPanel, Ops::max(third, key));
}

// kRows rows against PANELS panels, with the sums in registers.
template <class Ops, int PANELS, bool BACK>
MUSC_INLINE void best_tile(const BestArgs& a, const OtherPlace& other, int64_t top,
                           int64_t panel) {
  constexpr int R = Ops::kRows;
  typename Ops::Vector sums[R][PANELS];
  const uint32_t* left = a.left + top * a.words;
  const uint32_t* right = other.right + panel * a.words * kPanel;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < PANELS; ++v) {
      sums[r][v] =
          Ops::add(Ops::broadcast(a.init[top + r]), Ops::load(other.init + (panel + v) * kPanel));
    }
  }
#pragma GCC unroll 2
  for (int64_t k = 0; k < a.words; ++k) {
    typename Ops::Words columns[PANELS];
    for (int v = 0; v < PANELS; ++v) {
      columns[v] = Ops::load_words(right + (v * a.words + k) * kPanel);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto row = Ops::broadcast_word(left[r * a.words + k]);
      for (int v = 0; v < PANELS; ++v) sums[r][v] = Ops::dot(sums[r][v], row, columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < PANELS; ++v) {
      const int64_t block = top / kTileRows * a.panels + panel + v;
      const int64_t at = (block * kTileRows + top % kTileRows + r) * kBest * kPanel;
      keep_best<Ops>(Ops::key(sums[r][v], a.clear, other.slot), a.best + at);
      if (BACK) keep_best<Ops>(Ops::key(sums[r][v], a.clear, other.back_slot), other.back + at);
    }
  }
}

// Fetches what is needed of the next place for a tile: a tile's share of `right`, and the tile in
// `back`.
template <int ROWS, int PANELS>
MUSC_INLINE void fetch_next(const BestArgs& a, const OtherPlace& next, int64_t top,
                            int64_t panel) {
  constexpr int64_t kLine = 16, kTile = ROWS * kBest * kPanel;
  const int64_t all = PANELS * a.words * kPanel;
  const uint32_t* right = next.right + panel * a.words * kPanel;
  const int64_t last = all * (top + ROWS) / a.rows;
  for (int64_t i = all * top / a.rows; i < last; i += kLine) __builtin_prefetch(right + i);
  if (next.back == nullptr) return;
  for (int v = 0; v < PANELS; ++v) {
    const int64_t block = top / kTileRows * a.panels + panel + v;
    const int32_t* back = next.back + (block * kTileRows + top % kTileRows) * kBest * kPanel;
    for (int64_t i = 0; i < kTile; i += kLine) __builtin_prefetch(back + i, 1);
  }
}

template <class Ops, int PANELS, bool BACK>
MUSC_INLINE void best_panels(const BestArgs& a, const OtherPlace& other, const OtherPlace* next,
                             int64_t& panel) {
  for (; panel + PANELS <= a.panels; panel += PANELS) {
    for (int64_t top = 0; top < a.rows; top += Ops::kRows) {
      if (next != nullptr) fetch_next<Ops::kRows, PANELS>(a, *next, top, panel);
      best_tile<Ops, PANELS, BACK>(a, other, top, panel);
    }
  }
}

template <class Ops, bool BACK>
MUSC_INLINE void best_all(const BestArgs& a, const OtherPlace& other, const OtherPlace* next) {
  int64_t panel = 0;
  best_panels<Ops, Ops::kPanels, BACK>(a, other, next, panel);
  best_panels<Ops, 1, BACK>(a, other, next, panel);
}

template <class Ops>
void best_kernel(const BestArgs& args) {
  const BestArgs a = args;  // copies, which no store can change
  for (int64_t n = 0; n < a.count; ++n) {
    const OtherPlace other = a.others[n], *next = n + 1 < a.count ? a.others + n + 1 : nullptr;
    if (other.back != nullptr) {
      best_all<Ops, true>(a, other, next);
    } else {
      best_all<Ops, false>(a, other, next);
    }
  }
}

}  // namespace
}  // namespace musc
