"""Composed albums: what is planned, what lies where on a page, and how the found faces are scored."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.core.records import FaceBatch, make_quality_columns
from app.detection.device import Device
from app.vision.face_pack import FacePack
from benchmarks.accuracy.album import read_labels
from benchmarks.accuracy.album_pages import (
    CLEAN,
    LABELS,
    MOST_FACES,
    PAGE_PX,
    PHOTOS_A_PERSON,
    PageFace,
    choose_people,
    plan_pages,
    write_pages,
)
from benchmarks.accuracy.albums import judge_faces, main
from tests.toy_pack import ToyDetector, ToyEmbedder, toy_manifest
from workshop.degradations import DEGRADATIONS

# A benchmark's own code.
pytestmark = pytest.mark.slow

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20)]
JPEG_PX = 24
"""How far a colour may be off after a JPEG's subsampled colours."""


def people_of(*counts: int) -> dict[Path, list[Path]]:
    """People with so many photos each."""
    return {Path(f"p{i:03}"): [Path(f"p{i:03}/{n}.jpg") for n in range(count)] for i, count in enumerate(counts)}


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_person_is_on_a_page_twice_and_no_photo_is_used_twice() -> None:
    people = people_of(*[30, 12, 7, 7, 3, 2, 2, 1, 1, 1, 1])
    pages = plan_pages(people, None, random())
    photos = list(chain.from_iterable(pages))
    assert len(photos) == len(set(photos))
    assert all(len({photo.parent for photo in page}) == len(page) for page in pages)
    assert {len(page) for page in pages} <= set(range(2, MOST_FACES + 1))
    left = {photo.parent for photo in set(chain.from_iterable(people.values())) - set(photos)}
    assert len(left) <= 1, "photos of two people are left, of whom there could be another page"


def test_there_are_no_more_pages_and_people_and_photos_than_asked_for() -> None:
    people = people_of(*[200] * 20)
    chosen = choose_people(people, 5, random())
    assert len(chosen) == 5
    assert {len(photos) for photos in chosen.values()} == {PHOTOS_A_PERSON}
    assert all(set(photos) <= set(people[name]) for name, photos in chosen.items())
    assert len(plan_pages(chosen, 7, random())) == 7


def test_an_album_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    people = people_of(*[3] * 30)
    first, again, other = (plan_pages(choose_people(people, 10, r), 4, r) for r in (random(1), random(1), random(2)))
    assert first == again != other


@pytest.fixture
def device() -> Iterator[Device]:
    """Finds a face of 10 px in the upper left corner of every photo."""
    with Device(FacePack(toy_manifest(), ToyDetector(), ToyEmbedder()), 1, 1, 16) as device:
        yield device


def paint_people(folder: Path) -> list[Path]:
    """A photo for each person, white outside of the coloured corner in which the face is detected."""
    photos = []
    for number, colour in enumerate(COLOURS):
        photo = np.full((60, 60, 3), 255, np.uint8)
        photo[:20, :20] = colour
        (folder / str(number)).mkdir(parents=True)
        photos.append(folder / str(number) / "photo.png")
        cv2.imwrite(str(photos[-1]), photo[..., ::-1])
    return photos


def test_each_label_lies_on_its_persons_portrait(tmp_path: Path, device: Device) -> None:
    photos = paint_people(tmp_path / "people")
    labelled = write_pages([photos, photos[:2]], tmp_path, device, degraded=0, seed=3)
    written = [(face.image_id, face.person, face.center_px) for face in read_labels(tmp_path / LABELS)]
    assert written == [(face.image_id, face.person, face.center_px) for face in labelled]
    assert [face.image_id for face in labelled] == ["page_0000"] * 4 + ["page_0001"] * 2
    for face in labelled:
        page = cv2.imread(str(tmp_path / f"{face.image_id}.jpg"))[..., ::-1].astype(int)
        assert page.shape == (PAGE_PX[1], PAGE_PX[0], 3)
        x, y = (round(value) for value in face.center_px)
        assert np.abs(page[y, x] - COLOURS[int(face.person)]).max() < JPEG_PX, face
        assert face.kind == CLEAN


