"""Version 2 of groups.json: an index and the files that it names."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from app.clustering.identity import PersonMatches
from app.clustering.suggestions import Suggestion
from app.core.records import FaceBatch, ImageRecord, ImageStatus, PersonRecord, make_quality_columns
from app.core.result_keys import ResultKeys
from app.core.roles import QualityBars
from app.grouping.output import Groups, GroupsIndex, dump, make_json_schemas, read_groups
from app.grouping.publish import make_groups, name_covers
from app.grouping.shards import MOST_OF_A_SHARD, list_shards, make_shards, write_shards
from tests.fakes import FakeObjectStore
from tests.stores import image_record, photo

KEYS = ResultKeys()
HEADER = Groups(
    gallery_id="g", model="m", generated_at="2026-06-01T12:00:00+00:00", people=[], unassigned=[], skipped=[]
)
SCHEMAS = make_json_schemas()


@dataclass
class Gallery:
    """Faces by the photo that they are on and the person whose they are."""

    faces: list[tuple[str, str | None]]
    skipped: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    suggestions: list[Suggestion] = field(default_factory=list)
    generated_at: str = HEADER.generated_at

    @property
    def images(self) -> list[ImageRecord]:
        names = sorted({name for name, _ in self.faces})
        previews = {name: f"face-worker/g/previews/{name}" for name in names}
        with_faces = [replace(image_record(photo(name)), preview_key=key) for name, key in previews.items()]
        without = [replace(image_record(photo(name), 0), status=ImageStatus.NO_FACES) for name in self.skipped]
        return [*with_faces, *without]

    @property
    def batch(self) -> FaceBatch:
        count = len(self.faces)
        return FaceBatch(
            face_ids=[f"g/{name}/m/{row}" for row, (name, _) in enumerate(self.faces)],
            image_ids=[name for name, _ in self.faces],
            boxes=np.array([[1.4, 2, 3, 4.6]] * count, np.float32),
            det_scores=np.full(count, 0.987654, np.float32),
            quality=make_quality_columns([{"unified": 44.44, "yaw": 3}] * count),
            embeddings=np.empty((count, 0), np.float32),
            crop_keys=[f"face-worker/g/faces/{name}.crops" for name, _ in self.faces],
            person_ids=[None] * count,
            digests=["0123456789abcdef"] * count,
            etags=[None] * count,
            crop_ranges=[(10 * row, 10) for row in range(count)],
        )

    def group(self) -> Groups:
        batch, owners = self.batch, [owner for _, owner in self.faces]
        people = []
        for number, person_id in enumerate(dict.fromkeys(filter(None, owners)), 1):
            rows = [row for row, owner in enumerate(owners) if owner == person_id]
            photos = {batch.image_ids[row] for row in rows}
            cover, name = batch.face_ids[rows[0]], self.names.get(person_id)
            people.append(PersonRecord(person_id, cover, len(rows), len(photos), name, number=number))
        header = HEADER.model_copy(update={"generated_at": self.generated_at})
        groups = make_groups(header, batch, PersonMatches(owners, {}, {}), people, self.images, QualityBars())
        return name_covers(groups, {one.person_id: f"face-worker/g/covers/{one.person_id}.jpg" for one in people})


class Bucket(FakeObjectStore):
    """The results bucket, to which runs publish."""

    def publish(self, gallery: Gallery, fence: int = 1, base_url: str | None = None) -> GroupsIndex:
        """What a run does, up to the index. Returns it."""
        groups = gallery.group()
        shards = make_shards(groups, gallery.suggestions, gallery.batch, gallery.images, KEYS, base_url)
        index, left_over = write_shards(shards, KEYS, self, fence)
        self.replace(KEYS.groups("g"), dump(index), "application/json", fence)
        self.remove(left_over)
        return index

    def read_path(self, path: str) -> bytes:
        return self.read(f"face-worker/g/{path}")

    def load(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self.read_path(path)))

    def take_journal(self) -> list[str]:
        """What was written and removed since the last call, below the gallery's folder and without fence and digest."""
        lines = [line.replace("face-worker/g/", "") for line in self.journal]
        self.journal.clear()
        return sorted(line.rsplit("-", 2)[0] if "groups/" in line else line for line in lines)

    @property
    def paths(self) -> set[str]:
        return {key.removeprefix("face-worker/g/") for key in self.output_keys}


PARTY = Gallery([("a", "p1"), ("a", "p2"), ("b", "p1"), ("c", None)], skipped=["d"], names={"p1": "Ann"})


