"""Learns a pack's whitening (app/vision/whitening.py) from a crowd: pictures of strangers of all ages and groups.

Neither who is in the pictures nor their groups are used, and nothing of a single face is kept: a mean and a covariance
of thousands of faces are what remains. How mixed the crowd is decides how good the whitening is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tomlkit

from app.core.arrays import Floats
from app.core.errors import BadConfiguration, BadModelPack
from app.packs.manifest import PackManifest
from app.packs.store import compute_sha256
from app.vision.embedder import normalise, split_parts
from app.vision.whitening import VERSION, WhitenedPart, Whitening
from workshop.manifests import rewrite_manifest

COMPONENTS = 128
EXPONENT = 1 / 8
"""Chosen by `python -m benchmarks everybody`: see "Whitening" in docs/decisions.md."""
FACES_A_COMPONENT = 10
"""With fewer faces for each component, the covariance would be that of single people."""


def fit_whitening(
    vectors: Floats, parts: Sequence[int], crowd: str, exponent: float = EXPONENT, components: int = COMPONENTS
) -> Whitening:
    """(N,D) vectors of strangers as the network gives them → the whitening of each of the parts.

    Raises BadConfiguration for too few faces.
    """
    fewest = FACES_A_COMPONENT * components
    if len(vectors) < fewest:
        raise BadConfiguration(
            f"The crowd has {len(vectors):,} faces; {components} components need {fewest:,} or more."
        )
    fitted = [_fit_part(normalise(part), exponent, components) for part in split_parts(vectors, parts)]
    return Whitening(fitted, crowd)


def _fit_part(vectors: Floats, exponent: float, components: int) -> WhitenedPart:
    mean = vectors.mean(axis=0, dtype=np.float64)
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(vectors.astype(np.float64), rowvar=False))
    largest = slice(-1, -components - 1, -1)
    # A direction in which no two strangers differ has no eigenvalue to divide by.
    scale = np.maximum(eigenvalues[largest], np.finfo(np.float32).eps) ** -exponent
    return WhitenedPart(mean.astype(np.float32), (eigenvectors[:, largest] * scale).astype(np.float32))


def write_whitening(whitening: Whitening, path: Path) -> None:
    """Write what `read_whitening` reads. The same whitening gives the same bytes."""
    arrays = {"version": np.array(VERSION), "parts": np.array(len(whitening.parts)), "crowd": np.array(whitening.crowd)}
    for number, part in enumerate(whitening.parts):
        arrays |= {f"mean{number}": part.mean, f"projection{number}": part.projection}
    try:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise BadModelPack(f"The whitening {path} can't be written: {error}.") from error


def write_crowd(manifest_path: Path, manifest: PackManifest, whitening: Whitening) -> Path:
    """Write the whitening beside the manifest, and its name and hash into the manifest. Returns the file."""
    path = manifest_path.with_name(f"{manifest.name}.crowd.npz")
    write_whitening(whitening, path)

    def put(document: tomlkit.TOMLDocument) -> None:
        document["embedder"]["whitening"] = path.name
        document["files"][path.name] = compute_sha256(path)

    rewrite_manifest(manifest_path, put)
    return path
