"""Measures of a face: each moves as its name says, on drawn chips and on a real face."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from app.core.arrays import Image
from app.core.roles import QualityBars
from app.packs.store import PackStore
from app.vision.align import align_faces
from app.vision.face_pack import FacePack, load_pack
from app.vision.quality import fitted as fitted_parameters
from app.vision.quality.exposure import measure_exposure
from app.vision.quality.fitted import (
    EMBEDDERS,
    PARAMETERS,
    EmbedderView,
    Perceptron,
    find_embedder_file,
    load_quality_model,
    read_embedder_view,
    read_functions,
)
from app.vision.quality.inputs import CHIP_PX, FaceColumns
from app.vision.quality.measures import (
    compute_raw_measures,
    estimate_covered,
    make_sharpness_features,
    make_unified_features,
    measure_quality,
    split_into_rows,
)
from app.vision.quality.pose import estimate_head_pose, measure_inter_eye_px
from app.vision.quality.sharpness import NAMES, estimate_noise
from tests import photos
from workshop.degradations import COVERS, OVER_EYES, Portrait
from workshop.quality_fit import fit_regression
from workshop.quality_parameters import write_embedder_view, write_functions

WHOLE = (slice(None), slice(None))
# A face from the front: left eye, right eye, nose tip and corners of the mouth; x right, y down, z towards the viewer.
FRONT = np.array([(-0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.62, 0.45), (-0.39, 1.13, 0.05), (0.39, 1.13, 0.05)])


def one_face(chip: Image) -> FaceColumns:
    landmarks = np.array([[(30, 40), (70, 40), (50, 65), (35, 85), (65, 85)]], np.float32)
    box = np.array([[20, 20, 80, 100]], np.float32)
    return FaceColumns(chip[None], box, landmarks, np.array([0.9], np.float32), np.array([[200, 200]], np.float32))


def measured(faces: FaceColumns) -> dict[str, float]:
    return split_into_rows(measure_quality(faces, load_quality_model()))[0]


def turned(yaw: float = 0, pitch: float = 0, roll: float = 0) -> np.ndarray:
    """(1,5,2) px of that face, its head turned, seen from far away."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    points = FRONT @ (about_z @ about_x @ about_y).T
    return (100 + 60 * points[None, :, :2]).astype(np.float32)


@pytest.mark.parametrize("yaw", [-60, -20, 0, 35])
def test_yaw_is_positive_where_a_face_looks_to_the_right(yaw: float) -> None:
    assert estimate_head_pose(turned(yaw=yaw))["yaw"][0] == pytest.approx(yaw, abs=0.5)


@pytest.mark.parametrize("pitch", [-30, 0, 20])
def test_pitch_is_positive_where_a_face_looks_up(pitch: float) -> None:
    assert estimate_head_pose(turned(pitch=pitch))["pitch"][0] == pytest.approx(pitch, abs=0.5)


@pytest.mark.parametrize("roll", [-90, -15, 0, 45, 170])
def test_roll_is_positive_where_a_head_leans_clockwise(roll: float) -> None:
    assert estimate_head_pose(turned(roll=roll))["roll"][0] == pytest.approx(roll, abs=0.5)


def test_the_eyes_of_a_head_in_half_profile_are_as_far_apart_as_from_the_front() -> None:
    landmarks = turned(yaw=40)
    assert measure_inter_eye_px(landmarks, estimate_head_pose(landmarks)["yaw"])[0] == pytest.approx(60, rel=0.01)


def test_light_is_measured_in_shares_and_bits() -> None:
    chips = np.zeros((3, CHIP_PX, CHIP_PX), np.uint8)
    chips[1], chips[2] = 255, np.arange(CHIP_PX)[None] % 2 * 200
    black, white, striped = (
        {name: float(values[row]) for name, values in measure_exposure(chips, WHOLE).items()} for row in range(3)
    )
    assert (black["under_exposure"], black["over_exposure"], black["dynamic_range"]) == (1, 0, 0)
    assert (white["under_exposure"], white["over_exposure"], white["luminance_mean"]) == (0, 1, 1)
    assert striped["dynamic_range"] == pytest.approx(1)
    assert striped["luminance_variance"] == pytest.approx((100 / 255) ** 2, rel=1e-3)


