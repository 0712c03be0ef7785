"""Made-up faces are as alike as those they are made after."""

import numpy as np
import pytest

from benchmarks.accuracy.grouping_synthetic import (
    HARD_KEEPS,
    Floats,
    Labels,
    compute_statistics,
    make_synthetic_faces,
    sample_similarities,
)


@pytest.fixture(scope="module")
def real() -> tuple[Floats, Labels]:
    """2,400 faces of 600 people around a common mean, in 16 dimensions; some people, and some photos, vary more."""
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(600), 4)
    centres = generator.normal(0, 1, (600, 16)) * np.linspace(0.4, 1.5, 16) + 0.5
    spread = generator.uniform(0.3, 0.6, 600)[people, None] * generator.gamma(2, 1 / 2, (2400, 1))
    faces = centres[people] + generator.normal(0, 1, (2400, 16)) * spread
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32), people


def percentiles(cosines: Floats) -> Floats:
    return np.percentile(cosines, [5, 25, 50, 75, 95])


def test_similarities_within_and_between_people_are_those_of_the_file(real: tuple[Floats, Labels]) -> None:
    made = make_synthetic_faces(compute_statistics(*real), 5000, dimension=64, hard_share=0)
    for theirs, ours in zip(sample_similarities(*real), sample_similarities(made.embeddings, made.labels), strict=True):
        np.testing.assert_allclose(percentiles(ours), percentiles(theirs), atol=0.08)


def test_faces_are_of_unit_length_in_as_many_dimensions_as_asked_for(real: tuple[Floats, Labels]) -> None:
    made = make_synthetic_faces(compute_statistics(*real), 1000, dimension=48)
    assert made.embeddings.shape == (1000, 48)
    assert made.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made.embeddings, axis=1), 1, atol=1e-5)


def test_the_same_seed_makes_the_same_faces_and_another_does_not(real: tuple[Floats, Labels]) -> None:
    statistics = compute_statistics(*real)
    one, again, other = (make_synthetic_faces(statistics, 300, 32, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.embeddings, again.embeddings)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert not np.array_equal(one.embeddings, other.embeddings)


def test_most_people_have_few_faces_and_a_few_have_many(real: tuple[Floats, Labels]) -> None:
    sizes = np.bincount(make_synthetic_faces(compute_statistics(*real), 20_000, 16).labels)
    assert sizes.sum() == 20_000
    assert sizes.min() == 1
    assert 0.5 < (sizes == 1).mean() < 0.7
    assert 200 < sizes.max() <= 1000


def test_a_fifth_of_the_faces_is_hard_and_less_like_its_person(real: tuple[Floats, Labels]) -> None:
    made = make_synthetic_faces(compute_statistics(*real), 5000, 32)
    assert 0.18 < made.is_hard.mean() < 0.22
    easy, hard = (np.flatnonzero(made.is_hard == kind) for kind in (False, True))
    cosines = made.embeddings @ made.embeddings[easy].T
    same = made.labels[:, None] == made.labels[easy]
    not_itself = np.arange(len(made.labels))[:, None] != easy
    within_easy = cosines[easy][(same & not_itself)[easy]].mean()
    within_hard, between = cosines[hard][same[hard]].mean(), cosines[~same].mean()
    assert (within_hard - between) / (within_easy - between) == pytest.approx(HARD_KEEPS, abs=0.1)


def test_one_face_is_a_gallery_too(real: tuple[Floats, Labels]) -> None:
    assert make_synthetic_faces(compute_statistics(*real), 1, 16).labels.tolist() == [0]


def test_what_cannot_be_made_is_said(real: tuple[Floats, Labels]) -> None:
    with pytest.raises(ValueError, match="don't fit into 8"):
        make_synthetic_faces(compute_statistics(*real), 10, dimension=8)
    with pytest.raises(ValueError, match="Nobody has two faces"):
        compute_statistics(real[0][:3], np.arange(3))


def test_likeness_compares_a_face_with_another_of_its_person_and_with_a_stranger() -> None:
    faces = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [-1, 0]], np.float32)
    within, between = sample_similarities(faces, np.array([0, 0, 1, 1, 1, 2]))
    assert within.tolist() == [1] * 5
    assert set(between.tolist()) <= {0, -1}
