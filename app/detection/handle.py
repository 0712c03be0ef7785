"""The story of a photo: from a message to faces in the database, or to their removal.

A message only says that something has happened to an object: a message may be late, repeated, or overtaken by others.
What the object is now decides.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate

from app.core.erasing import erase_pictures, erase_unnamed, exclude_faces
from app.core.errors import (
    BadPhoto,
    FatalWorkerError,
    Letter,
    LowQuality,
    PhotoGone,
    RejectMessage,
    RetryLater,
    WorkerError,
)
from app.core.kill_points import KillPoints
from app.core.messages import PhotoRequest, parse_detection
from app.core.naming import BELONGS, READ
from app.core.pictures import NOT_PHOTOS, PICTURE_ENDINGS, FileKind, classify_name, split_ending
from app.core.ports import ObjectStore, Progress, StoredObject
from app.core.records import (
    FaceRecord,
    ImageRecord,
    ImageStatus,
    PhotoRef,
    PhotoResult,
    is_older,
    make_face_id,
)
from app.core.result_keys import CONTENT_DIGITS, ResultKeys
from app.core.roles import explain_left_out
from app.core.same_faces import choose_doubtless
from app.core.stages import Stage
from app.core.tombstones import NOTHING_FORGOTTEN, Forgotten
from app.detection.analysis import Analyser, PhotoAnalysis, analyse_photo, decode_thumbnail, keep_faces
from app.detection.budget import Budget
from app.detection.changes import request_grouping
from app.detection.decoders import count_decode_bytes
from app.detection.photo_store import PhotoStore
from app.detection.stage_times import StageTimes, report_metrics
from app.telemetry.catalogue import Metric
from app.telemetry.interface import Telemetry
from app.vision.crops import encode_crops, encode_preview
from app.vision.decode import PhotoHeader
from app.vision.photo_quality import Verdict

log = logging.getLogger(__name__)

SEEN = (ImageStatus.INDEXED, ImageStatus.NO_FACES)
"""The statuses of photos that the networks have analysed. Others cost little to do again, and a setting may have
changed."""
TRIES = 5
"""How often a photo is examined for one message, where others store or remove it meanwhile."""


class Overtaken(RetryLater):
    """The photo was stored or removed while it was examined."""

    def __init__(self, photo: PhotoRef) -> None:
        super().__init__(f"The photo {photo.document_id} was stored or removed meanwhile.", 0)


class ForgottenPhoto(WorkerError):
    """The object that the photo's key has is forgotten."""


@dataclass(frozen=True)
class DetectionParts:
    """The parts of the detection service."""

    analyser: Analyser
    objects: ObjectStore
    photos: PhotoStore
    default_bucket: str
    output_bucket: str
    readable_buckets: frozenset[str]
    preview_side_px: int
    file_bytes: Budget
    picture_bytes: Budget
    kill_points: KillPoints
    keys: ResultKeys = field(default_factory=ResultKeys)
    telemetry: Telemetry = field(default_factory=Telemetry)
    has_crops: bool = True


def handle(body: str, parts: DetectionParts, *, progress: Progress = lambda: None, is_last: bool = False) -> None:
    """Do what one message of the detection queue requests. The message is done when this returns.

    The photos of a message are independent: one that is refused or fails doesn't keep the others from being done. With
    `is_last` the queue will not hand out the message again, so a photo that fails then is stored as `rejected`.
    """
    work = parse_detection(body, parts.default_bucket)
    for name, count in work.ignored.items():
        parts.telemetry.metrics.add(Metric.EVENTS_IGNORED, count, kind=name)
    letters, kind, failure = list(work.letters), work.kind, None
    for request in work.requests:
        try:
            _handle_photo(request, parts, progress, is_last=is_last)
        except RejectMessage as reject:
            letters.append(Letter(request.body, str(reject)))
            kind = reject.kind
        except FatalWorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again once the other photos of the message are done
            failure = failure or error
    if failure:
        raise failure
    if letters:
        raise RejectMessage("; ".join(letter.reason for letter in letters)[:1000], kind, letters)


