"""Install what `make dist` made into a clean environment, and run the demo there.

First the wheel, then the sdist, each with `musc-fast demo` in an empty folder. The first time
this fetches PyTorch, some GB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The extension as installed, every instruction set of this machine, and nothing of the checkout.
CHECK = """
import pathlib, sys, torch, musc_fast
from musc_fast import native
assert pathlib.Path(musc_fast.__file__).is_relative_to(sys.prefix), musc_fast.__file__
print("musc_fast", musc_fast.__version__, "in", pathlib.Path(musc_fast.__file__).parent)
assert native.msm(torch.eye(8)[None].repeat(3, 1, 1), None, 0, 1).abs().max() == 0
"""


def run(*command: object, cwd: Path) -> None:
    """Run a command outside the checkout, shown before; a failure ends the script."""
    line = [str(word) for word in command]
    print("+", " ".join(line), flush=True)
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MUSC_FAST_BUILD", "MUSC_FAST_BACKEND")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    subprocess.run(line, check=True, cwd=cwd, env={**environment, "MUSC_FAST_BUILD": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    dist = parser.parse_args().dist.resolve()
    tag = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    machine = os.uname().machine if hasattr(os, "uname") else ""
    wheels = [*dist.glob(f"*{tag}*{machine}.whl")]
    sdists = [*dist.glob("*.tar.gz")]
    if len(wheels) != 1 or len(sdists) != 1:
        raise SystemExit(f"{dist} has no single wheel and sdist for this Python; run make dist")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        binaries = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        for package in (*wheels, *sdists):
            empty = folder / "empty"
            shutil.rmtree(empty, ignore_errors=True)
            empty.mkdir()
            run(
                binaries / "pip",
                "install",
                "--quiet",
                "--force-reinstall",
                "--no-deps",
                package,
                cwd=empty,
            )
            run(binaries / "pip", "install", "--quiet", package, cwd=empty)
            run(binaries / "pip", "check", cwd=empty)
            run(binaries / "python", "-c", CHECK, cwd=empty)
            run(binaries / "musc-fast", "info", cwd=empty)
            run(binaries / "musc-fast", "demo", cwd=empty)
            print(f"{package.name}: installed in a clean environment, the demo ran\n", flush=True)


if __name__ == "__main__":
    main()
