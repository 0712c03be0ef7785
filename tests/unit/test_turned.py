"""Rotated photos: when other rotations are tried, and where the faces are then."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.core.arrays import Image
from app.packs.manifest import ScrfdConfig as Config
from app.packs.store import PackStore
from app.vision.face_pack import load_pack
from app.vision.scrfd import open_scrfd
from app.vision.turned import RotationInvariantDetector, turn_faces_back, turn_image
from app.vision.types import Detections
from tests import photos

SPOTS = np.array([(0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75)], np.float32)
MARK = (40, 90, 160)
CORNER = np.array([20, 10], np.float32)
"""Where the mark's box begins in the upright photo, which is 80 px wide and 60 px high."""
SIDES = np.array([16, 20], np.float32)


def marked() -> Image:
    """A photo whose only face is a rectangle with one white pixel, at its top left where it is upright."""
    image = np.zeros((60, 80, 3), np.uint8)
    left, top = CORNER.astype(int)
    image[top : top + 21, left : left + 17] = MARK
    image[top, left] = 255
    return image


class MarkDetector:
    """Detects the marked face, with the score `upright` where it is upright, else with the score `other`.

    With `lying`, the landmarks of a face on its side are on their side too. With `blind`, there is a probe of a photo
    without candidates too.
    """

    view_px = 1000

    def __init__(self, upright: float = 0.9, other: float = 0.0, lying: bool = False, blind: bool = False) -> None:
        self.upright, self.other, self.lying, self.blind = upright, other, lying, blind
        self.shown: list[tuple[int, ...]] = []

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        return [found.take(found.scores >= 0.5) for found in self.detect_with_candidates(images)]

    def detect_with_candidates(self, images: Sequence[Image]) -> list[Detections]:
        self.shown += [image.shape[:2] for image in images]
        return [self._find_mark(image) for image in images]

    def make_probes(self, image: Image, candidates: Detections) -> list[Image]:
        return [image] if len(candidates) or self.blind else []

    def _find_mark(self, image: Image) -> Detections:
        rows, columns = np.nonzero(image.any(axis=2))
        if not len(rows):
            return Detections.make_empty()
        box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], np.float32)
        stands = (image[rows.min(), columns.min()] == 255).all()
        spots = SPOTS[:, ::-1] if self.lying and not stands else SPOTS
        score = self.upright if stands else self.other
        found = Detections(box[None], (box[:2] + spots * (box[2:] - box[:2]))[None], np.array([score], np.float32))
        return found.take(found.scores > 0)


def invariant(detector: MarkDetector) -> RotationInvariantDetector:
    return RotationInvariantDetector(detector, score_threshold=0.5, sure_score=0.8)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_point_rotated_back_shows_the_pixel_that_it_showed_rotated(quarters: int) -> None:
    image = photos.noise(37, 23)
    x, y = 5, 17 if quarters % 2 else 11
    at = np.array([[x, y]], np.float32)
    found = Detections(np.concatenate([at, at + 1], axis=1), np.repeat(at[None], 5, axis=1), np.ones(1, np.float32))
    back = turn_faces_back(found, quarters, image.shape)
    column, row = back.landmarks[0, 0].astype(int)
    assert (image[row, column] == turn_image(image, quarters)[y, x]).all()
    assert (back.boxes[0, 2:] - back.boxes[0, :2]).tolist() == [1, 1]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotated_face_is_detected_where_it_is_in_the_photo_as_it_was_given(quarters: int) -> None:
    photo = turn_image(marked(), quarters)
    (found,) = invariant(MarkDetector(other=0.3)).detect([photo])
    expected = np.concatenate([CORNER, CORNER + SIDES])
    assert found.scores.tolist() == [np.float32(0.9)]
    back = turn_faces_back(found, quarters, marked().shape)
    assert back.boxes[0].tolist() == expected.tolist()
    assert np.allclose(back.landmarks[0], CORNER + SPOTS * SIDES)


def test_a_weak_detection_upside_down_is_replaced_and_not_kept_twice() -> None:
    (found,) = invariant(MarkDetector(other=0.6)).detect([turn_image(marked(), 2)])
    assert found.scores.tolist() == [np.float32(0.9)]
    assert found.landmarks[0, 0, 1] > found.landmarks[0, 3, 1]


