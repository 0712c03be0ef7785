"""Writes the parameters that `app/vision/quality/fitted.py` reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.vision.quality.fitted import LAYERS, PARAMETERS, VERSION, EmbedderView, Perceptron


def write_functions(functions: Mapping[str, Perceptron], path: Path = PARAMETERS) -> None:
    """Layers in half precision: three digits, more than the accuracy of the faces that they were fitted on."""
    _write(path, {key: values for name in functions for key, values in _make_arrays(name, functions[name]).items()})


def write_embedder_view(view: EmbedderView, path: Path) -> None:
    """The same for the functions of one embedder."""
    plain = {name: np.asarray(getattr(view, name), np.float16) for name in ("centre", "components")}
    _write(path, plain | {"parts": view.parts} | _make_arrays("unified", view.unified))


def _write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, version=np.array(VERSION), **arrays)  # type: ignore[arg-type]


def _make_arrays(name: str, function: Perceptron) -> dict[str, NDArray[np.generic]]:
    return {
        f"{name}/{field}": np.asarray(values, np.float16 if field in LAYERS else np.float32)
        for field, values in vars(function).items()
    }
