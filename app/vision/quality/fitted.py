"""Functions whose parameters were fitted on faces, as small files beside this one: layers of weights, nothing else.

They are made by `python -m benchmarks.quality fit`; docs/quality.md says on what, and what they reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.vision.types import Floats

PARAMETERS = Path(__file__).with_name("fitted.npz")
VERSION = 1
LAYERS = ("w1", "b1", "w2", "b2")
REACH = 3.0
"""In standard deviations: what lies farther from the faces of the fit is taken for as far as this."""


@dataclass(frozen=True)
class Perceptron:
    """x → standardised → tanh(x·w1 + b1) → ·w2 + b2: one hidden layer. `mean`, `scale`, `most` (F,); w1 (F,H), w2 (H,).

    What is above `most` counts as that: a face that is sharper than those of the fit is no worse for it.
    """

    mean: Floats
    scale: Floats
    most: Floats
    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats

    def __call__(self, features: Floats) -> Floats:
        """(N,F) → (N,) float32."""
        hidden = np.tanh(self.standardised(features) @ self.w1 + self.b1)
        return np.asarray(hidden @ self.w2 + self.b2, np.float32)

    def standardised(self, features: Floats) -> Floats:
        """(N,F) → (N,F) in standard deviations from the mean, at most REACH."""
        bounded = (np.minimum(features, self.most) - self.mean) / self.scale
        return np.asarray(np.clip(bounded, -REACH, REACH), np.float32)


@cache
def fitted() -> Mapping[str, Perceptron]:
    """Name → function: `sharpness` and `unified` (similarity that is to be expected), `eyes` and `mouth` (logits that
    they are covered)."""
    return read_fitted(PARAMETERS)


def read_fitted(path: Path) -> Mapping[str, Perceptron]:
    """What `write_fitted` wrote. Raises ValueError for a file of another version."""
    with np.load(path) as stored:
        if int(stored["version"]) != VERSION:
            raise ValueError(f"{path.name} has version {int(stored['version'])}, this code reads {VERSION}.")
        names = {key.partition("/")[0] for key in stored.files if "/" in key}
        return {name: Perceptron(**_layers(stored, name)) for name in names}


def write_fitted(functions: Mapping[str, Perceptron], path: Path = PARAMETERS) -> None:
    """Numbers in half precision: they are right to three digits, more than what they were fitted on is."""
    arrays: dict[str, NDArray[np.generic]] = {"version": np.array(VERSION)}
    for name, function in functions.items():
        for field, values in vars(function).items():
            arrays[f"{name}/{field}"] = np.asarray(values, np.float16 if field in LAYERS else np.float32)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _layers(stored: Mapping[str, NDArray[np.float16]], name: str) -> dict[str, Floats]:
    fields = ("mean", "scale", "most", *LAYERS)
    return {field: np.asarray(stored[f"{name}/{field}"], np.float32) for field in fields}
