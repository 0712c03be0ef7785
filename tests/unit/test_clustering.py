"""Grouping by similarity: who is together, who is not, and what must not matter."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.clustering.full import cluster
from app.clustering.graph import UNASSIGNED
from app.core.roles import Role
from app.packs.store import PackStore
from app.vision.face_pack import load_pack
from workshop.scores import score_bcubed, score_pairwise

ROOT = Path(__file__).parents[2]
LFW = ROOT.parent / "shared" / "eval" / "lfw_dev_embeddings.npz"


def faces_of(sizes: list[int], spread: float = 0.5, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """People's sizes → (N,D) embeddings and (N,) people. Photos of one person lie near cosine 1/(1+spread²)."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(len(sizes)), sizes)
    centres = unit(rng.standard_normal((len(sizes), 256)))
    noise = unit(rng.standard_normal((len(people), 256)))
    return unit(centres[people] + spread * noise), people


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def at_cosine(*cosines: float) -> NDArray[np.float32]:
    """(N+1,D): a first face, and one at each of these cosines to it; those are 90° apart around it."""
    rows = np.zeros((len(cosines) + 1, len(cosines) + 1))
    rows[0, 0] = 1
    for row, cosine in enumerate(cosines, start=1):
        rows[row, [0, row]] = cosine, np.sqrt(1 - cosine**2)
    return rows.astype(np.float32)


def own_photos(count: int) -> list[str]:
    return [f"photo_{number}" for number in range(count)]


def same_groups(left: NDArray[np.int64], right: NDArray[np.int64]) -> bool:
    return np.array_equal(left[:, None] == left, right[:, None] == right)


def test_every_person_is_one_group_and_a_single_photo_is_a_person() -> None:
    embeddings, people = faces_of([1, 7, 1, 3, 200, 1, 2])
    np.testing.assert_array_equal(cluster(embeddings, own_photos(len(people)), 0.5), people)


def test_a_person_in_many_more_photos_than_neighbours_are_kept_is_one_group() -> None:
    embeddings, people = faces_of([1_000, 300])
    np.testing.assert_array_equal(cluster(embeddings, own_photos(len(people)), 0.5), people)


@pytest.mark.parametrize("count", [0, 1])
def test_an_album_with_hardly_a_face_is_grouped(count: int) -> None:
    labels = cluster(faces_of([1])[0][:count], own_photos(count), 0.5)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0] * count


def test_faces_at_the_threshold_are_two_people_and_above_it_one() -> None:
    half = at_cosine(0.5)
    assert cluster(half, own_photos(2), 0.5).tolist() == [0, 1]
    assert cluster(half, own_photos(2), 0.49).tolist() == [0, 0]


def test_similar_faces_of_one_photo_are_two_people() -> None:
    siblings = at_cosine(0.7)
    assert cluster(siblings, ["birthday", "birthday"], 0.5).tolist() == [0, 1]
    assert cluster(siblings, ["birthday", "picnic"], 0.5).tolist() == [0, 0]


@pytest.mark.parametrize(("threshold", "alike", "equal"), [(0.5, 0.89, 0.91), (0.9, 0.97, 0.99)])
def test_nearly_equal_faces_of_one_photo_are_one_person_in_a_collage(
    threshold: float, alike: float, equal: float
) -> None:
    assert cluster(at_cosine(alike), ["collage", "collage"], threshold).tolist() == [0, 1]
    assert cluster(at_cosine(equal), ["collage", "collage"], threshold).tolist() == [0, 0]


def test_one_doubtful_similarity_does_not_connect_two_people() -> None:
    embeddings, people = faces_of([5, 5])
    bridge = unit((embeddings[0] + embeddings[5])[None].astype(np.float64))
    labels = cluster(np.concatenate([embeddings, bridge]), own_photos(11), 0.6)
    np.testing.assert_array_equal(labels[:10], people)
    assert labels[10] in (0, 1)


def test_one_high_similarity_outweighs_two_doubtful_ones() -> None:
    # On a circle: two copies of one face, one at cosine 0.55 to both, and one at 0.9 to that.
    angles = np.radians([0, 0, 56.6, 82.4])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert cluster(embeddings, own_photos(4), 0.5).tolist() == [0, 0, 1, 1]


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(46)))
def test_the_order_of_the_faces_does_not_change_the_groups(order: list[int]) -> None:
    embeddings, people = faces_of([1, 9, 4, 30, 2], spread=1.1)  # so far apart that the first visit decides
    photos = np.array(own_photos(len(people)))
    before = cluster(embeddings, photos.tolist(), 0.5)
    after = cluster(embeddings[order], photos[order].tolist(), 0.5)
    assert same_groups(before[order], after)


def test_labels_are_numbered_by_first_appearance() -> None:
    embeddings, people = faces_of([4, 4, 4])
    order = np.random.default_rng(3).permutation(12)
    labels = cluster(embeddings[order], own_photos(12), 0.5).tolist()
    assert list(dict.fromkeys(labels)) == [0, 1, 2]
    assert len(set(zip(labels, people[order].tolist(), strict=True))) == 3