def test_light_from_one_side_is_not_uniform() -> None:
    lit = np.full((CHIP_PX, CHIP_PX), 120, np.uint8)
    lit[:, CHIP_PX // 2 :] = 200
    even, from_the_side = measure_exposure(np.stack([np.full_like(lit, 120), lit]), WHOLE)["illumination_uniformity"]
    assert (even, from_the_side) == (1, 0)


@pytest.mark.parametrize("sigma", [0.0, 4.0, 12.0])
def test_noise_is_told_from_what_is_smooth(sigma: float) -> None:
    slope = np.tile(np.linspace(60, 180, CHIP_PX), (1, CHIP_PX, 1))
    noisy = np.rint(slope + np.random.default_rng(0).normal(0, sigma, slope.shape)).astype(np.uint8)
    assert estimate_noise(noisy, WHOLE)[0] == pytest.approx(sigma, abs=0.5)


def test_a_dark_face_is_measured_in_the_light_that_the_embedder_gives_it() -> None:
    random = np.random.default_rng(0)
    chip = np.clip(20 + random.normal(0, 3, (CHIP_PX, CHIP_PX, 3)), 0, 255).astype(np.uint8)
    dark, bright = one_face(chip), one_face(np.full_like(chip, 200))
    assert np.percentile(dark.brightened_luminance, 95) > 150
    assert bright.brightened is bright.chips
    assert measured(dark)["gain"] > 5
    assert measured(dark)["noise"] > 5
    assert (measured(bright)["gain"], measured(bright)["noise"]) == (1, 0)


def test_a_face_at_the_edge_is_as_large_as_what_the_photo_shows_of_it() -> None:
    faces = one_face(photos.noise(CHIP_PX, CHIP_PX))
    at_the_edge = replace(faces, boxes=np.array([[-20, 20, 40, 100]], np.float32))
    assert (measured(faces)["size_px"], measured(faces)["inside"]) == (60, 1)
    assert (measured(at_the_edge)["size_px"], measured(at_the_edge)["inside_score"]) == (40, pytest.approx(66.667))


def test_no_faces_have_no_measures() -> None:
    nobody = one_face(photos.noise(CHIP_PX, CHIP_PX)).take(slice(0, 0))
    assert split_into_rows(measure_quality(nobody, load_quality_model())) == []


def test_measures_are_finite_for_anything_that_is_taken_for_a_face() -> None:
    flat = np.full((CHIP_PX, CHIP_PX, 3), 7, np.uint8)
    in_one_point = replace(
        one_face(flat), landmarks=np.zeros((1, 5, 2), np.float32), boxes=np.zeros((1, 4), np.float32)
    )
    for faces in (in_one_point, one_face(np.zeros_like(flat)), one_face(photos.noise(CHIP_PX, CHIP_PX))):
        row = measured(faces)
        assert all(np.isfinite(value) for value in row.values()), row
        assert all(0 <= value <= 100 for name, value in row.items() if name.endswith("_score") or name == "unified")


def test_faces_of_a_batch_are_measured_as_one_by_one() -> None:
    faces = FaceColumns.concatenate([one_face(photos.noise(CHIP_PX, CHIP_PX, seed)) for seed in range(5)])
    batch = measure_quality(faces, load_quality_model())
    for row in range(len(faces)):
        single = measure_quality(faces.take(slice(row, row + 1)), load_quality_model())
        assert {name: values[row] for name, values in batch.items()} == pytest.approx(
            {name: values[0] for name, values in single.items()}, rel=1e-4, abs=1e-4
        )


@pytest.fixture(scope="module")
def pack() -> FacePack:
    installed = PackStore(Path("models")).install("open")
    return load_pack(installed, "cpu", 1)


@pytest.fixture(scope="module")
def portrait(pack: FacePack) -> Portrait:
    """NASA's portrait of Eileen Collins, public domain."""
    photo = skimage.data.astronaut()
    return Portrait(photo, pack.detect([photo])[0].landmarks[0])


def face_of(portrait: Portrait) -> FaceColumns:
    landmarks = portrait.landmarks[None]
    around = np.float32([-0.7, -1.4, 0.7, 0.9]) * portrait.eyes_px
    box = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1) + around
    size_px = np.array([[portrait.photo.shape[1], portrait.photo.shape[0]]], np.float32)
    chips = align_faces(portrait.photo, landmarks, "arcface", CHIP_PX)
    return FaceColumns(chips, box, landmarks, np.array([0.99], np.float32), size_px)