@pytest.fixture
def bucket() -> Bucket:
    return Bucket("results")


def test_the_index_has_the_people_and_the_counts(bucket: Bucket) -> None:
    index = bucket.load(bucket.publish(PARTY) and "groups.json")
    assert index["counts"] == {"photos": 3, "faces": 4, "people": 2, "unassigned": 1, "skipped": 1}
    ann, other = index["people"]
    assert {name: value for name, value in ann.items() if name != "shard"} == {
        "person_id": "p1",
        "number": 1,
        "name": "Ann",
        "hidden": False,
        "face_count": 2,
        "photo_count": 2,
        "cover_face_id": "g/a/m/0",
        "cover": "covers/p1.jpg",
    }
    assert (other["number"], "name" in other) == (2, False)
    assert index["folder"] == "face-worker/g/"
    assert "folder_url" not in index


def test_a_persons_file_has_the_persons_faces_alone_and_all_to_show_them(bucket: Bucket) -> None:
    person = bucket.load(bucket.publish(PARTY).people[1].shard)
    assert person == {
        "version": 2,
        "gallery_id": "g",
        "model": "m",
        "folder": "face-worker/g/",
        "person_id": "p2",
        "number": 2,
        "photos": {
            "a": {
                "key": "g/a.jpg",
                "size": [64, 48],
                "preview": "previews/a",
                "crops": "faces/a.crops",
                "faces": [
                    {
                        "face_id": "g/a/m/1",
                        "digest": "0123456789abcdef",
                        "box": [1, 2, 3, 5],
                        "crop": [10, 10],
                        "quality": 44.4,
                    }
                ],
            }
        },
    }


def test_unassigned_faces_have_a_reason_and_skipped_photos_theirs(bucket: Bucket) -> None:
    index = bucket.publish(PARTY)
    ((image_id, alone),) = bucket.load(index.unassigned[0].shard)["photos"].items()
    assert image_id == "c"
    assert "it is not clearly like a better face" in alone["faces"][0]["why_alone"]
    (skipped,) = bucket.load(index.skipped[0].shard)["skipped"]
    assert (skipped["image_id"], skipped["key"], skipped["status"]) == ("d", "g/d.jpg", "no_faces")


def test_suggestions_are_a_file_with_both_covers_and_none_is_named_where_there_are_none(bucket: Bucket) -> None:
    index = bucket.publish(replace(PARTY, suggestions=[Suggestion("p1", "p2", 0.43)]))
    assert [part.count for part in index.suggestions] == [1]
    assert bucket.load(index.suggestions[0].shard)["suggestions"] == [
        {
            "person_id": "p1",
            "other": "p2",
            "similarity": 0.43,
            "cover": "covers/p1.jpg",
            "other_cover": "covers/p2.jpg",
        }
    ]
    index = bucket.publish(PARTY, fence=2)
    assert index.suggestions == []
    assert not any("suggestions" in path for path in bucket.paths)


def test_every_file_is_as_its_schema_says(bucket: Bucket) -> None:
    party = replace(PARTY, suggestions=[Suggestion("p1", "p2", 0.43)])
    index = bucket.publish(party, base_url="https://cdn.example.com/")
    kinds = {"groups_person": index.people, "groups_unassigned": index.unassigned, "groups_skipped": index.skipped}
    kinds["groups_suggestions"] = index.suggestions
    jsonschema.validate(bucket.load("groups.json"), SCHEMAS["groups"])
    for kind, parts in kinds.items():
        for part in parts:
            jsonschema.validate(bucket.load(part.shard), SCHEMAS[kind])


def test_the_folder_has_a_url_where_the_bucket_has_one(bucket: Bucket) -> None:
    index = bucket.publish(PARTY, base_url="https://cdn.example.com/x/")
    assert index.folder_url == "https://cdn.example.com/x/face-worker/g/"


def test_a_picture_outside_the_gallerys_folder_has_its_whole_key(bucket: Bucket) -> None:
    groups = name_covers(PARTY.group(), {"p1": "g/faces/a.webp"})
    batch = replace(PARTY.batch, crop_ranges=[None] * 4)
    index = make_shards(groups, [], batch, PARTY.images, KEYS, None).index
    assert [person.cover for person in index.people] == ["/g/faces/a.webp", None]