def test_each_face_needs_an_image_id() -> None:
    with pytest.raises(ValueError, match="2 embeddings need as many image ids, not 1"):
        cluster(at_cosine(0.7), ["photo"], 0.5)


@pytest.mark.parametrize(
    ("model", "threshold", "bcubed_f", "pairwise_f"),
    [("mobilefacenet_128", 0.5, 0.983, 0.997), ("dlib_resnet_128", 0.948, 0.941, 0.984)],
)
def test_half_of_lfw_is_grouped_as_well_as_measured(
    model: str, threshold: float, bcubed_f: float, pairwise_f: float
) -> None:
    if not LFW.exists():
        pytest.skip(f"{LFW} is not there")
    with np.load(LFW) as data:
        embeddings, people, images = unit(data[model].astype(np.float64)), data["label"], data["image"].tolist()
    labels = cluster(embeddings, images, threshold)
    assert score_bcubed(people, labels).f >= bcubed_f
    assert score_pairwise(people, labels).f >= pairwise_f


def border_roles(count: int, *rows: int) -> NDArray[np.int8]:
    """Roles of `count` faces: these rows are border faces, all others core faces."""
    roles = np.full(count, Role.CORE, np.int8)
    roles[list(rows)] = Role.BORDER
    return roles


def test_a_border_face_joins_the_person_it_is_clearly_most_similar_to() -> None:
    embeddings, people = faces_of([4, 4])
    roles = border_roles(len(people), 0, 7)
    np.testing.assert_array_equal(cluster(embeddings, own_photos(len(people)), 0.5, roles), people)


def test_border_faces_alone_form_no_person() -> None:
    embeddings, people = faces_of([3, 2])
    labels = cluster(embeddings, own_photos(len(people)), 0.5, border_roles(len(people), 3, 4))
    np.testing.assert_array_equal(labels, [0, 0, 0, UNASSIGNED, UNASSIGNED])


def test_a_border_face_between_two_people_is_unassigned_and_does_not_connect_them() -> None:
    between = at_cosine(0.7, 0.7)
    embeddings = unit(np.concatenate([between, between[1:] + 0.01]).astype(np.float64))
    roles = border_roles(5, 0)
    labels = cluster(embeddings, own_photos(5), 0.5, roles)
    np.testing.assert_array_equal(labels, [UNASSIGNED, 0, 1, 0, 1])
    assert cluster(embeddings, own_photos(5), 0.5)[0] != UNASSIGNED


def test_a_noise_face_is_unassigned_however_similar_it_is() -> None:
    embeddings = np.repeat(at_cosine(0.1)[:1], 3, axis=0)
    roles = np.array([Role.CORE, Role.CORE, Role.NOISE], np.int8)
    np.testing.assert_array_equal(cluster(embeddings, own_photos(3), 0.5, roles), [0, 0, UNASSIGNED])


def test_no_person_gets_a_second_face_in_a_photo() -> None:
    embeddings, _ = faces_of([6])
    photos = [
        "a",
        "b",
        "c",
        "a",
        "d",
        "d",
    ]  # 3 is with a core face of its person; 4 and 5 together
    labels = cluster(embeddings, photos, 0.5, border_roles(6, 3, 4, 5))
    assert labels[3] == UNASSIGNED
    assert sorted(labels[4:].tolist()) == [UNASSIGNED, 0]


def test_a_strip_of_one_person_belongs_to_the_person_whom_other_photos_show() -> None:
    embeddings, people = faces_of([8, 8])
    photos = ["strip"] * 4 + own_photos(12)
    np.testing.assert_array_equal(cluster(embeddings, photos, 0.5), people)


@pytest.mark.parametrize(("alone", "people"), [(3, 1), (2, 4)])
def test_how_well_a_person_must_be_known_to_be_several_times_in_a_photo(alone: int, people: int) -> None:
    embeddings, _ = faces_of([4 + alone])
    labels = cluster(embeddings, ["strip"] * 4 + own_photos(alone), 0.5)
    assert len(set(labels.tolist())) == people


def test_a_person_who_is_twice_in_most_photos_is_two_people() -> None:
    embeddings, _ = faces_of([15])
    pairs, alone = [f"pair_{number // 2}" for number in range(12)], own_photos(3)
    labels = cluster(embeddings, pairs + alone, 0.5)
    assert all(labels[row] != labels[row + 1] for row in range(0, 12, 2))


