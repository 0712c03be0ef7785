"""Incremental runs find the people that a full run would find."""

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.clustering.full import DRIFT, cluster
from app.clustering.graph import Rows, add_faces, build_graph, number_photos
from app.clustering.incremental import GalleryFaces, PeopleUpdate, StoredGrouping, has_same_companions, update_people
from app.clustering.neighbours import NeighbourSearch
from app.core.arrays import Floats
from app.core.roles import Role
from app.core.thresholds import Threshold
from app.grouping import index as index_module
from app.grouping.index import GalleryIndex

THRESHOLD = Threshold(0.5)
DIMENSION = 64


class Gallery:
    """Faces with names that tell their person, and a store that counts what is read of it."""

    def __init__(self, people: int, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._centres = self._random.standard_normal((people, DIMENSION)) / np.sqrt(DIMENSION)
        self.embeddings: dict[str, Floats] = {}
        self.digests: dict[str, str] = {}
        self.roles: dict[str, Role] = {}
        self.read: list[int] = []

    def add(self, person: int, *, role: Role = Role.CORE, noise: float = 0.5) -> str:
        face_id = f"g/photo{len(self.embeddings):04}/m/0"
        self.replace(face_id, person, noise)
        self.roles[face_id] = role
        return face_id

    def replace(self, face_id: str, person: int, noise: float = 0.5) -> None:
        own = self._random.standard_normal(DIMENSION) / np.sqrt(DIMENSION)
        vector = (self._centres[person] + noise * own).astype(np.float32)
        self.embeddings[face_id] = vector / np.linalg.norm(vector)
        self.digests[face_id] = self.embeddings[face_id].tobytes().hex()[:16]

    def remove(self, face_id: str) -> None:
        del self.embeddings[face_id]

    @property
    def ids(self) -> list[str]:
        return sorted(self.embeddings)

    def faces(self) -> GalleryFaces:
        ids = self.ids
        roles = np.array([self.roles[face_id] for face_id in ids], np.int8)
        return GalleryFaces(ids, ids, [self.digests[face_id] for face_id in ids], roles)

    def run(self, known: StoredGrouping | None, *, full: bool = False) -> PeopleUpdate:
        def read(rows: Rows) -> Floats:
            self.read.append(len(rows))
            vectors = [self.embeddings[self.ids[row]] for row in rows]
            return np.array(vectors, np.float32).reshape(-1, DIMENSION)

        return update_people(self.faces(), known, THRESHOLD, read, NeighbourSearch(), full=full)

    def at_once(self) -> Sequence[int]:
        vectors = np.array([self.embeddings[face_id] for face_id in self.ids])
        return cluster(vectors, self.ids, THRESHOLD, self.faces().roles).tolist()


def small_gallery() -> Gallery:
    gallery = Gallery(people=12)
    for _ in range(5):
        for person in range(12):
            gallery.add(person)
    return gallery


def same_groups(one: Sequence[int], other: Sequence[int]) -> bool:
    return bool(has_same_companions(np.asarray(one), np.asarray(other)).all())


def test_the_first_run_is_a_full_one() -> None:
    gallery = small_gallery()
    first = gallery.run(None)
    assert (first.kind, gallery.read) == ("full", [60])
    assert first.labels.tolist() == gallery.at_once()
    assert first.labels.max() == 11


def test_a_run_after_nothing_has_changed_reads_nothing_and_changes_nothing() -> None:
    gallery = small_gallery()
    first = gallery.run(None)
    second = gallery.run(first.known)
    assert (second.kind, second.new, second.gone, gallery.read[1:]) == ("incremental", 0, 0, [])
    assert second.labels.tolist() == first.labels.tolist()


def test_new_faces_join_their_people_and_form_new_ones() -> None:
    gallery = small_gallery()
    known = gallery.run(None).known
    gallery._centres = np.concatenate([gallery._centres, np.eye(1, DIMENSION) * 1.0])
    for person in (3, 7, 12, 12):
        gallery.add(person)
    result = gallery.run(known)
    assert (result.kind, result.new, gallery.read[1:]) == ("incremental", 4, [4])
    assert same_groups(result.labels.tolist(), gallery.at_once())
    assert result.labels.max() == 12


def test_a_strip_of_one_person_that_comes_later_joins_the_person() -> None:
    gallery = small_gallery()
    known = gallery.run(None)
    strip = [gallery.add(3) for _ in range(4)]
    faces = gallery.faces()
    faces = replace(faces, image_ids=["strip" if face in strip else face for face in faces.face_ids])

    def read(rows: Rows) -> Floats:
        return np.array([gallery.embeddings[faces.face_ids[row]] for row in rows], np.float32)

    update = update_people(faces, known.known, THRESHOLD, read, NeighbourSearch())
    assert update.kind == "incremental"
    vectors = read(np.arange(len(faces.face_ids)))
    assert same_groups(update.labels.tolist(), cluster(vectors, faces.image_ids, THRESHOLD).tolist())
    assert len(set(update.labels.tolist())) == 12


def test_faces_that_are_gone_or_have_changed_leave_their_people() -> None:
    gallery = small_gallery()
    known = gallery.run(None).known
    moved, gone = gallery.ids[0], gallery.ids[13]
    gallery.remove(gone)
    gallery.replace(moved, 5)
    result = gallery.run(known)
    assert (result.new, result.gone, gallery.read[1:]) == (1, 2, [1])
    assert same_groups(result.labels.tolist(), gallery.at_once())


def test_border_faces_join_and_a_core_face_may_become_a_border_face() -> None:
    gallery = small_gallery()
    known = gallery.run(None).known
    border = gallery.add(2, role=Role.BORDER, noise=0.8)
    gallery.roles[gallery.ids[1]] = Role.NOISE
    result = gallery.run(known)
    rows = gallery.ids
    assert result.labels[rows.index(border)] == result.labels[2]
    assert result.labels[1] == -1
    assert same_groups(result.labels.tolist(), gallery.at_once())


def test_after_many_changes_a_full_run_reports_the_difference() -> None:
    gallery = small_gallery()
    result = gallery.run(None)
    for person in range(int(60 * DRIFT) + 1):
        gallery.add(person % 12)
    result = gallery.run(result.known)
    assert (result.kind, result.difference) == ("full", 0.0)
    assert result.known.grouping.changed == 0


def test_changes_add_up_until_a_full_run() -> None:
    gallery = small_gallery()
    result = gallery.run(None)
    kinds = []
    for arrival in range(4):
        for person in range(12):
            gallery.add(person)
        result = gallery.run(result.known)
        kinds.append(result.kind)
        assert same_groups(result.labels.tolist(), gallery.at_once()), arrival
    assert kinds == ["incremental", "incremental", "full", "incremental"]


def test_a_full_run_on_request() -> None:
    gallery = small_gallery()
    result = gallery.run(gallery.run(None).known, full=True)
    assert (result.kind, result.difference) == ("full", 0.0)


def test_faces_that_are_together_with_other_faces_have_not_the_same_companions() -> None:
    before, now = np.array([0, 0, 1, 1, 2]), np.array([5, 5, 6, 7, 7])
    assert has_same_companions(before, now).tolist() == [True, True, False, False, False]


def test_neighbours_in_an_extended_graph_are_those_of_one_built_at_once() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photos = number_photos([str(face) for face in range(400)])
    roles = random.choice(np.array([0, 1, 2, 2, 2, 2], np.int8), 400)
    search = NeighbourSearch()
    grown = build_graph(vectors[:250], photos[:250], roles[:250], search)
    grown = add_faces(grown, vectors[250:], photos[250:], roles[250:], search)
    at_once = build_graph(vectors, photos, roles, search)
    np.testing.assert_array_equal(grown.neighbours.indices, at_once.neighbours.indices)
    np.testing.assert_allclose(grown.neighbours.similarities, at_once.neighbours.similarities, atol=1e-6)


def test_a_list_that_lost_faces_takes_none_that_may_be_less_similar_than_unknown_ones() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photos, roles = np.arange(300), np.full(300, Role.CORE, np.int8)
    search = NeighbourSearch()
    graph = build_graph(vectors[:290], photos[:290], roles[:290], search).take(np.arange(0, 290, 2))
    known = graph.neighbours.similarities.copy()
    worst = np.where(np.isneginf(known), np.inf, known).min(axis=1)
    grown = add_faces(graph, vectors[290:], photos[290:], roles[290:], search).neighbours.similarities[: len(graph)]
    added = np.isfinite(grown).sum(axis=1) > np.isfinite(known).sum(axis=1)
    assert added.any()
    assert (np.where(np.isneginf(grown), np.inf, grown).min(axis=1) >= worst).all()


@pytest.fixture
def index(tmp_path: Path) -> GalleryIndex:
    return GalleryIndex(tmp_path / "index", max_bytes=10_000_000)


def test_a_stored_grouping_is_loaded(index: GalleryIndex) -> None:
    gallery = small_gallery()
    gallery.digests[gallery.ids[-1]] = ""
    first = gallery.run(None)
    index.save("g", "m", THRESHOLD, first.known)
    known = index.load("g", "m", THRESHOLD)
    assert known is not None
    assert (known.face_ids, known.digests) == (first.known.face_ids, first.known.digests)
    gallery.add(4)
    result, expected = gallery.run(known), gallery.run(first.known)
    # The face without a digest is read again.
    assert (result.new, result.gone) == (2, 1)
    assert result.labels.tolist() == expected.labels.tolist()


def test_an_index_of_another_gallery_model_or_threshold_is_not_used(
    index: GalleryIndex, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    index.save("g", "m", THRESHOLD, small_gallery().run(None).known)
    assert index.load("h", "m", THRESHOLD) is None
    assert index.load("g", "n", THRESHOLD) is None
    assert not caplog.messages
    for other in (Threshold(0.6), Threshold(0.5, 0.02)):
        assert index.load("g", "m", other) is None
    assert caplog.messages == ["gallery index rebuilt: it is of another setting"] * 2


def test_an_index_of_an_earlier_version_is_not_used_whatever_is_in_it(
    index: GalleryIndex, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    index.save("g", "m", THRESHOLD, small_gallery().run(None).known)
    monkeypatch.setattr(index_module, "VERSION", index_module.VERSION + 1)
    monkeypatch.setattr(index_module, "ARRAYS", (*index_module.ARRAYS, "something new"))
    assert index.load("g", "m", THRESHOLD) is None
    assert caplog.messages == ["gallery index rebuilt: it is of another setting"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_broken_index_is_logged_and_not_used(
    index: GalleryIndex, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    index.save("g", "m", THRESHOLD, small_gallery().run(None).known)
    (file,) = index.folder.glob("*")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0xFF
    file.write_bytes({"flip": bytes(data), "cut": bytes(data[:-100]), "empty": b"", "text": b"not an index"}[damage])
    assert index.load("g", "m", THRESHOLD) is None
    assert caplog.messages == ["gallery index rebuilt: it is broken"]


def damage_at_random(data: bytes, chance: np.random.Generator) -> bytes:
    """The data with a few bytes changed, removed, doubled or cut off."""
    place, count = int(chance.integers(len(data))), int(chance.integers(1, 5))
    some = chance.bytes(count)
    ways = [
        data[:place] + some + data[place + count :],
        data[:place] + data[place + count :],
        data[:place] + some + data[place:],
        data[:place],
    ]
    return ways[int(chance.integers(len(ways)))]


def test_no_damage_of_an_index_makes_a_run_fail_or_go_wrong(index: GalleryIndex) -> None:
    gallery = small_gallery()
    first = gallery.run(None)
    index.save("g", "m", THRESHOLD, first.known)
    (file,) = index.folder.iterdir()
    data, chance = file.read_bytes(), np.random.default_rng(7)
    for _ in range(3_000):
        damaged = damage_at_random(data, chance)
        file.write_bytes(damaged)
        known = index.load("g", "m", THRESHOLD)
        assert (known is None) == (damaged != data)
        assert file.exists() == (damaged == data)
    assert gallery.run(index.load("g", "m", THRESHOLD)).kind == "full"


WRONG = {
    "shorter": lambda array: array[:-1],
    "flat": np.ravel,
    "narrower": lambda array: array[:, :-1],
    "of another type": lambda array: array.astype(np.float16),
    "beyond the faces": lambda array: np.full_like(array, len(array)),
    "negative": lambda array: np.full_like(array, -2),
    "no text": lambda _: np.frombuffer(b"\xff\n", np.uint8),
    "cut": lambda array: array[: array.tolist().index(ord("\n")) + 1],
}
"""Arrays of an index as no run writes them."""


@pytest.mark.parametrize(
    "what",
    [
        *(f"{name} shorter" for name in ("embeddings", "roles", "similarities", "labels", "beyond", "beyond_people")),
        *(f"{name} flat" for name in ("embeddings", "indices", "similarities")),
        *(f"{name} of another type" for name in ("embeddings", "roles", "indices", "similarities", "labels", "beyond")),
        "indices narrower",
        "indices beyond the faces",
        "indices negative",
        "face_ids no text",
        "digests cut",
        "header no text",
    ],
)
def test_an_index_whose_arrays_do_not_fit_is_removed(
    index: GalleryIndex, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    index.save("g", "m", THRESHOLD, small_gallery().run(None).known)
    (file,) = index.folder.iterdir()
    with np.load(file) as stored:
        arrays = dict(stored)
    name, _, how = what.partition(" ")
    arrays[name] = WRONG[how](arrays[name])
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    digest = hashlib.blake2b(archive.getvalue(), digest_size=index_module.DIGEST_BYTES).digest()
    file.write_bytes(archive.getvalue() + digest)
    assert index.load("g", "m", THRESHOLD) is None
    assert caplog.messages == ["gallery index rebuilt: it is broken"]
    assert not file.exists()


def test_what_killed_runs_left_behind_is_removed(tmp_path: Path) -> None:
    known = small_gallery().run(None).known
    index = GalleryIndex(tmp_path, max_bytes=10**9)
    (tmp_path / "tmpabc123.part").write_bytes(bytes(1_000))
    index.save("g", "m", THRESHOLD, known)
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]


def test_what_another_run_is_writing_is_left_to_it(tmp_path: Path) -> None:
    known = small_gallery().run(None).known
    index = GalleryIndex(tmp_path, max_bytes=10**9)
    part = tmp_path / "tmpabc123.part"
    with ThreadPoolExecutor(1) as pool:
        with index_module._lock(tmp_path):
            part.write_bytes(b"being written")
            saving = pool.submit(index.save, "g", "m", THRESHOLD, known)
            with pytest.raises(TimeoutError):
                saving.result(0.2)
            assert part.exists()
            part.unlink()
        saving.result(10)
    assert index.load("g", "m", THRESHOLD) is not None


def test_the_files_used_longest_ago_make_room(tmp_path: Path) -> None:
    known = small_gallery().run(None).known
    wide = GalleryIndex(tmp_path, max_bytes=10**9)
    wide.save("a", "m", THRESHOLD, known)
    size = next(tmp_path.glob("*.npz")).stat().st_size
    narrow = GalleryIndex(tmp_path, max_bytes=int(2.5 * size))
    narrow.save("b", "m", THRESHOLD, known)
    for file in tmp_path.glob("*.npz"):
        os.utime(file, (1, 1))
    assert narrow.load("a", "m", THRESHOLD) is not None
    narrow.save("c", "m", THRESHOLD, known)
    assert [narrow.load(name, "m", THRESHOLD) is not None for name in "abc"] == [True, False, True]


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    index = GalleryIndex(tmp_path / "file", max_bytes=10)
    index.save("g", "m", THRESHOLD, small_gallery().run(None).known)
    assert caplog.messages == ["gallery index not kept"]
