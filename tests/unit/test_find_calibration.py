import numpy as np
import pytest

from app.core.likeness import NEIGHBOURS, exceed_crowd, measure_crowd
from workshop.calibration import KnownFaces
from workshop.find_calibration import STRANGERS_SHOWN, choose_find_bars, invite


def make_faces(
    people: int = 500, photos: int = 3, noise: float = 0.8, seed: int = 0, dimension: int = 32
) -> KnownFaces:
    random = np.random.default_rng(seed)

    def make_unit(size: tuple[int, ...]) -> np.ndarray:
        vectors = random.normal(size=size)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    centers = make_unit((people, 1, dimension))
    vectors = centers + noise * make_unit((people, photos, dimension))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    embeddings = vectors.reshape(-1, dimension).astype(np.float32)
    quality = np.tile(np.array([80, 70, 30], np.float32)[:photos], people)
    return KnownFaces(embeddings, np.repeat(np.arange(people), photos), embeddings, quality)


def test_at_the_bars_so_few_other_strangers_are_shown_anybody() -> None:
    bars = choose_find_bars(make_faces(seed=1), 50)
    assert bars is not None
    others = invite(make_faces(seed=2), 50, selfies=1, seed=0)
    as_strangers = exceed_crowd(others.compare_to_others(), bars.crowd).max(axis=1)
    sure, unsure = bars.choose(len(others.gallery.means))
    assert (as_strangers > sure).mean() < 4 * STRANGERS_SHOWN
    assert 0.01 < (as_strangers > unsure).mean() < 0.12
    similarities = exceed_crowd(others.gallery.compare(others.vectors), bars.crowd)
    assert (similarities.argmax(axis=1) == others.own).mean() > 0.95


def test_a_larger_gallery_has_higher_bars() -> None:
    bars = choose_find_bars(make_faces(), 50)
    assert bars is not None
    assert bars.choose(100)[0] == bars.threshold.at_reference < bars.choose(1000)[0]
    assert bars.choose(1000)[1] == pytest.approx(bars.choose(100)[0], abs=1e-3)


def test_with_too_few_people_no_bars_are_chosen() -> None:
    assert choose_find_bars(make_faces(people=100), 50) is None
    assert choose_find_bars(make_faces(), 100) is None


def test_no_selfie_is_in_the_gallery_and_none_is_poor() -> None:
    faces = make_faces(people=50)
    guests = invite(faces, 50, selfies=3, seed=0)
    assert (guests.missing, sorted(guests.own.tolist())) == (0, list(range(50)))
    nearest = (guests.vectors @ guests.gallery.exemplars.T).max()
    assert nearest < 1 - 1e-4
    assert invite(faces, 75, selfies=3, seed=0).missing == 0
    assert invite(faces, 90, selfies=3, seed=0).missing == 50


def test_the_crowd_is_the_nearest_others_and_a_small_gallery_has_none() -> None:
    row = np.array([[0.9, *[0.3] * NEIGHBOURS, *[-0.5] * 30]], np.float32)
    assert measure_crowd(row) == pytest.approx([0.3])
    assert measure_crowd(row[:, :NEIGHBOURS]) == [-1]
    assert exceed_crowd(row, 0.1)[0, 0] == pytest.approx(0.9 - 0.15)
    assert exceed_crowd(row, 0.4)[0, 0] == pytest.approx(0.9 - 0.2)
    assert exceed_crowd(row[:, :2], 0.4)[0, 0] == pytest.approx(0.9 - 0.2)
