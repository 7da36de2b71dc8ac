"""Gather what gpu_check.py needs on a GPU machine that has no network.

    python benchmarks/pack_gpu.py --python PYTHON [--have FILE] [--weights FILE] [--out gpu_pack]

PYTHON is an interpreter on this machine of the version that runs there: the CUDA kernels are built
for it, wheels are chosen for it, and what it has installed is taken to be installed there; --have
names a file with what is there instead, one distribution a line. The pack holds

    wheels/    what is missing of what the check imports; never torch, torchvision, triton, numpy
    _C_cuda*   the CUDA kernels, where nvcc and the interpreter's headers are at hand
    weights/   those of dinov2-vit-s-14, ROUNDED to float16 to halve their bytes: its scores differ
               in the fourth digit, its speed does not
    golden/    outputs of the official code beyond those in tests/golden
    unpack.sh  to be run there from the repository's root; it prints the command of the check

Nothing larger than --limit MiB, with the tracked files of the checkout, is left: the program
lists every file and fails. A part that cannot be gathered is left out, and why is said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lib.checkout import ROOT, SHARED
from lib.program import make_parser

BACKBONE = "dinov2-vit-s-14"
# What gpu_check.py and throughput.py import, besides what is never brought.
NEEDED = ("rich", "timm>=1.0.28", "safetensors>=0.5", "pillow>=11", "scipy>=1.10")
UNPACK = """#!/bin/sh
# Run from the repository's root on the GPU machine; needs no network.
set -e
pack=$(dirname "$0")
if ls "$pack"/wheels/*.whl >/dev/null 2>&1; then
  python3 -m pip install --quiet --no-index --no-deps --target "$pack/site" "$pack"/wheels/*.whl
fi
for module in "$pack"/_C_cuda*; do if [ -f "$module" ]; then cp "$module" musc_fast/; fi; done
if ls "$pack"/golden/*.npz >/dev/null 2>&1; then
  mkdir -p ../shared/golden && cp "$pack"/golden/*.npz ../shared/golden/
fi
echo "PYTHONPATH=$pack/site python3 benchmarks/gpu_check.py$(
  for file in "$pack"/weights/*; do
    if [ -f "$file" ]; then echo " --images '--weights $file'"; fi
  done)"
"""


def pack_wheels(arguments: argparse.Namespace) -> str | None:
    """Fetch the wheels; why some are missing, or None."""
    from packaging.utils import canonicalize_name

    from lib import wheels

    present: set[str]
    if arguments.have is not None:
        lines = arguments.have.read_text(encoding="utf-8").split()
        present = {canonicalize_name(line.split("==")[0]) for line in lines}
    elif arguments.python is not None:
        present = wheels.installed_in(arguments.python)
    else:
        present = set()
    version = python_version(arguments.python)
    try:
        wheels.fetch_wheels(list(NEEDED), present, version, arguments.out / "wheels")
    except subprocess.CalledProcessError as error:
        return f"pip ended with {error.returncode} (its words are above)"
    return None


def python_version(python: Path | None) -> str:
    """The version of `python`, by default this one's, as "3.12"."""
    if python is None:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def pack_kernels(arguments: argparse.Namespace) -> str | None:
    """Build _C_cuda for the other Python by CMakeLists.txt; why it could not be built, or None."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if arguments.python is None:
        return "--python names no interpreter to build for"
    if nvcc is None or cmake is None:
        return f"{'nvcc' if nvcc is None else 'cmake'} was not found"
    try:
        import pybind11
    except ImportError:
        return "pybind11 is not installed"
    code = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    command = [str(arguments.python), "-c", code]
    suffix = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    work = ROOT / "build" / f"pack{suffix}"
    work.mkdir(parents=True, exist_ok=True)
    (work / "CMakeCache.txt").unlink(missing_ok=True)
    configure = [cmake, "-S", str(ROOT), "-B", str(work), "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DMUSC_FAST_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    configure += [f"-DPython_EXECUTABLE={arguments.python}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    configure += [f"-DMUSC_FAST_OUTPUT_DIR={arguments.out.resolve()}"]
    configure += [f"-DMUSC_FAST_OUTPUT_NAME=_C_cuda{suffix}"]
    for step in (configure, [cmake, "--build", str(work), "--config", "Release", "--parallel"]):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            return f"cmake failed: {' '.join(words[-3:])}"
    return None


def pack_weights(arguments: argparse.Namespace) -> str | None:
    """Write the weights in float16; why there are none, or None."""
    import torch
    from safetensors.torch import save_file

    from musc_fast.errors import MuscFastError
    from musc_fast.features.registry import get_spec
    from musc_fast.features.towers import build_tower
    from musc_fast.features.weights.find import find_weights

    spec = get_spec(BACKBONE)
    tower = build_tower(spec)
    try:
        found = find_weights(spec, tower.convert, tower.hub, local=arguments.weights)
    except MuscFastError as error:
        return str(error).splitlines()[0]
    half = {
        name: (each.to(torch.float16) if each.is_floating_point() else each).contiguous()
        for name, each in found.state.items()
    }
    folder = arguments.out / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    words = {"backbone": BACKBONE, "rounded to": "float16", "source": Path(found.source).name}
    save_file(half, folder / f"{BACKBONE}.float16.safetensors", metadata=words)
    return None


def pack_golden(arguments: argparse.Namespace) -> str | None:
    """Copy the golden files that no commit holds; why there are none, or None."""
    files = sorted((SHARED / "golden").glob("*.npz"))
    if not files:
        return f"{SHARED / 'golden'} has no .npz file; those of tests/golden are in the checkout"
    (arguments.out / "golden").mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, arguments.out / "golden" / file.name)
    return None


PARTS = {
    "wheels": pack_wheels,
    "kernels": pack_kernels,
    "weights": pack_weights,
    "golden": pack_golden,
}


def tracked_bytes() -> int:
    """Bytes of the files that git tracks; 0 without git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def listing(folder: Path) -> list[tuple[str, int]]:
    """The files of a pack and their bytes, largest first, then what git tracks."""
    found = [
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return [*sorted(found, key=lambda file: -file[1]), ("tracked files", tracked_bytes())]


def main() -> int:
    """Gather, list, check the size; the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--python", help="interpreter of the version that runs there")
    parser.add_argument("--have", type=Path, help="file with what is installed there")
    parser.add_argument("--weights", type=Path, help=f"weights of {BACKBONE} (default: as usual)")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu_pack")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit", type=float, default=64.0, help="MiB in all (default 64)")
    arguments = parser.parse_args()
    if arguments.python is not None:
        found = shutil.which(arguments.python)
        if found is None:
            parser.error(f"--python {arguments.python}: no such interpreter here")
        arguments.python = Path(found).absolute()
    if arguments.out.exists() and not (arguments.out / "unpack.sh").is_file():
        parser.error(f"--out {arguments.out}: no pack lies there; name a new folder")
    console = Console()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    script = arguments.out / "unpack.sh"
    script.write_text(UNPACK, encoding="utf-8")
    script.chmod(0o755)
    for part in arguments.parts:
        reason = PARTS[part](arguments)
        if reason is not None:
            console.print(f"{part}: not all was gathered: {reason}", markup=False)
    return judge(listing(arguments.out), arguments.limit, arguments.out, console)


def judge(files: list[tuple[str, int]], limit: float, folder: Path, console: Console) -> int:
    """List the files; 1 where they exceed `limit` MiB, else 0."""
    table = Table("file", "MiB")
    for name, size in files:
        table.add_row(name, f"{size / 2**20:.2f}")
    total = sum(size for _, size in files) / 2**20
    console.print(table)
    console.print(f"{total:.1f} MiB of {limit:g}")
    if total > limit:
        console.print(f"error: too large by {total - limit:.1f} MiB; leave out parts (--parts)")
        return 1
    where = os.path.relpath(folder, ROOT)
    console.print(f"there, from the repository's root: sh {where}/unpack.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
