// What the closer looks leave of a list of candidates, 16 at a time; the bounds are those of search.hpp
// in float. Included by the isa_*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernels.hpp"
#include "cpu/tile.hpp"

namespace musc {
namespace {

// Of rounding units of float, 2^-24: the fine look's limit is off by 12 at most. At the rest, with p
// and r the two parts found, p and r are off by 2.5 of themselves and of their rho each, p^2 + r^2
// and the limit by 3 more: less than 12 of (reach + both rho). 64 leaves room.
constexpr float kRoom = 1.0f / (1 << 18);

// Moves the candidates of `keep` from `at` to `kept`; returns how many.
template <class Ops>
MUSC_INLINE int64_t keep_some(const LookArgs& a, int64_t at, int64_t kept, uint32_t keep) {
  int32_t* const lists[] = {a.slots, a.rows, a.others, a.squares};
  for (int32_t* list : lists) Ops::compress(list + at, keep, list + kept);
  return __builtin_popcount(keep);
}

// test(at): bits of the 16 candidates from there on that stay.
template <class Ops, class Test>
MUSC_INLINE int64_t keep_looked_at(const LookArgs& a, const Test& test) {
  // The last ones are repeated up to a whole panel.
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
int64_t keep_fine_kernel(const LookArgs& args) {
  const LookArgs a = args;  // a copy, which no store can change
  return keep_looked_at<Ops>(a, [&](int64_t at) __attribute__((always_inline)) {
    alignas(64) float value[kPanel], limit[kPanel];
    for (int i = 0; i < kPanel; ++i) {
      const int64_t n = at + i;
      limit[i] = a.reach[a.slots[n]] + (a.mine[a.rows[n]].fine + a.theirs[a.others[n]].fine);
      value[i] = static_cast<float>(a.squares[n]);
    }
    for (int i = 0; i < kPanel; ++i) {
      const float steps = limit[i] * a.fine_inverse;
      limit[i] = steps * steps * (1.0f + kRoom);
    }
    return Ops::within(value, limit);
  });
}

// In steps of the fine look, whose part of the tail norm gives way to the rest.
template <class Ops>
int64_t keep_rest_kernel(const LookArgs& args) {
  const LookArgs a = args;
  return keep_looked_at<Ops>(a, [&](int64_t at) __attribute__((always_inline)) {
    alignas(64) int32_t inside[kPanel], outside[kPanel];
    alignas(64) float rho[kPanel], rest_rho[kPanel], reach[kPanel], value[kPanel], limit[kPanel];
    for (int i = 0; i < kPanel; ++i) {
      const Bounds &own = a.mine[a.rows[at + i]], &their = a.theirs[a.others[at + i]];
      inside[i] = own.tail - their.tail;
      outside[i] = own.rest_own + their.rest_square;
      rho[i] = own.fine + their.fine;
      rest_rho[i] = own.rest + their.rest;
    }
    for (int i = 0; i < kPanel; ++i) {
      reach[i] = a.reach[a.slots[at + i]];
      inside[i] = a.squares[at + i] - inside[i] * inside[i];
      outside[i] -= 2 * a.dots[at + i];
    }
    for (int i = 0; i < kPanel; ++i) {
      const float own = rho[i] * a.fine_inverse, away = rest_rho[i] * a.fine_inverse;
      const float prefix = __builtin_sqrtf(static_cast<float>(inside[i])) - own;
      const float rest = __builtin_sqrtf(static_cast<float>(outside[i])) * a.rest_steps - away;
      const float p = prefix > 0.0f ? prefix : 0.0f, r = rest > 0.0f ? rest : 0.0f;
      const float steps = reach[i] * a.fine_inverse;
      const float most = steps + (steps + own + away) * kRoom;
      value[i] = p * p + r * r;
      limit[i] = most * most * (1.0f + kRoom);
    }
    return Ops::within(value, limit);
  });
}

}  // namespace
}  // namespace musc