def test_the_more_a_face_is_blurred_the_less_is_expected_of_it(portrait: Portrait) -> None:
    blurred = [portrait.photo, *(np.uint8(cv2.GaussianBlur(portrait.photo, (0, 0), sigma)) for sigma in (1.5, 2.5, 4))]
    rows = [measured(face_of(portrait.on(photo))) for photo in blurred]
    for name in ("sharpness", "unified"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
        assert values[0] > 1.3 * values[-1]


def make_features(faces: FaceColumns) -> np.ndarray:
    """(N,F), the input of `unified`."""
    raw = compute_raw_measures(faces) | estimate_covered(faces, load_quality_model().functions)
    return make_unified_features(raw, make_sharpness_features(faces))


def list_unified() -> list[tuple[str, Perceptron]]:
    """The function that serves every pack, and that of each embedder that has one."""
    embedders = [(path.stem, read_embedder_view(path).unified) for path in sorted(EMBEDDERS.glob("*.npz"))]
    return [("every pack", read_functions(PARAMETERS)["unified"]), *embedders]


@pytest.mark.parametrize(("name", "unified"), list_unified(), ids=[name for name, _ in list_unified()])
def test_quality_never_falls_as_a_face_grows(name: str, unified: Perceptron) -> None:
    # Faces of all kinds, also beyond the bounds of those that it was fitted on.
    spread = np.random.default_rng(0).normal(0, 2, (200, len(unified.mean)))
    features = np.float32(unified.mean + unified.scale * spread)
    for column in (0, 1, [0, 1]):
        grown = features.copy()
        grown[:, column] = np.log(8)
        values = []
        for _ in range(40):
            values.append(unified(grown))
            grown[:, column] += np.float32(0.15)
        assert np.diff(values, axis=0).min() > -1e-5


@pytest.mark.parametrize(("name", "unified"), list_unified(), ids=[name for name, _ in list_unified()])
def test_what_is_sharper_than_the_fitted_faces_counts_as_sharp_as_they(
    portrait: Portrait, name: str, unified: Perceptron
) -> None:
    known = make_features(face_of(portrait))
    features = np.hstack([known, np.zeros((1, len(unified.mean) - known.shape[1]), np.float32)])
    statistics = slice(known.shape[1] - len(NAMES), known.shape[1])
    features[:, statistics] = unified.most[statistics]
    sharper = np.repeat(features, 30, axis=0)
    sharper[:, statistics] += np.linspace(0.1, 3, 30, dtype=np.float32)[:, None]
    assert unified(sharper) == pytest.approx(np.repeat(unified(features), 30))


def test_a_function_that_must_rise_rises_where_its_examples_fall() -> None:
    random = np.random.default_rng(0)
    examples = np.float32(random.uniform(-1, 1, (400, 2)))
    target = examples[:, 1] - np.abs(examples[:, 0])
    line = np.stack([np.linspace(-1, 1, 50), np.zeros(50)], axis=1).astype(np.float32)
    no_bound = np.full(2, np.inf, np.float32)
    free, rising = (fit_regression(examples, target, no_bound, 1e-3, rising=count) for count in (0, 1))
    assert np.abs(free(examples) - target).mean() < 0.05
    assert np.diff(free(line)).min() < -0.01  # the right half of the line
    assert np.diff(rising(line)).min() > -1e-6
    assert np.ptp(rising(line)) > 0.05


@pytest.mark.parametrize("scale", [1.5, 2, 3, 4, 6])
def test_a_photo_that_is_larger_shows_no_worse_face(portrait: Portrait, scale: float) -> None:
    height, width = portrait.photo.shape[:2]
    size = round(width * scale), round(height * scale)
    larger = np.asarray(cv2.resize(portrait.photo, size, interpolation=cv2.INTER_LANCZOS4), np.uint8)
    in_larger = Portrait(larger, np.float32((portrait.landmarks + 0.5) * scale - 0.5))
    # What enlarging does to the finest details of the chip is worth up to three points.
    assert measured(face_of(in_larger))["unified"] > measured(face_of(portrait))["unified"] - 3


def test_close_ups_are_core_faces_as_the_same_photos_made_smaller_are(pack: FacePack, shared_dir: Path) -> None:
    rows = []
    for path in sorted((shared_dir / "album").glob("*.jpg")):
        photo = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        faces = pack.detect([photo])[0]
        for scale in (1, 2, 4):
            larger = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4), np.uint8)
            landmarks = faces.landmarks[:1] * scale
            chips = align_faces(larger, landmarks, "arcface", CHIP_PX)
            size_px = np.array([[larger.shape[1], larger.shape[0]]], np.float32)
            rows.append(measured(FaceColumns(chips, faces.boxes[:1] * scale, landmarks, faces.scores[:1], size_px)))
    as_given, twice, four_times = np.array([row["unified"] for row in rows]).reshape(-1, 3).T
    core = as_given >= QualityBars().core
    assert core.sum() > 20
    assert (np.minimum(twice, four_times)[core] >= QualityBars().core).all()
    assert (as_given - np.minimum(twice, four_times)).max() < 5


