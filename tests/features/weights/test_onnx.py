"""Weights out of ONNX graphs: exact values, from graphs written as the exporters write them."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from musc_fast.errors import WeightsError
from musc_fast.features.weights.onnx import read_onnx

RNG = np.random.default_rng(0)


def test_a_bias_names_the_anonymous_weight_before_it(graph):
    first = RNG.normal(size=(5, 3)).astype(np.float32)
    second = RNG.normal(size=(4, 5)).astype(np.float32)
    x = graph.linear("x", "encoder.layer.0.mlp.fc1", first)
    x = graph.norm(x, "encoder.layer.0.norm1", 5)
    graph.linear(x, "encoder.layer.0.mlp.fc2", second)

    tensors = read_onnx(graph.bytes(), "tiny.onnx")

    assert sorted(tensors) == [
        "encoder.layer.0.mlp.fc1.bias",
        "encoder.layer.0.mlp.fc1.weight",
        "encoder.layer.0.mlp.fc2.bias",
        "encoder.layer.0.mlp.fc2.weight",
        "encoder.layer.0.norm1.bias",
        "encoder.layer.0.norm1.weight",
    ]
    np.testing.assert_array_equal(tensors["encoder.layer.0.mlp.fc1.weight"], first)
    np.testing.assert_array_equal(tensors["encoder.layer.0.mlp.fc2.weight"], second)
    # The weight of a norm is its scale, not the matrix of a product.
    np.testing.assert_array_equal(tensors["encoder.layer.0.norm1.weight"], np.full(5, 2.0))
    np.testing.assert_array_equal(tensors["encoder.layer.0.mlp.fc2.bias"], [7, 8, 9, 10])


def test_int8_weights_are_dequantised_per_output_column(graph):
    stored = RNG.integers(-128, 128, size=(3, 4)).astype(np.int8)
    scale = np.array([0.5, 0.25, 2.0, 0.125], np.float32)
    zero = np.array([0, 3, -128, 127], np.int8)
    graph.quantised_linear("x", "layers.0.self_attn.q_proj", stored, scale, zero)

    weight = read_onnx(graph.bytes(), "tiny.onnx")["layers.0.self_attn.q_proj.weight"]

    expected = np.empty((4, 3), np.float32)
    for row in range(3):
        for column in range(4):
            difference = int(stored[row, column]) - int(zero[column])
            expected[column, row] = difference * float(scale[column])
    np.testing.assert_array_equal(weight, expected)
    assert weight.dtype == np.float32


def test_each_quantised_layer_finds_its_own_scale(graph):
    """Three layers that share an input and its scale, as q, k and v do."""
    stored = {part: RNG.integers(-9, 9, size=(3, 3)).astype(np.int8) for part in "qkv"}
    zero = np.zeros(3, np.int8)
    for exponent, part in enumerate("qkv"):
        scale = np.full(3, 2.0**exponent, np.float32)
        graph.quantised_linear("x", f"attn.{part}_proj", stored[part], scale, zero)

    tensors = read_onnx(graph.bytes(), "tiny.onnx")

    for exponent, part in enumerate("qkv"):
        expected = stored[part].T.astype(np.float32) * 2.0**exponent
        np.testing.assert_array_equal(tensors[f"attn.{part}_proj.weight"], expected)


def test_a_layer_without_bias_is_named_by_its_node(graph):
    stored = RNG.integers(-9, 9, size=(3, 2)).astype(np.int8)
    scale, zero = np.array([0.5, 4.0], np.float32), np.array([1, -1], np.int8)
    x = graph.quantised_linear("x", "visual_projection", stored, scale, zero, bias=False)
    plain = RNG.normal(size=(2, 2)).astype(np.float32)
    graph.linear(x, "head.projection", plain, bias=False)

    tensors = read_onnx(graph.bytes(), "tiny.onnx")

    expected = ((stored.astype(np.float32) - zero) * scale).T
    np.testing.assert_array_equal(tensors["visual_projection.weight"], expected)
    np.testing.assert_array_equal(tensors["head.projection.weight"], plain)


def test_the_read_weights_compute_what_the_graph_computes(graph):
    """onnx's own evaluator runs the graph; the product of the read weights must agree."""
    first = RNG.normal(size=(6, 3)).astype(np.float32)
    second = RNG.normal(size=(2, 6)).astype(np.float32)
    graph.linear(graph.linear("x", "a", first), "b", second)
    data, x = graph.bytes(), RNG.normal(size=(4, 3)).astype(np.float32)

    t = read_onnx(data, "tiny.onnx")
    ours = (x @ t["a.weight"].T + t["a.bias"]) @ t["b.weight"].T + t["b.bias"]

    (theirs,) = ReferenceEvaluator(data).run(None, {"x": x})
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_split_position_embedding_is_joined(graph):
    head = RNG.normal(size=(1, 1, 4)).astype(np.float32)
    body = RNG.normal(size=(1, 9, 4)).astype(np.float32)
    stored = graph.store("onnx::Reshape_7", body)
    x = stored
    for kind in ("Reshape", "Transpose", "Cast", "Resize", "Cast", "Transpose", "Reshape"):
        x = graph.node(kind, [x, "somewhere"], f"/embeddings/{kind}_{len(graph.nodes)}")
    graph.node("Concat", [graph.store("onnx::Concat_3", head), x], "/embeddings/Concat_6")

    tensors = read_onnx(graph.bytes(), "tiny.onnx")

    joined = tensors["embeddings.position_embeddings"]
    np.testing.assert_array_equal(joined, np.concatenate([head, body], axis=1))


