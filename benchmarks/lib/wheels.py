"""Wheels of what another machine's Python lacks, with all that they need in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import platform_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

# These belong together and are too large to bring; a machine for GPU work has them.
NEVER_BROUGHT = frozenset({"torch", "torchvision", "triton", "numpy"})


def installed_in(python: Path) -> set[str]:
    """Canonical names of the distributions that a Python has."""
    code = "import importlib.metadata as m, json; "
    code += "print(json.dumps([d.metadata['Name'] for d in m.distributions()]))"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return {canonicalize_name(name) for name in json.loads(done.stdout) if name}


def fetch_wheels(
    wanted: list[str], present: set[str], version: str, folder: Path
) -> dict[str, Path]:
    """Fetch wheels of `wanted`, and of what these need, by pip into `folder`; by canonical name.

    wanted: requirements.
    present: canonical names that the other machine has already.
    version: of its Python, as "3.12"; it runs Linux on the processor of this machine.
    Raises subprocess.CalledProcessError where pip finds no wheel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    waiting = [Requirement(each) for each in wanted]
    environment = {"python_version": version, "python_full_version": f"{version}.0", "extra": ""}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name in present or name in NEVER_BROUGHT:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        requirement.marker, requirement.extras = None, set()
        found[name] = _download(requirement, version, folder)
        waiting += [Requirement(each) for each in _needs(found[name])]
    return found


def _download(requirement: Requirement, version: str, folder: Path) -> Path:
    before = set(folder.glob("*.whl"))
    platforms = [tag for tag in platform_tags() if "linux" in tag]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    command += [part for tag in platforms for part in ("--platform", tag)]
    subprocess.run([*command, "-d", str(folder), str(requirement)], check=True)
    name = canonicalize_name(requirement.name)
    new = sorted(set(folder.glob("*.whl")) - before)
    old = [each for each in before if parse_wheel_filename(each.name)[0] == name]
    return [*new, *old][0]


def _needs(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    return metadata.get_all("Requires-Dist") or []
