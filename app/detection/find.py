"""A guest's request: a selfie in, photos out.

Nothing of a selfie, and no vector of it, is stored or logged. The answer is stored before the sender hears of it, so
that the same request gets the same answer, though its selfies may be gone by then.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from pydantic import ValidationError

from app.core.arrays import Floats
from app.core.errors import BadPhoto, FatalWorkerError, LowQuality, PhotoGone, RejectMessage
from app.core.events import NoEvents, tell_found
from app.core.finds import FindAnswer, FindStatus, FoundPerson, FoundPhoto, SelfieResult
from app.core.likeness import FindBars, exceed_crowd
from app.core.messages import FindPerson, Selfie, parse_find
from app.core.ports import (
    EventSink,
    GalleryChanges,
    GuestReader,
    ObjectStore,
    Progress,
    ReplySender,
    SeenFace,
    SelfieStore,
)
from app.core.records import PhotoRef
from app.core.result_keys import ResultKeys
from app.core.stages import Stage
from app.core.thresholds import Threshold
from app.detection.analysis import Analyser, analyse_photo
from app.detection.budget import Budget
from app.detection.decoders import count_decode_bytes
from app.detection.selfies import CLEARLY_LARGER, SelfieStatus, choose_face, combine, embed_mirrored
from app.detection.stage_times import SECONDS_DIGITS, StageTimes
from app.detection.vector_cache import LoadedVectors, VectorCache
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry

log = logging.getLogger(__name__)

TAGS = {"kind": "find"}
"""Of every answer's object: a lifecycle rule of the bucket removes objects with this tag after FIND_RESULT_DAYS."""
MOST_ANSWER_BYTES = 10_000_000
MOST_REPLY_BYTES = 240_000
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""
SELFIE_VIEW_PX = 320
"""Longer side in which the guest's face is looked for first: it is large, and twice as many take four times as long."""
MOST_UNSURE = 3
"""People that are named where nobody is surely the guest."""
NEAR_THE_BEST = 0.15
"""How much less similar than the nearest person another one may be who is the guest too, as one that grouping split."""
DECIMALS = 4
BOX_DECIMALS = 2
REASONS = {
    SelfieStatus.NO_FACE: "There is no face in it.",
    SelfieStatus.SEVERAL_FACES: "There are several faces in it, and none of them has {times:g} times the area of each "
    "other one.",
    SelfieStatus.LOW_QUALITY_FACE: "The quality of its face is below {least:g} of 100: it is small, blurred, dark, "
    "covered or turned aside.",
}
PREFERRED = (SelfieStatus.LOW_QUALITY_FACE, SelfieStatus.SEVERAL_FACES, SelfieStatus.NO_FACE)
"""Of several selfies that can't be used, the one that is nearest to being usable gives the status."""


@dataclass(frozen=True)
class FindParts:
    """What it takes to find guests.

    `open_analyser` returns the same each time; its model is `model_id`. `bars` say from where on a guest is found, None
    where the pack doesn't; then from `threshold` on it is unsure. `is_forgotten` says whether a gallery was erased on
    request.
    """

    open_analyser: Callable[[], Analyser]
    model_id: str
    objects: ObjectStore
    selfies: SelfieStore
    replies: ReplySender
    galleries: GalleryChanges
    guests: GuestReader
    vectors: VectorCache
    output_bucket: str
    readable_buckets: frozenset[str]
    selfie_buckets: frozenset[str]
    reply_queue_urls: frozenset[str]
    bars: FindBars | None
    threshold: Threshold
    least_quality: float
    max_selfie_bytes: int
    result_days: int
    picture_bytes: Budget
    is_forgotten: Callable[[str], bool] = lambda _: False
    events: EventSink = field(default_factory=NoEvents)
    keys: ResultKeys = field(default_factory=ResultKeys)
    telemetry: Telemetry = field(default_factory=Telemetry)


def handle_find(body: str, parts: FindParts, *, progress: Progress = lambda: None, is_last: bool = False) -> None:
    """Answer one message of the find queue. The same request any number of times gets the same answer.

    Raises RejectMessage for a request that must not be answered, and after the last try.
    """
    request = parse_find(body)
    _check(request, parts)
    parts.telemetry.tracer.note(gallery=request.gallery_id, request=request.request_id)
    times = StageTimes(progress, parts.telemetry.tracer)
    try:
        with times.stage(Stage.GALLERY):
            known = _read_answer(request, parts)
        answer = known or find_guest(request, parts, times)
        with times.stage(Stage.ANSWER):
            if known is None:
                parts.objects.put(answer.key, answer.model_dump_json().encode(), "application/json", TAGS)
            _tell(answer, request, parts)
    except FatalWorkerError:
        raise
    except Exception as error:
        if not is_last:
            raise
        raise RejectMessage(f"The last try failed: {error}", "last try") from error
    parts.telemetry.metrics.add(Metric.FINDS, kind=answer.status.value)
    parts.telemetry.metrics.observe(Metric.FIND_SECONDS, times.elapsed_s)
    log.info(
        "find answered",
        extra={
            "gallery": request.gallery_id,
            "request": request.request_id,
            "status": answer.status.value,
            "selfies": len(request.selfies),
            "seconds": {"all": round(times.elapsed_s, SECONDS_DIGITS), **times.seconds},
        },
    )


