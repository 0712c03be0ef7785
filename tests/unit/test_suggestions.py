from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from app.clustering.suggestions import BELOW_PART, MOST_SUGGESTIONS, Suggestion, suggest_merges
from app.core.records import PersonRecord, PersonStatus

THRESHOLD = 0.5
LEAST = THRESHOLD - BELOW_PART * (1 - THRESHOLD)


def means(*rows: Sequence[float]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def between(similarity: float) -> np.ndarray:
    """Two people of this similarity, and one who is like neither."""
    return means([1, 0, 0], [similarity, np.sqrt(1 - similarity**2), 0], [0, 0, 1])


def suggest(
    vectors: np.ndarray, *known: PersonRecord, photos: Mapping[str, Sequence[str]] | None = None
) -> list[Suggestion]:
    ids = [f"p{number}" for number in range(len(vectors))]
    return suggest_merges(ids, vectors, THRESHOLD, photos or {}, known)


@pytest.mark.parametrize(("similarity", "count"), [(LEAST - 0.01, 0), (LEAST + 0.01, 1), (0.9, 1)])
def test_a_pair_is_suggested_from_somewhat_below_the_threshold_on(similarity: float, count: int) -> None:
    found = suggest(between(similarity))
    assert found == [Suggestion("p0", "p1", pytest.approx(similarity, abs=1e-3))][:count]


def test_the_person_of_more_photos_is_the_one_that_the_other_is_suggested_for() -> None:
    (found,) = suggest(between(0.6), photos={"p0": ["1"], "p1": ["2", "3"]})
    assert (found.person_id, found.other) == ("p1", "p0")


def test_people_who_are_in_one_photo_are_not_one_person() -> None:
    assert suggest(between(0.6), photos={"p0": ["1", "2"], "p1": ["2"]}) == []
    many = {"p0": [str(number) for number in range(20)], "p1": [str(number) for number in range(19, 40)]}
    assert len(suggest(between(0.6), photos=many)) == 1


def test_a_no_is_kept_in_both_orders_and_for_merged_ids() -> None:
    vectors = between(0.6)
    assert suggest(vectors, PersonRecord("p1", "", 1, 1, kept_apart=("p0",))) == []
    former = PersonRecord("old", "", 0, 0, status=PersonStatus.MERGED, merged_into="p1")
    assert suggest(vectors, former, PersonRecord("p0", "", 1, 1, kept_apart=("old",))) == []
    assert len(suggest(vectors, PersonRecord("p0", "", 1, 1, kept_apart=("p2", "gone")))) == 1


def test_two_named_people_are_not_suggested_and_a_named_one_with_another_is() -> None:
    ann, bob = PersonRecord("p0", "", 1, 1, name="Ann"), PersonRecord("p1", "", 1, 1, name="Bob")
    assert suggest(between(0.6), ann, bob) == []
    assert len(suggest(between(0.6), ann)) == 1


def test_each_person_is_suggested_once_with_its_most_similar_one() -> None:
    vectors = means([1, 0, 0], [0.8, 0.6, 0], [0.9, 0.43, 0])
    assert [(one.person_id, one.other) for one in suggest(vectors)] == [("p1", "p2")]


def test_the_most_similar_come_first_and_they_are_bounded() -> None:
    rows = []
    for number in range(MOST_SUGGESTIONS + 20):
        similarity = 0.5 + 0.4 * number / 200
        one = np.zeros(2 * (MOST_SUGGESTIONS + 20), np.float32)
        other = one.copy()
        one[2 * number], other[2 * number], other[2 * number + 1] = 1, similarity, np.sqrt(1 - similarity**2)
        rows += [one, other]
    found = suggest(np.stack(rows).astype(np.float16))
    assert len(found) == MOST_SUGGESTIONS
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


def test_no_people_give_no_suggestions() -> None:
    assert suggest(np.empty((0, 3), np.float16)) == []
