#include "cpu/isa.hpp"
#include "cpu/ops_vnni.hpp"

namespace musc {

extern const Isa kVnni = {
    "avx512-vnni",
    {4, pair_kernel<Vnni>, scan_kernel<Vnni>, peak_kernel<Vnni>},
    {1, pair_kernel<Avx512Fp32>, peak_kernel<Avx512Fp32>},
    {2, nullptr, nullptr},
    project_kernel<Avx512Fp32>,
    rotate_kernel,
    squared_distances_kernel,
    round_kernel<int8_t>,
    round_kernel<int16_t>,
    squares_kernel<int16_t, 8>,
    squares_kernel<int8_t, 3>,
    largest_kernel,
    select_avx512,
    sum_kernel,
    squares_about_kernel,
    squares_about_double_kernel,
    slide_kernel<float>,
    slide_kernel<double>,
    centre_and_scale_kernel,
};

}  // namespace musc
