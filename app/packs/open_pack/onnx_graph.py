"""Writes ONNX graphs node by node, so that the same arrays give the same bytes on every machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.core.arrays import Floats

Shape = Sequence[int | str]

# Fixed here rather than taken from the onnx package, whose next release would change the files.
OPSET = 17
IR_VERSION = 8

INPUT = "image"


class GraphWriter:
    """A graph from one image batch to named outputs. Layers take `arrays` in the order in which they are written.

    Arrays are in ONNX layout: kernels (out,in,k,k), slopes (C,1,1) or (C,), dense layers (in,out).
    """

    def __init__(self, arrays: Sequence[Floats]) -> None:
        self._arrays = list(arrays)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: int | list[int]) -> str:
        """Append a node; returns its output's name, which is generated where none is given."""
        name = output or f"{op.lower()}_{len(self._nodes)}"
        node = helper.make_node(op, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        self._nodes.append(node)
        return name

    def add_network(self, model: onnx.ModelProto, image: str, outputs: Mapping[str, str]) -> list[str]:
        """Append the nodes of another network, which reads `image`; returns the names of its outputs here.

        `outputs` are the new names of some of its outputs. Casts and products of constants are computed beforehand.
        Raises ValueError for another operation on constants alone.
        """
        constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
        names = {model.graph.input[0].name: image}
        for node in model.graph.node:
            (output,) = node.output
            if all(name in constants for name in node.input):
                constants[output] = _compute(node.op_type, [constants[name] for name in node.input])
                continue
            for name in node.input:
                if name not in names:
                    names[name] = self.add_constant(constants[name])
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            inputs = [names[name] for name in node.input]
            names[output] = self.add(node.op_type, inputs, outputs.get(output, ""), **attributes)
        return [names[output.name] for output in model.graph.output]

    def add_conv(self, x: str, output: str = "", *, stride: int = 1, pad: int = 0) -> str:
        kernel, bias = self._add_layer_array(), self._add_layer_array()
        return self.add("Conv", [x, kernel, bias], output, strides=[stride, stride], pads=[pad] * 4)

    def add_conv_prelu(self, x: str) -> str:
        return self.add_prelu(self.add_conv(x))

    def add_prelu(self, x: str) -> str:
        return self.add("PRelu", [x, self._add_layer_array()])

    def add_relu(self, x: str) -> str:
        return self.add("Relu", [x])

    def add_max_pool(self, x: str, size: int, *, ceil: bool = False) -> str:
        """With a stride of 2. With `ceil` the last window may reach over the edge."""
        return self.add("MaxPool", [x], kernel_shape=[size, size], strides=[2, 2], ceil_mode=int(ceil))

    def add_dense(self, x: str, output: str = "") -> str:
        weight, bias = self._add_layer_array(), self._add_layer_array()
        return self.add("Gemm", [x, weight, bias], output)

    def add_matmul(self, x: str, output: str = "") -> str:
        return self.add("MatMul", [x, self._add_layer_array()], output)

    def add_end_padding(self, x: str, channels: int, side_px: int) -> str:
        """Zeros after the last channels and below and right of the map; the map itself where there are none to add."""
        if channels == side_px == 0:
            return x
        pads = self.add_constant(np.array([0, 0, 0, 0, 0, channels, side_px, side_px], np.int64))
        return self.add("Pad", [x, pads])

    def make_model(self, name: str, image: Shape, outputs: Mapping[str, Shape]) -> onnx.ModelProto:
        """The finished graph. Raises ValueError where arrays are left over."""
        if self._arrays:
            raise ValueError(f"{name} has {len(self._arrays)} arrays too many")
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _add_layer_array(self) -> str:
        if not self._arrays:
            raise ValueError("fewer arrays than layers")
        return self.add_constant(self._arrays.pop(0))

    def add_constant(self, array: NDArray[Any]) -> str:
        """Append an array that is no layer's, such as a mean; returns its name."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.require(array, requirements="C"), name))
        return name


def _compute(op: str, arrays: Sequence[NDArray[Any]]) -> Floats:
    """Each element of the result is rounded once, so that it has the same bits on every machine."""
    if op == "Cast":
        return np.asarray(arrays[0], np.float32)
    if op == "Mul":
        return np.asarray(arrays[0] * arrays[1], np.float32)
    raise ValueError(f"{op} of constants can't be computed")
