"""Named weights out of an exported ONNX graph, which is read and never run.

An exporter keeps the names of biases, norms and embeddings, but folds every linear weight into an
anonymous initializer, transposed to [in, out], and may replace it by an int8 one. The graph tells
which layer a weight belongs to: the weight is the second input of a product, and the bias that is
added to this product has the layer's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import WeightsError

Array = npt.NDArray[Any]

_PRODUCTS = ("MatMul", "MatMulInteger")
# Operators that may stand between a product and the addition of its bias.
_TRANSPARENT = {"Mul", "Cast"}
# Operators that may stand between a stored position embedding and the Concat that puts the entry of
# the class token before it.
_INTEGER_PRODUCTS = ("MatMulInteger", "ConvInteger")
_QUANTISED = "_quantized"  # onnxruntime's ending of the name of a quantised tensor
_RESHAPING = {"Reshape", "Transpose", "Cast", "Resize"}


def read_onnx(data: bytes, name: str) -> dict[str, Array]:
    """Return the tensors of an ONNX model under the names of the module it was exported from.

    Linear weights come back as [out, in] float32 under `<layer>.weight`, int8 ones de-quantised:
    `(q - zero_point) * scale` per output column; so do int8 convolutions [out, in, h, w], per
    output channel, and other int8 tensors with a scale of their own. A position embedding whose
    name the exporter lost comes back as `embeddings.position_embeddings` [1, 1 + P, C]. All named
    floating initializers come back unchanged.

    data: the file's bytes.
    name: of the file, for messages.
    Raises WeightsError where `data` is no ONNX model, is damaged, keeps weights in other files, or
    holds an int8 weight without its scales.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise WeightsError(f"{name} is no readable ONNX file: {error}") from error
    if not model.graph.node:
        raise WeightsError(f"{name} is no readable ONNX file: its graph is empty")
    for tensor in model.graph.initializer:
        # Through external data a model could make us read any file on this machine.
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise WeightsError(f"{name} keeps its weights in other files, which is not read")
    try:
        return _Graph(model.graph, name).named_tensors()
    except WeightsError:
        raise
    except Exception as error:  # onnx and NumPy raise what they will where the data are damaged
        raise WeightsError(f"{name} is a damaged ONNX file: {error}") from error


