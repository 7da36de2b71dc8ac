// Dropping the candidates that a closer look excludes, 16 at a time; docs/exact-search.md has the
// bounds, which are computed here in float. Included by the isa/*.cpp files alone, see
// tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"
#include "cpu/inner/tile.hpp"

namespace musc {
namespace {

// How far float's rounding may move a limit, in units of 2^-24. Fine look: 12 at most. Look at the
// rest, with p and r the two parts of the distance: each is off by 2.5 of itself and of its
// rounding error, p^2 + r^2 and the limit by 3 more; together less than 12 of (limit distance +
// rounding errors). The constant allows 64.
constexpr float kRoom = 1.0f / (1 << 18);

// Moves those of the 16 candidates at `at` that `keep` marks to `kept`; returns their number.
template <class Ops>
MUSC_INLINE int64_t keep_some(const CloserLookArgs& a, int64_t at, int64_t kept, uint32_t keep) {
  int32_t* const lists[] = {a.slots, a.rows, a.others, a.squares};
  for (int32_t* list : lists) Ops::compress(list + at, keep, list + kept);
  return __builtin_popcount(keep);
}

// Keeps the candidates that test(at) marks, a bit for each of the 16 from `at` on.
template <class Ops, class Test>
MUSC_INLINE int64_t keep_looked_at(const CloserLookArgs& a, const Test& test) {
  // Repeats the last candidate up to a whole panel.
  for (int64_t n = a.count; n % kPanel != 0; ++n) {
    int32_t* const lists[] = {a.slots, a.rows, a.others, a.squares};
    for (int32_t* list : lists) list[n] = list[a.count - 1];
  }
  int64_t kept = 0;
  for (int64_t at = 0; at < a.count; at += kPanel) {
    uint32_t keep = test(at);
    if (a.count - at < kPanel) keep &= (1u << (a.count - at)) - 1u;
    kept += keep_some<Ops>(a, at, kept, keep);
  }
  return kept;
}

template <class Ops>
int64_t keep_fine_kernel(const CloserLookArgs& args) {
  const CloserLookArgs a = args;  // a local copy: stores to the lists cannot change it
  return keep_looked_at<Ops>(a, [&](int64_t at) __attribute__((always_inline)) {
    alignas(64) float value[kPanel], limit[kPanel];
    for (int i = 0; i < kPanel; ++i) {
      const int64_t n = at + i;
      limit[i] = a.limit_distance[a.slots[n]] +
                 (a.row_bounds[a.rows[n]].fine + a.other_bounds[a.others[n]].fine);
      value[i] = static_cast<float>(a.squares[n]);
    }
    for (int i = 0; i < kPanel; ++i) {
      const float steps = limit[i] * a.fine_inverse;
      limit[i] = steps * steps * (1.0f + kRoom);
    }
    return Ops::within(value, limit);
  });
}

// Works in fine steps. The tail channel of the fine rows is replaced by the rests themselves.
template <class Ops>
int64_t keep_rest_kernel(const CloserLookArgs& args) {
  const CloserLookArgs a = args;
  return keep_looked_at<Ops>(a, [&](int64_t at) __attribute__((always_inline)) {
    alignas(64) int32_t inside[kPanel], outside[kPanel];
    alignas(64) float rho[kPanel], rest_rho[kPanel], limit_distance[kPanel];
    alignas(64) float value[kPanel], limit[kPanel];
    for (int i = 0; i < kPanel; ++i) {
      const Bounds &own = a.row_bounds[a.rows[at + i]], &their = a.other_bounds[a.others[at + i]];
      inside[i] = own.tail - their.tail;
      outside[i] = own.rest_own + their.rest_square;
      rho[i] = own.fine + their.fine;
      rest_rho[i] = own.rest + their.rest;
    }
    for (int i = 0; i < kPanel; ++i) {
      limit_distance[i] = a.limit_distance[a.slots[at + i]];
      inside[i] = a.squares[at + i] - inside[i] * inside[i];
      outside[i] -= 2 * a.dots[at + i];
    }
    for (int i = 0; i < kPanel; ++i) {
      const float own = rho[i] * a.fine_inverse, away = rest_rho[i] * a.fine_inverse;
      const float prefix = __builtin_sqrtf(static_cast<float>(inside[i])) - own;
      const float rest = __builtin_sqrtf(static_cast<float>(outside[i])) * a.rest_steps - away;
      const float p = prefix > 0.0f ? prefix : 0.0f, r = rest > 0.0f ? rest : 0.0f;
      const float steps = limit_distance[i] * a.fine_inverse;
      const float most = steps + (steps + own + away) * kRoom;
      value[i] = p * p + r * r;
      limit[i] = most * most * (1.0f + kRoom);
    }
    return Ops::within(value, limit);
  });
}

}  // namespace
}  // namespace musc
