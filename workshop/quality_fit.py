"""Fits the functions of `app/vision/quality/fitted.py` on degraded faces of known people."""

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from app.core.arrays import Floats
from app.vision.light import brighten
from app.vision.quality.fitted import EmbedderView, Perceptron, QualityModel
from app.vision.quality.measures import (
    compute_raw_measures,
    estimate_covered,
    make_sharpness_features,
    make_unified_features,
)
from app.vision.quality.occlusion import make_occlusion_features
from workshop.degradations import OVER_EYES, OVER_MOUTH, UNSEEN_COVERS
from workshop.quality_samples import CLEAN, QualitySamples

HIDDEN, HIDDEN_COVER = 16, 12
DECAY, DECAY_COVER = 1.0, 80.0
"""Weight decay: chosen by the accuracy on one half of the people of functions that were fitted on the other half."""
COMPONENTS, DECAY_EMBEDDER = 32, 5.0
"""For the features of the embeddings, chosen in the same way. Without these features the pAUC is 52 % below that of a
random order; with the length 58 %; with the length and the similarity to the mirrored chip's embedding (a second run of
the network) 58 %; with length and components 61 %."""
BATCH = 256
SHARP_ENOUGH = 0.8
"""The share of the clean faces that are less sharp than the bound above which sharpness does not count."""
SHARPNESS_KINDS = ("clean", "sharpened", "small", "motion blur", "JPEG")
"""The kinds to which sharpness is fitted: those that differ in it."""


def fit_quality_model(samples: QualitySamples, covers: QualitySamples, *, unseen: bool) -> QualityModel:
    """All functions, fitted. With `unseen`, the kinds of UNSEEN_COVERS take no part in the fit of the covers."""
    functions = {part: _fit_cover(samples, covers, part, unseen=unseen) for part in ("eyes", "mouth")}
    known, statistics, most = _select_known(samples)
    shown = np.isin(known.kinds, SHARPNESS_KINDS)
    functions["sharpness"] = _fit_regression(statistics[shown], known.genuine[shown], most)
    features = make_unified_features(
        compute_raw_measures(known.faces) | estimate_covered(known.faces, functions), statistics
    )
    functions["unified"] = _fit_regression(features, known.genuine, _make_bounds(features, most))
    return QualityModel(functions, _fit_embedder_view(known, features, most))


def fit_embedder(samples: QualitySamples, functions: Mapping[str, Perceptron]) -> QualityModel:
    """The given functions, which serve every pack, and those fitted for the embedder of the samples."""
    known, statistics, most = _select_known(samples)
    features = make_unified_features(
        compute_raw_measures(known.faces) | estimate_covered(known.faces, functions), statistics
    )
    return QualityModel(functions, _fit_embedder_view(known, features, most))


def _fit_embedder_view(known: QualitySamples, features: Floats, most: Floats) -> EmbedderView:
    centre = known.embeddings.mean(axis=0)
    _, _, directions = np.linalg.svd(known.embeddings - centre, full_matrices=False)
    view = EmbedderView(centre, directions[:COMPONENTS].T, Perceptron.make_empty())
    own = view.make_features(known.vectors)
    bounds = np.concatenate([_make_bounds(features, most), np.full(own.shape[1], np.inf, np.float32)])
    return replace(view, unified=_fit_regression(np.hstack([features, own]), known.genuine, bounds, DECAY_EMBEDDER))


def _select_known(samples: QualitySamples) -> tuple[QualitySamples, Floats, Floats]:
    """The faces of the fit, their sharpness statistics, and the bound above which each statistic does not count."""
    known = samples.take((samples.kinds != "reference") & ~np.isnan(samples.genuine))
    statistics = make_sharpness_features(known.faces)
    return known, statistics, np.quantile(statistics[known.kinds == CLEAN], SHARP_ENOUGH, axis=0).astype(np.float32)


def _make_bounds(features: Floats, most: Floats) -> Floats:
    """The bounds for features that end with the sharpness statistics."""
    return np.concatenate([np.full(features.shape[1] - len(most), np.inf, np.float32), most])


def _fit_cover(samples: QualitySamples, covers: QualitySamples, part: str, *, unseen: bool) -> Perceptron:
    kinds = {"eyes": OVER_EYES, "mouth": OVER_MOUTH}[part]
    if unseen:
        covers = covers.take(~np.isin(covers.kinds, list(UNSEEN_COVERS)))
    plain = samples.take(~np.isin(samples.kinds, ["reference", "covered"]))
    chips = brighten(np.concatenate([covers.faces.chips, plain.faces.chips]))
    features = np.concatenate(
        [make_occlusion_features(chips[start : start + BATCH])[part] for start in range(0, len(chips), BATCH)]
    )
    is_covered = np.concatenate([np.isin(covers.kinds, list(kinds)), np.zeros(len(plain.people), bool)])
    return _fit_classification(features, is_covered)


def _fit_regression(features: Floats, target: Floats, most: Floats, decay: float = DECAY) -> Perceptron:
    plain = _make_standardiser(features, most)
    network = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), activation="tanh", solver="lbfgs", alpha=decay, max_iter=400, random_state=0
    )
    return _take_layers(plain, _fit_network(network, plain.standardise(features), target))


def _fit_classification(features: Floats, target: NDArray[np.bool_]) -> Perceptron:
    plain = _make_standardiser(features, np.full(features.shape[1], np.inf, np.float32))
    network = MLPClassifier(
        hidden_layer_sizes=(HIDDEN_COVER,),
        activation="tanh",
        solver="lbfgs",
        alpha=DECAY_COVER,
        max_iter=150,
        random_state=0,
    )
    return _take_layers(plain, _fit_network(network, plain.standardise(features), target))


def _make_standardiser(features: Floats, most: Floats) -> Perceptron:
    """A function with the parameters that standardise the features, without layers."""
    bounded = np.minimum(features, most)
    return replace(
        Perceptron.make_empty(), mean=bounded.mean(axis=0), scale=np.maximum(bounded.std(axis=0), 1e-3), most=most
    )


def _fit_network(network: MLPRegressor | MLPClassifier, features: Floats, target: NDArray[np.generic]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(features, target)


def _take_layers(plain: Perceptron, network: object) -> Perceptron:
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_  # type: ignore[attr-defined]
    w1, b1, w2, b2 = (np.asarray(layer, np.float32) for layer in (w1, b1, w2[:, 0], b2[0]))
    return replace(plain, w1=w1, b1=b1, w2=w2, b2=b2)