class _Graph:
    """An ONNX graph indexed for walking from a tensor to the node that made it."""

    def __init__(self, graph: Any, name: str) -> None:
        self.name = name
        self.nodes = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {output: node for node in self.nodes for output in node.output}

    def named_tensors(self) -> dict[str, Array]:
        """Return every tensor under its module's name."""
        scales = {self.weight_scale(node) for node in self.integer_products()}
        named = {
            name: self.array(name)
            for name in self.initializers
            if not _anonymous(name) and self.is_float(name) and name not in scales
        }
        named.update(self.int8_tensors(named))
        named_products = set()
        for bias, product in self.biased_products():
            layer = bias.removesuffix(".bias")
            named[f"{layer}.weight"] = self.linear_weight(product)
            named_products.add(product.output[0])
        for node in self.products():
            # A layer without a bias is named by the exporter's path of the product's node.
            if node.output[0] not in named_products:
                named[f"{_layer_of(node.name)}.weight"] = self.linear_weight(node)
        named.update(self.position_embedding())
        return named

    def count_step(self, steps: int) -> int:
        """Count a step of a walk; WeightsError where it is longer than the graph: a cycle."""
        if steps > len(self.nodes):
            raise WeightsError(f"{self.name} is a damaged ONNX file: its graph has a cycle")
        return steps + 1

    def array(self, name: str) -> Array:
        """Return an initializer's value.

        Raises WeightsError where its data are not those that its shape and type want, before
        memory of that size is taken.
        """
        from onnx import helper, numpy_helper

        tensor = self.initializers[name]
        values = math.prod(tensor.dims)
        if any(side < 0 for side in tensor.dims) or values > tensor.ByteSize() * 8:
            raise WeightsError(f"{self.name}: {name} has fewer data than its shape {tensor.dims}")
        if tensor.raw_data:
            each = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            if len(tensor.raw_data) != values * each:
                raise WeightsError(
                    f"{self.name}: {name} has {len(tensor.raw_data)} bytes, its shape "
                    f"{list(tensor.dims)} wants {values * each}"
                )
        value: Array = numpy_helper.to_array(tensor)
        return value

    def is_float(self, name: str) -> bool:
        """Whether an initializer is float32, float16 or float64."""
        import onnx

        kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
        return self.initializers[name].data_type in kinds

    def products(self) -> Iterator[Any]:
        """Yield the nodes that multiply an activation by an anonymous stored matrix."""
        for node in self.nodes:
            if node.op_type in _PRODUCTS and self.is_stored_product(node):
                yield node

    def integer_products(self) -> Iterator[Any]:
        """Yield the products and convolutions of int8 numbers by a stored weight."""
        for node in self.nodes:
            if node.op_type in _INTEGER_PRODUCTS and node.input[1] in self.initializers:
                yield node

    def int8_tensors(self, floats: dict[str, Array]) -> dict[str, Array]:
        """Return the de-quantised convolutions, and what else is stored as NAME_quantized.

        floats: the named tensors so far, from which scales of such tensors are taken away.
        """
        found = {}
        products = {node.input[1]: node for node in self.integer_products()}
        for stored, node in products.items():
            if node.op_type == "ConvInteger":
                name = stored.removesuffix(_QUANTISED)
                name = f"{_layer_of(node.name)}.weight" if _anonymous(name) else name
                found[name] = self.convolution_weight(node)
        for stored in self.initializers:
            name = stored.removesuffix(_QUANTISED)
            if name == stored or stored in products or _anonymous(name):
                continue
            scale = floats.pop(f"{name}_scale", None)
            if scale is None or scale.size != 1 or f"{name}_zero_point" not in self.initializers:
                raise WeightsError(f"{self.name}: {stored} has no one scale and zero point")
            zero = self.array(f"{name}_zero_point").astype(np.float32)
            found[name] = (self.array(stored).astype(np.float32) - zero) * scale
        return found

    def convolution_weight(self, node: Any) -> Array:
        """Return the weight [out, in, h, w] float32 of a ConvInteger node."""
        stored = self.array(node.input[1])
        parts = [self.array(self.weight_scale(node)).astype(np.float32)]
        if len(node.input) > 3 and node.input[3]:
            parts.append(self.array(node.input[3]).astype(np.float32))
        if any(part.size not in (1, stored.shape[0]) for part in parts):
            raise WeightsError(
                f"{self.name}: {node.input[1]} {stored.shape} has {parts[0].size} scales, neither "
                "one nor one per output channel"
            )
        scale, *zero = (part.reshape(-1, *[1] * (stored.ndim - 1)) for part in parts)
        return (stored.astype(np.float32) - (zero[0] if zero else 0)) * scale

    def biased_products(self) -> Iterator[tuple[str, Any]]:
        """Yield (name of the bias, product node) for each linear layer with a bias."""
        for node in self.nodes:
            if node.op_type != "Add":
                continue
            stored = [name for name in node.input if name in self.initializers]
            if len(stored) != 1 or not stored[0].endswith(".bias"):
                continue
            other = next((name for name in node.input if name != stored[0]), "")
            product = self.product_behind(other)
            if product is not None:
                yield stored[0], product

    def product_behind(self, tensor: str) -> Any | None:
        """Return the product whose output, perhaps cast and scaled, is `tensor`, or None."""
        node = self.producer.get(tensor)
        steps = 0
        while node is not None and node.op_type in _TRANSPARENT:
            steps = self.count_step(steps)
            # One input of a scaling Mul leads to the product; the other, a Mul of scales, does not.
            behind = [self.producer.get(name) for name in node.input]
            node = next((n for n in behind if n is not None and n.op_type != "Mul"), None)
        if node is None or node.op_type not in _PRODUCTS:
            return None
        return node if self.is_stored_product(node) else None

    def is_stored_product(self, node: Any) -> bool:
        """Whether a product's second input is stored; WeightsError where it has no second input."""
        if len(node.input) < 2 or not node.output:
            raise WeightsError(f"{self.name} is a damaged ONNX file: a product lacks an input")
        return node.input[1] in self.initializers

    def linear_weight(self, product: Any) -> Array:
        """Return the weight [out, in] float32 of a product with a stored matrix [in, out]."""
        stored = self.array(product.input[1])
        if product.op_type == "MatMul":
            return np.ascontiguousarray(stored.astype(np.float32).T)
        scale = self.array(self.weight_scale(product)).astype(np.float32)
        if scale.size not in (1, stored.shape[1]):
            raise WeightsError(
                f"{self.name}: {product.input[1]} {stored.shape} has {scale.size} scales, "
                f"neither one nor one per column"
            )
        quantised = stored.astype(np.float32)
        if len(product.input) > 3 and product.input[3]:
            quantised -= self.array(product.input[3]).astype(np.float32)
        return np.ascontiguousarray((quantised * scale).T)

    def weight_scale(self, product: Any) -> str:
        """Return the initializer that scales an integer product's columns.

        The exporter writes Cast(product) * (activation scale * weight scale).
        """
        reached = {product.output[0]}
        for node in self.nodes:
            if node.op_type not in _TRANSPARENT or not reached.intersection(node.input):
                continue
            reached.add(node.output[0])
            for name in node.input:
                factors = self.producer.get(name)
                if name in self.initializers:
                    return str(name)
                if factors is not None and factors.op_type == "Mul":
                    for factor in factors.input:
                        if factor in self.initializers:
                            return str(factor)
        raise WeightsError(f"{self.name}: no scale found for the int8 weight {product.input[1]}")

    def position_embedding(self) -> dict[str, Array]:
        """Return the position embedding where the exporter split off the class token's entry."""
        for node in self.nodes:
            if node.op_type != "Concat" or len(node.input) != 2:
                continue
            first, rest = node.input
            if first not in self.initializers or not _anonymous(first):
                continue
            stored = self.stored_behind(rest)
            if stored is None:
                continue
            head, body = self.array(first), self.array(stored)
            if head.ndim == body.ndim == 3 and head.shape[::2] == body.shape[::2]:
                joined = np.concatenate([head, body], axis=1).astype(np.float32)
                return {"embeddings.position_embeddings": joined}
        return {}

    def stored_behind(self, tensor: str) -> str | None:
        """Return the initializer of which `tensor` is a reshaped or resized form; None if none."""
        steps = 0
        while tensor not in self.initializers:
            steps = self.count_step(steps)
            node = self.producer.get(tensor)
            if node is None or node.op_type not in _RESHAPING or not node.input:
                return None
            tensor = node.input[0]
        return tensor


def _anonymous(name: str) -> bool:
    # The exporter makes up names such as onnx::MatMul_1541 and onnx::MatMul_1541_quantized.
    return name.startswith("onnx::")


def _layer_of(node_name: str) -> str:
    return node_name.strip("/").rpartition("/")[0].replace("/", ".")
