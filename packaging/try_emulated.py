"""Run what `make dist AARCH64=1` made in an emulator: ARM, and an x86-64 processor without AVX.

    apt install qemu-user-static mmdebstrap
    python packaging/try_emulated.py

Each wheel is unpacked and compared with the fp64 reference and with outputs of the official code.
The ARM wheel runs on a Debian's Python of its own below build/emulated (made the first time), with
PyTorch 2.10, whose wheel for ARM needs no CUDA libraries; the x86-64 wheel on this interpreter and
its packages, on an emulated Nehalem.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "emulated"
DEBIAN = {(3, 11): "bookworm", (3, 13): "trixie"}  # by the version of its Python
PACKAGES = "torch==2.10.* numpy typing_extensions filelock sympy mpmath networkx jinja2 markupsafe "
PACKAGES += "fsspec safetensors psutil rich"
CHECK = """
import platform, sys
import numpy as np, torch
from musc_fast import _C, ops, score_batch
sets = list(_C.instruction_sets())
print(platform.machine(), sets, flush=True)
assert sets == ["portable"], sets
torch.manual_seed(0)
for images, patches, channels in ((2, 1, 40), (5, 37, 40), (6, 36, 384)):
    z = torch.nn.functional.normalize(torch.randn(images, patches, channels), dim=2)
    apart = ops.msm(z, backend="cpu") - ops.msm(z.double(), backend="reference")
    assert apart.abs().max() < 1e-5, apart.abs().max()
case = np.load(sys.argv[1])
scores = score_batch(
    list(torch.from_numpy(case["tokens"])), prefix_tokens=1, backend="cpu",
    image_size=int(case["image_size"]), degrees=case["degrees"].tolist(),
    topmin=tuple(case["topmin"].tolist()),
)
apart = np.abs(scores.anomaly_maps.numpy() - case["anomaly_maps"]).max()
print(f"anomaly maps of the official code: at most {apart:.1e} apart", flush=True)
assert apart < 1e-5
"""


def run(*command: object, **variables: str) -> None:
    """Run a command, its first words shown before; a failure ends the script."""
    line = [str(word) for word in command]
    print("+", " ".join(word for word in line if "\n" not in word), flush=True)
    subprocess.run(line, check=True, env={**os.environ, **variables})


def emulator(machine: str) -> str:
    """The program that emulates a machine; ends the script where there is none."""
    found = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
    if found is None:
        raise SystemExit(f"no qemu-{machine} here; on Debian: apt install qemu-user-static")
    return found


def unpacked(dist: Path, machine: str) -> Path:
    """The wheel for a machine and this Python, unpacked."""
    tag = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    wheels = [*dist.glob(f"*{tag}*_{machine}.whl")]
    if len(wheels) != 1:
        raise SystemExit(f"{dist} has no single wheel for {machine}; run make dist AARCH64=1")
    folder = WORK / f"wheel-{machine}"
    shutil.rmtree(folder, ignore_errors=True)
    zipfile.ZipFile(wheels[0]).extractall(folder)
    return folder


def arm_python() -> tuple[Path, Path]:
    """The root of a Debian for ARM with this version of Python, and a folder of packages."""
    root, packages = WORK / "root", WORK / "packages"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    suite = DEBIAN.get(sys.version_info[:2])
    if suite is None:
        raise SystemExit(f"no Debian has Python {version}; use one of {sorted(DEBIAN)}")
    if not (root / "usr" / "bin" / f"python{version}").exists():
        wanted = f"python{version},libstdc++6,libgomp1,libatomic1,zlib1g"
        shape = ("--arch=arm64", "--variant=extract", f"--include={wanted}")
        run("mmdebstrap", *shape, suite, root)
    if not (packages / "rich").is_dir():
        wheels = WORK / "wheels"
        kind = ("--only-binary=:all:", "--python-version", version, "--implementation", "cp")
        places = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 17)]
        fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels)
        run(*fetch, *kind, *places, *PACKAGES.split())
        for wheel in wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(packages)
    return root, packages


def try_arm(dist: Path, golden: Path) -> None:
    """Check the ARM wheel."""
    program, wheel = emulator("aarch64"), unpacked(dist, "aarch64")
    root, packages = arm_python()
    libraries = [root / "usr/lib/aarch64-linux-gnu", root / "lib/aarch64-linux-gnu"]
    variables = {
        "PYTHONPATH": f"{wheel}:{packages}",
        "PYTHONHOME": root / "usr",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "OMP_NUM_THREADS": 1,
    }
    given = [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
    python = root / "usr" / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    run(program, "-L", root, *given, python, "-c", CHECK, golden)


def try_old_processor(dist: Path, golden: Path) -> None:
    """Check the x86-64 wheel where there is neither AVX nor FMA."""
    program, wheel = emulator("x86_64"), unpacked(dist, "x86_64")
    paths = [str(wheel), *(path for path in sys.path if path.endswith("site-packages"))]
    python = Path(sys.executable).resolve()
    run(
        *(program, "-cpu", "Nehalem", python, "-c", CHECK, golden),
        PYTHONPATH=os.pathsep.join(paths),
        OMP_NUM_THREADS="1",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--only", choices=("aarch64", "x86_64"))
    options = parser.parse_args()
    golden = ROOT / "tests" / "golden" / "default_small.npz"
    tries = {"x86_64": try_old_processor, "aarch64": try_arm}
    for machine in [options.only] if options.only else tries:
        tries[machine](options.dist.resolve(), golden)
        print(f"{machine}: the wheel's portable kernels are right in an emulator", flush=True)


if __name__ == "__main__":
    main()
