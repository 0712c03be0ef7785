"""What must hold when all queues are empty again. Each check returns a sentence for each violation.

As in Jepsen's total-queue test: what was sent is what was stored and what was dead-lettered, and each of it once
(https://github.com/jepsen-io/jepsen/blob/main/jepsen/src/jepsen/checker.clj).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from app.core.result_keys import ResultKeys
from app.worker.consumer import EXIT_DEAD_THREAD
from benchmarks.chaos.fleet import Exit
from benchmarks.chaos.journal import Event
from benchmarks.chaos.snapshot import DeadLetter, Document, Snapshot
from benchmarks.chaos.workload import Sent

EMBEDDING_TOLERANCE = 1e-5
PIXEL_TOLERANCE = 1e-3
IMAGE_FIELDS = ("status", "reason", "width", "height", "face_count", "model", "etag")
EXIT_UNREACHABLE = 4
EXPECTED_EXITS = {0, -9, EXIT_UNREACHABLE}
DETECTION_DEAD = "detection-dead-letters"


def is_stored(sent: Sent, run: Snapshot) -> bool:
    return sent.photo is not None and "/".join(sent.photo) in run.images


def is_dead(sent: Sent, run: Snapshot) -> bool:
    return any(letter.body == sent.body for letter in run.dead_letters if letter.queue == DETECTION_DEAD)


def find_lost_messages(sent: Iterable[Sent], run: Snapshot) -> list[str]:
    """Messages that are neither stored nor dead-lettered."""
    return [
        f"Message {one.number} is lost: {one.body}" for one in sent if not is_stored(one, run) and not is_dead(one, run)
    ]


def find_ungrouped_galleries(run: Snapshot) -> list[str]:
    """Galleries with changes after their last run: a change that no run grouped is lost as well."""
    behind = {
        gallery_id: (gallery.get("last_run") or {}).get("revision")
        for gallery_id, gallery in run.galleries.items()
        if (gallery.get("last_run") or {}).get("revision") != gallery.get("revision")
    }
    return [
        f"Gallery {gallery_id} is at revision {run.galleries[gallery_id].get('revision')}, its last run saw {revision}."
        for gallery_id, revision in behind.items()
    ]


def find_duplicated_results(run: Snapshot, calm: Snapshot) -> list[str]:
    """Documents that an undisturbed run does not have, and faces that are listed twice."""
    extra = [f"Face {name} is one too many." for name in sorted(run.faces.keys() - calm.faces.keys())]
    extra += [f"Photo {name} is one too many." for name in sorted(run.images.keys() - calm.images.keys())]
    for gallery_id, groups in run.groups.items():
        counts = Counter(face["face_id"] for face in _list_grouped_faces(groups))
        extra += [f"{gallery_id}/groups.json lists {name} {n} times." for name, n in counts.items() if n > 1]
    return extra


def find_different_photos(run: Snapshot, calm: Snapshot) -> list[str]:
    """Photos whose record or faces differ from an undisturbed run's."""
    wrong = []
    for name, image in run.images.items():
        undisturbed = calm.images.get(name, {})
        wrong += [
            f"Photo {name} has {field} {image.get(field)!r} instead of {undisturbed.get(field)!r}."
            for field in IMAGE_FIELDS
            if image.get(field) != undisturbed.get(field)
        ]
    for name, expected in calm.faces.items():
        if f"{expected['gallery_id']}/{expected['image_id']}" not in run.images:
            continue
        face = run.faces.get(name)
        wrong += [f"Face {name} is missing."] if face is None else _compare_face(name, face, expected)
    return wrong


def _compare_face(name: str, face: Document, expected: Document) -> list[str]:
    wrong = []
    for field, tolerance in (
        ("embedding", EMBEDDING_TOLERANCE),
        ("box", PIXEL_TOLERANCE),
        ("landmarks", PIXEL_TOLERANCE),
    ):
        difference = float(np.abs(np.asarray(face[field]) - np.asarray(expected[field])).max())
        if difference > tolerance:
            wrong.append(f"Face {name} has another {field}, by {difference:.2g}.")
    return wrong


def find_different_groups(run: Snapshot, calm: Snapshot) -> list[str]:
    """Galleries whose people differ from an undisturbed run's; person ids may differ."""
    wrong = []
    for gallery_id, expected in calm.groups.items():
        groups = run.groups.get(gallery_id)
        if groups is None:
            wrong.append(f"{gallery_id}/groups.json is missing.")
            continue
        if _list_clusters(groups) != _list_clusters(expected):
            wrong.append(f"The people of {gallery_id} are others than in an undisturbed run.")
        if groups["skipped"] != expected["skipped"]:
            wrong.append(f"The skipped photos of {gallery_id} are others than in an undisturbed run.")
    return wrong


def _list_clusters(groups: Document) -> set[frozenset[str]]:
    people = {frozenset(face["face_id"] for face in person["faces"]) for person in groups["people"]}
    return people | {frozenset([face["face_id"]]) for face in groups["unassigned"]}


def _list_grouped_faces(groups: Document) -> list[Document]:
    return [*(face for person in groups["people"] for face in person["faces"]), *groups["unassigned"]]


def find_fence_violations(run: Snapshot, events: Iterable[Event], seen: Iterable[str]) -> list[str]:
    """Writes by a former owner of a lease: those that were noticed at once, and inconsistencies that they left."""
    wrong = list(seen)
    newest: dict[str, int] = {}
    for event in events:
        if event.event != "put":
            continue
        if event.fence < newest.get(event.key, 0):
            wrong.append(f"{event.worker} wrote {event.key} under fence {event.fence} after {newest[event.key]}.")
        newest[event.key] = max(event.fence, newest.get(event.key, 0))
    for gallery_id, groups in run.groups.items():
        wrong += _find_torn_people(gallery_id, groups, run)
    return wrong