def test_a_dark_face_is_worth_what_noise_leaves_of_it(portrait: Portrait) -> None:
    random = np.random.default_rng(0)

    def worth(light: float, sigma: float) -> float:
        dark = portrait.photo * light + random.normal(0, sigma, portrait.photo.shape)
        return measured(face_of(portrait.on(np.clip(np.rint(dark), 0, 255).astype(np.uint8))))["unified"]

    in_the_light, dark, noisy, drowned = worth(1, 0), worth(0.1, 1), worth(0.1, 5), worth(0.04, 8)
    assert in_the_light > dark > noisy > drowned
    assert dark > 0.8 * in_the_light
    assert drowned < 0.6 * in_the_light


@pytest.mark.parametrize("cover", COVERS)
def test_a_cover_is_noticed_on_the_part_it_covers(portrait: Portrait, cover: str) -> None:
    part = "eyes_covered" if cover in OVER_EYES else "mouth_covered"
    bare = measured(face_of(portrait))[part]
    covered = [COVERS[cover](portrait, np.random.default_rng(seed)) for seed in range(9)]
    values = [measured(face_of(portrait.on(photo)))[part] for photo in covered]
    assert bare < 0.5 < np.median(values)


def length_tells() -> EmbedderView:
    """Of an embedder of three dimensions: the longer its vector, the better it saw the face."""
    inputs = len(load_quality_model().functions["unified"].mean) + 1 + 2
    nothing, one = np.zeros(inputs, np.float32), np.ones(inputs, np.float32)
    weights = np.zeros((inputs, 1), np.float32)
    weights[-3] = 0.5
    unified = Perceptron(nothing, one, one * np.inf, weights, np.zeros(1), np.full(1, 0.5), np.full((), 0.5))
    return EmbedderView(np.zeros(3, np.float32), np.eye(3, 2, dtype=np.float32), np.array([3]), unified)


def test_fitted_functions_are_read_as_they_were_written(tmp_path: Path) -> None:
    function = Perceptron(
        *(np.float32(np.random.default_rng(0).normal(size=shape)) for shape in (3, 3, 3, (3, 2), 2, 2, ()))
    )
    write_functions({"unified": function}, tmp_path / "fitted.npz")
    features = np.float32(np.random.default_rng(1).uniform(0, 0.5, (4, 3)))
    assert read_functions(tmp_path / "fitted.npz")["unified"](features) == pytest.approx(function(features), abs=0.02)


def test_what_is_known_of_an_embedder_is_read_as_it_was_written(tmp_path: Path) -> None:
    view = length_tells()
    write_embedder_view(view, tmp_path / "view.npz")
    vectors = np.float32(np.random.default_rng(2).normal(size=(4, 3)))
    assert read_embedder_view(tmp_path / "view.npz").make_features(vectors) == pytest.approx(
        view.make_features(vectors), abs=0.01
    )


def test_each_part_of_a_vector_has_a_length_of_its_own(tmp_path: Path) -> None:
    view = replace(length_tells(), parts=np.array([2, 1]))
    write_embedder_view(view, tmp_path / "view.npz")
    vectors = np.float32([[3, 4, 2], [0, 0.5, 1]])
    features = read_embedder_view(tmp_path / "view.npz").make_features(vectors)
    assert np.exp(features[:, :2]) == pytest.approx(np.float32([[5, 2], [0.5, 1]]))
    # Each part is of unit length, however long another one is.
    assert features[:, 2:] == pytest.approx(np.float32([[0.6, 0.8], [0, 1]]), abs=1e-3)


def test_an_embedder_that_is_known_is_asked_how_well_it_saw(
    portrait: Portrait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_parameters, "EMBEDDERS", tmp_path)
    write_embedder_view(length_tells(), find_embedder_file("e" * 64))
    known, faces = load_quality_model("e" * 64), face_of(portrait)
    short, long = (
        measure_quality(faces, known, np.full((1, 3), length, np.float32))["unified"] for length in (0.5, 2.0)
    )
    assert short < long
    assert load_quality_model("f" * 64).embedder is None
    assert measure_quality(faces, known)["unified"] == measure_quality(faces, load_quality_model())["unified"]


def test_fitted_functions_of_another_version_are_refused(tmp_path: Path) -> None:
    with np.load(PARAMETERS) as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "fitted.npz", **{**arrays, "version": np.array(99)})
    with pytest.raises(ValueError, match="has version 99"):
        read_functions(tmp_path / "fitted.npz")
