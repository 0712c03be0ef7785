"""Other projects' rules on galleries of a few faces, worked out by hand, and the benchmark's command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.grouping import PACKS, main, read_faces
from benchmarks.accuracy.grouping_baselines import (
    BASELINES,
    UNASSIGNED,
    Baseline,
    Floats,
    NearPairs,
    Setting,
    find_near_pairs,
)
from benchmarks.accuracy.grouping_measures import (
    compute_scores,
    find_best_setting,
    measure_baseline,
    separate_unassigned,
)


def at_degrees(*angles: float) -> Floats:
    """Faces on a circle: (N,2) float32 unit length. 10 degrees are a cosine distance of 0.015, 60 degrees of 0.5."""
    radians = np.radians(angles)
    return np.column_stack([np.cos(radians), np.sin(radians)]).astype(np.float32)


def degrees(angle: float) -> float:
    """The cosine distance of an angle."""
    return float(1 - np.cos(np.radians(angle)))


def labels_of(name: str, faces: Floats, angle: float, core: int = 1) -> list[int]:
    return BASELINES[name].prepare(faces)(Setting(degrees(angle), core)).tolist()


def random_faces(count: int = 60) -> Floats:
    faces = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    return faces / np.linalg.norm(faces, axis=1, keepdims=True)


def test_near_pairs_are_all_others_within_the_distance() -> None:
    graph = find_near_pairs(at_degrees(0, 10, 25), degrees(16)).toarray()
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = np.cos(np.radians(10))
    expected[1, 2] = expected[2, 1] = np.cos(np.radians(15))
    np.testing.assert_allclose(graph, expected, atol=1e-6)


def test_near_pairs_narrowed_are_those_searched_for_anew() -> None:
    faces, pairs = random_faces(), NearPairs(random_faces())
    for distance in (0.5, 0.1, 0.3, 0.7):
        np.testing.assert_array_equal(pairs.find(distance).toarray(), find_near_pairs(faces, distance).toarray())


def test_dbscan_leaves_out_whom_too_few_are_near() -> None:
    assert labels_of("dbscan", at_degrees(0, 5, 10, 90, 95), 6, core=3) == [0, 0, 0, UNASSIGNED, UNASSIGNED]
    assert labels_of("dbscan", at_degrees(0, 5, 10, 90, 95), 6, core=2) == [0, 0, 0, 1, 1]


def test_hdbscan_finds_people_of_as_many_faces_as_asked_for() -> None:
    faces = at_degrees(0, 1, 2, 90, 91, 92, 200)
    found = BASELINES["hdbscan"].prepare(faces)(Setting(None, core=3))
    assert len({*found[:3]}) == len({*found[3:6]}) == 1
    assert found[0] != found[3]
    assert found[6] == UNASSIGNED


def test_whispers_go_to_the_label_of_most_near_faces() -> None:
    # The face at 14 degrees has two near faces on the left and one on the right.
    labels = labels_of("chinese_whispers", at_degrees(0, 4, 14, 28, 120), 15)
    assert labels[0] == labels[1] == labels[2]
    assert labels[4] not in labels[:4]


def test_average_linkage_joins_by_the_mean_distance() -> None:
    # The third face is within 20 degrees of the second, but not of the first two on average.
    faces = at_degrees(0, 10, 29)
    assert len({*labels_of("average_linkage", faces, 20)}) == 2
    assert len({*labels_of("average_linkage", faces, 26)}) == 1


def test_by_immichs_rule_three_faces_found_a_person_and_others_join_or_wait() -> None:
    # 20 is a core face, as 10 and 30 are near; both join it, though they come first. 90 and 99 are only two.
    assert labels_of("immich", at_degrees(10, 30, 20, 90, 99), 12, core=3) == [0, 0, 0, UNASSIGNED, UNASSIGNED]
    # Where two are enough, 10 and 30 found a person each, before 20 could bring them together.
    assert labels_of("immich", at_degrees(10, 30, 20, 90, 99), 12, core=2) == [0, 1, 0, 2, 2]


def test_by_immichs_rule_a_face_joins_the_nearest_face_that_has_a_person() -> None:
    # 15 is near 4 and 26.5, which are of two people, and nearer to 4. It comes first but is no core face.
    labels = labels_of("immich", at_degrees(15, 0, 1, 2, 4, 26.5, 28, 29, 30), 12, core=4)
    assert labels == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_by_photoprisms_rule_faces_left_over_go_to_a_centre_within_reach() -> None:
    # Four faces are 0.4 from each other and 0.25 from their middle. It reaches 0.25 + 0.46 / 0.64 * 0.45 = 0.57.
    # The next two are 0.5 and 0.8 from the nearest face and 0.42 and 0.69 from the middle.
    aside = np.array([0.3, 0.3, 0.3, 0.3, 0.42, 0.8], np.float32)
    faces = np.column_stack([np.ones(6, np.float32), np.diag(aside)])
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    setting = Setting(0.45**2 / 2, core=4)
    assert BASELINES["dbscan"].prepare(faces)(setting).tolist() == [0, 0, 0, 0, UNASSIGNED, UNASSIGNED]
    assert BASELINES["photoprism"].prepare(faces)(setting).tolist() == [0, 0, 0, 0, 0, UNASSIGNED]


def test_by_entes_rule_a_face_joins_its_nearest_earlier_face() -> None:
    assert labels_of("ente", at_degrees(0, 10, 20, 90), 12) == [0, 0, 0, 3]


def test_entes_rule_does_not_bring_two_people_together_afterwards() -> None:
    # 10 comes last, is nearer to 0 than to 21, and joins it; who came before it stays apart.
    assert labels_of("ente", at_degrees(0, 21, 10), 12) == [0, 1, 0]


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_faces_come_together_the_same_way_each_time(name: str) -> None:
    faces = random_faces()
    setting = BASELINES[name].published or Setting(0.1)
    once, again = (BASELINES[name].prepare(faces)(setting) for _ in range(2))
    assert once.tolist() == again.tolist()
    assert len(set(once.tolist())) > 1


def test_unassigned_faces_are_people_of_one_face() -> None:
    assert separate_unassigned(np.array([0, UNASSIGNED, 0, UNASSIGNED])).tolist() == [0, 1, 0, 2]
    figures = compute_scores(np.array([0, 0, 1]), np.array([UNASSIGNED, UNASSIGNED, UNASSIGNED]))
    assert (figures["people"], figures["nobody"]) == (3, 3)
    assert (figures["bcubed_precision"], figures["bcubed_recall"]) == (1, pytest.approx(2 / 3, abs=1e-4))


def test_the_search_finds_the_distance_that_parts_people() -> None:
    faces = at_degrees(0, 8, 60, 68)
    found = find_best_setting(BASELINES["average_linkage"].prepare(faces), np.array([0, 0, 1, 1]), (1,), None)
    assert found["bcubed_f"] == found["best_pairwise_f"] == 1
    assert degrees(8) - 1e-4 <= found["distance"] < degrees(60)


def test_the_best_setting_is_never_worse_than_the_published_one() -> None:
    # No distance of the grid lies between these two; the published one does.
    faces, people = at_degrees(0, 8.3, 16.7), np.array([0, 0, 1])
    baseline = Baseline(BASELINES["ente"].prepare, Setting(degrees(8.35)))
    figures = measure_baseline(baseline, faces, people, search=True)
    assert figures["published"]["bcubed_f"] == figures["best"]["bcubed_f"] == 1


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    people = np.repeat(np.arange(12), 5)
    faces = np.eye(16, dtype=np.float32)[people] + np.random.default_rng(1).normal(0, 0.05, (60, 16))
    path = tmp_path / "faces.npz"
    np.savez(path, vectors=faces.astype(np.float16), label=people, image=[f"{face}.jpg" for face in range(60)])
    return path


@pytest.mark.slow
def test_one_line_of_json_tells_ours_and_the_others(embeddings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--embeddings", str(embeddings), "--threshold", "0.5", "--baselines", "ente", "--json"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    result = json.loads(printed)
    assert (result["faces"], result["true_people"], result["people"]) == (60, 12, 12)
    assert result["bcubed_f"] == result["pairwise_f"] == result["best"]["bcubed_f"] == 1
    assert result["peak_memory_mb"] >= result["neighbours_peak_memory_mb"] > 0
    ente = result["baselines"]["ente"]
    assert (ente["published"]["distance"], ente["best"]["bcubed_f"]) == (0.24, 1)


def test_the_threshold_is_that_of_the_embedders_pack() -> None:
    assert all(Path(manifest).is_file() for manifest in PACKS.values())


def test_a_face_labelled_as_unassigned_is_unassigned(tmp_path: Path) -> None:
    np.savez(tmp_path / "faces.npz", vectors=np.eye(3), label=np.array([4, -1, 4]))
    faces = read_faces(tmp_path / "faces.npz", None, "label", "image")
    assert faces.people.tolist() == [1, UNASSIGNED, 1]
    assert len(set(faces.photos)) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "No pack is known for 'vectors'"),
        (["--vectors", "others"], "can't be read"),
        (["--labels", "names"], "can't be read"),
        (["--vectors", "image"], "can't be read"),
        (["--vectors", "label"], "is not one row of numbers"),
        (["--threshold", "0.5", "--baselines", "ours"], "No baseline is called 'ours'"),
        (["--threshold", "0.5", "--scale", "50", "--dimension", "8"], "don't fit into 8"),
    ],
)
def test_input_that_cannot_be_measured_is_one_sentence_and_exit_code_1(
    embeddings: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["--embeddings", str(embeddings), "--json", *arguments]) == 1
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