def _handle_photo(request: PhotoRequest, parts: DetectionParts, progress: Progress, *, is_last: bool) -> None:
    """Do what a message requests for one photo."""
    photo = request.photo
    if photo.bucket == parts.output_bucket and parts.keys.is_result(photo.key):
        # With one bucket for photos and results, S3 may announce what this system writes itself.
        parts.telemetry.metrics.add(Metric.EVENTS_IGNORED, kind="own result")
        log.info("own result ignored", extra={"key": photo.key})
        return
    _check_bucket(photo, parts)
    parts.telemetry.tracer.note(image=photo.document_id)
    try:
        with parts.photos.work_on_photo():
            is_changed = _index_until_current(request, parts, progress)
    except FatalWorkerError:
        raise
    except Exception as error:
        if not is_last:
            raise
        _give_up(request, parts, error)
        raise RejectMessage(f"The last try failed: {error}", "last try") from error
    if is_changed:
        request_grouping(photo.gallery_id, parts.photos.changes)


def _index_until_current(request: PhotoRequest, parts: DetectionParts, progress: Progress) -> bool:
    """Call `index_photo` until no other worker is faster, TRIES times at most. Returns what it returns."""
    for _ in range(TRIES - 1):
        try:
            return index_photo(request, parts, progress)
        except Overtaken:
            log.info("photo changed meanwhile; it is looked at again", extra={"image": request.photo.document_id})
    return index_photo(request, parts, progress)


@dataclass
class Examined:
    """What is known of a photo, filled in as it is examined: its object in S3, its faces, the kind of the BadPhoto for
    which it is rejected, and the photo of the same bytes that its faces are taken over from. `edition` is the photo's
    before all of this, and `forgotten` what must not be stored of it."""

    photo: PhotoRef
    edition: int
    forgotten: Forgotten = NOTHING_FORGOTTEN
    stored: StoredObject | None = None
    faces: list[FaceRecord] = field(default_factory=list)
    kind: str | None = None
    twin: PhotoResult | None = None


def index_photo(request: PhotoRequest, parts: DetectionParts, progress: Progress) -> bool:
    """Examine a photo, then store what was found. A photo that can't be used is stored too, with the reason; one that
    is gone is removed. Returns whether its gallery is still to be grouped: where the photo is stored now, that is
    requested already.

    Unless by `force`, what is stored already is left as it is, and no picture is analysed twice by one model. Raises
    Overtaken where another worker was faster.
    """
    photo = request.photo
    known = parts.photos.look_up(photo)
    previous, edition = known.image, known.edition
    if previous and is_older(request.sequencer, previous.sequencer):
        log.info("older event ignored", extra={"image": previous.photo.document_id})
        return True
    times = StageTimes(progress, parts.telemetry.tracer)
    examined = Examined(photo, edition, known.forgotten)
    try:
        image = _examine(examined, request, previous, parts, times)
    except ForgottenPhoto:
        log.info("photo is forgotten", extra={"image": photo.document_id})
        if previous is None:
            # A worker may have died after it had put its pictures.
            erase_pictures(photo, edition, (), parts.objects, parts.keys)
            return False
        return _remove(photo, previous, edition, parts, progress)
    except PhotoGone as gone:
        if request.is_event or (examined.forgotten.until and previous):
            return _remove(photo, previous, edition, parts, progress)
        if examined.forgotten.until:
            return False
        # Whoever sent a message for it expects a photo.
        image, examined.kind = ImageRecord(photo, ImageStatus.REJECTED, reason=str(gone)), "missing"
    except LowQuality as low:
        image = _make_low_quality_record(photo, low)
    except BadPhoto as bad:
        image, examined.kind = _make_rejected_record(photo, bad), bad.kind
    is_changed = True
    if image is not None:
        sequencer = request.sequencer or (previous.sequencer if previous else None)
        is_changed = _store_and_report(examined, replace(image, sequencer=sequencer), previous, parts, times)
    _erase_left_pictures(examined, parts)
    return is_changed


def _erase_left_pictures(examined: Examined, parts: DetectionParts) -> None:
    """Of a photo on which somebody is forgotten, not even a killed worker may leave pictures. Its message comes here
    again."""
    if not examined.forgotten.places:
        return
    image, edition = parts.photos.faces.find_image(examined.photo)
    if image:
        faces = parts.photos.forgotten.read_photo_faces(image.photo)
        erase_unnamed(image, faces, edition, parts.objects, parts.keys)


