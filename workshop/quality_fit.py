"""Fits the functions of `app/vision/quality/fitted.py` on degraded faces of known people."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from app.core.arrays import Floats
from app.vision.light import brighten
from app.vision.quality.fitted import LAYERS, EmbedderView, Perceptron, QualityModel, split_lengths
from app.vision.quality.measures import (
    SIZES,
    compute_raw_measures,
    estimate_covered,
    make_sharpness_features,
    make_unified_features,
)
from app.vision.quality.occlusion import make_occlusion_features
from workshop.degradations import OVER_EYES, OVER_MOUTH, UNSEEN_COVERS
from workshop.quality_samples import CLEAN, QualitySamples

Weights = NDArray[np.float64]

HIDDEN, HIDDEN_COVER = 16, 12
DECAY, DECAY_COVER = 1.0, 80.0
"""Weight decay: chosen by the accuracy on one half of the people of functions that were fitted on the other half."""
COMPONENTS, DECAY_EMBEDDER = 32, 5.0
"""For the features of the embeddings, chosen in the same way. Without these features the pAUC is 52 % below that of a
random order; with the length 58 %; with the length and the similarity to the mirrored chip's embedding (a second run of
the network) 58 %; with length and components 61 %."""
ITERATIONS, NETWORKS = 400, 5
FIRST_SCALES = (0.2, 0.2, 0.2, 0.0)
"""Standard deviations of the weights with which a fit begins."""
BATCH = 256
ENOUGH = 0.8
"""The share of the clean faces that are less sharp, or smaller, than the bound above which that does not count."""
SHARPNESS_KINDS = ("clean", "sharpened", "small", "motion blur", "JPEG")
"""The kinds to which sharpness is fitted: those that differ in it."""


def fit_quality_model(samples: QualitySamples, covers: QualitySamples, *, unseen: bool) -> QualityModel:
    """All functions, fitted. With `unseen`, the kinds of UNSEEN_COVERS take no part in the fit of the covers."""
    functions = {part: _fit_cover(samples, covers, part, unseen=unseen) for part in ("eyes", "mouth")}
    known, statistics, most = _select_known(samples)
    shown = np.isin(known.kinds, SHARPNESS_KINDS)
    functions["sharpness"] = fit_regression(statistics[shown], known.genuine[shown], most)
    features = make_unified_features(
        compute_raw_measures(known.faces) | estimate_covered(known.faces, functions), statistics
    )
    bounds = _make_bounds(known, features, most)
    functions["unified"] = fit_regression(features, known.genuine, bounds, rising=len(SIZES))
    return QualityModel(functions, _fit_embedder_view(known, features, most))


def fit_embedder(samples: QualitySamples, functions: Mapping[str, Perceptron]) -> QualityModel:
    """The given functions, which serve every pack, and those fitted for the embedder of the samples."""
    known, statistics, most = _select_known(samples)
    features = make_unified_features(
        compute_raw_measures(known.faces) | estimate_covered(known.faces, functions), statistics
    )
    return QualityModel(functions, _fit_embedder_view(known, features, most))


def _fit_embedder_view(known: QualitySamples, features: Floats, most: Floats) -> EmbedderView:
    _, units = split_lengths(known.vectors, known.parts)
    centre = units.mean(axis=0)
    _, _, directions = np.linalg.svd(units - centre, full_matrices=False)
    view = EmbedderView(centre, directions[:COMPONENTS].T, known.parts, Perceptron.make_empty())
    own = view.make_features(known.vectors)
    bounds = np.concatenate([_make_bounds(known, features, most), np.full(own.shape[1], np.inf, np.float32)])
    fitted = fit_regression(np.hstack([features, own]), known.genuine, bounds, DECAY_EMBEDDER, rising=len(SIZES))
    return replace(view, unified=fitted)


def _select_known(samples: QualitySamples) -> tuple[QualitySamples, Floats, Floats]:
    """The faces of the fit, their sharpness statistics, and the bound above which each statistic does not count."""
    known = samples.take((samples.kinds != "reference") & ~np.isnan(samples.genuine))
    statistics = make_sharpness_features(known.faces)
    return known, statistics, np.quantile(statistics[known.kinds == CLEAN], ENOUGH, axis=0).astype(np.float32)


def _make_bounds(known: QualitySamples, features: Floats, most: Floats) -> Floats:
    """The bounds for features that begin with the sizes and end with the sharpness statistics."""
    bounds = np.full(features.shape[1], np.inf, np.float32)
    bounds[: len(SIZES)] = np.quantile(features[known.kinds == CLEAN, : len(SIZES)], ENOUGH, axis=0)
    bounds[-len(most) :] = most
    return bounds


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


def fit_regression(features: Floats, target: Floats, most: Floats, decay: float = DECAY, rising: int = 0) -> Perceptron:
    """(N,F), (N,) → the function. Features count up to `most` (F,). The first `rising` never lower it as they grow.

    It is so because each of their weights, and each weight of the hidden units, is kept from being negative (Sill,
    "Monotonic networks", NIPS 1997). That the hidden units' weights are positive is no restriction: tanh is odd. The
    mean of several networks, which differ in their first weights, is one network with the units of all.
    """
    plain = _make_standardiser(features, most)
    x, y = plain.standardise(features).astype(np.float64), target.astype(np.float64)
    fits = [_fit_monotone_network(x, y, decay, rising, seed) for seed in range(NETWORKS)]
    w1, b1, w2, b2 = (np.hstack(layers) for layers in zip(*fits, strict=True))
    layers = (np.asarray(layer, np.float32) for layer in (w1, b1, w2 / NETWORKS, b2.mean()))
    return replace(plain, **dict(zip(LAYERS, layers, strict=True)))


def _fit_monotone_network(x: Weights, y: Weights, decay: float, rising: int, seed: int) -> list[Weights]:
    """(N,F) standardised, (N,) → w1 (F,HIDDEN), b1, w2, b2, by L-BFGS-B on half the mean squared error."""
    shapes = ((x.shape[1], HIDDEN), (HIDDEN,), (HIDDEN,), ())
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    shrink = decay / len(y)

    def split(values: Weights) -> list[Weights]:
        return [part.reshape(shape) for part, shape in zip(np.split(values, ends), shapes, strict=True)]

    def compute_loss(values: Weights) -> tuple[float, Weights]:
        w1, b1, w2, b2 = split(values)
        hidden = np.tanh(x @ w1 + b1)
        error = hidden @ w2 + b2 - y
        back = np.outer(error / len(y), w2) * (1 - hidden**2)
        slopes = (x.T @ back + shrink * w1, back.sum(axis=0), hidden.T @ error / len(y) + shrink * w2, error.mean())
        loss = np.mean(error**2) / 2 + shrink * ((w1**2).sum() + (w2**2).sum()) / 2
        return float(loss), np.concatenate([np.ravel(slope) for slope in slopes])

    random = np.random.default_rng(seed)
    first = [random.normal(0, scale, shape) for shape, scale in zip(shapes, FIRST_SCALES, strict=True)]
    first[0][:rising], first[2] = np.abs(first[0][:rising]), np.abs(first[2])
    least = [np.full(shape, -np.inf) for shape in shapes]
    least[0][:rising] = least[2][:] = 0
    start, lowest = (np.concatenate([np.ravel(part) for part in parts]) for parts in (first, least))
    best, _, _ = fmin_l_bfgs_b(compute_loss, start, bounds=[(low, np.inf) for low in lowest], maxiter=ITERATIONS)
    return split(best)


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


def _fit_network(network: MLPClassifier, features: Floats, target: NDArray[np.generic]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(features, target)


def _take_layers(plain: Perceptron, network: object) -> Perceptron:
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_  # type: ignore[attr-defined]
    w1, b1, w2, b2 = (np.asarray(layer, np.float32) for layer in (w1, b1, w2[:, 0], b2[0]))
    return replace(plain, w1=w1, b1=b1, w2=w2, b2=b2)