def test_both_versions_read_as_one_say_the_same(bucket: Bucket) -> None:
    bucket.publish(PARTY)
    first, second = PARTY.group(), read_groups(bucket.read_path("groups.json"), bucket.read_path)
    assert read_groups(first.model_dump_json().encode(), bucket.read_path) == first

    def without_measures(groups: Groups) -> dict[str, Any]:
        fields = groups.model_dump()
        for face in (face for one in (*fields["people"], {"faces": fields["unassigned"]}) for face in one["faces"]):
            del face["quality"], face["box"], face["det_score"]
        return fields

    assert without_measures(second) == without_measures(first)


def test_the_same_again_writes_no_file(bucket: Bucket) -> None:
    first = bucket.publish(PARTY)
    bucket.take_journal()
    assert bucket.publish(PARTY, fence=2) == first
    assert bucket.take_journal() == ["put groups.json"]


def test_one_more_photo_changes_the_files_of_those_on_it(bucket: Bucket) -> None:
    bucket.publish(PARTY)
    bucket.take_journal()
    bucket.publish(replace(PARTY, faces=[*PARTY.faces, ("e", "p2")]), fence=2)
    assert bucket.take_journal() == ["put groups.json", "put groups/people/p2", "remove groups/people/p2"]


def test_an_index_is_stored_after_its_files_and_before_the_former_ones_go(bucket: Bucket) -> None:
    bucket.publish(PARTY)
    bucket.journal.clear()
    bucket.publish(replace(PARTY, names={"p1": "Anna"}), fence=2)
    kinds = [line.replace("face-worker/g/", "").partition("-")[0] for line in bucket.journal]
    assert kinds == ["put groups/people/p1", "put groups.json", "remove groups/people/p1"]


def test_a_file_that_was_lost_is_written_again(bucket: Bucket) -> None:
    index = bucket.publish(PARTY)
    bucket.remove([f"face-worker/g/{index.people[0].shard}"])
    again = bucket.publish(PARTY, fence=2)
    assert {part.shard for part in again.people} < bucket.paths


def test_a_file_that_no_index_names_is_not_relied_on(bucket: Bucket) -> None:
    """Whoever wrote it may be about to remove it."""
    index = bucket.publish(PARTY)
    bucket.replace(KEYS.groups("g"), b"{}", "application/json", 2)
    again = bucket.publish(PARTY, fence=3)
    assert not {part.shard for part in again.people} & {part.shard for part in index.people}
    assert {part.shard for part in (*again.people, *again.unassigned, *again.skipped)} | {"groups.json"} == bucket.paths


def test_a_run_that_wakes_late_removes_no_file_of_a_newer_one(bucket: Bucket) -> None:
    newer = bucket.publish(PARTY, fence=5)
    shards = make_shards(PARTY.group(), [], PARTY.batch, PARTY.images, KEYS, None)
    bucket.remove([KEYS.groups("g")])
    _, left_over = write_shards(shards, KEYS, bucket, 4)
    assert left_over == []
    assert list_shards("g", KEYS, bucket, 4) != list_shards("g", KEYS, bucket, 5)
    assert {part.shard for part in newer.people} < bucket.paths


def test_long_lists_are_split_into_files_of_which_one_photo_changes_one(bucket: Bucket) -> None:
    crowd = Gallery([(f"{row:04}", None) for row in range(5 * MOST_OF_A_SHARD)])
    index = bucket.publish(crowd)
    assert len(index.unassigned) == 8
    assert sum(part.count for part in index.unassigned) == 5 * MOST_OF_A_SHARD
    assert max(part.count for part in index.unassigned) < 2 * MOST_OF_A_SHARD
    bucket.take_journal()
    bucket.publish(replace(crowd, faces=[*crowd.faces, ("more", None)]), fence=2)
    puts = [line for line in bucket.take_journal() if line.startswith("put groups/unassigned/")]
    assert len(puts) == 1


def test_the_digest_is_of_all_but_the_time() -> None:
    def digest(gallery: Gallery, base_url: str | None = None) -> str:
        return make_shards(gallery.group(), gallery.suggestions, gallery.batch, gallery.images, KEYS, base_url).digest

    assert digest(PARTY) == digest(replace(PARTY, generated_at="2027-01-01T00:00:00+00:00"))
    others = [replace(PARTY, names={}), replace(PARTY, skipped=["d", "e"]), replace(PARTY, faces=PARTY.faces[1:])]
    assert len({digest(PARTY), digest(PARTY, "https://cdn.example.com/"), *map(digest, others)}) == 5
