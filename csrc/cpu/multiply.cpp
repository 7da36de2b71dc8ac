#include <algorithm>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/search.hpp"

namespace musc {

void multiply(const Isa& isa, const MultiplyArgs& args) {
  const int64_t groups = (args.rows + kTileRows - 1) / kTileRows;
  const int64_t size = args.channels * kTileRows, stride = args.panels * kPanel;
  parallel_for(groups, args.threads, [&](int64_t group, int) {
    thread_local std::vector<float> centred, edge;
    centred.resize(sized(size));
    const int64_t top = group * kTileRows, rows = std::min(kTileRows, args.rows - top);
    const float* x = args.x + top * args.channels;
    if (rows == kTileRows) {
      isa.project(x, args.channels, args.mean, args.channels, args.basis, args.panels,
                  centred.data(), args.out + top * stride);
      return;
    }
    edge.assign(sized(size + stride * kTileRows), 0.0f);  // whole groups are read
    std::copy_n(x, rows * args.channels, edge.data());
    isa.project(edge.data(), args.channels, args.mean, args.channels, args.basis, args.panels,
                centred.data(), edge.data() + size);
    std::copy_n(edge.data() + size, rows * stride, args.out + top * stride);
  });
}

}  // namespace musc