def _examine(
    examined: Examined,
    request: PhotoRequest,
    previous: ImageRecord | None,
    parts: DetectionParts,
    times: StageTimes,
) -> ImageRecord | None:
    """Fetch the photo, analyse it and put its pictures; None where it is stored already."""
    photo, analyser = examined.photo, parts.analyser
    if reason := _explain_no_photo(photo, parts):
        _note_object(examined, parts.objects.describe(photo))
        return ImageRecord(photo, ImageStatus.NOT_A_PHOTO, reason)
    verdict: Verdict | None = None
    with ExitStack() as held:
        if thumbnail := analyser.prefilter.find_thumbnail(photo):
            with times.stage(Stage.THUMBNAIL):
                _note_object(examined, described := parts.objects.describe(photo))
                if _is_settled(previous, described, parts, request):
                    return None
                decode = partial(decode_thumbnail, analyser=analyser, budget=parts.picture_bytes, times=times)
                verdict = analyser.prefilter.judge_thumbnail(thumbnail, parts.objects, analyser.limits, decode)
        with times.stage(Stage.FETCH):
            opened = held.enter_context(parts.objects.open(photo, analyser.limits.max_bytes))
            _note_object(examined, opened)
            if _is_settled(previous, opened, parts, request):
                return None
            held.enter_context(parts.file_bytes.hold(opened.size_bytes, times.progress))
            data = opened.read()
        header = analyser.decoder.read_header(data, analyser.limits, times)
        held.enter_context(parts.picture_bytes.hold(count_decode_bytes(header), times.progress))
        parts.kill_points.reach("mid-inference")
        content = hashlib.sha256(data).hexdigest()
        examined.twin = None if request.force else parts.photos.find_twin(content)
        analysis = analyse_photo(data, header, analyser, times, examined.twin, verdict)
        image = replace(_make_found_record(photo, header, analysis), content=content)
        image, ranks, analysis = _exclude_forgotten(examined, image, analysis)
        with times.stage(Stage.PICTURES):
            known = None if request.force or request.redo_pictures else _find_preview(previous, content, parts)
            image = _put_pictures(examined, image, analysis, ranks, parts, known)
    parts.kill_points.reach("after-put")
    bars, qualities = analyser.device.pack.manifest.quality, (face.quality for face in examined.faces)
    return replace(image, left_out=explain_left_out(qualities, bars))


def _note_object(examined: Examined, stored: StoredObject) -> None:
    """Raises ForgottenPhoto where the object is one that must not be looked at."""
    examined.stored = stored
    if examined.forgotten.covers(stored.last_modified):
        raise ForgottenPhoto


def _exclude_forgotten(
    examined: Examined, image: ImageRecord, seen: PhotoAnalysis
) -> tuple[ImageRecord, list[int], PhotoAnalysis]:
    """The record, the ranks and the analysis without the faces that are forgotten."""
    boxes, etag = seen.detections.boxes, examined.stored.etag if examined.stored else None
    gone = examined.forgotten.find_faces(boxes, (image.width_px, image.height_px), image.content, etag)
    ranks = [rank for rank in range(len(gone)) if not gone[rank]]
    if len(ranks) == len(gone):
        return image, ranks, seen
    return exclude_faces(image, len(ranks), len(gone) - len(ranks)), ranks, keep_faces(seen, ~gone)


def _explain_no_photo(photo: PhotoRef, parts: DetectionParts) -> str | None:
    """Why a file can't be a photo of its own, by its name and the files beside it; None where it must be read."""
    kind = classify_name(photo.key)
    if kind in NOT_PHOTOS:
        return f"It is a {kind}, not a photo."
    main = parts.photos.faces.find_companion(photo) if kind is FileKind.RAW and photo.name is not None else None
    return f"{BELONGS} {main.photo.key.rpartition('/')[2]}" if main else None


def _store_and_report(
    examined: Examined, image: ImageRecord, previous: ImageRecord | None, parts: DetectionParts, times: StageTimes
) -> bool:
    """Store the record and the faces, then report them to metrics and log. Returns whether the gallery has changed
    since."""
    image = replace(image, model_id=parts.analyser.model_id, timings_s=dict(times.seconds))
    if examined.stored:
        image = replace(image, etag=examined.stored.etag, last_modified=examined.stored.last_modified)
    same_from = choose_doubtless(parts.analyser.device.pack.manifest.threshold.at_reference)
    result = _keep_other_photo(PhotoResult(image, examined.faces, examined.edition, same_from), previous, parts)
    with times.stage(Stage.STORE):
        saved = parts.photos.save(result)
    if saved.is_overtaken:
        _remove_unnamed(examined, image, parts)
        raise Overtaken(image.photo)
    report_metrics(result, times, parts.telemetry.metrics, kind=examined.kind, has_twin=examined.twin is not None)
    log.info(
        "photo %s",
        image.status.value,
        extra={
            "image": image.photo.document_id,
            "faces": image.face_count,
            "reason": image.reason,
            "twin": examined.twin and examined.twin.image.photo.document_id,
            "seconds": times.seconds,
            "decode_cpu_s": round(times.decode_cpu_s, 3),
        },
    )
    return _index_others(saved.to_index, parts, times.progress)