def test_a_missing_scale_is_an_error(graph):
    stored = graph.store("onnx::MatMul_1_quantized", np.zeros((3, 3), np.int8))
    graph.node("MatMulInteger", ["x", stored], "/layer/MatMul_quant")
    with pytest.raises(WeightsError, match=r"tiny\.onnx: no scale found.*MatMul_1_quantized"):
        read_onnx(graph.bytes(), "tiny.onnx")


def test_a_scale_of_another_length_is_an_error(graph):
    stored, zero = np.zeros((3, 4), np.int8), np.zeros(4, np.int8)
    graph.quantised_linear("x", "layer", stored, np.ones(3, np.float32), zero)
    with pytest.raises(WeightsError, match="has 3 scales"):
        read_onnx(graph.bytes(), "tiny.onnx")


@pytest.mark.parametrize("data", [b"", b"not an ONNX file at all", bytes(range(256))])
def test_bytes_that_are_no_onnx_are_an_error(data):
    with pytest.raises(WeightsError, match=r"tiny\.onnx is no readable ONNX file"):
        read_onnx(data, "tiny.onnx")


def test_weights_in_other_files_are_refused(graph, tmp_path):
    """A model must not make us read other files of this machine."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x00\x00\x80\x3f" * 4)
    tensor = TensorProto(name="layer.weight", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret))
    graph.initializers.append(tensor)
    graph.node("Identity", ["layer.weight"], "/copy")
    with pytest.raises(WeightsError, match="keeps its weights in other files"):
        read_onnx(graph.bytes(), "tiny.onnx")


def test_integer_constants_are_left_out(graph):
    graph.store("encoder.positions", np.arange(4, dtype=np.int64))
    graph.linear("x", "a", np.ones((2, 2), np.float32))
    assert sorted(read_onnx(graph.bytes(), "tiny.onnx")) == ["a.bias", "a.weight"]


def test_a_product_of_two_activations_is_no_layer(graph):
    graph.nodes.append(helper.make_node("MatMul", ["x", "x"], ["y"], name="/attn/MatMul"))
    graph.linear("y", "a", np.ones((2, 2), np.float32))
    assert sorted(read_onnx(graph.bytes(), "tiny.onnx")) == ["a.bias", "a.weight"]
    assert onnx.load_model_from_string(graph.bytes()).graph.node[0].op_type == "MatMul"


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_patch_embedding_of_onnxruntimes_defaults_is_read(graph, per_channel):
    """quantize_dynamic turns Conv into ConvInteger, with one scale or one a channel."""
    layer = "embeddings.patch_embeddings.projection"
    stored = RNG.integers(-128, 128, size=(4, 3, 2, 2)).astype(np.int8)
    scale = np.array([0.5, 0.25, 2.0, 0.125], np.float32) if per_channel else np.float32(0.5)
    zero = np.zeros(4, np.int8) if per_channel else np.int8(3)
    graph.quantised_convolution("x", layer, stored, np.asarray(scale), np.asarray(zero))
    data = graph.bytes()

    tensors = read_onnx(data, "tiny.onnx")

    assert sorted(tensors) == [f"{layer}.bias", f"{layer}.weight"]
    weight = tensors[f"{layer}.weight"]
    assert weight.dtype == np.float32
    for out in range(4):
        one = (scale[out], zero[out]) if per_channel else (scale, zero)
        expected = (stored[out].astype(np.float32) - float(one[1])) * one[0]
        np.testing.assert_array_equal(weight[out], expected)
    if per_channel:
        return  # onnx's evaluator knows one zero point alone
    x = RNG.integers(0, 256, size=(1, 3, 4, 4)).astype(np.float32)  # quantised without loss
    x.flat[:2] = 0, 255
    (theirs,) = ReferenceEvaluator(data).run(None, {"x": x})
    patches = x.reshape(1, 3, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(4, -1)
    ours = patches @ weight.reshape(4, -1).T + tensors[f"{layer}.bias"]
    np.testing.assert_allclose(theirs.reshape(4, 4).T, ours, rtol=1e-5)


def test_an_anonymous_convolution_is_named_by_its_node(graph):
    stored = np.ones((2, 3, 2, 2), np.int8)
    one, zero = np.array(2.0, np.float32), np.array(0, np.int8)
    graph.quantised_convolution("x", "vision.conv1", stored, one, zero, "onnx::Conv_7")
    weight = read_onnx(graph.bytes(), "tiny.onnx")["vision.conv1.weight"]
    np.testing.assert_array_equal(weight, np.full((2, 3, 2, 2), 2.0))


def test_an_embedding_in_int8_is_dequantised(graph):
    """quantize_dynamic also stores the table of a Gather in int8."""
    table = RNG.integers(0, 256, size=(5, 4)).astype(np.uint8)
    name = "embeddings.position_embedding.weight"
    graph.store(f"{name}_quantized", table)
    graph.store(f"{name}_scale", np.array(0.25, np.float32))
    graph.store(f"{name}_zero_point", np.array(128, np.uint8))
    graph.node("Gather", [f"{name}_quantized", "ids"], "/gather")
    tensors = read_onnx(graph.bytes(), "tiny.onnx")
    assert list(tensors) == [name]
    np.testing.assert_array_equal(tensors[name], (table.astype(np.float32) - 128) * 0.25)
    graph.store("lonely_quantized", table)
    with pytest.raises(WeightsError, match="lonely_quantized has no one scale"):
        read_onnx(graph.bytes(), "tiny.onnx")


def cyclic(kind: str) -> bytes:
    """A graph whose operators feed each other."""
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "onnx::MatMul_1")
    bias = numpy_helper.from_array(np.zeros(2, np.float32), "layer.bias")
    head = numpy_helper.from_array(np.zeros((1, 1, 2), np.float32), "onnx::Concat_2")
    nodes = [
        helper.make_node(kind, ["b"], ["a"]),
        helper.make_node(kind, ["a"], ["b"]),
        helper.make_node("Add", ["a", "layer.bias"], ["c"]),
        helper.make_node("Concat", ["onnx::Concat_2", "a"], ["d"]),
    ]
    graph = helper.make_graph(nodes, "cycle", [], [], [weight, bias, head])
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("kind", ["Cast", "Reshape"])
def test_a_cycle_ends_in_an_error(kind: str) -> None:
    with pytest.raises(WeightsError, match="cycle"):
        read_onnx(cyclic(kind), "cyclic.onnx")


def tensor(values: int, dims: list[int], kind: int = TensorProto.FLOAT) -> TensorProto:
    found = TensorProto(name="layer.bias", data_type=kind, raw_data=bytes(4 * values))
    found.dims.extend(dims)
    return found


@pytest.mark.parametrize(
    "stored",
    [
        tensor(3, [4]),
        tensor(3, [-3]),
        tensor(0, [1 << 40, 1 << 20]),
        tensor(3, [1 << 62, 1 << 62]),
        tensor(3, [3], TensorProto.DOUBLE),
        tensor(3, [3], TensorProto.STRING),
        TensorProto(name="layer.bias", data_type=TensorProto.FLOAT, dims=[1 << 50]),
        TensorProto(name="layer.bias", data_type=TensorProto.FLOAT, dims=[9], float_data=[1.0]),
    ],
)
def test_data_that_do_not_fit_their_shape_are_refused(stored: TensorProto) -> None:
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "onnx::MatMul_1")
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/layer/MatMul"),
        helper.make_node("Add", ["y", "layer.bias"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "short", [], [], [weight, stored])
    data = helper.make_model(graph).SerializeToString()
    if stored.data_type == TensorProto.STRING:
        assert "layer.bias" not in read_onnx(data, "short.onnx")
    else:
        with pytest.raises(WeightsError, match=r"short\.onnx"):
            read_onnx(data, "short.onnx")


@pytest.mark.parametrize("inputs", [[], ["x"], ["", ""]])
def test_a_product_without_inputs_is_refused(inputs: list[str]) -> None:
    graph = helper.make_graph([helper.make_node("MatMul", inputs, ["y"])], "g", [], [])
    data = helper.make_model(graph).SerializeToString()
    if len(inputs) == 2:
        assert read_onnx(data, "g.onnx") == {}
    else:
        with pytest.raises(WeightsError, match="lacks an input"):
            read_onnx(data, "g.onnx")


def test_damaged_bytes_end_in_our_error_or_in_tensors() -> None:
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "onnx::MatMul_1")
    bias = numpy_helper.from_array(np.ones(3, np.float32), "layer.bias")
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/layer/MatMul"),
        helper.make_node("Cast", ["y"], ["c"], to=1),
        helper.make_node("Add", ["c", "layer.bias"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [weight, bias])
    whole = helper.make_model(graph).SerializeToString()
    assert read_onnx(whole, "g.onnx")["layer.weight"].shape == (3, 4)
    chance = random.Random(0)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(WeightsError):
            read_onnx(bytes(data), "g.onnx")
