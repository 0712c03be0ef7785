"""What must hold after the real workload, by what the buckets have in the end. Each check returns a sentence for each
wrong end.

The right end is computed here in a few lines of its own, not by the code that is checked.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.core.result_keys import ResultKeys
from app.vision.crops import encode_crops, encode_preview
from benchmarks.chaos.album import Outcome, Place
from benchmarks.chaos.checks import DETECTION_DEAD
from benchmarks.chaos.snapshot import DeadLetter, Document, Snapshot
from benchmarks.chaos.uploader import BAD_KEY, Moment
from benchmarks.chaos.user import Word

ORDER = (".jpg", ".heic", ".png", ".nef")
"""In which order the kinds of photos claim an id."""
MAIN, RAW = (".jpg", ".heic"), ".nef"
READABLE = ("indexed", "no_faces")
SAME_PICTURE = 3.0
"""The mean difference of two encodings of one picture, in 0 to 255, is below this; that of two pictures is above."""
IN_WORK_S = 25.0
"""A worker that was stopped may store what it read so long before."""


@dataclass(frozen=True)
class File:
    """A file that a bucket has in the end, and how it ends as a photo of its own."""

    place: Place
    etag: str
    data: bytes
    outcome: Outcome

    @property
    def content(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def gallery_id(self) -> str:
        return self.place[1].partition("/")[0]

    @property
    def rest(self) -> str:
        return self.place[1].partition("/")[2]

    @property
    def name(self) -> str:
        return self.rest.rpartition(".")[0]

    @property
    def ending(self) -> str:
        return self.rest[len(self.name) :]


@dataclass(frozen=True)
class End:
    """How a file must end: with one of these ids, this status, and this begin of the reason."""

    image_ids: tuple[str, ...]
    status: Outcome
    reason: str = ""


def make_ends(files: Iterable[File]) -> dict[Place, End]:
    """Of the photos of one name, the first by whether it can be read, by ending and by key has the name as its id; the
    others, and what is no photo, keep their ending. A raw file beside a JPEG or HEIC is no photo of its own."""
    named: dict[tuple[str, str], list[File]] = defaultdict(list)
    for file in sorted(files, key=lambda file: (file.place[1], file.place[0])):
        named[file.gallery_id, file.name].append(file)
    ends = {}
    for group in named.values():
        mains = sorted((f for f in group if f.ending in MAIN and f.outcome in READABLE), key=_rank)
        photos = [file for file in group if file.ending in ORDER and not (file.ending == RAW and mains)]
        owner = min(photos, key=_rank, default=None)
        for file in group:
            # Another file may have had the id with the ending when this one came.
            ids = (file.name,) if file is owner else (file.rest, f"{file.rest}~{_make_slot(file.place)}")
            if file.ending == RAW and mains:
                ends[file.place] = End(ids, "not_a_photo", f"belongs to {mains[0].rest.rpartition('/')[2]}")
            else:
                ends[file.place] = End(ids, file.outcome)
    return ends


def _rank(file: File) -> tuple[bool, int, str, str]:
    return file.outcome not in READABLE, ORDER.index(file.ending), file.place[1], file.place[0]


def _make_slot(place: Place) -> str:
    return hashlib.blake2b("/".join(place).encode(), digest_size=4).hexdigest()


def get_place(image: Document) -> Place:
    return image["s3"]["bucket"], image["s3"]["key"]


def find_lost_files(files: Mapping[Place, File], run: Snapshot) -> list[str]:
    """Files that have no record."""
    stored = {get_place(image) for image in run.images.values()}
    return [f"{'/'.join(place)} has no record." for place in sorted(files.keys() - stored)]


def find_duplicated_files(run: Snapshot) -> list[str]:
    """Files with several records, and faces that groups.json lists several times."""
    places = Counter(get_place(image) for image in run.images.values())
    wrong = [f"{'/'.join(place)} has {count} records." for place, count in sorted(places.items()) if count > 1]
    for gallery_id, groups in sorted(run.groups.items()):
        counts = Counter(face["face_id"] for face in list_grouped_faces(groups))
        wrong += [f"{gallery_id}/groups.json lists {name} {n} times." for name, n in counts.items() if n > 1]
    return wrong


def find_revived(files: Mapping[Place, File], run: Snapshot) -> list[str]:
    """Records and faces of photos that the buckets don't have."""
    wrong = [
        f"{name} is stored as {image['status']}, and there is no {'/'.join(get_place(image))}."
        for name, image in sorted(run.images.items())
        if get_place(image) not in files
    ]
    counts = Counter(f"{face['gallery_id']}/{face['image_id']}" for face in run.faces.values())
    return wrong + [
        f"{counts[name]} faces of {name} have no photo." for name in sorted(counts.keys() - run.images.keys())
    ]