def _remove_unnamed(examined: Examined, image: ImageRecord, parts: DetectionParts) -> None:
    """Remove the pictures of a result that was not stored, unless whoever was faster has stored the same ones."""
    current, _ = parts.photos.faces.find_image(image.photo)
    if current is None or current.content != image.content:
        parts.objects.remove(PhotoResult(image, examined.faces).pictures)


def _keep_other_photo(result: PhotoResult, previous: ImageRecord | None, parts: DetectionParts) -> PhotoResult:
    """A file that can't be read never takes the place of a photo of another key, though its sender gave it that
    photo's id."""
    photo = result.image.photo
    if previous is None or previous.photo.key == photo.key or photo.name is not None or result.image.status in READ:
        return result
    apart = replace(photo, name=photo.image_id)
    return PhotoResult(replace(result.image, photo=apart), (), parts.photos.faces.find_image(apart)[1])


def _index_others(photos: Sequence[PhotoRef], parts: DetectionParts, progress: Progress) -> bool:
    """Examine raw files that have become photos of their own, since their JPEG or HEIC is gone. Returns whether their
    gallery is still to be grouped."""
    changed = [_index_until_current(PhotoRequest(photo, is_event=True), parts, progress) for photo in photos]
    return any(changed)


def _remove(
    photo: PhotoRef, previous: ImageRecord | None, edition: int, parts: DetectionParts, progress: Progress
) -> bool:
    """Remove a photo whose object is gone: its record, its faces under every model, its pictures, its result at the
    owner's. Each step is repeated by a second message, where a worker died in between."""
    progress()
    if previous is None and parts.photos.changes.galleries.find_gallery(photo.gallery_id) is None:
        log.info("nothing is known of a photo that is gone", extra={"image": photo.document_id})
        return False
    if previous:
        parts.photos.owner.clear_face_index(previous.photo)
    changes = parts.photos.faces.remove_photo(photo, edition)
    if changes is None:
        raise Overtaken(photo)
    parts.kill_points.reach("after-remove")
    erase_pictures(photo, edition, changes.pictures, parts.objects, parts.keys)
    parts.photos.owner.set_face_indexes(changes.images)
    if previous:
        parts.photos.forgotten.note_erasure(photo.gallery_id)
    parts.telemetry.metrics.add(Metric.PHOTOS_REMOVED)
    log.info("photo removed", extra={"image": (previous.photo if previous else photo).document_id})
    _index_others(changes.to_index, parts, progress)
    return True


def _give_up(request: PhotoRequest, parts: DetectionParts, error: Exception) -> None:
    """Store a photo whose last try has failed, with the reason, unless what is stored of it may still be true."""
    try:
        known, stored = parts.photos.look_up(request.photo), parts.objects.describe(request.photo)
        if known.image and known.image.status in READ and known.image.etag == stored.etag:
            return
        if known.forgotten.covers(stored.last_modified):
            return
        examined = Examined(request.photo, known.edition, stored=stored, kind="last try")
        reason = f"It could not be processed: {error}"
        image = ImageRecord(request.photo, ImageStatus.REJECTED, reason, sequencer=request.sequencer)
        if _store_and_report(examined, image, known.image, parts, StageTimes(tracer=parts.telemetry.tracer)):
            request_grouping(request.photo.gallery_id, parts.photos.changes)
    except Exception:
        # The message goes to the dead letters with the first reason.
        log.exception("the failure could not be stored", extra={"image": request.photo.document_id})


def _is_settled(
    previous: ImageRecord | None, stored: StoredObject, parts: DetectionParts, request: PhotoRequest
) -> bool:
    """Whether there is nothing to do: this content is stored by the same model."""
    if previous is None or request.force or request.redo_pictures or previous.status not in SEEN:
        return False
    if (previous.etag, previous.model_id) != (stored.etag, parts.analyser.model_id):
        return False
    # Whoever stored it may have died before its owner was told.
    parts.photos.owner.set_face_indexes([previous])
    parts.photos.tell([previous])
    log.info("photo is stored already", extra={"image": previous.photo.document_id})
    return True


