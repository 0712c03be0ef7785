from pathlib import Path

import numpy as np
import pytest

from app.core.gallery_vectors import UNASSIGNED, GalleryVectors, decode, make_face_set
from app.core.records import PhotoResult
from app.grouping import vectors as of_grouping
from app.grouping.vectors import MOST_EXEMPLARS, choose_exemplars
from tests.stores import MODEL, face_record, image_record, photo
from tests.unit.test_grouping_handle import ANN, BOB, EVE, World, near

KEY = "face-worker/g/people.vectors"


@pytest.fixture
def world() -> World:
    world = World()
    world.add("1", ANN, BOB)
    world.add("2", near(ANN, 1), near(BOB, 2))
    world.add("3", near(ANN, 3), EVE)
    return world


def read(world: World) -> GalleryVectors:
    return decode(world.objects.read(KEY))


def add_with_quality(world: World, name: str, vector: np.ndarray, unified: float) -> None:
    of = photo(name)
    face = face_record(of, 0, vector)
    changed = type(face)(**{**vars(face), "quality": {**face.quality, "unified": unified}})
    world.store(PhotoResult(image_record(of, 1), [changed]))
    world.galleries.mark_dirty("g", 30)


def test_a_run_publishes_the_vectors_of_its_people(world: World) -> None:
    groups = world.group()
    stored = read(world)
    assert (stored.gallery_id, stored.model_id, stored.published, stored.fence) == ("g", MODEL, 1, 1)
    assert stored.person_ids == sorted(person.person_id for person in groups.people)
    assert stored.means.dtype == stored.exemplars.dtype == np.float16
    ann = stored.person_ids.index(world.person_of("1") or "")
    assert np.linalg.norm(stored.means, axis=1) == pytest.approx(1, abs=1e-3)
    mean = np.mean([ANN, near(ANN, 1), near(ANN, 3)], axis=0)
    assert stored.means[ann] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-3)
    of_ann = {"1": ANN, "2": near(ANN, 1), "3": near(ANN, 3)}
    faces = [face_record(photo(name), 0, vector) for name, vector in of_ann.items()]
    assert stored.face_sets[ann] == make_face_set([(face.face_id, face.digest) for face in faces])


def test_an_exemplar_is_a_face_of_its_person_with_its_place_on_the_photo(world: World) -> None:
    world.group()
    stored = read(world)
    for row, owner in enumerate(stored.exemplar_person):
        face = world.faces.faces[stored.face_ids[row]]
        assert stored.person_ids[owner] == world.faces.person_of[face.face_id]
        assert (stored.image_ids[row], stored.digests[row]) == (face.image_id, face.digest)
        assert stored.exemplars[row] == pytest.approx(face.embedding, abs=1e-3)
        image = world.faces.images[f"g/{face.image_id}"]
        size = np.array([image.width_px, image.height_px] * 2)
        assert stored.boxes[row] == pytest.approx(face.box / size)


def test_an_unassigned_face_is_there_unless_it_is_noise(world: World) -> None:
    fay, gus = np.eye(5, 16, dtype=np.float32)[3:]
    add_with_quality(world, "4", fay, 40)
    add_with_quality(world, "5", gus, 3)
    groups = world.group()
    assert {face.image_id for face in groups.unassigned} == {"4", "5"}
    stored = read(world)
    alone = np.flatnonzero(stored.exemplar_person == UNASSIGNED)
    assert [stored.image_ids[row] for row in alone] == ["4"]


def test_of_too_many_unassigned_faces_the_best_are_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_grouping, "MOST_UNASSIGNED", 2)
    for name, place, unified in (("4", 3, 30), ("5", 4, 45), ("6", 5, 40)):
        add_with_quality(world, name, np.eye(16, dtype=np.float32)[place], unified)
    world.group()
    stored = read(world)
    alone = np.flatnonzero(stored.exemplar_person == UNASSIGNED)
    assert [stored.image_ids[row] for row in alone] == ["5", "6"]


def test_the_mean_of_a_person_is_of_good_faces_where_there_are_any(world: World) -> None:
    world.group()
    ann = world.person_of("1") or ""
    before = read(world)
    add_with_quality(world, "4", near(ANN, 9), 40)
    world.group()
    assert world.person_of("4") == ann
    now = read(world)
    row = now.person_ids.index(ann)
    assert now.means[row].tolist() == before.means[before.person_ids.index(ann)].tolist()
    assert "4" not in now.image_ids
    assert now.face_sets[row] != before.face_sets[before.person_ids.index(ann)]


def test_an_incremental_run_publishes_what_a_full_run_does(tmp_path: Path) -> None:
    world = World().with_index(tmp_path)
    for number in range(6):
        world.add(str(number), near(ANN, number), near(BOB, 10 + number))
    world.group()
    world.add("6", near(ANN, 6), EVE)
    world.group()
    assert world.how() == ("incremental", 2, 0)
    incremental = read(world)
    world.group(mode="full")
    full = read(world)
    assert incremental.person_ids == full.person_ids
    assert incremental.exemplars.tolist() == full.exemplars.tolist()
    assert np.abs(incremental.means.astype(float) - full.means).max() < 2e-3


def test_a_run_that_changes_nothing_leaves_the_file_alone(world: World) -> None:
    world.group()
    before = world.objects.read(KEY)
    world.galleries.mark_dirty("g", 30)
    world.objects.journal.clear()
    world.group()
    assert KEY not in " ".join(world.objects.journal)
    assert world.objects.read(KEY) == before


def test_the_last_face_takes_its_vector_along(world: World) -> None:
    world.group()
    for name in "123":
        world.faces.remove_photo(photo(name), world.faces.find_image(photo(name))[1])
    world.galleries.mark_dirty("g", 30)
    world.group()
    stored = read(world)
    assert (stored.person_ids, stored.face_ids) == ([], [])


def test_exemplars_are_the_most_usual_face_and_the_most_different_ones() -> None:
    side = np.eye(8, dtype=np.float32)
    usual = np.ones(8, np.float32) / np.sqrt(8)
    vectors = np.stack([*(usual + 0.01 * side), *(usual + 2 * side[:3])]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = choose_exemplars(vectors, usual)
    assert len(chosen) == len(set(chosen)) == MOST_EXEMPLARS
    assert chosen[0] < 8
    assert set(chosen[1:]) == {8, 9, 10}
