"""The operators one by one, beside the limits of the machine.

    python benchmarks/kernels.py [--large] [--scaling] [--runs 3] [--json PATH]
    python benchmarks/kernels.py --device cuda [--images 200] [--side 37] [--channels 1024]

On a CPU the C++ kernels are measured (`lib/cpu_kernels.py`), on a GPU the Triton kernels
(`lib/gpu_kernels.py`). The rehearsal `--device cpu --triton` runs the Triton kernels in Triton's
interpreter (TRITON_INTERPRET=1) at a size of your choice. The docstrings of these two modules say
what the work needs at least. Parity comes first: where it fails, no speed is printed.
"""

from __future__ import annotations

import torch

from lib.program import add_json, make_parser
from lib.results import write_results


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="CPU: tiny sizes: does it run at all?")
    parser.add_argument("--large", action="store_true", help="CPU: also N = 64")
    parser.add_argument("--scaling", action="store_true", help="CPU: the rate over N = 8 to 128")
    parser.add_argument("--triton", action="store_true", help="the Triton kernels on a CPU too")
    parser.add_argument("--images", type=int, default=200, help="GPU")
    parser.add_argument("--side", type=int, default=37, help="GPU: patches a side of the grid")
    parser.add_argument("--channels", type=int, default=1024, help="GPU")
    parser.add_argument("--runs", type=int, default=3)
    add_json(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu" and not arguments.triton:
        from lib import cpu_kernels
        from lib.real_images import load_cases, tiny_cases

        sizes = cpu_kernels.QUICK if arguments.quick else cpu_kernels.USUAL
        cases = tiny_cases() if arguments.quick else load_cases(arguments.large)
        settings, results = cpu_kernels.measure(cases, sizes, arguments.scaling, arguments.runs)
    else:
        from lib import gpu_kernels, gpu_parity, gpu_stages

        checks = gpu_parity.operator_checks(device, arguments.side >= 16)
        failed = [each for each in checks if not each.passed]
        if failed:
            raise SystemExit(f"parity failed, no speed is reported: {failed}")
        settings = {"runs": arguments.runs}
        sizes = gpu_stages.Sizes(
            images=arguments.images,
            few=min(arguments.images, 48),
            side=arguments.side,
            channels=arguments.channels,
            layers=1,
            runs=arguments.runs,
        )
        results = []
        for stage in (gpu_stages.variants_stage, gpu_stages.memory_stage, gpu_stages.msm_stage):
            rows = list(stage(sizes, device))
            gpu_kernels.show(rows)
            results += rows
    write_results(arguments.json, settings, results)


if __name__ == "__main__":
    main()
