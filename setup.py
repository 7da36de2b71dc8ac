"""The build of musc_fast._C and _C_cuda with CMake; pyproject.toml declares everything else.

MUSC_FAST_BUILD decides about the C++ extension: unset, it is built where that works and left out
with a warning where not; 0 skips it; 1 makes a failure fatal. MUSC_FAST_CUDA decides about the CUDA
kernels (_C_cuda): unset, they are built where nvcc and an NVIDIA GPU are found; 0 skips them; 1
needs nvcc alone. With MUSC_FAST_BENCH=1 the module _C_bench is built in their place, for benchmarks
and tests: benchmarks/lib/bench_extension.py. With
MUSC_FAST_SANITIZE=1 either is built for AddressSanitizer and UBSan: `make sanitize`. CMAKE_ARGS
holds further arguments for CMake, as other projects take them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, OptionError

ROOT = Path(__file__).resolve().parent
BENCH = "_C_bench"
CUDA = "musc_fast._C_cuda"


def read_mode(variable: str) -> str:
    mode = os.environ.get(variable, "")
    if mode not in ("", "0", "1"):
        raise OptionError(f"{variable} must be unset, 0 or 1, not {mode!r}")
    return mode


def sanitized() -> bool:
    return os.environ.get("MUSC_FAST_SANITIZE") == "1"


def extensions() -> list[Extension]:
    mode, cuda = read_mode("MUSC_FAST_BUILD"), read_mode("MUSC_FAST_CUDA")
    if os.environ.get("MUSC_FAST_BENCH") == "1":
        return [Extension(BENCH, [])]
    if mode == "0":
        return []
    names = ["musc_fast._C"]
    if cuda == "1" or (cuda == "" and find_nvcc() is not None and Path("/dev/nvidia0").exists()):
        names.append(CUDA)
    return [Extension(name, [], optional=mode != "1") for name in names]


def find_nvcc() -> str | None:
    """The nvcc of CUDACXX, of PATH or of the usual folder."""
    usual = "/usr/local/cuda/bin/nvcc"
    found = os.environ.get("CUDACXX") or shutil.which("nvcc")
    return found or (usual if os.path.isfile(usual) else None)


def find_tool(name: str) -> str | None:
    """A program on PATH or beside the interpreter (an environment that is not activated)."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


class CMakeBuild(build_ext):
    """Configure and build CMakeLists.txt; failures are CompileError, which `optional` forgives."""

    def build_extension(self, ext: Extension) -> None:
        cmake = find_tool("cmake")
        if cmake is None:
            raise CompileError("cmake was not found")
        try:
            import pybind11
        except ImportError as error:
            raise CompileError("pybind11 was not found") from error
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        work = Path(self.build_temp).resolve() / ext.name
        work.mkdir(parents=True, exist_ok=True)
        # A cache of another interpreter or generator (an isolated build) would be reused silently.
        (work / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            cmake,
            "-S",
            str(ROOT),
            "-B",
            str(work),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DMUSC_FAST_OUTPUT_DIR={output.parent}",
            f"-DMUSC_FAST_OUTPUT_NAME={output.name}",
            f"-DMUSC_FAST_BENCH={'ON' if ext.name == BENCH else 'OFF'}",
            f"-DMUSC_FAST_SANITIZE={'ON' if sanitized() else 'OFF'}",
        ]
        if ext.name == CUDA:
            nvcc = find_nvcc()
            if nvcc is None:
                raise CompileError("nvcc was not found; name it by CUDACXX")
            configure += ["-DMUSC_FAST_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
        ninja = find_tool("ninja")
        if ninja is not None and os.environ.get("CMAKE_GENERATOR") is None:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        build = [cmake, "--build", str(work), "--config", "Release", "--parallel"]
        for command in (configure, build):
            try:
                subprocess.run(command, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise CompileError(f"building {ext.name} failed: {error}") from error
        if not output.is_file():
            raise CompileError(f"the build left no {output.name}")


class WithKernels(Distribution):
    """Installs the top-level folder kernels/, where it exists, as musc_fast.kernels."""

    def parse_config_files(self, *args: object, **kwargs: object) -> None:
        super().parse_config_files(*args, **kwargs)
        if (ROOT / "kernels" / "__init__.py").is_file():
            self.packages = [*(self.packages or []), "musc_fast.kernels"]
            self.package_dir = {**(self.package_dir or {}), "musc_fast.kernels": "kernels"}


setup(
    distclass=WithKernels,
    cmdclass={"build_ext": CMakeBuild},
    ext_modules=extensions(),
)
