from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import gallery_vectors
from app.core.gallery_vectors import (
    UNASSIGNED,
    GalleryVectors,
    UnreadableVectors,
    decode,
    encode,
    make_face_set,
)


def make_vectors(people: int = 3, faces: int = 5, dimension: int = 8, seed: int = 0) -> GalleryVectors:
    random = np.random.default_rng(seed)
    return GalleryVectors(
        gallery_id="Hochzeit Müller",
        model_id="open-123456789abc",
        published=7,
        fence=3,
        person_ids=[f"p{row}" for row in range(people)],
        means=random.normal(size=(people, dimension)).astype(np.float16),
        face_sets=[f"set {row}" for row in range(people)],
        exemplars=random.normal(size=(faces, dimension)).astype(np.float16),
        exemplar_person=random.integers(UNASSIGNED, max(people, 1), faces).astype(np.int32),
        face_ids=[f"g/写真 {row}/m/0" for row in range(faces)],
        image_ids=[f"写真 {row}" for row in range(faces)],
        digests=[f"{row:016x}" for row in range(faces)],
        boxes=random.random((faces, 4)).astype(np.float32),
    )


def as_plain(vectors: GalleryVectors) -> dict[str, Any]:
    values = {one.name: getattr(vectors, one.name) for one in fields(vectors)}
    return {
        name: (value.dtype, value.shape, value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


@given(st.integers(0, 4), st.integers(0, 6), st.integers(1, 5))
def test_what_is_written_is_read(people: int, faces: int, dimension: int) -> None:
    vectors = make_vectors(people, faces, dimension)
    assert as_plain(decode(encode(vectors))) == as_plain(vectors)


def test_a_gallery_without_faces_has_a_file_too() -> None:
    empty = make_vectors(0, 0, 0)
    assert as_plain(decode(encode(empty))) == as_plain(empty)


def test_equal_vectors_give_equal_bytes() -> None:
    assert encode(make_vectors()) == encode(make_vectors())
    assert encode(make_vectors()) != encode(replace(make_vectors(), published=8))


@pytest.mark.parametrize("place", [0, 5, 300, -40, -1])
def test_a_file_with_another_byte_is_refused(place: int) -> None:
    data = bytearray(encode(make_vectors()))
    data[place] ^= 1
    with pytest.raises(UnreadableVectors, match="digest"):
        decode(bytes(data))


@pytest.mark.parametrize("length", [0, 1, 32, 33, 200])
def test_a_part_of_a_file_is_refused(length: int) -> None:
    with pytest.raises(UnreadableVectors):
        decode(encode(make_vectors())[:length])


def test_a_file_of_a_later_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(gallery_vectors, "VERSION", 2)
        data = encode(make_vectors())
    with pytest.raises(UnreadableVectors, match="version 2, not 1"):
        decode(data)


def test_a_set_of_faces_is_told_by_its_ids_and_their_digests_in_any_order() -> None:
    assert make_face_set([("a", "1"), ("b", "2")]) == make_face_set([("b", "2"), ("a", "1")])
    assert len({make_face_set(one) for one in ([("a", "1")], [("a", "2")], [("b", "1")], [])}) == 4


def test_its_memory_is_counted() -> None:
    vectors = make_vectors(people=1000, faces=4000, dimension=128)
    assert 5000 * 256 < vectors.size_bytes < 5000 * 256 + 4000 * 400 + 1000 * 200
