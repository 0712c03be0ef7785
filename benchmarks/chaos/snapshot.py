"""All that is stored after a run, read directly from the stores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.adapters.mongo_records import decode_vectors
from app.core.result_keys import ResultKeys
from app.grouping import output
from benchmarks.chaos.world import SETTINGS, World

LOOKED_AT_FOR_S = 120

Document = dict[str, Any]


@dataclass(frozen=True)
class DeadLetter:
    """`reason` and `receive_count` are None where the queue's own redrive put it there."""

    queue: str
    message_id: str
    body: str
    reason: str | None
    receive_count: str | None = None
    receipt: str = field(default="", compare=False)


@dataclass(frozen=True)
class Snapshot:
    """Documents by `_id`, people and groups by gallery, keys of the output bucket, dead letters."""

    images: dict[str, Document]
    faces: dict[str, Document]
    people: dict[str, Document]
    galleries: dict[str, Document]
    groups: dict[str, Document]
    keys: frozenset[str]
    dead_letters: list[DeadLetter]


def read_snapshot(world: World) -> Snapshot:
    collections = {
        name: {document["_id"]: document for document in world.database[name].find()}
        for name in ("images", "faces", "people", "galleries")
    }
    for face in collections["faces"].values():
        face["embedding"] = _decode_vector(face["embedding"])
    keys = frozenset(_list_keys(world))
    groups = {
        gallery: read_groups(world, gallery)
        for gallery in collections["galleries"]
        if ResultKeys().groups(gallery) in keys
    }
    return Snapshot(**collections, groups=groups, keys=keys, dead_letters=read_dead_letters(world))


def read_dead_letters(world: World, must_delete: Callable[[DeadLetter], bool] = lambda _: False) -> list[DeadLetter]:
    """All dead letters. Those for which `must_delete` is true are deleted from their queue."""
    letters: list[DeadLetter] = []
    for queue in ("detection-dead-letters", "grouping-dead-letters"):
        while True:
            answer = world.sqs.receive_message(
                QueueUrl=world.queues[queue],
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                VisibilityTimeout=LOOKED_AT_FOR_S,
                WaitTimeSeconds=0,
            )
            if not answer.get("Messages"):
                break
            letters += [_read_dead_letter(queue, message) for message in answer["Messages"]]
    for letter in letters:
        receipt = {"QueueUrl": world.queues[letter.queue], "ReceiptHandle": letter.receipt}
        if must_delete(letter):
            world.sqs.delete_message(**receipt)
        else:
            world.sqs.change_message_visibility(**receipt, VisibilityTimeout=0)
    return letters


def _read_dead_letter(queue: str, message: Mapping[str, Any]) -> DeadLetter:
    attributes = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
    reason, count = attributes.get("reason"), attributes.get("receive_count")
    return DeadLetter(queue, message["MessageId"], message["Body"], reason, count, message["ReceiptHandle"])


def _list_keys(world: World) -> list[str]:
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=SETTINGS["FACE_GROUP_BUCKET_NAME"])
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def read_groups(world: World, gallery: str) -> Document:
    """What the gallery's groups.json and the files that it names say, as one; and `files`, the keys of these files."""
    keys = ResultKeys()

    def read(key: str) -> bytes:
        answer = world.s3.get_object(Bucket=SETTINGS["FACE_GROUP_BUCKET_NAME"], Key=key)
        return bytes(answer["Body"].read())

    index = read(keys.groups(gallery))
    groups = output.read_groups(index, lambda path: read(keys.folder(gallery) + path))
    lists = output.GroupsIndex.model_validate_json(index)
    named = (lists.people, lists.unassigned, lists.skipped, lists.suggestions)
    files = [keys.folder(gallery) + part.shard for parts in named for part in parts]
    return {**groups.model_dump(mode="json"), "files": files}


def _decode_vector(stored: bytes) -> NDArray[np.float32]:
    vector: NDArray[np.float32] = decode_vectors([stored])[0]
    return vector