@pytest.mark.parametrize(
    ("upright", "other", "lying", "quarters", "runs"),
    [(0.9, 0.0, False, 0, 1), (0.7, 0.6, False, 0, 4), (0.9, 0.85, True, 1, 5), (0.9, 0.85, False, 1, 1)],
    ids=["confident", "weak but upright", "confident but lying", "confident and detected as upright"],
)
def test_other_rotations_are_tried_only_where_no_face_is_both_confident_and_upright(
    upright: float, other: float, lying: bool, quarters: int, runs: int
) -> None:
    detector = MarkDetector(upright, other, lying)
    (found,) = invariant(detector).detect([turn_image(marked(), quarters)])
    assert (len(detector.shown), len(found)) == (runs, 1)


def test_a_photo_without_candidates_is_run_once() -> None:
    detector = MarkDetector()
    (found,) = invariant(detector).detect([np.zeros((60, 80, 3), np.uint8)])
    assert (len(detector.shown), len(found)) == (1, 0)


def test_a_photo_without_faces_and_candidates_is_not_run_as_a_whole_again() -> None:
    detector = MarkDetector(blind=True)
    (found,) = invariant(detector).detect([np.zeros((60, 80, 3), np.uint8)])
    assert (len(detector.shown), len(found)) == (4, 0)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_face_without_a_candidate_is_detected_where_every_photo_is_tried_in_other_rotations(
    quarters: int,
) -> None:
    (found,) = invariant(MarkDetector(blind=True)).detect([turn_image(marked(), quarters)])
    assert len(found) == 1


def test_a_candidate_that_is_no_face_in_any_rotation_stays_none() -> None:
    detector = MarkDetector(upright=0.45, other=0.2)
    (found,) = invariant(detector).detect([turn_image(marked(), 2)])
    assert (len(detector.shown), len(found)) == (4, 0)


def test_a_rotated_photo_leaves_its_neighbours_unchanged() -> None:
    batch = [marked(), turn_image(marked(), 1), np.zeros((60, 80, 3), np.uint8), turn_image(marked(), 2)]
    together = invariant(MarkDetector(other=0.3)).detect(batch)
    alone = [invariant(MarkDetector(other=0.3)).detect([image])[0] for image in batch]
    assert [len(found) for found in together] == [1, 1, 0, 1]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(together, alone, strict=True))


class MarksDetector(MarkDetector):
    """The same for several marks: each is looked at alone."""

    def _find_mark(self, image: Image) -> Detections:
        _, numbers = cv2.connectedComponents(image.any(axis=2).astype(np.uint8))
        alone = [
            super(MarksDetector, self)._find_mark(image * (numbers == mark)[..., None])
            for mark in np.unique(numbers)[1:]
        ]
        found = Detections.concatenate([Detections.make_empty(), *alone])
        return found.take(np.argsort(-found.scores, kind="stable"))


def beside(upright: Image, other: Image) -> Image:
    """Both in one photo, far apart."""
    image = np.zeros((200, 400, 3), np.uint8)
    image[20 : 20 + upright.shape[0], 20 : 20 + upright.shape[1]] = upright
    image[100 : 100 + other.shape[0], 280 : 280 + other.shape[1]] = other
    return image


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("score", [0.3, 0.6])
def test_a_rotated_face_beside_a_confident_one_is_detected_the_right_way_up(quarters: int, score: float) -> None:
    (found,) = invariant(MarksDetector(other=score)).detect([beside(marked(), turn_image(marked(), quarters))])
    down = found.landmarks[:, 3:].mean(axis=1) - found.landmarks[:, :2].mean(axis=1)
    turned = found.boxes[:, 0] > 250
    assert (found.scores > 0.8).all()
    assert (~turned).sum() == turned.sum() == 1
    assert down[~turned][0].tolist() == pytest.approx([0, 8], abs=0.1)
    expected = {1: [8, 0], 2: [0, -8], 3: [-8, 0]}[quarters]
    assert down[turned][0].tolist() == pytest.approx(expected, abs=0.1)


