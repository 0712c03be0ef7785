"""Static INT8 quantisation of a network: 8-bit activations with ranges measured on photos, and 7-bit weights.

Weights have a scale for each output channel and one bit less than they could: CPUs before VNNI add two products of
bytes in 16 bits, which full weights overflow, and a variant is used on other hosts than the one it was made on.

The first layer stays in float, and so do the last ones. The first has too few channels for the integer kernels to be
faster. The last ones' outputs are read as they are, and one scale for all of them would round landmarks to pixels.

The layers between are not equally sensitive. The error of each is measured alone: how much the network's outputs change
when only that layer is quantised. Such errors are nearly independent, so their squares add up, and the worst layers
stay in float until the rest is within a budget. This also finds depthwise convolutions whose channels differ too much
for one scale.
"""

import copy
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from app.core.arrays import Floats
from app.vision.sessions import OnnxSession, open_session
from workshop.rewrites import find_activations_behind, find_readers

log = logging.getLogger(__name__)

Inputs = Mapping[str, NDArray[Any]]
ReadInputs = Callable[[], Iterable[Inputs]]
"""The inputs of a network, from the first one at each call."""

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators with weights."""
BETWEEN = ("Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Concat", "Pad")
"""Operators that ONNX Runtime's CPU kernels compute on bytes, so that no conversion is needed between two layers."""

PROBES = 24
"""Inputs on which a layer's error is measured."""
DETECTOR_BUDGET, EMBEDDER_BUDGET = 0.012, 0.006
"""The most that all quantised layers together may change an output: squared change over squared output. In an embedder
that is a cosine of 0.997; twice as much would make MobileFaceNet 3 % faster. In SCRFD it allows quantising two layers
of the stem, which take a quarter of the time; landmarks and scores were no more exact with them in float."""


class _Reader:
    """The reader through which onnxruntime.quantization takes its calibration data."""

    def __init__(self, inputs: Iterable[Inputs]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self._inputs, None)


def quantise(model: onnx.ModelProto, read_inputs: ReadInputs, budget: float) -> onnx.ModelProto:
    """A prepared float graph, and the inputs that photos give it → the graph with INT8 layers in QDQ format."""
    ranges = _measure_ranges(model, read_inputs())
    probes = list(islice(read_inputs(), PROBES))
    ends = find_first_and_last_layers(model)
    between = [node.name for node in model.graph.node if node.op_type in LAYERS and node.name not in ends]
    kept = [*ends, *choose_float_layers(_measure_errors(model, ranges, between, probes), budget)]
    log.info("%d of %d layers stay in float: %s", len(kept), len(ends) + len(between), ", ".join(kept))
    return _insert_qdq(model, ranges, leave_out=_add_activations(model, kept))


def find_first_and_last_layers(model: onnx.ModelProto) -> list[str]:
    """Layers that read the input, and those behind which there is no other layer."""
    followed: set[str] = set()
    first, last = [], []
    for node in reversed(model.graph.node):
        is_layer = node.op_type in LAYERS
        if is_layer and not followed & set(node.output):
            last.append(node.name)
        if is_layer and model.graph.input[0].name in node.input:
            first.append(node.name)
        if is_layer or followed & set(node.output):
            followed |= set(node.input)
    return list(dict.fromkeys([*reversed(first), *reversed(last)]))


def choose_float_layers(errors: Mapping[str, float], budget: float) -> list[str]:
    """Layer → error when it alone is quantised. The fewest layers, worst first, without which the sum is within
    the budget."""
    worst_first = sorted(errors, key=lambda layer: -errors[layer])
    kept = 0
    while math.fsum(errors[layer] for layer in worst_first[kept:]) > budget:
        kept += 1
    return worst_first[:kept]


def compute_relative_error(expected: Sequence[Floats], got: Sequence[Floats]) -> float:
    """Outputs of two networks → the largest over the outputs of squared difference over squared size."""
    return max(
        float(((a - b) ** 2).sum() / max((a**2).sum(), np.finfo(np.float32).tiny))
        for a, b in zip(expected, got, strict=True)
    )


def _measure_ranges(model: onnx.ModelProto, inputs: Iterable[Inputs]) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Least and largest value of every tensor."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        onnx.save(model, str(source))
        calibrator = create_calibrator(
            source,
            [*LAYERS, *BETWEEN],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            providers=["CPUExecutionProvider"],
        )
        calibrator.collect_data(_Reader(inputs))
        return calibrator.compute_data()


def _measure_errors(
    model: onnx.ModelProto,
    ranges: Any,  # noqa: ANN401
    layers: Sequence[str],
    probes: Sequence[Inputs],
) -> dict[str, float]:
    """Layer → how much the outputs change when it alone is quantised."""
    expected = _run_probes(model, probes)
    return {
        layer: compute_relative_error(
            expected, _run_probes(_insert_qdq(model, ranges, only=_add_activations(model, [layer])), probes)
        )
        for layer in layers
    }


def _run_probes(model: onnx.ModelProto, probes: Sequence[Inputs]) -> list[Floats]:
    """Each output for all probes, flat and joined."""
    session: OnnxSession = open_session(model.SerializeToString(), "cpu", threads=1)
    runs = [session.run(probe) for probe in probes]
    return [np.concatenate([output.ravel() for output in outputs]) for outputs in zip(*runs, strict=True)]


def _add_activations(model: onnx.ModelProto, layers: Sequence[str]) -> list[str]:
    """Layers and the activations behind them: an activation quantised apart from its layer wastes the range on what
    it cuts off."""
    return list(_list_with_activations(model, set(layers)))


def _list_with_activations(model: onnx.ModelProto, layers: set[str]) -> Iterator[str]:
    readers = find_readers(model)
    for node in model.graph.node:
        if node.name in layers:
            yield node.name
            yield from (activation.name for activation in find_activations_behind(node, readers))


def _insert_qdq(
    model: onnx.ModelProto,
    ranges: Any,  # noqa: ANN401
    *,
    leave_out: Sequence[str] = (),
    only: Sequence[str] = (),
) -> onnx.ModelProto:
    """The graph with Q/DQ pairs around all that can be quantised, or around `only` these nodes."""
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(only),
        nodes_to_exclude=list(leave_out),
        op_types_to_quantize=[*LAYERS, *BETWEEN],
        extra_options={},
    )
    quantizer.quantize_model()
    with_pairs: onnx.ModelProto = quantizer.model.model
    return with_pairs
