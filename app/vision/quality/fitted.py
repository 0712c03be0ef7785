"""Functions that were fitted on faces: small neural networks, whose weights are in the files beside this one.

They are made by `python -m benchmarks quality fit`; docs/quality.md says on which faces, and how accurate they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats
from app.vision.embedder import normalise, split_parts

PARAMETERS = Path(__file__).with_name("fitted.npz")
EMBEDDERS = Path(__file__).with_name("embedders")
VERSION = 1
LAYERS = ("w1", "b1", "w2", "b2")
REACH = 3.0
"""In standard deviations from the mean of the fitted faces. Features are clipped to this distance."""


@dataclass(frozen=True)
class Perceptron:
    """x → standardised → tanh(x·w1 + b1) → ·w2 + b2: one hidden layer. `mean`, `scale`, `most` (F,); w1 (F,H), w2 (H,).

    A feature above `most` counts as `most`: a face that is sharper than the fitted ones is not worse for that.
    """

    mean: Floats
    scale: Floats
    most: Floats
    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats

    @staticmethod
    def make_empty() -> "Perceptron":
        """A function without parameters, which are set afterwards."""
        return Perceptron(*[np.empty(0, np.float32)] * 7)

    def __call__(self, features: Floats) -> Floats:
        """(N,F) → (N,) float32."""
        hidden = np.tanh(self.standardise(features) @ self.w1 + self.b1)
        return np.asarray(hidden @ self.w2 + self.b2, np.float32)

    def standardise(self, features: Floats) -> Floats:
        """(N,F) → (N,F) in standard deviations from the mean, at most REACH."""
        bounded = (np.minimum(features, self.most) - self.mean) / self.scale
        return np.asarray(np.clip(bounded, -REACH, REACH), np.float32)


@dataclass(frozen=True)
class EmbedderView:
    """Quality features from the vectors of one embedder: the length of a vector (networks that are trained by angles
    give short ones to faces that they can't recognise), and its principal components. `centre` (D,) and `components`
    (D,K) are those of the unit vectors of good and bad faces. `unified` takes these features after the others.

    `parts` (P,) are the dimensions of the parts of a vector that comes from several networks: each has its own length.
    """

    centre: Floats
    components: Floats
    parts: NDArray[np.int64]
    unified: Perceptron

    def make_features(self, vectors: Floats) -> Floats:
        """(N,D) vectors as the network gives them → (N,P+K) float32."""
        lengths, units = split_lengths(vectors, self.parts)
        return np.hstack([np.log(lengths), (units - self.centre) @ self.components]).astype(np.float32)


def split_lengths(vectors: Floats, parts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(N,D) vectors, (P,) dimensions of their parts → (N,P) the parts' lengths, (N,D) the parts of unit length."""
    split = split_parts(vectors, parts.tolist())
    lengths = np.hstack([np.linalg.norm(part, axis=1, keepdims=True) for part in split])
    return np.maximum(lengths, 1e-12), np.hstack([normalise(part) for part in split])


@dataclass(frozen=True)
class QualityModel:
    """`functions` serve every pack: `sharpness`, `unified` (the expected similarity of a face to its own person),
    `eyes` and `mouth` (logits that they are covered). `embedder` gives a better `unified`, for embedders that were
    fitted."""

    functions: Mapping[str, Perceptron]
    embedder: EmbedderView | None = None


@cache
def load_quality_model(embedder_sha256: str | None = None) -> QualityModel:
    """The functions that are shipped, with those of the embedder whose file has this hash, if it was fitted."""
    path = find_embedder_file(embedder_sha256) if embedder_sha256 else None
    return QualityModel(read_functions(PARAMETERS), read_embedder_view(path) if path and path.is_file() else None)


def find_embedder_file(sha256: str) -> Path:
    """Where the parameters of an embedder lie, by its file's hash."""
    return EMBEDDERS / f"{sha256[:16]}.npz"


def read_functions(path: Path) -> Mapping[str, Perceptron]:
    """What `workshop.quality_parameters.write_functions` wrote. Raises ValueError for a file of another version."""
    with np.load(path) as stored:
        _check_version(path, stored)
        names = {key.partition("/")[0] for key in stored.files if "/" in key}
        return {name: Perceptron(**_read_layers(stored, name)) for name in names}


def read_embedder_view(path: Path) -> EmbedderView:
    """What `workshop.quality_parameters.write_embedder_view` wrote. Raises ValueError for a file of another version."""
    with np.load(path) as stored:
        _check_version(path, stored)
        centre, components = (np.asarray(stored[name], np.float32) for name in ("centre", "components"))
        # Files of embedders that were fitted before there were parts lack them.
        parts = stored["parts"] if "parts" in stored.files else np.array([len(centre)])
        return EmbedderView(centre, components, parts, Perceptron(**_read_layers(stored, "unified")))


def _check_version(path: Path, stored: Mapping[str, NDArray[np.generic]]) -> None:
    if int(stored["version"]) != VERSION:
        raise ValueError(f"{path.name} has version {stored['version']}, this code reads {VERSION}.")


def _read_layers(stored: Mapping[str, NDArray[np.float16]], name: str) -> dict[str, Floats]:
    fields = ("mean", "scale", "most", *LAYERS)
    return {field: np.asarray(stored[f"{name}/{field}"], np.float32) for field in fields}