@pytest.mark.parametrize(("cosine", "together"), [(0.8, True), (0.62, False)])
def test_a_face_beside_the_persons_own_must_clearly_be_the_persons(cosine: float, together: bool) -> None:
    """A sibling is similar enough to be grouped with a person, but not so similar as the person's own faces."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((64, 64)))[0]
    own = unit(axes[0] + 0.5 * axes[1:7])
    beside = unit((cosine * axes[0] + np.sqrt(1 - cosine**2) * axes[10])[None])
    photos = own_photos(6)
    labels = cluster(np.concatenate([own, beside]), [*photos, photos[0]], 0.5)
    assert bool(labels[6] == labels[0]) is together
    assert cluster(np.concatenate([own, beside]), own_photos(7), 0.5).tolist() == [0] * 7


@pytest.mark.parametrize("threshold", [0.504, 0.44, 0.4])
def test_a_brother_and_a_sister_side_by_side_stay_two_people(shared_dir: Path, threshold: float) -> None:
    """Also at thresholds below their similarity, which is 0.46."""
    installed = PackStore(ROOT / "models", accept_research_licence=True).install(
        str(ROOT / "tests" / "packs" / "shared-insightface.toml")
    )
    pack = load_pack(installed, "cpu", 1)
    embeddings, people = [], []
    for row in csv.DictReader((shared_dir / "album" / "labels.csv").read_text().splitlines()):
        if row["person"] in ("f1_son", "f1_daughter"):
            photo = np.ascontiguousarray(cv2.imread(str(shared_dir / "album" / row["photo"]))[..., ::-1])
            faces = pack.detect([photo])[0]
            place = np.array([row["face_center_x_px"], row["face_center_y_px"]], np.float32)
            nearest = np.abs(faces.boxes.reshape(-1, 2, 2).mean(axis=1) - place).sum(axis=1).argmin()
            embeddings.append(pack.embed([pack.cut_chips(photo, faces.landmarks[[nearest]])])[0][0])
            people.append(row["person"])
    # The three photos of him beside three of hers; she is in a fourth alone.
    count = {"f1_son": 0, "f1_daughter": 0}
    photos = []
    for person in people:
        photos.append(f"photo_{count[person]}")
        count[person] += 1
    assert count == {"f1_son": 3, "f1_daughter": 4}
    labels = cluster(np.array(embeddings), photos, threshold)
    by_photo = {name: [label for photo, label in zip(photos, labels, strict=True) if photo == name] for name in photos}
    assert all(len(set(some)) == len(some) for some in by_photo.values())
    if threshold == 0.504:
        _, truth = np.unique(people, return_inverse=True)
        assert same_groups(labels, truth)


@pytest.mark.parametrize(
    ("model", "threshold", "least"), [("mobilefacenet_128", 0.504, 0.8), ("dlib_resnet_128", 0.945, 0.6)]
)
def test_most_faces_of_a_strip_join_their_person_and_lookalikes_beside_a_person_do_not(
    model: str, threshold: float, least: float
) -> None:
    if not LFW.exists():
        pytest.skip(f"{LFW} is not there")
    with np.load(LFW) as data:
        embeddings, people = unit(data[model].astype(np.float64)), np.unique(data["label"], return_inverse=True)[1]
    random, many = np.random.default_rng(0), np.flatnonzero(np.bincount(people) >= 9)
    faces = np.concatenate([random.permutation(np.flatnonzero(people == person))[:9] for person in many])
    photos = [f"strip_{people[row]}" if place % 9 < 4 else f"photo_{row}" for place, row in enumerate(faces)]
    labels = cluster(embeddings[faces], photos, threshold).reshape(-1, 9)
    joined = [(row[:4] == np.bincount(row[4:]).argmax()).mean() for row in labels]
    assert np.mean(joined) > least
    # The stranger who is most similar to a person's mean stands beside the person.
    together = 0
    for person, own in zip(many, faces.reshape(-1, 9), strict=True):
        similarities = np.where(people == person, -1, embeddings @ embeddings[own].sum(axis=0))
        both = embeddings[np.r_[own, similarities.argmax()]]
        beside = cluster(both, [*own_photos(9), "photo_0"], threshold)
        together += int(beside[-1] == beside[0])
    assert together <= 2


def test_without_core_faces_there_are_no_people() -> None:
    embeddings, _ = faces_of([3])
    assert cluster(embeddings, own_photos(3), 0.5, border_roles(3, 0, 1, 2)).tolist() == [UNASSIGNED] * 3
    assert cluster(embeddings[:0], [], 0.5, border_roles(0)).tolist() == []


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 2**16), st.data())
def test_border_faces_change_nothing_among_core_faces(sizes: list[int], seed: int, data: st.DataObject) -> None:
    embeddings, people = faces_of(sizes, spread=0.9, seed=seed)
    rows = data.draw(st.sets(st.integers(0, len(people) - 1)))
    roles = border_roles(len(people), *rows)
    photos = own_photos(len(people))
    core = np.flatnonzero(roles == Role.CORE)
    alone = cluster(embeddings[core], [photos[row] for row in core], 0.5)
    np.testing.assert_array_equal(cluster(embeddings, photos, 0.5, roles)[core], alone)
