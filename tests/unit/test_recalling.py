"""People whose photos came back under other keys: who is recalled, and who is not."""

from dataclasses import replace

import numpy as np
import pytest

from app.core.gallery_vectors import UNASSIGNED, GalleryVectors
from app.core.records import FaceBatch, PersonRecord, PersonStatus, join_batches
from app.grouping.recalling import NewFaces, find_lost_people, find_new_faces, recall_people
from tests.fake_stores import FakeFaceStore
from tests.stores import MODEL, face_record, image_record, photo, unit_vector

ANN, BOB, EVE = (unit_vector(seed, 64) for seed in (1, 2, 3))
THRESHOLD = 0.5


def near(vector: np.ndarray, cosine: float, seed: int = 9) -> np.ndarray:
    other = unit_vector(seed, 64)
    other = other - vector * (other @ vector)
    other /= np.linalg.norm(other)
    return (cosine * vector + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def former_of(people: dict[str, list[np.ndarray]], alone: list[np.ndarray] | None = None) -> GalleryVectors:
    """What the last run published: the faces of each person, each on a photo of its own, and unassigned ones."""
    vectors = [vector for some in people.values() for vector in some] + (alone or [])
    owners = [row for row, some in enumerate(people.values()) for _ in some] + [UNASSIGNED] * len(alone or [])
    return GalleryVectors(
        gallery_id="g",
        model_id=MODEL,
        published=1,
        fence=1,
        person_ids=list(people),
        means=np.zeros((len(people), 64), np.float16),
        face_sets=[""] * len(people),
        exemplars=np.array(vectors, np.float16).reshape(-1, 64),
        exemplar_person=np.array(owners, np.int32),
        face_ids=[f"g/IMG_{row}/{MODEL}/0" for row in range(len(vectors))],
        image_ids=[f"old/IMG_{row}" for row in range(len(vectors))],
        digests=[""] * len(vectors),
        boxes=np.tile(np.array([0, 1.5 / 48, 9 / 64, 12 / 48], np.float32), (len(vectors), 1)),
    )


def gallery_of(*vectors: np.ndarray, labels: list[int] | None = None, names: list[str] | None = None) -> NewFaces:
    """New faces, each on a photo of its own; each a cluster of its own unless said otherwise."""
    store = FakeFaceStore()
    photos = [photo(name) for name in names or [f"new{row}" for row in range(len(vectors))]]
    for of, vector in zip(photos, vectors, strict=True):
        store.faces[face_record(of, 0).face_id] = face_record(of, 0, vector)
        store._etags[face_record(of, 0).face_id] = "e"
    faces = join_batches(list(store.read_faces("g", MODEL)))
    given = np.array(labels if labels is not None else range(len(vectors)), np.int64)
    return NewFaces(
        faces, given, find_new_faces(faces, given), faces.embeddings.__getitem__, [image_record(of) for of in photos]
    )


def recall(new: NewFaces, former: GalleryVectors, lost: str = "ann bob eve") -> list[str | None]:
    return recall_people(new, {one: one for one in lost.split()}, former, THRESHOLD).person_ids


def test_people_come_back_by_faces_that_are_theirs_without_a_doubt() -> None:
    new = gallery_of(near(ANN, 0.95), near(BOB, 0.9), EVE)
    assert recall(new, former_of({"ann": [ANN], "bob": [BOB]})) == ["ann", "bob", None]


def test_likeness_that_leaves_a_doubt_is_none_unless_name_and_place_are_the_same() -> None:
    former = former_of({"ann": [ANN], "bob": [BOB]})
    vectors = (near(ANN, 0.65), near(BOB, 0.65))
    assert recall(gallery_of(*vectors), former) == [None, None]
    assert recall(gallery_of(*vectors, names=["new/IMG_0", "new/img_1"]), former) == ["ann", "bob"]
    new = gallery_of(*vectors, names=["new/IMG_0", "new/IMG_1"])
    moved = replace(new, faces=replace(new.faces, boxes=new.faces.boxes + np.float32(20)))
    assert recall(moved, former) == [None, None]
    assert recall(gallery_of(near(ANN, 0.45), names=["new/IMG_0"]), former) == [None]


def test_a_face_that_is_nearer_to_somebody_who_is_there_or_unassigned_recalls_nobody() -> None:
    assert recall(gallery_of(near(BOB, 0.95)), former_of({"ann": [near(BOB, 0.93, 7)], "bob": [BOB]}), "ann") == [None]
    assert recall(gallery_of(near(BOB, 0.95)), former_of({"ann": [near(BOB, 0.93, 7)]}, [BOB]), "ann") == [None]


def test_of_two_faces_that_are_like_a_former_one_the_nearest_is_it() -> None:
    assert recall(gallery_of(near(ANN, 0.9, 8), near(ANN, 0.99)), former_of({"ann": [ANN]})) == [None, "ann"]


def test_faces_of_two_people_in_one_cluster_are_each_its_own() -> None:
    former = former_of({"ann": [ANN, near(ANN, 0.5, 7)], "bob": [BOB]})
    both = (ANN, near(ANN, 0.5, 7), BOB)
    assert recall(gallery_of(*both, labels=[0, 0, 0]), former) == ["ann", "ann", "bob"]


def test_a_face_that_was_rejected_for_a_lost_person_does_not_recall_it() -> None:
    new = gallery_of(ANN)
    rejected = {new.faces.face_ids[0]: frozenset({"ann"})}
    assert recall(replace(new, faces=replace(new.faces, rejected=rejected)), former_of({"ann": [ANN]})) == [None]


def test_faces_in_clusters_with_a_person_are_not_new() -> None:
    new = gallery_of(ANN, BOB, EVE, labels=[0, 0, -1])
    known = replace(new.faces, person_ids=["ann", None, None])
    assert find_new_faces(known, new.labels).tolist() == []
    assert find_new_faces(new.faces, new.labels).tolist() == [0, 1]


@pytest.mark.parametrize(("status", "into", "is_lost"), [("active", None, True), ("absent", None, False)])
def test_lost_people_had_faces_until_now(status: str, into: str | None, is_lost: bool) -> None:
    person = PersonRecord("ann", "", 1, 1, status=PersonStatus(status), merged_into=into)
    assert ("ann" in find_lost_people(join_batches([]), [person])) == is_lost


def test_a_person_with_a_face_is_not_lost_and_former_ids_lead_to_those_who_are() -> None:
    faces: FaceBatch = replace(gallery_of(ANN).faces, person_ids=["bob"])
    merged = [
        PersonRecord(old, "", 0, 0, status=PersonStatus.MERGED, merged_into=now)
        for old, now in (("a2", "ann"), ("b2", "bob"))
    ]
    known = [PersonRecord("ann", "", 1, 1), PersonRecord("bob", "", 1, 1), *merged]
    assert find_lost_people(faces, known) == {"ann": "ann", "a2": "ann"}
