"""Exports whose batch is fixed at 1, though the network takes any."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from app.errors import BadModelPack


def with_free_batch(model: Path) -> bytes:
    """The graph with a symbolic first input dimension, and without the shapes derived from the fixed one.

    Whether it then gives what single runs give, its reader must check. Raises BadModelPack for what is no graph.
    """
    try:
        graph = onnx.load(str(model))
    except (DecodeError, OSError) as error:
        raise BadModelPack(f"{model} is not an ONNX graph: {error}") from error
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph.graph.ClearField("value_info")
    return bytes(graph.SerializeToString())