def _find_torn_people(gallery_id: str, groups: Document, run: Snapshot) -> list[str]:
    """Differences between the three places where a gallery's people are stored: groups.json, `people` and `faces`."""
    published = {face["face_id"]: person["person_id"] for person in groups["people"] for face in person["faces"]}
    faces = [face for face in run.faces.values() if face["gallery_id"] == gallery_id]
    stored = {face["_id"]: face["person_id"] for face in faces if face.get("person_id")}
    people = [person for person in run.people.values() if person["gallery_id"] == gallery_id]
    active = {person["person_id"]: person for person in people if person["status"] == "active"}
    wrong = []
    if stored != published:
        differing = [name for name in stored.keys() | published.keys() if stored.get(name) != published.get(name)]
        wrong.append(f"{gallery_id}: {len(differing)} faces have another person in MongoDB than in groups.json.")
    if active.keys() != set(published.values()):
        wrong.append(f"{gallery_id}: the active people are not those of groups.json.")
    return wrong + _find_unpublished(gallery_id, [*people, *faces], run.galleries.get(gallery_id, {}))


def _find_unpublished(gallery_id: str, documents: Iterable[Document], gallery: Document) -> list[str]:
    """Documents of a version that was not published, which a run that died has left."""
    published = gallery.get("published", 0)
    ahead = sum((document.get("version") or 0) > published for document in documents)
    wrong = (
        [f"{gallery_id}: {ahead} documents are of a version after {published}, which is published."] if ahead else []
    )
    return wrong + [f"{gallery_id}: a version was begun and not finished."] * ("writing" in gallery)


def find_orphans(run: Snapshot) -> list[str]:
    """Crops without a face and faces without a crop; previews likewise; faces without a photo."""
    crops = {face["crop_key"] for face in run.faces.values()}
    previews = {image["preview_key"] for image in run.images.values() if image["preview_key"]}
    # Covers belong to people.
    pictures = {key for key in run.keys if key.endswith((".crops", ".jpg")) and "/covers/" not in key}
    wrong = [f"{key} belongs to nothing." for key in sorted(pictures - crops - previews)]
    wrong += [f"{key} is missing." for key in sorted((crops | previews) - run.keys)]
    wrong += [f"{key} is not a key this system writes." for key in sorted(run.keys) if not ResultKeys().is_result(key)]
    counts = Counter(f"{face['gallery_id']}/{face['image_id']}" for face in run.faces.values())
    wrong += [f"Faces of {name} have no photo." for name in sorted(counts.keys() - run.images.keys())]
    wrong += [
        f"Photo {name} has {counts[name]} faces and says {image['face_count']}."
        for name, image in run.images.items()
        if counts[name] != image["face_count"]
    ]
    return wrong


def find_wrong_dead_letters(
    sent: Iterable[Sent], run: Snapshot, events: Sequence[Event], max_receives: int
) -> list[str]:
    """Poison messages must end in the dead-letter queue: those that fail with a temporary error after exactly
    `max_receives` receives, those that are rejected never more often than they were received.

    A worker rejects a message at its last try, with the reason. Where it dies before it has deleted the message, the
    queue's own redrive puts it there once more.
    """
    wrong = []
    numbers = {event.body: event.message for event in events if event.event == "send" and event.queue == "detection"}
    for one in sent:
        letters = [letter for letter in run.dead_letters if letter.body == one.body and letter.queue == DETECTION_DEAD]
        receives = sum(
            e.event == "receive" and e.queue == "detection" and e.message == numbers.get(one.body) for e in events
        )
        if one.kind == "rejected":
            # A send whose answer was lost is repeated, so SQS may have one rejection twice.
            rejections = len({letter.receive_count for letter in letters})
            if rejections > receives:
                wrong.append(f"Message {one.number} was received {receives} times and rejected {rejections} times.")
            wrong += [f"Message {one.number} was not rejected but redriven." for x in letters[:1] if x.reason is None]
        elif one.kind == "redriven":
            rejections = len({letter.receive_count for letter in letters if letter.reason is not None})
            redrives = sum(letter.reason is None for letter in letters)
            if rejections > 1 or redrives > 1 or not letters or receives != max_receives:
                wrong.append(
                    f"Message {one.number} was rejected {rejections} times and redriven {redrives} times after "
                    f"{receives} receives, not once after {max_receives}."
                )
    return wrong


def find_slow_exits(times_s: Sequence[float], never: Iterable[str], bound_s: float) -> list[str]:
    slow = [f"{worker} did not end after SIGTERM." for worker in never]
    return slow + [f"A SIGTERM took {time_s:.1f} s; at most {bound_s:.0f} s." for time_s in times_s if time_s > bound_s]


def find_unexpected_exits(exits: Iterable[Exit]) -> list[str]:
    """Exits with an unexpected code. Before a service is ready, SIGTERM may end it at once; code 4 means that a store
    does not answer; a service of several processes ends with 10 where one of them was killed."""
    return [
        f"{one.worker} ended with code {one.code}."
        for one in exits
        if one.code not in EXPECTED_EXITS
        and not (one.code == -15 and not one.was_ready)
        and not (one.code == EXIT_DEAD_THREAD and one.killed_at)
    ]


def count_kills(exits: Iterable[Exit]) -> Counter[str]:
    """`service/point` → how many processes killed themselves there."""
    return Counter(f"{one.worker.partition('-')[0]}/{one.killed_at}" for one in exits if one.killed_at)


def is_innocent(letter: DeadLetter, sent: Iterable[Sent]) -> bool:
    """Whether the letter isn't poison: it was received too often by workers that died or could not reach a store."""
    return letter.body not in {one.body for one in sent if one.kind != "photo"}