def find_wrong_ends(files: Mapping[Place, File], run: Snapshot) -> list[str]:
    """Records with an id, status or reason that the files in the buckets don't call for."""
    ends = make_ends(files.values())
    wrong = []
    for image in run.images.values():
        if (end := ends.get(get_place(image))) is None:
            continue
        where = "/".join(get_place(image))
        if image["image_id"] not in end.image_ids:
            wrong.append(f"{where} has the id {image['image_id']} instead of {end.image_ids[0]}.")
        if image["status"] != end.status:
            wrong.append(f"{where} is {image['status']} ({image['reason']}) instead of {end.status}.")
        elif not (image["reason"] or "").startswith(end.reason):
            wrong.append(f"{where} is {image['status']} because {image['reason']!r}, not because {end.reason!r}.")
    return wrong


def find_swapped(files: Mapping[Place, File], run: Snapshot, pictures: Mapping[str, bytes]) -> list[str]:
    """Records, crops, previews and covers of another content than their file's. `pictures` are the objects of the
    results bucket, by key."""
    wrong = []
    shown: dict[str, Image.Image] = {}
    for name, image in sorted(run.images.items()):
        if (file := files.get(get_place(image))) is None:
            continue
        if image["etag"] != file.etag:
            wrong.append(f"{name} has the etag {image['etag']}, its file {file.etag}.")
        if image["status"] in READABLE and image["content"] != file.content:
            wrong.append(f"{name} was made of another content than its file's.")
        if file.outcome in READABLE:
            shown[name] = Image.open(BytesIO(file.data)).convert("RGB")
            wrong += _compare_preview(name, image, shown[name], pictures)
    for face_id, face in sorted(run.faces.items()):
        owner = f"{face['gallery_id']}/{face['image_id']}"
        if owner in run.images and face["etag"] != run.images[owner]["etag"]:
            wrong.append(f"{face_id} is of the etag {face['etag']}, its photo of {run.images[owner]['etag']}.")
        if owner in shown:
            start, length = face["crop_range"]
            stored = pictures.get(face["crop_key"], b"")[start : start + length]
            wrong += _compare_crop(f"The crop of {face_id}", stored, face, shown[owner])
    return wrong + _find_swapped_covers(run, shown, pictures)


def _find_swapped_covers(run: Snapshot, shown: Mapping[str, Image.Image], pictures: Mapping[str, bytes]) -> list[str]:
    wrong = []
    for gallery_id, groups in sorted(run.groups.items()):
        for person in groups["people"]:
            name, key = f"The cover of {gallery_id}/{person['person_id']}", person["cover_key"]
            face = run.faces.get(person["cover_face_id"])
            if face is None:
                wrong.append(f"{name} is of a face that is not stored.")
            elif picture := shown.get(f"{face['gallery_id']}/{face['image_id']}"):
                wrong += _compare_crop(name, pictures.get(key, b""), face, picture)
    return wrong


def _compare_preview(name: str, image: Document, picture: Image.Image, pictures: Mapping[str, bytes]) -> list[str]:
    if image["preview_key"] is None or image["preview_key"] not in pictures:
        return []  # find_orphans says what is missing.
    stored = _decode(pictures[image["preview_key"]])
    right = _decode(encode_preview(np.asarray(picture), max(stored.shape[:2])))
    return _compare(f"The preview of {name}", stored, right)


def _compare_crop(name: str, stored: bytes, face: Document, picture: Image.Image) -> list[str]:
    if not stored:
        return [f"{name} is missing."]
    try:
        crop = _decode(stored)
    except OSError:
        return [f"{name} is no picture."]
    (right,) = encode_crops(np.asarray(picture), np.array([face["box"]], np.float32))
    return _compare(name, crop, _decode(right))


def _compare(name: str, stored: NDArray[np.float32], right: NDArray[np.float32]) -> list[str]:
    if stored.shape != right.shape:
        sizes = [f"{shape[1]} x {shape[0]} pixels" for shape in (stored.shape, right.shape)]
        return [f"{name} shows another picture, of {' instead of '.join(sizes)}."]
    difference = float(np.abs(stored - right).mean())
    return [f"{name} shows another picture, by {difference:.0f} of 255."] if difference > SAME_PICTURE else []


