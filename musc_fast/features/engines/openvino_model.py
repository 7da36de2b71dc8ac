"""OpenVINO computes the forward pass on a CPU.

The loaded torch module is traced and converted in memory by OpenVINO's PyTorch frontend; its
command-line converter, which reports its use over the network, is not touched. The converted form,
always in fp32, is cached on disk (`model_cache`); the precision is chosen when it is compiled.

Images run one by one: in the LATENCY mode, one stream with all threads, that is as fast as several
at once, takes the least memory, and makes an image's features independent of its batch.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from ..._version import __version__
from ...errors import BackendError
from ..plain_defaults import plain_defaults
from ..remembered import RememberedTower
from ..weights import Notify
from .base import Model, ModelSpec, Out
from .model_cache import ConvertedModel, load_model, store_model
from .signal_stack import kept_signal_stack

_FORMAT = 1  # part of the cache's key; raise it when the traced module changes
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoModel:
    """The tower as OpenVINO runs it, compiled on first use, once with class tokens, once without.

    Threads follow `torch.get_num_threads()`, also when that changes. Several threads may call it:
    one at a time computes, with all cores.
    """

    def __init__(self, spec: ModelSpec, notify: Notify | None) -> None:
        import openvino

        self._spec, self._notify = spec, notify
        self._core = openvino.Core()
        if spec.precision not in _PRECISIONS:
            raise BackendError(f"feature_precision: OpenVINO has no {spec.precision}")
        with kept_signal_stack():
            supported = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if spec.precision == "bf16" and "BF16" not in supported:
            # OpenVINO itself would compute in fp32 and say nothing.
            raise BackendError(
                "feature_precision: OpenVINO computes in bf16 where the processor multiplies it, "
                "which this one does not; take fp32, or engine='torch', which computes in bf16 "
                "anywhere (slowly here)"
            )
        self._converted: dict[bool, ConvertedModel] = {}
        self._requests: dict[bool, Any] = {}
        self._threads = 0
        self._lock = threading.Lock()  # a request computes for one thread

    def __call__(
        self, images: Tensor, cls: bool, out: Out | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """See `Model`."""
        with self._lock, kept_signal_stack():
            return self._run(images, cls, out)

    def _run(
        self, images: Tensor, cls: bool, out: Out | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        import openvino

        cls = cls and self._spec.tower.has_class_token
        request = self._request(cls)
        outputs = request.model_outputs
        count, layers = len(images), len(self._spec.blocks)
        shapes = [torch.Size(tuple(output.shape)[1:]) for output in outputs]
        tokens = _room(shapes[:layers], count) if out is None else tuple(out(shapes[:layers]))
        classes = _room(shapes[layers:], count)
        targets = [*tokens, *classes]
        images = images.contiguous()
        for image in range(count):
            request.set_input_tensor(_shared(openvino, images[image : image + 1]))
            for place, target in enumerate(targets):
                request.set_output_tensor(place, _shared(openvino, target[image : image + 1]))
            request.infer()
        return tokens, classes[0] if classes else None

    def _request(self, cls: bool) -> Any:
        threads = torch.get_num_threads()
        if threads != self._threads:
            self._requests, self._threads = {}, threads
        if cls not in self._requests:
            if cls not in self._converted:
                self._converted[cls] = self._convert(cls)
            converted = self._converted[cls]
            self._requests[cls] = self._compile(converted.model).create_infer_request()
            converted.forget_weights()
        return self._requests[cls]

    def _compile(self, converted: Any) -> Any:
        precision = _PRECISIONS[self._spec.precision]
        compiled = self._core.compile_model(
            converted,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": self._threads,
                # Two pinned processes would share the first cores and leave the others idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != precision:
            raise BackendError(
                f"feature_precision: OpenVINO computes in {taken} where {self._spec.precision} "
                "was asked for; take fp32 or engine='torch'"
            )
        return compiled

    def _convert(self, cls: bool) -> ConvertedModel:
        """The converted model, from the cache; in memory alone where the cache cannot keep it."""
        spec = self._spec
        parts = [_FORMAT, __version__, metadata.version("openvino"), torch.__version__]
        parts += [spec.fingerprint, spec.image_size, spec.blocks, cls]
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:40]
        cached = load_model(self._core, key, self._notify)
        if cached is not None:
            return cached
        if self._notify is not None:
            self._notify("converting the backbone for OpenVINO; the result is kept")
        converted = _traced(spec, cls)
        store_model(converted, key, self._notify)
        # From here on the file's weights serve in place of the torch module's.
        cached = load_model(self._core, key, self._notify)
        if isinstance(spec.tower, RememberedTower):
            spec.tower.release()
        return ConvertedModel(converted) if cached is None else cached


class _Forward(torch.nn.Module):
    """The forward pass with a plain tuple of tensors as its result, for tracing."""

    def __init__(self, spec: ModelSpec, cls: bool) -> None:
        super().__init__()
        self.tower_module = spec.tower.module  # registered, so that the weights are found
        self._spec, self._cls = spec, cls

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens, class_tokens = self._spec.tower.forward(images, self._spec.blocks, self._cls)
        found = tuple(tokens[block] for block in self._spec.blocks)
        return found if class_tokens is None else (*found, class_tokens)


def _traced(spec: ModelSpec, cls: bool) -> Any:
    """The tower as an OpenVINO model of one image."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    shape = (1, 3, *spec.image_size)
    example = torch.zeros(shape, dtype=torch.float32, device="cpu")
    # What is traced is kept: the caller's defaults and autocast must leave no mark on it.
    plain = torch.autocast("cpu", dtype=torch.bfloat16, enabled=False)
    with torch.no_grad(), plain_defaults(), plain, warnings.catch_warnings():
        # Tracing is deprecated, and warns of every size that becomes a constant, as it should here.
        warnings.simplefilter("ignore")
        module = _Forward(spec, cls).eval()
        traced = torch.jit.trace(module, example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        converted = frontend.convert(frontend.load(decoder))
    converted.reshape(list(shape))
    return converted


def _room(shapes: Sequence[torch.Size], count: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty((count, *shape), dtype=torch.float32, device="cpu") for shape in shapes
    )


def _shared(openvino: Any, tensor: Tensor) -> Any:
    """An OpenVINO tensor on the memory of a contiguous torch tensor."""
    return openvino.Tensor(tensor.numpy(), shared_memory=True)


def make_model(spec: ModelSpec, notify: Notify | None) -> Model:
    """See `MakeModel`."""
    return OpenVinoModel(spec, notify)
