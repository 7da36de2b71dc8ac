// Pairs of rows to compare exactly: for the search by place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernel_table.hpp"
#include "cpu/parallel.hpp"

namespace musc {

// Pairs of rows whose distances are wanted, and where the least of them goes.
class Pairs {
 public:
  int64_t count() const { return static_cast<int64_t>(count_); }
  void clear() { count_ = 0; }
  void add(int64_t row, int64_t other, int64_t place) {
    if (count_ == rows_.size()) grow();
    rows_[count_] = static_cast<int32_t>(row);
    others_[count_] = static_cast<int32_t>(other);
    places_[count_] = static_cast<int32_t>(place);
    ++count_;
  }
  // Lowers nearest[place] to the squared distances of the pairs.
  void compute(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
               float* nearest) {
    kernels.squared_distances(x, y, channels, {rows_.data(), others_.data(), count()},
                              squares_.data());
    for (size_t n = 0; n < count_; ++n) {
      float& least = nearest[places_[n]];
      least = squares_[n] < least ? squares_[n] : least;
    }
  }

 private:
  void grow() {
    const size_t size = count_ + count_ / 2 + 1024;
    rows_.resize(size);
    others_.resize(size);
    places_.resize(size);
    squares_.resize(size);
  }

  std::vector<int32_t> rows_, others_, places_;
  std::vector<float> squares_;
  size_t count_ = 0;
};

}  // namespace musc
