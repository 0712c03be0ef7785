"""Faces of known people, clean and degraded, with their genuine similarity, to which quality is fitted.

Of each photo, the face nearest its middle is taken. Its genuine similarity is the similarity to the mean of the clean
faces in its person's other photos. A person with one photo has none (NaN).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.core.pictures import is_picture
from app.vision.face_pack import FacePack
from app.vision.quality.inputs import FaceColumns
from workshop.degradations import DEGRADATIONS, Degradation, Portrait, sharpen
from workshop.samples import read_images

DEGRADED_SHARE = 0.6
CLEAN, SHARPENED = "clean", "sharpened"
PHOTOS_A_PERSON = 8
"""With more, the few people with many photos would decide."""
Names = NDArray[np.str_]


@dataclass(frozen=True)
class QualitySamples:
    """N faces as columns; `kinds` says how each photo was degraded, `photos` (N,) which one it was.

    `faces` is the input of the quality measures; `vectors` (N,D) float32 are as the network gave them, and `parts` the
    dimensions of their parts; `embeddings` (N,K) are what the pack makes of them; `unbrightened` (N,K) are embeddings
    of chips that were not brightened; `genuine` (N,) is the similarity to the face's own person. `missed` counts photos
    of each kind in which no face was detected.
    """

    people: Names
    photos: Names
    kinds: Names
    faces: FaceColumns
    vectors: Floats
    parts: NDArray[np.int64]
    embeddings: Floats
    unbrightened: Floats
    genuine: Floats
    missed: Mapping[str, int]

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> "QualitySamples":
        """The chosen rows."""
        return QualitySamples(
            self.people[which],
            self.photos[which],
            self.kinds[which],
            self.faces.take(which),
            self.vectors[which],
            self.parts,
            self.embeddings[which],
            self.unbrightened[which],
            self.genuine[which],
            self.missed,
        )


def list_people(folder: Path, limit: int | None = None) -> dict[str, list[Path]]:
    """A folder with a folder a person → the first photos of each, of at most `limit` people spread evenly."""
    people = {
        person.name: sorted(filter(is_picture, person.iterdir()))[:PHOTOS_A_PERSON]
        for person in sorted(folder.iterdir())
        if person.is_dir()
    }
    names = [name for name, photos in people.items() if photos]
    step = 1 if limit is None else max(1, len(names) // limit)
    return {name: people[name] for name in names[::step]}


@dataclass(frozen=True)
class _Row:
    person: str
    photo: str
    kind: str
    faces: FaceColumns
    vector: Floats
    unbrightened: Floats


def make_samples(pack: FacePack, people: Mapping[str, Sequence[Path]], seed: int, variants: int = 1) -> QualitySamples:
    """Every photo clean, and `variants` more times: degraded with the probability DEGRADED_SHARE, or else clean again,
    or sharpened from the second time on.

    Rows of the first, clean pass have the kind `reference`.
    """
    rows: list[_Row] = []
    missed: dict[str, int] = {}
    for number, (person, photo, image) in enumerate(_read_photos(pack, people)):
        clean = _analyse(pack, image)
        if clean is None:
            missed["reference"] = missed.get("reference", 0) + 1
            continue
        rows.append(_Row(person, photo, "reference", *clean))
        portrait = Portrait(image, clean[0].landmarks[0])
        for variant in range(variants):
            random = np.random.default_rng([seed, number, variant])
            kind = _choose_kind(random)
            if kind == CLEAN and variant:
                kind, analysis = SHARPENED, _analyse(pack, sharpen(portrait, random))
            else:
                analysis = clean if kind == CLEAN else _analyse(pack, DEGRADATIONS[kind](portrait, random))
            if analysis is None:
                missed[kind] = missed.get(kind, 0) + 1
            else:
                rows.append(_Row(person, photo, kind, *analysis))
    return _concatenate(rows, missed, pack)


def make_covered_samples(
    pack: FacePack, people: Mapping[str, Sequence[Path]], covers: Mapping[str, Degradation], seed: int
) -> QualitySamples:
    """One photo of each person, clean (kind `reference`) and under each cover."""
    rows: list[_Row] = []
    missed: dict[str, int] = {}
    firsts = {person: photos[:1] for person, photos in people.items()}
    for number, (person, photo, image) in enumerate(_read_photos(pack, firsts)):
        clean = _analyse(pack, image)
        if clean is None:
            continue
        rows.append(_Row(person, photo, "reference", *clean))
        portrait = Portrait(image, clean[0].landmarks[0])
        for row, (kind, cover) in enumerate(covers.items()):
            analysis = _analyse(pack, cover(portrait, np.random.default_rng([seed, number, row])))
            if analysis is None:
                missed[kind] = missed.get(kind, 0) + 1
            else:
                rows.append(_Row(person, photo, kind, *analysis))
    return _concatenate(rows, missed, pack)


def _read_photos(pack: FacePack, people: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, str, Image]]:
    for person, photos in people.items():
        for path, image in read_images(photos, pack.view_px):
            yield person, path.stem, image


def _choose_kind(random: Generator) -> str:
    return str(random.choice(list(DEGRADATIONS))) if random.random() < DEGRADED_SHARE else CLEAN


def _analyse(pack: FacePack, image: Image) -> tuple[FaceColumns, Floats, Floats] | None:
    """The face nearest the middle, its vector (D,), and its embedding (K,) without brightening."""
    (detected,) = pack.detect([image])
    if not len(detected):
        return None
    centres = (detected.boxes[:, :2] + detected.boxes[:, 2:]) / 2
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    face = detected.take(np.abs(centres - middle).sum(axis=1).argmin()[None])
    chips = pack.cut_chips(image, face.landmarks)
    (vectors,), (unbrightened,) = pack.compute_vectors([chips]), pack.embed([chips], brighten_dark=False)
    size_px = np.array([[image.shape[1], image.shape[0]]], np.float32)
    return (
        FaceColumns(
            pack.cut_quality_chips(image, face.landmarks, chips), face.boxes, face.landmarks, face.scores, size_px
        ),
        vectors[0],
        unbrightened[0],
    )


def _concatenate(rows: Sequence[_Row], missed: Mapping[str, int], pack: FacePack) -> QualitySamples:
    people, kinds = (np.array([getattr(row, name) for row in rows]) for name in ("person", "kind"))
    photos = np.array([row.photo for row in rows])
    vectors, unbrightened = (np.stack([getattr(row, name) for row in rows]) for name in ("vector", "unbrightened"))
    embeddings = pack.make_embeddings(vectors)
    parts = np.array(pack.manifest.embedder.parts or [pack.manifest.embedder.dimension])
    faces = FaceColumns.concatenate([row.faces for row in rows])
    genuine = compute_genuine_similarities(people, photos, kinds == "reference", embeddings)
    return QualitySamples(people, photos, kinds, faces, vectors, parts, embeddings, unbrightened, genuine, missed)


def compute_genuine_similarities(
    people: Names, photos: Names, is_reference: NDArray[np.bool_], embeddings: Floats
) -> Floats:
    """(N,) people and photos, (N,) which rows are clean references, (N,D) unit vectors → (N,) similarity of each face
    to the mean of its person's references in other photos; NaN where there are none."""
    similarity = np.full(len(people), np.nan, np.float32)
    for person in np.unique(people[is_reference]):
        rows = np.flatnonzero(people == person)
        references = rows[is_reference[rows]]
        for row in rows:
            others = references[photos[references] != photos[row]]
            if len(others):
                mean = embeddings[others].mean(axis=0)
                similarity[row] = embeddings[row] @ mean / max(float(np.linalg.norm(mean)), 1e-9)
    return similarity
