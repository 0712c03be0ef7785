"""Reads the parameters of dlib's face recognition ResNet from dlib's own serialised file.

The file holds the layers input first, each as a tag and the layer's parameters as a tensor; this reader finds the
tags and skips everything else (learning rates, momentum). Format: dlib's serialize.h and dnn/layers.h.
"""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.core.arrays import Floats
from app.core.errors import BadModelPack

CONVOLUTIONS = 29
INPUT_CHANNELS = 3
TENSOR_VERSION = 2

_NEGATIVE = 0x80
_LENGTH_BITS = 0x0F


@dataclass(frozen=True)
class Convolution:
    """`kernel` (out,in,k,k) float32 and `bias` (out,) float32, with the affine layer that follows folded in."""

    kernel: Floats
    bias: Floats


@dataclass(frozen=True)
class DlibWeights:
    """`convolutions` input first; `fc` (256,128) float32 maps the pooled features to the embedding."""

    convolutions: list[Convolution]
    fc: Floats


def read_dlib_weights(path: Path) -> DlibWeights:
    """The parameters of all layers that have some. Raises BadModelPack where the file is not this network's."""
    data = path.read_bytes()
    try:
        kernels = [_read_tensor(data, at).ravel() for at in _find_tag_ends(data, b"con_4")]
        affines = [_read_tensor(data, at).ravel() for at in _find_tag_ends(data, b"affine_")]
        fc = [_read_fc(data, at) for at in _find_tag_ends(data, b"fc_2")]
        if (len(kernels), len(affines), len(fc)) != (CONVOLUTIONS, CONVOLUTIONS, 1):
            raise ValueError("other layers than expected")  # noqa: TRY301 - one sentence for every way to be wrong
        return DlibWeights(_fold_all(kernels, affines), fc[0])
    except (ValueError, IndexError, struct.error) as error:
        raise BadModelPack(f"{path} is not dlib's face recognition ResNet: {error}.") from error


def _find_tag_ends(data: bytes, tag: bytes) -> list[int]:
    """Where the parameters after each tag begin. A tag is a dlib string: its length, then its letters."""
    return [match.end() for match in re.finditer(re.escape(bytes([1, len(tag)]) + tag), data)]


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    """One dlib integer and the offset after it: a byte with sign and length, then little-endian bytes."""
    size = data[at] & _LENGTH_BITS
    value = int.from_bytes(data[at + 1 : at + 1 + size], "little")
    return (-value if data[at] & _NEGATIVE else value), at + 1 + size


def _read_tensor(data: bytes, at: int) -> Floats:
    """One serialised tensor → (num_samples,k,nr,nc) float32."""
    version, at = _read_int(data, at)
    if version != TENSOR_VERSION:
        raise ValueError(f"a tensor of version {version}, not {TENSOR_VERSION}")
    shape = []
    for _ in range(4):
        size, at = _read_int(data, at)
        shape.append(size)
    return np.frombuffer(data, "<f4", count=math.prod(shape), offset=at).reshape(shape).astype(np.float32)


def _read_fc(data: bytes, at: int) -> Floats:
    """A fully connected layer without bias → (in,out) float32. Its tensor follows the two counts."""
    outputs, at = _read_int(data, at)
    inputs, at = _read_int(data, at)
    return _read_tensor(data, at).reshape(inputs, outputs)


def _fold_all(kernels: list[Floats], affines: list[Floats]) -> list[Convolution]:
    channels = INPUT_CHANNELS
    folded = []
    for parameters, affine in zip(kernels, affines, strict=True):
        convolution = _fold(parameters, affine, channels)
        folded.append(convolution)
        channels = len(convolution.bias)
    return folded


def _fold(parameters: Floats, affine: Floats, in_channels: int) -> Convolution:
    """Convolution then `gamma * y + beta` as one convolution. The kernel is square, so its size follows."""
    gamma, beta = np.split(affine, 2)
    outputs = len(gamma)
    kernel, bias = parameters[:-outputs], parameters[-outputs:]
    side = math.isqrt(kernel.size // (outputs * in_channels))
    kernel = kernel.reshape(outputs, in_channels, side, side)
    return Convolution(kernel * gamma[:, None, None, None], bias * gamma + beta)
