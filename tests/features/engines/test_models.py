"""Every engine, precision and family of backbones against torch in fp32."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from backbones import ROTARY, TINY, clip_backbone, noise, randomise, timm_model

from musc_fast.errors import BackendError, InputError
from musc_fast.features import Backbone, Features, load_backbone
from musc_fast.features.engines import ENGINES, resolve_engine
from musc_fast.features.precision import native_bf16

Make = Callable[..., Backbone]

# A class token and learned positions; a rotary model with registers; registers and no class token.
FAMILIES = {
    "learned positions": (TINY, "test_vit", (64, 96)),
    "rotary": (ROTARY, "vit_tiny_patch16_dinov3_qkvb", (48, 80)),
    "registers": ("timm:test_vit2", "test_vit2", (160, 160)),
    "clip": ("clip-vit-b-16", None, (64, 96)),
}
# The largest relative difference of the tokens of a block, in norm: as measured on these random
# weights, with room for other processors. On trained weights bf16 differs by 0.006.
BOUNDS = {"fp32": 1e-5, "bf16": 0.05}


def needs(engine: str) -> None:
    reason = next(each for each in ENGINES if each.name == engine).why_not("cpu")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes the backbone of a family."""
    folder = tmp_path_factory.mktemp("weights")

    def load(family: str, engine: str, precision: str, **more: Any) -> Backbone:
        name, architecture, size = FAMILIES[family]
        if architecture is None:
            return clip_backbone(name, size, engine=engine, precision=precision)
        file = folder / f"{architecture}.safetensors"
        if not file.exists():
            safetensors.torch.save_file(randomise(timm_model(architecture)), file)
        return load_backbone(
            name,
            weights=file,
            image_size=size,
            engine=engine,
            feature_precision=precision,
            **more,
        )

    return load


def difference(found: Features, wanted: Features) -> float:
    """The largest relative difference of a block's tokens, and of the class tokens."""
    pairs = list(zip(found.tokens, wanted.tokens, strict=True))
    if wanted.cls_tokens is not None:
        assert found.cls_tokens is not None
        pairs.append((found.cls_tokens, wanted.cls_tokens))
    assert all(a.shape == b.shape and a.dtype == torch.float32 for a, b in pairs)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("engine", "precision"), [("openvino", "fp32"), ("openvino", "bf16"), ("torch", "bf16")]
)
def test_features_are_those_of_torch_in_fp32(
    make: Make, family: str, engine: str, precision: str
) -> None:
    needs(engine)
    truth = make(family, "torch", "fp32")
    images = noise(3, truth)
    if engine == "openvino" and precision == "bf16" and not native_bf16():
        with pytest.raises(BackendError, match="bf16 where the processor multiplies it"):
            make(family, engine, precision)
        return
    backbone = make(family, engine, precision)
    assert (backbone.engine, backbone.precision) == (engine, precision)
    error = difference(backbone.extract(images), truth.extract(images))
    assert error <= BOUNDS[precision]
    if precision == "bf16":
        assert error > 1e-4  # fp32 was not computed in its place
    short = backbone.extract(images, cls=False)
    assert short.cls_tokens is None
    full = truth.extract(images, cls=False)
    assert difference(short, full) <= BOUNDS[precision]


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_tokens_are_written_where_they_are_wanted(make: Make, engine: str) -> None:
    needs(engine)
    backbone = make("rotary", engine, "fp32")
    images = noise(3, backbone)
    plain = backbone.extract(images)
    room = [torch.full((5, *each.shape[1:]), torch.nan) for each in plain.tokens]
    shapes: list[torch.Size] = []

    def out(given: Sequence[torch.Size]) -> list[torch.Tensor]:
        shapes.extend(given)
        return [each[1:4] for each in room]

    found = backbone.extract(images, out=out)
    assert shapes == [each.shape[1:] for each in plain.tokens]
    for target, given, wanted in zip(room, found.tokens, plain.tokens, strict=True):
        assert torch.equal(target[1:4], wanted)
        assert given.data_ptr() == target[1:4].data_ptr()
        assert target[0].isnan().all()
        assert target[4].isnan().all()