def _check(request: FindPerson, parts: FindParts) -> None:
    """Raises RejectMessage for a queue or a bucket that nobody allowed."""
    url = request.reply_queue_url
    if url and url not in parts.reply_queue_urls:
        raise RejectMessage(f"The reply queue {url!r:.200} is not in ALLOWED_REPLY_QUEUE_URLS.", "reply queue")
    readable = parts.selfie_buckets or parts.readable_buckets
    for selfie in request.selfies:
        if selfie.bucket not in readable:
            raise RejectMessage(
                f"The bucket {selfie.bucket!r:.100} may not be read for selfies; SELFIE_BUCKETS names those that may.",
                "bucket",
            )
        if selfie.bucket == parts.output_bucket and parts.keys.is_result(selfie.s3_key):
            raise RejectMessage(f"{selfie.s3_key!r:.200} is a result of this system, and no selfie.", "bucket")
        if request.delete_selfies and selfie.bucket not in parts.selfie_buckets:
            raise RejectMessage(
                f"Nothing is removed from the bucket {selfie.bucket!r:.100}: name it in SELFIE_BUCKETS, or leave out "
                "delete_selfies.",
                "bucket",
            )


def _read_answer(request: FindPerson, parts: FindParts) -> FindAnswer | None:
    """The answer that this request has got already, unless it may be another one now."""
    file = PhotoRef(
        request.gallery_id, "", parts.output_bucket, parts.keys.find(request.gallery_id, request.request_id)
    )
    try:
        with parts.objects.open(file, MOST_ANSWER_BYTES) as opened:
            if opened.last_modified < datetime.now(UTC) - timedelta(days=parts.result_days):
                return None
            answer = FindAnswer.model_validate_json(opened.read())
    except (PhotoGone, BadPhoto, ValidationError):
        return None
    return None if answer.status.may_change else answer


def _tell(answer: FindAnswer, request: FindPerson, parts: FindParts) -> None:
    """Send the stored answer, and remove the selfies, which nobody needs any more."""
    if request.reply_queue_url:
        parts.replies.send(request.reply_queue_url, _shorten(answer))
    parts.events.add([tell_found(request.gallery_id, request.request_id, answer.status.value, answer.key)])
    if request.delete_selfies:
        for selfie in request.selfies:
            parts.selfies.remove_selfie(selfie)


def find_guest(request: FindPerson, parts: FindParts, times: StageTimes) -> FindAnswer:
    """The answer, of which nothing is stored yet."""
    empty = FindAnswer(
        request_id=request.request_id,
        gallery_id=request.gallery_id,
        status=FindStatus.NOBODY,
        model=parts.model_id,
        key=parts.keys.find(request.gallery_id, request.request_id),
    )
    with times.stage(Stage.GALLERY):
        loaded = _load(request.gallery_id, parts)
    if not isinstance(loaded, LoadedVectors):
        status, reason = loaded
        return empty.model_copy(update={"status": status, "reason": reason})
    empty = empty.model_copy(update={"published": loaded.vectors.published})
    analyser = parts.open_analyser()
    looked = [_look_at(selfie, analyser, parts, times) for selfie in request.selfies]
    results = [result for result, _ in looked]
    embeddings = [embedding for _, some in looked for embedding in some]
    answer = empty.model_copy(update={"selfies": results})
    if not embeddings:
        problem = min(results, key=lambda result: PREFERRED.index(SelfieStatus(result.status)))
        return answer.model_copy(update={"status": FindStatus(problem.status), "reason": problem.reason})
    with times.stage(Stage.SEARCH):
        return _search(answer, combine(embeddings), loaded, request.max_photos, parts)


def _load(gallery_id: str, parts: FindParts) -> LoadedVectors | tuple[FindStatus, str]:
    """The gallery's vectors, or why it can't be searched."""
    if parts.is_forgotten(gallery_id):
        return FindStatus.FORGOTTEN, "The gallery was forgotten."
    gallery = parts.galleries.find_gallery(gallery_id)
    if gallery is None:
        return FindStatus.UNKNOWN_GALLERY, "There is no such gallery."
    if gallery.last_run is None:
        return FindStatus.NOT_READY, "The gallery was not grouped yet; gallery.grouped says when it is."
    mine, model = parts.model_id, gallery.last_run["model"]
    if model != mine:
        return FindStatus.NOT_READY, f"The gallery is grouped under the model {model}, and this worker's is {mine}."
    loaded = parts.vectors.load(gallery_id)
    if loaded is None or loaded.vectors.model_id != mine:
        return FindStatus.NOT_READY, "The gallery has no vectors of this model: send a group_gallery of the mode full."
    return loaded