def _check_bucket(photo: PhotoRef, parts: DetectionParts) -> None:
    if photo.bucket not in parts.readable_buckets:
        raise RejectMessage(
            f"The bucket {photo.bucket!r:.100} is not on the list; add it to ALLOWED_BUCKETS if its photos may be "
            "read.",
            "foreign bucket",
        )


def _make_face_records(
    photo: PhotoRef,
    seen: PhotoAnalysis,
    ranks: Sequence[int],
    model_id: str,
) -> list[FaceRecord]:
    found = seen.detections
    return [
        FaceRecord(
            face_id=make_face_id(photo, model_id, ranks[index]),
            gallery_id=photo.gallery_id,
            image_id=photo.image_id,
            model_id=model_id,
            box=found.boxes[index],
            landmarks=found.landmarks[index],
            det_score=float(found.scores[index]),
            quality=seen.quality[index],
            embedding=seen.embeddings[index],
            crop_key=None,
        )
        for index in range(len(found))
    ]


def _make_found_record(photo: PhotoRef, header: PhotoHeader, seen: PhotoAnalysis) -> ImageRecord:
    count = len(seen.detections)
    return ImageRecord(
        photo=photo,
        status=ImageStatus.INDEXED if count else ImageStatus.NO_FACES,
        reason=None if count else "No face was found.",
        width_px=header.width_px,
        height_px=header.height_px,
        face_count=count,
        prefilter_score=seen.verdict.score if seen.verdict else None,
        prefilter_reason=seen.verdict.reason if seen.verdict else None,
    )


def _make_low_quality_record(photo: PhotoRef, low: LowQuality) -> ImageRecord:
    reason = str(low)
    return ImageRecord(photo, ImageStatus.LOW_QUALITY, reason, prefilter_score=low.score, prefilter_reason=reason)


def _make_rejected_record(photo: PhotoRef, bad: BadPhoto) -> ImageRecord:
    """A file that is no picture is only a failure where its name says that it is one."""
    claims_picture = split_ending(photo.key)[1].lower() in PICTURE_ENDINGS
    status = ImageStatus.NOT_A_PHOTO if bad.kind == "no picture" and not claims_picture else ImageStatus.REJECTED
    return ImageRecord(photo, status, reason=str(bad))


def _find_preview(previous: ImageRecord | None, content: str, parts: DetectionParts) -> str | None:
    """The preview that the photo has of this very content, so that the page goes on showing it while the photos are
    examined under another model."""
    if previous is None or previous.content != content or not parts.preview_side_px:
        return None
    of_this = f"-{content[:CONTENT_DIGITS]}.jpg"
    return previous.preview_key if (previous.preview_key or "").endswith(of_this) else None


def _put_pictures(
    examined: Examined,
    image: ImageRecord,
    seen: PhotoAnalysis,
    ranks: Sequence[int],
    parts: DetectionParts,
    known_preview: str | None,
) -> ImageRecord:
    """Put the crops of all faces as one object, and the preview unless it is there, if they are wanted. Fills in the
    faces; returns the record."""
    photo, content = image.photo, image.content or ""
    if not len(seen.detections):
        return image
    with parts.analyser.device.cpu:
        crops = encode_crops(seen.image, seen.in_image.boxes) if parts.has_crops else None
        needed = parts.preview_side_px if known_preview is None else 0
        preview = encode_preview(seen.image, needed) if needed else None
    examined.faces = _make_face_records(photo, seen, ranks, parts.analyser.model_id)
    if crops is not None:
        crop_key = parts.keys.crops(photo, examined.edition, content, parts.analyser.model_id)
        starts = accumulate(map(len, crops), initial=0)
        parts_of_it = zip(examined.faces, starts, crops, strict=False)
        examined.faces = [
            replace(face, crop_key=crop_key, crop_range=(start, len(crop))) for face, start, crop in parts_of_it
        ]
        parts.objects.put(crop_key, b"".join(crops), "application/octet-stream")
    if preview is None:
        return replace(image, preview_key=known_preview)
    preview_key = parts.keys.preview(photo, examined.edition, content)
    parts.objects.put(preview_key, preview, "image/jpeg")
    return replace(image, preview_key=preview_key)