def _decode(data: bytes) -> NDArray[np.float32]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"), np.float32)


def list_grouped_faces(groups: Document) -> list[Document]:
    return [*(face for person in groups["people"] for face in person["faces"]), *groups["unassigned"]]


def find_ungrouped(run: Snapshot) -> list[str]:
    """Galleries whose groups.json isn't that of the faces and photos that are stored."""
    wrong = []
    for gallery_id in sorted({image["gallery_id"] for image in run.images.values()} - run.galleries.keys()):
        wrong.append(f"{gallery_id} was never noted as changed.")
    for gallery_id, gallery in sorted(run.galleries.items()):
        grouped = (gallery.get("last_run") or {}).get("revision")
        groups = run.groups.get(gallery_id)
        if grouped != gallery.get("revision") or groups is None:
            wrong.append(f"{gallery_id} is at revision {gallery.get('revision')}, its last run saw {grouped}.")
            continue
        faces = [face for face in run.faces.values() if face["gallery_id"] == gallery_id]
        images = [image for image in run.images.values() if image["gallery_id"] == gallery_id]
        for what, listed, stored in (
            (
                "faces",
                {(face["face_id"], face["digest"]) for face in list_grouped_faces(groups)},
                {(face["_id"], face["digest"]) for face in faces},
            ),
            (
                "skipped photos",
                {(photo["image_id"], photo["key"], photo["status"]) for photo in groups["skipped"]},
                {(one["image_id"], one["s3"]["key"], one["status"]) for one in images if one["status"] != "indexed"},
            ),
        ):
            if listed != stored:
                some = sorted(map(str, listed ^ stored))[:2]
                wrong.append(f"{gallery_id}/groups.json lists other {what} than MongoDB, such as {' and '.join(some)}.")
    return wrong


def find_left_files(run: Snapshot) -> list[str]:
    """Files below groups/ that no groups.json names, and covers that no person has."""
    wrong = []
    for gallery_id, groups in sorted(run.groups.items()):
        shards = ResultKeys().shards(gallery_id)
        files = {key for key in run.keys if key.startswith(shards)}
        wrong += [f"{key} is not named by groups.json." for key in sorted(files - set(groups["files"]))]
        prefix = ResultKeys().covers(gallery_id)
        named = {person["cover_key"] for person in groups["people"]}
        wrong += [f"{key} is nobody's." for key in sorted(run.keys - named) if key.startswith(prefix)]
    return wrong


ONE_PICTURE = 0.95
"""Correlation of two pictures' pixels; of one picture in two sizes it is 0.99 and more, of different ones below 0.9."""


def _look_roughly(data: bytes) -> NDArray[np.float64]:
    """(16,16) grey values with the mean 0 and the deviation 1."""
    with Image.open(BytesIO(data)) as picture:
        grey = np.asarray(ImageOps.exif_transpose(picture).convert("L").resize((16, 16)), np.float64)
    deviation = grey.std()
    return (grey - grey.mean()) / deviation if deviation else np.zeros_like(grey)