def _look_at(
    selfie: Selfie, analyser: Analyser, parts: FindParts, times: StageTimes
) -> tuple[SelfieResult, list[Floats]]:
    """How a selfie is used, and the embeddings of the guest's face and of its mirrored picture."""
    try:
        with times.stage(Stage.FETCH):
            data = parts.selfies.read_selfie(selfie, parts.max_selfie_bytes)
        header = analyser.decoder.read_header(data, analyser.limits, times)
        with parts.picture_bytes.hold(count_decode_bytes(header), times.progress):
            analysis = analyse_photo(data, header, replace(analyser, most_view_px=SELFIE_VIEW_PX), times)
            if not len(analysis.detections):
                analysis = analyse_photo(data, header, analyser, times)
            status, row = choose_face(analysis, parts.least_quality)
            if status is SelfieStatus.USED:
                mirrored = embed_mirrored(analysis, row, analyser.device, times)
                return SelfieResult(status=status.value), [analysis.embeddings[row], mirrored]
    except (PhotoGone, BadPhoto, LowQuality) as error:
        return SelfieResult(status=SelfieStatus.NO_FACE.value, reason=str(error)), []
    reason = REASONS[status].format(times=CLEARLY_LARGER, least=parts.least_quality)
    return SelfieResult(status=status.value, reason=reason), []


def _search(answer: FindAnswer, guest: Floats, loaded: LoadedVectors, max_photos: int, parts: FindParts) -> FindAnswer:
    """The answer with the people and the photos that are the guest's."""
    vectors = loaded.vectors
    similarities = loaded.likenesses.compare(guest[np.newaxis])
    if not similarities.size:
        return answer
    if parts.bars is None:
        beyond, sure, unsure = similarities[0], np.inf, parts.threshold.compute(similarities.size)
    else:
        beyond = exceed_crowd(similarities, parts.bars.crowd)[0]
        sure, unsure = parts.bars.choose(similarities.size)
    people = len(vectors.person_ids)
    # Whoever is much less similar than the nearest is somebody else who passes by chance.
    sure = max(sure, float(beyond.max()) - NEAR_THE_BEST) if beyond.max() >= sure else sure
    candidates = {
        vectors.person_ids[row]: float(similarities[0, row]) for row in np.flatnonzero(beyond[:people] >= unsure)
    }
    found = {vectors.person_ids[row]: float(similarities[0, row]) for row in np.flatnonzero(beyond[:people] >= sure)}
    alone = [vectors.face_ids[row] for row in loaded.likenesses.unassigned[beyond[people:] >= sure]]
    if not candidates and not alone:
        return answer
    faces = parts.guests.read_guest(vectors.gallery_id, vectors.model_id, list(candidates), alone)
    sure_people = _list_people(found, faces.people)
    photos = _list_photos(faces.faces, {one.person_id for one in sure_people}, guest)
    if photos:
        chosen = {"people": sure_people, "photos": photos[:max_photos], "photo_count": len(photos)}
        return answer.model_copy(update={"status": FindStatus.FOUND, **chosen})
    maybe = _list_people(candidates, faces.people)[:MOST_UNSURE]
    return answer.model_copy(update={"status": FindStatus.UNSURE, "people": maybe}) if maybe else answer


def _list_people(likeness_of: dict[str, float], now: dict[str, str]) -> list[FoundPerson]:
    """The people by the ids that they have now, the most similar first; those that nobody may see are left out."""
    highest: dict[str, float] = {}
    for person_id, likeness in likeness_of.items():
        if person_id in now:
            highest[now[person_id]] = max(likeness, highest.get(now[person_id], likeness))
    return [
        FoundPerson(person_id=person_id, similarity=round(likeness, DECIMALS))
        for person_id, likeness in sorted(highest.items(), key=lambda one: -one[1])
    ]


def _list_photos(faces: Sequence[SeenFace], people: set[str], guest: Floats) -> list[FoundPhoto]:
    """Each photo once, by the face that is most like the guest, the most similar first."""
    best: dict[str, FoundPhoto] = {}
    for face in faces:
        if face.person_id is not None and face.person_id not in people:
            continue
        x1, y1, x2, y2 = (round(float(value), BOX_DECIMALS) for value in face.box)
        similarity = round(float(face.embedding @ guest), DECIMALS)
        if face.image_id not in best or similarity > best[face.image_id].similarity:
            best[face.image_id] = FoundPhoto(
                image_id=face.image_id, key=face.key, box=(x1, y1, x2, y2), similarity=similarity
            )
    return sorted(best.values(), key=lambda photo: (-photo.similarity, photo.image_id))


def _shorten(answer: FindAnswer) -> str:
    """The answer with as many photos as a queue takes."""
    body = answer.model_dump_json()
    while len(body.encode()) > MOST_REPLY_BYTES and answer.photos:
        keep = min(len(answer.photos) - 1, len(answer.photos) * MOST_REPLY_BYTES // len(body.encode()))
        answer = answer.model_copy(update={"photos": answer.photos[:keep]})
        body = answer.model_dump_json()
    return body
