"""How large is what applications read of a gallery, and what does one more photo rewrite?

`python -m benchmarks output [--photos 100000] [--people 5000] [--json]`

A synthetic gallery with three faces a photo, of which one in ten has no person. People are on very different numbers
of photos, as guests are: two in three on up to 2.7 times more or fewer than the median one. The index and its files
are made as a grouping run makes them (app/grouping/shards.py), and kept in memory. Exit code 1 where the index has more
than 2 MB, the median person's file more than 50 KB, or all of it more than 400 bytes a face.

- `index_bytes`; `median_person_bytes` and `largest_person_bytes` of the people's files; `other_files`: those of
  unassigned faces and skipped photos; `bytes_a_face`: the index and all files by the number of faces
- `version_1_bytes`: the one file of version 1
- `photo_files` and `photo_bytes`: what a run writes, with the index, after one more photo of three people
- `cpu_seconds`: of this process, to make all of it of what version 1 says
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import cast

import numpy as np

from app.clustering.identity import PersonMatches
from app.core.ports import ObjectStore
from app.core.records import (
    FaceBatch,
    ImageRecord,
    ImageStatus,
    PersonRecord,
    PhotoRef,
    make_face_id,
    make_quality_columns,
)
from app.core.result_keys import ResultKeys
from app.core.roles import QualityBars
from app.grouping.covers import list_covers
from app.grouping.output import Groups, dump
from app.grouping.publish import make_groups, name_covers
from app.grouping.shards import make_shards, write_shards
from app.grouping.summary import summarise
from benchmarks.common.command import print_result

GALLERY, MODEL = "wedding-2026", "open-0123456789ab"
CONTENT = "0123456789abcdef" * 4
FACES_A_PHOTO = 3
ALONE = 10
"""One of so many faces has no person."""
SKIPPED = 20
"""One more of so many photos has no face."""
PHOTO_PX = (6000, 4000)
BOUNDS = {"index_bytes": 2_000_000, "median_person_bytes": 50_000, "bytes_a_face": 400}
KEYS = ResultKeys()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks output", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--people", type=int, default=5_000)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    measured = print_result(lambda: measure_output(options.photos, options.people), as_json=options.json)
    return 0 if measured and all(measured[name] <= most for name, most in BOUNDS.items()) else 1


def measure_output(photos: int, people: int) -> dict[str, float]:
    bucket, owners = Bucket(), draw_owners(photos, people)
    groups, seconds = publish(bucket, owners, fence=1)
    sizes = {key: len(data) for key, data in bucket.objects.items()}
    files = [size for key, size in sizes.items() if "/groups/people/" in key]
    before = set(bucket.objects)
    known = [owner for owner in owners[:1000] if owner][:FACES_A_PHOTO]
    publish(bucket, [*owners, *known], fence=2)
    written = {key: len(data) for key, data in bucket.objects.items() if key not in before}
    index_bytes = len(bucket.objects[KEYS.groups(GALLERY)])
    return {
        "photos": photos,
        "people": len(groups.people),
        "faces": len(owners),
        "index_bytes": sizes[KEYS.groups(GALLERY)],
        "median_person_bytes": round(median(files)),
        "largest_person_bytes": max(files),
        "other_files": len(sizes) - len(files) - 1,
        "bytes_a_face": round(sum(sizes.values()) / len(owners), 1),
        "version_1_bytes": len(groups.model_dump_json()),
        "photo_files": len(written) + 1,
        "photo_bytes": sum(written.values()) + index_bytes,
        "cpu_seconds": round(seconds, 1),
    }


def draw_owners(photos: int, people: int) -> list[str | None]:
    """The person of each face, photo by photo: nobody, or each person at least once."""
    chance = np.random.default_rng(0)
    weights = chance.lognormal(size=people)
    count = photos * FACES_A_PHOTO
    drawn = np.concatenate([np.arange(people), chance.choice(people, count - people, p=weights / weights.sum())])
    alone = chance.random(count) < 1 / ALONE
    alone[:people] = False
    order = chance.permutation(count)
    return [None if alone[row] else f"p{drawn[row]:016x}" for row in order]


class Bucket:
    """The part of the results bucket that is written here."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self.objects[key] = data

    def fetch(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def list_keys(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        return ((key, datetime.now(UTC)) for key in list(self.objects) if key.startswith(prefix))


def publish(bucket: Bucket, owners: list[str | None], fence: int) -> tuple[Groups, float]:
    """What a grouping run does with people that are known. Returns them in the form of version 1, and the seconds from
    there to the index."""
    images, faces = make_images(len(owners) // FACES_A_PHOTO), make_faces(owners)
    people = [number_person(person) for person in summarise(faces, owners)]
    header = Groups(
        gallery_id=GALLERY, model=MODEL, generated_at="2026-06-01T12:00:00+00:00", people=[], unassigned=[], skipped=[]
    )
    groups = make_groups(header, faces, PersonMatches(owners, {}, {}), people, images, QualityBars())
    covers = list_covers(GALLERY, faces, people, KEYS)
    groups = name_covers(groups, {person_id: key for person_id, (key, _) in covers.items()})
    begin = time.process_time()
    shards = make_shards(groups, [], faces, images, KEYS, "https://photos.example.com/")
    # Of a store, only what Bucket has is used here.
    index, left_over = write_shards(shards, KEYS, cast(ObjectStore, bucket), fence)
    bucket.put(KEYS.groups(GALLERY), dump(index), "application/json")
    for key in left_over:
        del bucket.objects[key]
    return groups, time.process_time() - begin


def number_person(person: PersonRecord) -> PersonRecord:
    """As the store does; and one person in five has a name."""
    number = int(person.person_id[1:], 16) + 1
    return replace(person, number=number, name=None if number % 5 else f"Alexandra Example {number}")


def make_images(count: int) -> list[ImageRecord]:
    return [make_image(number, ImageStatus.INDEXED) for number in range(count)] + [
        replace(make_image(number, ImageStatus.NO_FACES), reason="No face was found.")
        for number in range(count, count + count // SKIPPED)
    ]


def make_image(number: int, status: ImageStatus) -> ImageRecord:
    name = f"DSC_{number:06}"
    photo = PhotoRef(GALLERY, name, "photos", f"{GALLERY}/{name}.jpg", name)
    width, height = PHOTO_PX
    preview = KEYS.preview(photo, 1, CONTENT) if status is ImageStatus.INDEXED else None
    return ImageRecord(photo, status, width_px=width, height_px=height, model_id=MODEL, preview_key=preview)


def make_faces(owners: list[str | None]) -> FaceBatch:
    count = len(owners)
    photos = [make_image(row // FACES_A_PHOTO, ImageStatus.INDEXED).photo for row in range(count)]
    # One generator a column, so that more faces leave those before them as they are.
    corners = np.random.default_rng(1).uniform(0, 3500, (count, 2))
    sides = np.random.default_rng(2).uniform(50, 400, (count, 2))
    quality: list[Mapping[str, float]] = [
        {
            "unified": unified,
            "size_px": 123.456,
            "sharpness": 7.512,
            "yaw": -12.345,
            "eyes_covered": 0,
            "mouth_covered": 0,
        }
        for unified in np.random.default_rng(3).uniform(20, 100, count)
    ]
    rows = range(count)
    return FaceBatch(
        face_ids=[make_face_id(photos[row], MODEL, row % FACES_A_PHOTO) for row in rows],
        image_ids=[photo.image_id for photo in photos],
        boxes=np.hstack([corners, corners + sides]).astype(np.float32),
        det_scores=np.random.default_rng(4).uniform(0.7, 1, count).astype(np.float32),
        quality=make_quality_columns(quality),
        embeddings=np.empty((count, 0), np.float32),
        crop_keys=[KEYS.crops(photo, 1, CONTENT, MODEL) for photo in photos],
        person_ids=list(owners),
        digests=[f"{row:016x}" for row in rows],
        etags=[None] * count,
        crop_ranges=[(row % FACES_A_PHOTO * 8000, 8000 + row % 2000) for row in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