class Words:
    """What users have said, looked up by the faces that are stored in the end."""

    def __init__(self, words: Iterable[Word], history: Mapping[Place, Sequence[Moment]], run: Snapshot) -> None:
        self._run, self._history = run, history
        self._into = {(one["gallery_id"], one["person_id"]): one.get("merged_into") for one in run.people.values()}
        self._said: dict[tuple[str, Place | None], list[Word]] = defaultdict(list)
        for word in words:
            self._said[word.gallery_id, word.place].append(word)
        moments = (moment for some in history.values() for moment in some)
        self._data = {hashlib.sha256(one.data).hexdigest(): one.data for one in moments if one.data}

    def resolve(self, gallery_id: str, person_id: str) -> str:
        """The person that this one is now."""
        while further := self._into.get((gallery_id, person_id)):
            person_id = further
        return person_id

    def find(self, face: Document, image: Document) -> list[Word]:
        """What was said of this face, in order: of this content, or of the same picture under the same key, which was
        exported anew since (decision 131)."""
        said = [*self._said[face["gallery_id"], get_place(image)], *self._said[face["gallery_id"], None]]
        about = [
            word
            for word in said
            if (word.digest == face["digest"] and word.content in (None, image["content"]))
            or (word.place and self._is_exported_anew(word.content, image["content"]))
        ]
        return sorted(about, key=lambda word: word.at)

    def _is_exported_anew(self, former: str | None, now: str) -> bool:
        """Whether the two contents are one picture in another size or brightness."""
        if former == now or former not in self._data or now not in self._data:
            return False
        one, other = (_look_roughly(self._data[content]) for content in (former, now))
        return bool(np.mean(one * other) > ONE_PICTURE)

    def list_faces(self) -> Iterator[tuple[Document, list[Word]]]:
        """All faces of photos, and what was said of each."""
        for _, face in sorted(self._run.faces.items()):
            if image := self._run.images.get(f"{face['gallery_id']}/{face['image_id']}"):
                yield face, self.find(face, image)

    def list_held(self) -> Iterator[tuple[Document, Word]]:
        """The faces on which a word must be, and the last word on each."""
        for face, about in self.list_faces():
            if about and about[-1].is_sure and about[-1].place and _has_stayed(about[-1], self._history):
                yield face, about[-1]


def find_misplaced(words: Words) -> list[str]:
    """Words on faces that users didn't mean, and words that are gone from faces whose photo has stayed."""
    wrong = []
    for face, about in words.list_faces():
        resolve = partial(words.resolve, face["gallery_id"])
        confirmed = {resolve(word.person_id) for word in about if word.kind == "confirm"}
        rejected = {resolve(word.person_id) for word in about if word.kind == "reject"}
        person = face.get("person_id")
        if face.get("assigned_by") == "user" and person not in confirmed:
            wrong.append(f"{face['_id']} is confirmed as {person}, which nobody said of it.")
        refused = {resolve(one) for one in face.get("rejected", ())} - rejected
        wrong += [f"{face['_id']} is rejected for {one}, which nobody said of it." for one in sorted(refused)]
    for face, word in words.list_held():
        meant, person = words.resolve(word.gallery_id, word.person_id), face.get("person_id")
        refused = {words.resolve(word.gallery_id, one) for one in face.get("rejected", ())}
        if word.kind == "confirm" and (face.get("assigned_by"), person) != ("user", meant):
            wrong.append(f"{face['_id']} was confirmed as {meant}; now it is {person}'s, by {face.get('assigned_by')}.")
        if word.kind == "reject" and meant not in refused:
            wrong.append(f"{face['_id']} was rejected for {meant}, and nothing says so now.")
    return wrong


def _has_stayed(word: Word, history: Mapping[Place, Sequence[Moment]]) -> bool:
    """Whether the file had the word's content all the time, from before the word until the end."""
    if word.place is None or word.place[1].endswith(RAW):
        return False  # A raw file loses its faces while a JPEG is beside it.
    moments = history.get(word.place, ())
    since = max((row for row, one in enumerate(moments) if one.at <= word.at - IN_WORK_S), default=0)
    contents = {one.data and hashlib.sha256(one.data).hexdigest() for one in moments[since:]}
    return contents == {word.content}


def is_bad_letter(letter: DeadLetter) -> bool:
    """Whether a dead letter is one of the plan's bad records, alone and with a reason."""
    try:
        records = json.loads(letter.body)["Records"]
        key = records[0]["s3"]["object"]["key"]
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    return len(records) == 1 and key.startswith(BAD_KEY.partition("{")[0]) and letter.reason is not None


def find_wrong_letters(bad: Iterable[int], run: Snapshot) -> list[str]:
    """Bad records that are not dead letters of their own, and dead letters that are none of them."""
    letters = [letter for letter in run.dead_letters if is_bad_letter(letter)]
    wrong = [
        f"The bad record {number} is no dead letter."
        for number in bad
        if not any(json.dumps(BAD_KEY.format(number)) in letter.body for letter in letters)
    ]
    return wrong + [
        f"A message is dead-lettered, and it is no bad record ({letter.reason}): {letter.body[:200]}"
        for letter in run.dead_letters
        if not is_bad_letter(letter) and letter.queue == DETECTION_DEAD
    ]


def count_words(run: Snapshot) -> int:
    """Users' words that are on faces in the end. Without any, `find_misplaced` would have shown nothing."""
    return sum((face.get("assigned_by") == "user") + len(face.get("rejected", ())) for face in run.faces.values())