def test_all_kinds_of_damage_come_up_and_every_label_stays_on_its_page(tmp_path: Path, device: Device) -> None:
    photos = paint_people(tmp_path / "people")
    labelled = write_pages([photos] * 20, tmp_path, device, degraded=1, seed=0)
    assert {face.kind for face in labelled} == set(DEGRADATIONS)
    assert all(0 <= face.center_px[0] < PAGE_PX[0] and 0 <= face.center_px[1] < PAGE_PX[1] for face in labelled)


def test_a_photo_without_a_face_is_left_out(tmp_path: Path, device: Device) -> None:
    photos = paint_people(tmp_path / "people")
    (tmp_path / "torn.jpg").write_bytes(b"no picture")
    labelled = write_pages([[photos[0], tmp_path / "torn.jpg"], [tmp_path / "torn.jpg"]], tmp_path, device, 0, 0)
    assert [(face.image_id, face.person) for face in labelled] == [("page_0000", "0")]
    assert not (tmp_path / "page_0001.jpg").exists()


def faces_at(places: list[tuple[str, float]], people: list[str | None], directions: list[int]) -> FaceBatch:
    """Faces of 20 px, each in the middle of a place: a photo and an x; embeddings along axes."""
    boxes = [(x - 10, 40, x + 10, 60) for _, x in places]
    return FaceBatch(
        face_ids=[f"{image_id}/{x}" for image_id, x in places],
        image_ids=[image_id for image_id, _ in places],
        boxes=np.array(boxes, np.float32),
        det_scores=np.ones(len(places), np.float32),
        quality=make_quality_columns([{"unified": 90.0}] * len(places)),
        embeddings=np.eye(8, dtype=np.float32)[directions],
        crop_keys=[""] * len(places),
        person_ids=people,
        digests=[""] * len(places),
        etags=[None] * len(places),
        crop_ranges=[None] * len(places),
    )


def test_scores_are_over_the_found_faces_and_missed_ones_stand_beside() -> None:
    labelled = [
        PageFace("1", "ann", (100, 50), CLEAN),
        PageFace("2", "ann", (100, 50), "dark"),
        PageFace("3", "ann", (100, 50), "dark"),
        PageFace("1", "bob", (200, 50), CLEAN),
        PageFace("2", "bob", (200, 50), CLEAN),
    ]
    # Found are all but one of ann's, and a passer-by. One of bob's is unassigned.
    places = [("1", 100.0), ("2", 100.0), ("1", 200.0), ("2", 200.0), ("2", 400.0)]
    faces = faces_at(places, ["x", "x", "y", None, "x"], [0, 0, 1, 1, 0])
    result = judge_faces(labelled, faces, None, toy_manifest(), ["ente"])
    counts = {name: result[f"faces_{name}"] for name in ("true", "found", "missed", "false")}
    assert counts == {"true": 5, "found": 4, "missed": 1, "false": 1}
    assert result["recall_of_faces"] == {"all": 0.8, "clean": 1.0, "dark": 0.5}
    assert result["unassigned"] == 0.25
    # ann's two are together, bob's two apart: recalls 1, 1, 1/2, 1/2; of two pairs one is put together.
    assert (result["bcubed_precision"], result["bcubed_recall"]) == (1.0, 0.75)
    assert (result["pairwise_precision"], result["pairwise_recall"]) == (1.0, 0.5)
    # With the missed one ann's recalls are 2/3, 2/3 and 1/3, and there are four pairs.
    assert result["missed_alone"]["bcubed_recall"] == pytest.approx((5 / 3 + 1) / 5, abs=1e-4)
    assert result["missed_alone"]["pairwise_recall"] == 0.25
    # ente's rule tells the axes apart and puts bob together.
    assert result["baselines"]["ente"]["bcubed_f"] == 1
    assert result["above_best_baseline"] == pytest.approx(2 * 0.75 / 1.75 - 1, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "missing"], "There is no folder missing."),
        (["--images", ".", "--baselines", "magic"], "No baseline is called 'magic'"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert sentence in printed.err
    assert printed.out == ""