@pytest.mark.usefixtures("threads")
def test_openvino_gives_the_same_bits_for_every_batch_and_number_of_threads(make: Make) -> None:
    """A bank is filled image by image, a batch is not; both must have the same features."""
    needs("openvino")
    backbone = make("clip", "openvino", "fp32")
    images = noise(8, backbone)
    together = backbone.extract(images)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for count in (1, 3, 8):
            found = backbone.extract(images[:count])
            for one, many in zip(found.tokens, together.tokens, strict=True):
                assert torch.equal(one, many[:count])


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_several_threads_extract_with_one_backbone(make: Make, engine: str) -> None:
    needs(engine)
    backbone = make("clip", engine, "fp32")
    images = noise(24, backbone)
    wanted = [backbone.extract(image[None]).tokens for image in images]
    fresh = make("clip", engine, "fp32")  # its first calls come at once
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: fresh.extract(image[None]).tokens, images))
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's call")
def test_a_signal_is_handled_when_models_of_several_threads_are_gone() -> None:
    """In a process of its own: a stack for signals whose memory is gone ends it."""
    needs("openvino")
    code = """
import gc, signal
from concurrent.futures import ThreadPoolExecutor
from backbones import clip_backbone, noise
from musc_fast.features.engines.signal_stack import current_signal_stack
signal.signal(signal.SIGALRM, lambda *_: print("handled", flush=True))
made = [clip_backbone("clip-vit-b-16", (64, 96), engine="openvino") for _ in range(2)]
images = noise(4, made[0])
made[0].extract(images)
with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda image: made[1].extract(image[None]).tokens, images))
assert current_signal_stack().flags == 2  # none, as at the start
made.clear()
gc.collect()
signal.raise_signal(signal.SIGALRM)
"""
    path = os.pathsep.join([str(Path(__file__).parents[2] / "helpers"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.usefixtures("threads")
def test_openvino_has_as_many_threads_as_torch(make: Make) -> None:
    needs("openvino")
    backbone = make("clip", "openvino", "fp32")
    model: Any = backbone._model
    for threads in (2, 1):
        torch.set_num_threads(threads)
        backbone.extract(noise(1, backbone))
        (request,) = model._requests.values()
        compiled = request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
        assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_a_missing_package_is_said_once_and_torch_serves(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from musc_fast.features.engines import registry

    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    registry.advise.cache_clear()
    for _ in range(2):
        assert make("learned positions", "auto", "fp32").engine == "torch"
    lines = [record.message for record in caplog.records if "openvino" in record.message]
    assert len(lines) == 1
    assert "pip install openvino" in lines[0]
    with pytest.raises(BackendError, match=r"'openvino' cannot run on cpu: .*pip install openvino"):
        make("learned positions", "openvino", "fp32")


def test_wrong_names_are_refused_before_anything_is_fetched(cache: Path, index: Path) -> None:
    messages: list[str] = []
    with pytest.raises(InputError, match="engine: found 'tf', wanted one of auto, openvino, torch"):
        load_backbone("dinov2-vit-s-14", engine="tf", progress=messages.append)
    with pytest.raises(InputError, match="feature_precision: found 'fp8', wanted one of auto, fp"):
        load_backbone("dinov2-vit-s-14", feature_precision="fp8", progress=messages.append)
    assert messages == []


def test_openvino_is_for_cpus() -> None:
    needs("openvino")
    assert resolve_engine("auto", "cpu").name == "openvino"
    assert resolve_engine("auto", "cuda").name == "torch"
    with pytest.raises(BackendError, match="'openvino' cannot run on cuda: it works on CPUs"):
        resolve_engine("openvino", "cuda")
