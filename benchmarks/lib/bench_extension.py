"""The extension module _C_bench (csrc/bench), built when it is first asked for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
# `make sanitize` builds a module of its own.
FOLDER = ROOT / "build" / ("sanitize" if os.environ.get("MUSC_FAST_SANITIZE") == "1" else "bench")


@cache
def bench_extension() -> ModuleType:
    """The module, built anew where it is older than its sources.

    Raises RuntimeError with the compiler's output where it cannot be built.
    """
    module = FOLDER / f"_C_bench{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [ROOT / "CMakeLists.txt", ROOT / "setup.py", *(ROOT / "csrc").rglob("*.[ch]pp")]
    newest = max(source.stat().st_mtime for source in sources)
    if not module.is_file() or module.stat().st_mtime < newest:
        command = [sys.executable, "setup.py", "build_ext"]
        command += ["--build-lib", str(FOLDER), "--build-temp", str(FOLDER / "temp")]
        environment = {**os.environ, "MUSC_FAST_BENCH": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"_C_bench cannot be built:\n{done.stdout}{done.stderr}")
        os.utime(module)  # what was up to date was not linked anew
    spec = importlib.util.spec_from_file_location("_C_bench", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
