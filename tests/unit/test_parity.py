"""How far two detectors agree, and who is taken for whom."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.core.errors import BadConfiguration
from app.vision.types import Detections
from workshop.parity import find_most_central, match_faces, measure_accuracy_in_folds, measure_landmark_shifts, verify
from workshop.samples import MOST_PAIRS, PHOTOS_A_PERSON, Pair, choose_pairs, choose_samples, read_images


def faces(*boxes: tuple[float, float, float, float]) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.zeros((count, 5, 2), np.float32), np.ones(count, np.float32)
    )


def test_faces_are_matched_by_overlap_whatever_their_order() -> None:
    some = faces((0, 0, 10, 10), (50, 50, 60, 60), (90, 90, 100, 100))
    others = faces((50, 50, 60, 59), (0, 0, 10, 10))
    rows, columns, ious = match_faces(some, others)
    assert sorted(zip(rows.tolist(), columns.tolist(), ious.tolist(), strict=True)) == [
        (0, 1, 1.0),
        (1, 0, pytest.approx(0.9)),
    ]


def test_a_face_is_matched_once_and_with_the_one_it_overlaps_most() -> None:
    rows, columns, ious = match_faces(faces((0, 0, 10, 10)), faces((0, 0, 10, 8), (0, 0, 10, 9)))
    assert (rows.tolist(), columns.tolist()) == ([0], [1])
    assert ious == pytest.approx([0.9])


@pytest.mark.parametrize("others", [faces(), faces((6, 0, 16, 10)), faces((20, 20, 30, 30))])
def test_faces_that_overlap_by_less_than_half_are_not_the_same(others: Detections) -> None:
    assert [len(part) for part in match_faces(faces((0, 0, 10, 10)), others)] == [0, 0, 0]


def test_landmarks_are_as_far_apart_as_they_lie_on_average_in_eye_distances() -> None:
    some = np.zeros((2, 5, 2), np.float32)
    some[:, 1, 0] = (10, 40)
    others = some.copy()
    others[0, 2, 1] += 5
    others[1, :, 0] += 8
    assert measure_landmark_shifts(some, others) == pytest.approx([1 / 10, 8 / 40])


def test_a_photo_is_of_the_face_in_its_middle() -> None:
    photo = np.zeros((100, 200, 3), np.uint8)
    assert find_most_central(faces((0, 0, 40, 40), (90, 40, 110, 60), (150, 0, 200, 50)), photo) == 1


def test_accuracy_is_that_of_a_threshold_found_on_the_other_folds() -> None:
    random_numbers = np.random.default_rng(0)
    genuine = np.arange(2000) % 2 == 0
    apart = np.where(genuine, 0.7, 0.1) + random_numbers.uniform(-0.2, 0.2, 2000)
    assert measure_accuracy_in_folds(apart, genuine) == 1
    swapped = apart.copy()
    swapped[:200] = 0.8 - swapped[:200]
    assert measure_accuracy_in_folds(swapped, genuine) == pytest.approx(0.9)
    assert 0.45 < measure_accuracy_in_folds(random_numbers.uniform(size=2000), genuine) < 0.55


def pairs_of(count: int) -> list[Pair]:
    return [Pair(Path(f"a{at}"), Path(f"b{at}"), is_genuine=at % 2 == 0) for at in range(count)]


def unit_vectors(pairs: list[Pair], turn: float = 0) -> dict[Path, np.ndarray]:
    """Genuine pairs look the same way, impostors across; all turned by an angle in radians."""
    angles = {pair.first: 0.0 for pair in pairs} | {pair.second: 0 if pair.is_genuine else np.pi / 2 for pair in pairs}
    return {path: np.array([np.cos(a + turn), np.sin(a + turn)], np.float32) for path, a in angles.items()}


def test_no_threshold_tells_equals_apart() -> None:
    genuine = np.arange(100) % 4 == 0
    assert measure_accuracy_in_folds(np.full(100, -1.0), genuine) == pytest.approx(0.75)


def test_a_variant_in_a_space_of_its_own_verifies_alone_but_not_with_the_original() -> None:
    pairs = pairs_of(200)
    result = verify(pairs, unit_vectors(pairs), unit_vectors(pairs, turn=-np.pi / 4))
    assert (result.genuine_pairs, result.impostor_pairs) == (100, 100)
    assert (result.original, result.variant) == (1, 1)
    assert result.mixed < 0.6


def test_a_face_that_a_variant_does_not_find_is_a_pair_it_gets_wrong() -> None:
    pairs = pairs_of(200)
    original = unit_vectors(pairs)
    lost = {path: vector for path, vector in original.items() if int(path.name[1:]) >= 40}
    assert verify(pairs, original, lost).variant == pytest.approx(0.9), "20 of 100 genuine pairs are lost"


# --- samples ---


def write_photos(folder: Path, count: int, person: str = "") -> Path:
    home = folder / person
    home.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(home / f"{number}.png")
    return folder


def test_calibration_and_parity_share_no_photo_and_are_the_same_each_time(tmp_path: Path) -> None:
    write_photos(tmp_path, 11)
    samples = choose_samples([tmp_path])
    assert (len(samples.calibration), len(samples.parity)) == (5, 6)
    assert not set(samples.calibration) & set(samples.parity)
    assert samples == choose_samples([tmp_path])
    assert samples.pairs == []


def test_a_small_folder_beside_a_large_one_has_its_share(tmp_path: Path) -> None:
    large, small = write_photos(tmp_path / "large", 40), write_photos(tmp_path / "small", 4)
    samples = choose_samples([large, small])
    for chosen in (samples.calibration, samples.parity):
        assert sum(path.parent == small for path in chosen) == 2
        assert sum(path.parent == small for path in chosen[:4]) == 2


def test_pairs_are_of_one_person_or_of_two_and_of_each_as_many(tmp_path: Path) -> None:
    for person, count in {"ann": 3, "bob": 2, "cho": 1, "dee": 9}.items():
        write_photos(tmp_path, count, person)
    pairs = choose_samples([tmp_path]).pairs
    genuine = [pair for pair in pairs if pair.is_genuine]
    impostors = [pair for pair in pairs if not pair.is_genuine]
    most = PHOTOS_A_PERSON * (PHOTOS_A_PERSON - 1) // 2
    assert len(genuine) == 3 + 1 + most
    assert all(pair.first.parent == pair.second.parent and pair.first != pair.second for pair in genuine)
    assert len(impostors) == len(set(impostors)) == len(genuine)
    assert all(pair.first.parent != pair.second.parent for pair in impostors)


def test_pairs_are_bounded_and_one_person_alone_gives_none() -> None:
    people = {Path(f"p{person}"): [Path(f"p{person}/{number}") for number in range(4)] for person in range(600)}
    chance = random.Random(0)  # noqa: S311
    assert len(choose_pairs(people, chance)) == 2 * MOST_PAIRS
    assert choose_pairs({Path("p"): people[Path("p0")]}, chance) == []


def test_what_is_no_photo_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path, 2)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    (tmp_path / "labels.csv").write_text("not even by its name", "utf-8")
    samples = choose_samples([tmp_path])
    paths = [*samples.calibration, *samples.parity]
    assert len(paths) == 3
    assert len([path for path, _ in read_images(paths, 64)]) == 2
    assert "broken.jpg is left out" in caplog.text


def test_fewer_than_two_photos_are_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="fewer than two photos in"):
        choose_samples([write_photos(tmp_path, 1)])
