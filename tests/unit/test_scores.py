"""Scores against examples worked out by hand, and the album's command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.grouping.output import GroupedFace, GroupedPerson, Groups
from benchmarks.accuracy.album import FoundFace, LabelledFace, main, match_faces, score_album
from workshop.scores import Score, score_bcubed, score_pairwise

GROUPINGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25)
HEADER = "photo,person,face_center_x_px,face_center_y_px\n"


def at(x_px: float, image_id: str, index: int) -> GroupedFace:
    """A face of 20 by 20 pixels whose middle lies at (x_px, 50)."""
    box = (x_px - 10, 40.0, x_px + 10, 60.0)
    return GroupedFace(face_id=f"{image_id}/{index}", image_id=image_id, box=box, det_score=0.9, quality={})


def person(person_id: str, *faces: GroupedFace) -> GroupedPerson:
    return GroupedPerson(
        person_id=person_id,
        face_count=len(faces),
        photo_count=len({face.image_id for face in faces}),
        cover_face_id=faces[0].face_id,
        faces=list(faces),
    )


def groups_of(people: list[GroupedPerson], unassigned: list[GroupedFace] | None = None) -> Groups:
    return Groups(
        gallery_id="g",
        model="m",
        generated_at="2026-01-01T00:00:00Z",
        people=people,
        unassigned=unassigned or [],
        skipped=[],
    )


def test_bcubed_averages_over_the_items() -> None:
    # Predicted {a a b} and {a b}. Precision: 2/3, 2/3, 1/3, 1/2, 1/2. Recall: 2/3, 2/3, 1/2, 1/3, 1/2.
    score = score_bcubed(["a", "a", "b", "a", "b"], ["x", "x", "x", "y", "y"])
    assert score.precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 5)
    assert score.recall == pytest.approx((2 / 3 + 2 / 3 + 1 / 2 + 1 / 3 + 1 / 2) / 5)
    assert score.f == pytest.approx(2 * (8 / 15) ** 2 / (16 / 15))


def test_pairwise_counts_pairs_over_all_items() -> None:
    # Predicted pairs: 3 + 1, true pairs: 3 + 1, both: the two a of the first group.
    assert score_pairwise(["a", "a", "b", "a", "b"], ["x", "x", "x", "y", "y"]) == Score(1 / 4, 1 / 4)
    # Predicted pairs: 6, true pairs: 3 + 1, both: the three of a.
    assert score_pairwise(["a", "a", "a", "b", "b"], ["x", "x", "x", "x", "y"]) == Score(1 / 2, 3 / 4)


def test_equal_groupings_score_one_whatever_the_labels_are_called() -> None:
    assert (
        score_bcubed(["a", "b", "a"], np.array([7, 3, 7]))
        == score_pairwise(["a", "b", "a"], np.array([7, 3, 7]))
        == Score(1, 1)
    )


def test_without_a_pair_none_is_wrong() -> None:
    assert score_pairwise(["a", "b"], ["x", "y"]) == Score(1, 1)
    assert score_pairwise(["a", "a"], ["x", "y"]) == Score(1, 0)
    assert score_pairwise(["a", "a"], ["x", "y"]).f == 0


@pytest.mark.parametrize(("true", "predicted"), [([], []), (["a"], ["x", "y"])])
def test_labels_that_cannot_be_compared_are_an_error(true: list[str], predicted: list[str]) -> None:
    for score in (score_bcubed, score_pairwise):
        with pytest.raises(ValueError, match="can't be compared"):
            score(true, predicted)


@given(GROUPINGS)
def test_scores_are_those_of_counting_one_by_one(pairs: list[tuple[int, int]]) -> None:
    true, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    together_true, together_predicted = true[:, None] == true, predicted[:, None] == predicted
    both = together_true & together_predicted
    precision = (both.sum(axis=1) / together_predicted.sum(axis=1)).mean()
    recall = (both.sum(axis=1) / together_true.sum(axis=1)).mean()
    measured = score_bcubed(true, predicted)
    assert (measured.precision, measured.recall) == pytest.approx((precision, recall))
    others = ~np.eye(len(pairs), dtype=bool)
    measured = score_pairwise(true, predicted)
    hits, guesses, facts = (int((kind & others).sum()) for kind in (both, together_predicted, together_true))
    assert measured.precision == pytest.approx(hits / guesses if guesses else 1)
    assert measured.recall == pytest.approx(hits / facts if facts else 1)


def test_a_perfect_album_scores_one() -> None:
    groups = groups_of([person("p1", at(50, "one", 0), at(50, "two", 0)), person("p2", at(150, "one", 1))])
    labelled = [
        LabelledFace("one", "ann", (52, 50)),
        LabelledFace("two", "ann", (48, 55)),
        LabelledFace("one", "bob", (150, 50)),
    ]
    figures = score_album(groups, labelled)
    assert figures["bcubed_f"] == figures["pairwise_f"] == 1
    assert (figures["labelled_faces"], figures["found_faces"], figures["false_faces"]) == (3, 3, 0)
    assert (figures["people_found"], figures["people_labelled"]) == (2, 2)


def test_missed_and_unassigned_faces_cost_recall_and_false_faces_are_counted() -> None:
    groups = groups_of([person("p1", at(50, "one", 0), at(300, "one", 1))], unassigned=[at(50, "two", 0)])
    labelled = [LabelledFace(photo, "ann", (50, 50)) for photo in ("one", "two", "three")]
    figures = score_album(groups, labelled)
    assert (figures["found_faces"], figures["false_faces"]) == (2, 1)
    assert figures["bcubed_precision"] == 1
    assert figures["bcubed_recall"] == pytest.approx(1 / 3)
    assert figures["pairwise_recall"] == 0


def test_two_labels_in_overlapping_boxes_get_a_box_each() -> None:
    found = [FoundFace("one", 0, (0, 0, 100, 100)), FoundFace("one", 1, (40, 0, 140, 100))]
    # The nearer box alone would give both labels the second one.
    labelled = [LabelledFace("one", "ann", (80, 50)), LabelledFace("one", "bob", (110, 50))]
    assert match_faces(labelled, found) == {0: 0, 1: 1}


def test_a_box_finds_no_label_outside_it_nor_of_another_photo() -> None:
    found = [FoundFace("one", 0, (0, 0, 100, 100))]
    assert match_faces([LabelledFace("one", "ann", (101, 50)), LabelledFace("two", "ann", (50, 50))], found) == {}


def test_the_command_prints_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups_path, labels_path = tmp_path / "groups.json", tmp_path / "labels.csv"
    groups_path.write_text(groups_of([person("p1", at(50, "one", 0))]).model_dump_json())
    labels_path.write_text(HEADER + "one.jpg,ann,50,50\n")
    assert main(["--groups", str(groups_path), "--labels", str(labels_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {
        "bcubed_f": 1.0,
        "bcubed_precision": 1.0,
        "bcubed_recall": 1.0,
        "pairwise_f": 1.0,
        "pairwise_precision": 1.0,
        "pairwise_recall": 1.0,
        "labelled_faces": 1,
        "found_faces": 1,
        "false_faces": 0,
        "people_found": 1,
        "people_labelled": 1,
    }


@pytest.mark.parametrize(
    ("groups", "labels", "sentence"),
    [
        (None, HEADER + "one.jpg,ann,50,50\n", "The groups can't be read"),
        ('{"version": 1}', HEADER + "one.jpg,ann,50,50\n", "is not a groups.json: gallery_id: Field required"),
        ("no json", HEADER + "one.jpg,ann,50,50\n", "is not a groups.json: the file"),
        ("good", None, "The labels can't be read"),
        ("good", HEADER, "labels no face"),
        ("good", "photo,person\none.jpg,ann\n", "has no column 'face_center_x_px'"),
        ("good", HEADER + "one.jpg,ann,left,50\n", "is no labelled face: could not convert string to float: 'left'"),
        ("good", HEADER + "one.jpg,ann\n", "is no labelled face"),
    ],
)
def test_input_that_cannot_be_scored_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: str | None, labels: str | None, sentence: str
) -> None:
    groups_path, labels_path = tmp_path / "groups.json", tmp_path / "labels.csv"
    if groups is not None:
        groups_path.write_text(groups_of([]).model_dump_json() if groups == "good" else groups)
    if labels is not None:
        labels_path.write_text(labels)
    assert main(["--groups", str(groups_path), "--labels", str(labels_path)]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
