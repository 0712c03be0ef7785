"""Verification: its statistics against examples worked out by hand, its pairs, and both pipelines side by side."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.arrays import Floats
from benchmarks.accuracy.verification import compare_pipelines, main, measure_pipeline, score_pairs
from benchmarks.accuracy.verification_pairs import (
    FoldedPair,
    choose_genuine_pairs,
    choose_impostor_pairs,
    find_people,
    make_folded_pairs,
)
from benchmarks.accuracy.verification_scores import (
    compute_impostor_scores,
    compute_share_by_fold,
    compute_tar_at_far,
    find_best_threshold,
    judge_in_folds,
)
from benchmarks.common.command import UnusableInput
from workshop.samples import Pair

# A benchmark's own code.
pytestmark = pytest.mark.slow

COSINES = st.integers(-5, 5).map(lambda tenths: tenths / 10)
JUDGED = st.lists(st.tuples(COSINES, st.booleans(), st.integers(0, 2)), min_size=1, max_size=30)
NAN = float("nan")


def photos_of(*counts: int) -> dict[Path, list[Path]]:
    """People with so many photos each."""
    return {Path(f"p{i:03}"): [Path(f"p{i:03}/{n}.jpg") for n in range(count)] for i, count in enumerate(counts)}


def columns(rows: Sequence[tuple[float, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, genuine, fold = zip(*rows, strict=True)
    return np.array(scores, float), np.array(genuine), np.array(fold)


def test_the_threshold_lies_midway_between_those_it_tells_apart() -> None:
    scores, genuine = np.array([0.1, 0.3, 0.5, 0.8]), np.array([False, False, True, True])
    assert find_best_threshold(scores, genuine) == pytest.approx(0.4)
    # One impostor above all genuine: better wrong about it than about both.
    assert find_best_threshold(np.append(scores, 0.9), np.append(genuine, False)) == pytest.approx(0.4)


@pytest.mark.parametrize("genuine", [True, False])
def test_where_there_is_but_one_kind_all_of_it_is_judged_right(genuine: bool) -> None:
    scores, kinds = np.array([-1.0, 0.2, 1.0]), np.full(3, genuine)
    assert ((scores >= find_best_threshold(scores, kinds)) == kinds).all()


@given(JUDGED)
def test_no_threshold_judges_more_pairs_right_than_the_best(rows: list[tuple[float, bool, int]]) -> None:
    scores, genuine, _ = columns(rows)
    chosen = ((scores >= find_best_threshold(scores, genuine)) == genuine).sum()
    assert chosen == max(((scores >= cut) == genuine).sum() for cut in np.arange(-0.65, 0.7, 0.1))


def test_a_fold_has_no_say_in_its_own_threshold() -> None:
    # Each fold alone is told apart without a mistake, at 0.2 and at 0.8; the other's threshold misses half of it.
    scores, genuine, fold = columns([(0.3, True, 0), (0.1, False, 0), (0.9, True, 1), (0.7, False, 1)])
    right = judge_in_folds(scores, genuine, fold)
    assert right.tolist() == [False, True, True, False]
    assert compute_share_by_fold(right, fold).tolist() == [0.5, 0.5]


def test_a_pair_without_a_score_is_wrong_and_moves_no_threshold() -> None:
    rows = [(0.9, True, 0), (0.1, False, 0), (0.8, True, 1), (0.2, False, 1)]
    missing = [(NAN, kind, fold) for kind in (True, False) for fold in (0, 1)]
    right = judge_in_folds(*columns(rows + missing))
    assert right.tolist() == [True] * 4 + [False] * 4


def test_tar_is_the_share_above_the_first_impostor_too_many() -> None:
    impostors = np.arange(3000) / 10_000
    # Three hundred false accepts: the threshold is just above 0.2699.
    assert compute_tar_at_far(np.array([0.2699, 0.27, 0.5, 0.1]), impostors, 0.1) == 0.5
    # Thirty: just above 0.2969.
    assert compute_tar_at_far(np.array([0.2969, 0.297, 0.2, 0.1]), impostors, 0.01) == 0.25


def test_a_rate_of_fewer_than_thirty_false_accepts_is_not_called_measured() -> None:
    genuine = np.ones(5)
    assert compute_tar_at_far(genuine, np.zeros(300_000), 1e-4) == 1
    assert compute_tar_at_far(genuine, np.zeros(299_999), 1e-4) is None
    assert compute_tar_at_far(np.empty(0), np.zeros(300_000), 1e-4) is None


@given(st.lists(COSINES, min_size=1, max_size=20), st.integers(0, 999), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_more_false_accepts_never_cost_true_ones(some: list[float], seed: int, one: float, other: float) -> None:
    genuine, impostors = np.array(some), np.random.default_rng(seed).choice(np.arange(-5, 6) / 10, 400)
    strict, lax = (compute_tar_at_far(genuine, impostors, far) for far in sorted([one, other]))
    assert strict is not None
    assert lax is not None
    assert strict <= lax
    # Equal scores, of which there are many here, never lift the false accepts above the rate asked for.
    assert (compute_tar_at_far(impostors, impostors, one) or 0) <= one


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_impostor_scores_are_those_of_all_pairs_of_different_people(people: list[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(len(people), 4)).astype(np.float32)
    expected = [float(rows[i] @ rows[j]) for i in range(len(people)) for j in range(i) if people[i] != people[j]]
    assert np.sort(compute_impostor_scores(rows, people)) == pytest.approx(np.sort(expected), abs=1e-5)


def test_pairs_are_the_same_at_every_call_and_others_for_another_seed() -> None:
    people = photos_of(*[4] * 40)
    assert (
        make_folded_pairs(people, 100, seed=0)
        == make_folded_pairs(people, 100, seed=0)
        != make_folded_pairs(people, 100, seed=1)
    )


@given(st.lists(st.integers(1, 6), min_size=10, max_size=40), st.integers(10, 80), st.integers(0, 9))
def test_pairs_keep_their_promises(extra: list[int], count: int, seed: int) -> None:
    people = photos_of(*[3] * 20, *extra)
    pairs = make_folded_pairs(people, count, seed)
    genuine = [each.pair for each in pairs if each.pair.is_genuine]
    impostors = [each.pair for each in pairs if not each.pair.is_genuine]
    assert all(pair.first.parent == pair.second.parent for pair in genuine)
    assert all(pair.first.parent != pair.second.parent for pair in impostors)
    assert len({frozenset(each.photos) for each in pairs}) == len(pairs)
    assert len(genuine) <= count
    assert len(impostors) <= len(genuine)
    fold_of = {(photo.parent, each.fold) for each in pairs for photo in each.photos}
    assert len(fold_of) == len({person for person, _ in fold_of})


def test_all_pairs_asked_for_are_there_where_there_are_enough() -> None:
    pairs = make_folded_pairs(photos_of(*[5] * 60), 303, seed=0)
    assert sum(each.pair.is_genuine for each in pairs) == 303
    assert sum(not each.pair.is_genuine for each in pairs) == 303
    assert [sum(each.fold == fold for each in pairs) for fold in (0, 2, 3, 9)] == [62, 62, 60, 60]


def test_somebody_with_hundreds_of_photos_gives_no_more_pairs_than_others() -> None:
    people = list(photos_of(300, *[4] * 9).values())
    chance = random.Random(0)  # noqa: S311 - nothing secret
    genuine = choose_genuine_pairs(people, 50, chance)
    assert sum(pair.first.parent == people[0][0].parent for pair in genuine) == 5
    impostors = choose_impostor_pairs(people, 200, chance)
    of_the_many = sum(people[0][0].parent in (pair.first.parent, pair.second.parent) for pair in impostors)
    # A tenth of the people, so in about a fifth of the pairs; by photos it would be in nearly all.
    assert of_the_many < 90


@pytest.mark.parametrize("people", [{}, photos_of(*[1] * 40), photos_of(*[4] * 9), photos_of(*[9] * 10)])
def test_too_few_people_for_ten_folds_are_an_error(people: dict[Path, list[Path]]) -> None:
    with pytest.raises(UnusableInput, match="too few people"):
        make_folded_pairs(people, 100, seed=0)


def test_a_limit_is_of_people() -> None:
    pairs = make_folded_pairs(photos_of(*[4] * 100), 1000, seed=0, limit=30)
    assert len({photo.parent for each in pairs for photo in each.photos}) == 30


def test_people_are_the_folders_with_photos(tmp_path: Path) -> None:
    for name in ("ann/1.jpg", "ann/2.PNG", "ann/notes.txt", "bob/1.jpeg", "loose.jpg", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    people = find_people(tmp_path)
    assert {person.name: len(photos) for person, photos in people.items()} == {"ann": 2, "bob": 1}


def pairs_by_hand() -> list[FoldedPair]:
    """Two folds with two pairs of one person and two of two people, each photo in one pair only."""
    kinds = [(fold, number, is_genuine) for fold in (0, 1) for number in (0, 1) for is_genuine in (True, False)]
    return [
        FoldedPair(
            Pair(Path(f"a{fold}{n}{same}/1.jpg"), Path(f"{'ab'[not same]}{fold}{n}{same}/2.jpg"), is_genuine=same), fold
        )
        for fold, n, same in kinds
    ]


def rows_for(pairs: Sequence[FoldedPair], cosines: Sequence[float | None]) -> dict[Path, Floats]:
    """Embeddings that give each pair its cosine; None for a pair whose second photo has no face."""
    embeddings = {each.pair.first: np.array([1, 0], np.float32) for each in pairs}
    for each, cosine in zip(pairs, cosines, strict=True):
        if cosine is not None:
            embeddings[each.pair.second] = np.array([cosine, (1 - cosine**2) ** 0.5], np.float32)
    return embeddings


def test_failures_to_acquire_are_left_out_of_accuracy_and_wrong_in_the_other() -> None:
    pairs = pairs_by_hand()
    result = measure_pipeline(pairs, rows_for(pairs, [0.9, 0.1, None, 0.1, 0.9, 0.1, 0.9, 0.1]))
    assert result["accuracy"] == 1
    assert result["accuracy_with_failures"] == pytest.approx((3 / 4 + 1) / 2)
    assert result["failure_to_acquire"] == pytest.approx(1 / 16)
    assert result["pairs_left_out"] == 1
    assert result["tar_at_far_1e4"] is None


def test_both_pipelines_are_compared_on_the_pairs_that_both_can_judge() -> None:
    pairs = pairs_by_hand()
    ours = rows_for(pairs, [0.9, 0.1, None, 0.1, 0.9, 0.1, 0.9, 0.1])
    theirs = rows_for(pairs, [0.9, 0.1, -0.9, 0.1, 0.9, 0.1, 0.2, None])
    result = compare_pipelines(pairs, ours, theirs)
    # Where ours has no face theirs is wrong, and does not pay for it. In the second fold it misses one of three; its
    # threshold for the first fold comes of (0.9, 0.1, 0.2): 0.15, without a mistake.
    assert result["pairs_of_both"] == 6
    assert result["accuracy_difference"] == pytest.approx(100 * (0 + 1 / 3) / 2, abs=1e-3)
    assert (result["only_ours_right"], result["only_insightface_right"]) == (1, 0)


def test_a_pipeline_is_no_better_than_itself() -> None:
    pairs = pairs_by_hand()
    same = rows_for(pairs, [0.5, 0.6, 0.9, 0.1, 0.4, 0.1, 0.9, 0.3])
    result = compare_pipelines(pairs, same, same)
    assert result["accuracy_difference"] == result["accuracy_difference_se"] == 0
    assert result["only_ours_right"] == result["only_insightface_right"] == 0


def test_photos_without_any_face_are_reported_as_unusable() -> None:
    pairs = pairs_by_hand()
    with pytest.raises(UnusableInput, match="Too few faces"):
        measure_pipeline(pairs, {})
    assert np.isnan(score_pairs(pairs, {})[0]).all()


@pytest.mark.parametrize("folder", ["missing", "."])
def test_a_folder_without_people_is_reported_in_one_sentence(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--images", str(tmp_path / folder)]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(".\n")
    assert printed.out == ""
