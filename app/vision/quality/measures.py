"""Quality of faces: how reliable their embeddings are, by measures named after ISO/IEC 29794-5.

Every measure has a raw value and a score of 0 to 100, higher is better (`…_score`). `unified` is the one number that
predicts recognition: 100 times the expected cosine similarity of such a face to its own person.
"""

from collections.abc import Mapping

import numpy as np

from app.core.arrays import Floats
from app.core.records import QUALITY_DIGITS
from app.vision.quality.exposure import measure_exposure
from app.vision.quality.fitted import Perceptron, QualityModel
from app.vision.quality.inputs import FaceColumns
from app.vision.quality.occlusion import make_occlusion_features
from app.vision.quality.pose import estimate_head_pose, measure_inter_eye_px
from app.vision.quality.sharpness import estimate_noise, measure_sharpness

# From the brows to below the mouth: hair, background and the black beyond the photo's edge say nothing about a face.
_INNER = (slice(32, 96), slice(24, 88))
# OFIQ's sigmoid for the inter-eye distance.
_EYES_AT_PX, _EYES_WIDTH_PX = 70.0, 20.0

Columns = dict[str, Floats]


def measure_quality(faces: FaceColumns, model: QualityModel, vectors: Floats | None = None) -> Columns:
    """N faces, and their vectors (N,D) as the embedder gives them, if known → measure → (N,) float32, raw values and
    scores."""
    if not len(faces):
        return {}
    functions = model.functions
    raw, statistics = compute_raw_measures(faces), make_sharpness_features(faces)
    raw["sharpness"] = functions["sharpness"](statistics)
    raw |= estimate_covered(faces, functions)
    features = make_unified_features(raw, statistics)
    if model.embedder is None or vectors is None:
        expected = functions["unified"](features)
    else:
        expected = model.embedder.unified(np.hstack([features, model.embedder.make_features(vectors)]))
    return {"unified": _map_to_percent(expected), **raw, **_map_to_scores(raw)}


def split_into_rows(columns: Columns) -> list[dict[str, float]]:
    """Columns (measure → (N,)) → N rows (measure → value), rounded as they are stored."""
    names = list(columns)
    table = np.column_stack([columns[name] for name in names]) if names else np.empty((0, 0))
    rows = np.round(table.astype(np.float64), QUALITY_DIGITS).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def compute_raw_measures(faces: FaceColumns) -> Columns:
    """The measures that need no fitted function. `size_px`: shorter side of the box, as far as it lies in the photo;
    `inside`: the share of the box that does; `inter_eye_px`, `yaw`, `pitch`, `roll` (degrees), the measures of light,
    the `gain` by which a dark face is brightened, and the `noise` that it then has, in grey levels."""
    pose = estimate_head_pose(faces.landmarks)
    size_px, inside = _measure_visible(faces)
    gain = faces.gains
    return {
        "size_px": size_px,
        "inside": inside,
        "inter_eye_px": measure_inter_eye_px(faces.landmarks, pose["yaw"]),
        **pose,
        **measure_exposure(faces.luminance, _INNER),
        "gain": gain,
        "noise": gain * estimate_noise(faces.luminance, _INNER),
    }


def estimate_covered(faces: FaceColumns, functions: Mapping[str, Perceptron]) -> Columns:
    """`eyes_covered` and `mouth_covered`, 0 to 1."""
    features = make_occlusion_features(faces.brightened)
    return {f"{part}_covered": _apply_sigmoid(functions[part](values)) for part, values in features.items()}


def make_unified_features(raw: Columns, statistics: Floats) -> Floats:
    """N faces' measures and sharpness statistics → (N,F) float32, the input of the function `unified`.

    The detector's score is not among them, since its meaning differs between detectors.
    """
    columns = [
        *(np.log(np.maximum(raw[name], 1)) for name in SIZES),
        raw["inside"],
        np.abs(raw["yaw"]),
        raw["pitch"],
        np.abs(raw["roll"]),
        np.log(raw["gain"]),
        np.log1p(raw["noise"]),
        *(raw[name] for name in LIGHT),
        raw["eyes_covered"],
        raw["mouth_covered"],
    ]
    return np.column_stack([*columns, statistics]).astype(np.float32)


SIZES = ("inter_eye_px", "size_px")
"""The first features of `unified`. It never falls where one of them grows: `workshop.quality_fit` sees to that."""
LIGHT = (
    "luminance_mean",
    "luminance_variance",
    "under_exposure",
    "over_exposure",
    "dynamic_range",
    "illumination_uniformity",
)


def make_sharpness_features(faces: FaceColumns) -> Floats:
    """N faces → (N,F) float32, the input of the function `sharpness`."""
    return measure_sharpness(faces.brightened_luminance, _INNER)


def _measure_visible(faces: FaceColumns) -> tuple[Floats, Floats]:
    """(N,) px and (N,) shares: the shorter side of each box inside the photo, and how much of the box that is."""
    boxes = faces.boxes
    inside = np.clip(boxes, 0, np.tile(faces.photo_px, 2))
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    return sides.min(axis=1), sides.prod(axis=1) / np.maximum(whole.prod(axis=1), 1e-6)


def _map_to_scores(raw: Columns) -> Columns:
    """A score of 0 to 100 for each raw value, by OFIQ's mapping where it publishes one, else by the share that is
    good."""
    return {
        "sharpness_score": _map_to_percent(raw["sharpness"]),
        "inter_eye_score": 100 * _apply_sigmoid((raw["inter_eye_px"] - _EYES_AT_PX) / _EYES_WIDTH_PX),
        "inside_score": 100 * raw["inside"],
        **{f"{name}_score": 100 * np.cos(np.radians(raw[name])) ** 2 for name in ("yaw", "pitch", "roll")},
        "luminance_mean_score": 400 * raw["luminance_mean"] * (1 - raw["luminance_mean"]),
        "luminance_variance_score": 100 * np.sqrt(np.minimum(raw["luminance_variance"] * 4, 1)),
        "under_exposure_score": 100 * (1 - raw["under_exposure"]),
        "over_exposure_score": 100 * (1 - raw["over_exposure"]),
        "dynamic_range_score": 12.5 * raw["dynamic_range"],
        "illumination_uniformity_score": 100 * raw["illumination_uniformity"] ** 0.3,
        "eyes_covered_score": 100 * (1 - raw["eyes_covered"]),
        "mouth_covered_score": 100 * (1 - raw["mouth_covered"]),
    }


def _map_to_percent(part: Floats) -> Floats:
    return np.asarray(100 * np.clip(part, 0, 1), np.float32)


def _apply_sigmoid(logit: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -60, 60))), np.float32)