def test_beside_confident_faces_only_the_surroundings_of_a_weak_sign_are_probed() -> None:
    detector = MarksDetector(upright=0.9, other=0.0)
    invariant(detector).detect([beside(marked(), marked())])
    assert detector.shown == [(200, 400)]
    # Nearly as confident as the other, which looks upright.
    detector = MarksDetector(upright=0.63, other=0.7)
    photo = beside(marked(), turn_image(marked(), 2))
    RotationInvariantDetector(detector, score_threshold=0.5, sure_score=0.65).detect([photo])
    assert len(detector.shown) == 1
    detector = MarksDetector(upright=0.9, other=0.3)
    invariant(detector).detect([beside(marked(), turn_image(marked(), 2))])
    assert [max(shape) <= 128 for shape in detector.shown] == [False, True, True, True, False]


def test_no_photos_give_no_results() -> None:
    assert invariant(MarkDetector()).detect([]) == []


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("pack", ["tests/packs/shared-insightface.toml", "open", "open-1"])
def test_a_face_of_a_rotated_photo_has_the_embedding_of_the_upright_one(
    shared_dir: Path, pack: str, quarters: int
) -> None:
    installed = PackStore(Path("models")).install(pack)
    loaded = load_pack(installed, "cpu", 1)
    image = cv2.imread(str(shared_dir / "album" / "photo_01.jpg"))[..., ::-1]
    pictures = [np.ascontiguousarray(image), turn_image(image, quarters)]
    found = loaded.detect(pictures)
    chips = [loaded.cut_chips(each, faces.landmarks[:1]) for each, faces in zip(pictures, found, strict=True)]
    upright, other = loaded.embed(chips)
    assert len(found[0]) == len(found[1])
    assert float((upright @ other.T)[0, 0]) > 0.99


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("pack", ["tests/packs/shared-insightface.toml", "open"])
def test_somebody_who_is_rotated_beside_somebody_upright_has_the_embedding_of_the_upright_face(
    shared_dir: Path, pack: str, quarters: int
) -> None:
    installed = PackStore(Path("models")).install(pack)
    loaded = load_pack(installed, "cpu", 1)
    one, other = (cv2.imread(str(shared_dir / "album" / f"photo_{name}.jpg"))[..., ::-1] for name in ("24", "25"))
    turned = turn_image(other, quarters)
    image = np.full((400, 700, 3), 128, np.uint8)
    image[50 : 50 + one.shape[0], 50 : 50 + one.shape[1]] = one
    image[100 : 100 + turned.shape[0], 400 : 400 + turned.shape[1]] = turned
    pictures = [np.ascontiguousarray(other), image]
    alone, found = loaded.detect(pictures)
    found = found.take(found.boxes[:, 0] > 350)
    upright, rotated = loaded.embed(
        [loaded.cut_chips(each, faces.landmarks[:1]) for each, faces in zip(pictures, (alone, found), strict=True)]
    )
    assert float((upright @ rotated.T)[0, 0]) > 0.9


@pytest.mark.parametrize(("sure_score", "faces"), [(0.8, 1), (0.0, 0)])
def test_a_manifest_switches_the_other_rotations_off(shared_dir: Path, sure_score: float, faces: int) -> None:
    installed = PackStore(Path("models")).install("tests/packs/shared-insightface.toml")
    detector = installed.manifest.detector.model_copy(update={"sure_score": sure_score})
    pack = replace(installed, manifest=installed.manifest.model_copy(update={"detector": detector}))
    image = cv2.imread(str(shared_dir / "album" / "photo_01.jpg"))[..., ::-1]
    assert len(load_pack(pack, "cpu", 1).detect([turn_image(image, 2)])[0]) == faces


@pytest.mark.parametrize("name", ["photo_01.jpg", "photo_05.jpg"])
def test_detections_with_candidates_hold_the_very_faces_of_those_without(shared_dir: Path, name: str) -> None:
    model = shared_dir / "models" / "scrfd_2.5g_bnkps.onnx"
    detector = open_scrfd(model, Config(kind="scrfd", file=model.name), "cpu", 1)
    image = cv2.imread(str(shared_dir / "album" / name))[..., ::-1]
    (faces,), (candidates,) = detector.detect([image]), detector.detect_with_candidates([image])
    assert np.array_equal(candidates.boxes[: len(faces)], faces.boxes)
    assert (candidates.scores[len(faces) :] < 0.5).all()
    assert all(max(part.shape[:2]) <= 128 for part in detector.make_probes(image, candidates))
