#include "cpu/isa.hpp"
#include "cpu/ops_portable.hpp"

namespace musc {

extern const Isa kPortable = {
    "portable",
    {2, pair_kernel<PortableInt>, scan_kernel<PortableInt>, peak_kernel<PortableInt>},
    {1, pair_kernel<PortableFloat>, peak_kernel<PortableFloat>},
    {2, nullptr, nullptr},
    project_kernel<PortableFloat>,
    rotate_kernel,
    squared_distances_kernel,
    round_kernel<int8_t>,
    round_kernel<int16_t>,
    squares_kernel<int16_t, 8>,
    squares_kernel<int8_t, 3>,
    largest_kernel,
    select_portable,
    sum_kernel,
    squares_about_kernel,
    squares_about_double_kernel,
    slide_kernel<float>,
    slide_kernel<double>,
    centre_and_scale_kernel,
};

}  // namespace musc
