"""The story of a photo: from a message to faces in the database."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from app.core.errors import BadPhoto, LowQuality, RejectMessage, RetryLater
from app.core.kill_points import KillPoints
from app.core.messages import DetectImage, GroupGallery, parse_detection
from app.core.ports import FaceStore, GalleryChanges, MessageQueue, ObjectStore, OwnerMetadata, Progress, StoredObject
from app.core.records import (
    FaceRecord,
    ImageRecord,
    ImageStatus,
    PhotoRef,
    PhotoResult,
    is_output_key,
    make_crop_key,
    make_face_id,
    make_preview_key,
    make_quality_columns,
)
from app.core.roles import QualityBars, Role, assign_roles, explain_unassigned
from app.core.stages import Stage
from app.detection.analysis import Analyser, PhotoAnalysis, analyse_photo, decode_thumbnail
from app.detection.batcher import Batcher
from app.detection.budget import Budget
from app.detection.decoders import count_decode_bytes
from app.detection.stage_times import StageTimes, report_metrics
from app.telemetry.interface import Telemetry
from app.vision.crops import encode_crops, encode_preview
from app.vision.decode import PhotoHeader
from app.vision.photo_quality import Verdict

log = logging.getLogger(__name__)

SEEN = (ImageStatus.INDEXED, ImageStatus.NO_FACES)
"""The statuses of photos that the networks have analysed. Others cost little to do again, and a setting may have
changed."""


@dataclass(frozen=True)
class DetectionParts:
    """The parts of the detection service. `results` stores photos, those of several messages in one transaction."""

    analyser: Analyser
    objects: ObjectStore
    faces: FaceStore
    results: Batcher[PhotoResult, bool]
    owner: OwnerMetadata
    galleries: GalleryChanges
    grouping_queue: MessageQueue
    default_bucket: str
    output_bucket: str
    readable_buckets: frozenset[str]
    preview_side_px: int
    grouping_delay_s: int
    file_bytes: Budget
    picture_bytes: Budget
    kill_points: KillPoints
    telemetry: Telemetry = field(default_factory=Telemetry)


def handle(body: str, parts: DetectionParts, *, progress: Progress = lambda: None) -> None:
    """Do what one message of the detection queue requests. The message is done when this returns."""
    for request in parse_detection(body):
        photo = request.photo(parts.default_bucket)
        if _is_own_output(photo, parts):
            continue
        _check_bucket(photo, parts)
        parts.telemetry.tracer.note(image=photo.document_id)
        previous = parts.faces.find_image(photo)
        _check_same_photo(request, previous)
        index_photo(photo, previous, parts, progress, force=request.force)
        request_grouping(request, parts)


@dataclass
class Examined:
    """What is known of a photo, filled in as it is examined: its version in S3, its faces, the kind of the BadPhoto for
    which it is rejected, and the photo of the same bytes that its faces are taken over from."""

    photo: PhotoRef
    stored: StoredObject | None = None
    faces: list[FaceRecord] = field(default_factory=list)
    kind: str | None = None
    twin: PhotoResult | None = None


def index_photo(
    photo: PhotoRef, previous: ImageRecord | None, parts: DetectionParts, progress: Progress, *, force: bool
) -> None:
    """Examine a photo, then store what was found. A photo that can't be used is stored too, with the reason.

    Unless by `force`, what is stored already is left as it is, and no picture is analysed twice by one model.
    """
    times = StageTimes(progress, parts.telemetry.tracer)
    examined = Examined(photo)
    try:
        image = _examine(examined, previous, parts, times, force=force)
    except LowQuality as low:
        image = _make_low_quality_record(photo, low)
    except BadPhoto as bad:
        image, examined.kind = ImageRecord(photo, ImageStatus.REJECTED, reason=str(bad)), bad.kind
    if image is not None:
        _store_and_report(examined, image, previous, parts, times)


def _examine(
    examined: Examined, previous: ImageRecord | None, parts: DetectionParts, times: StageTimes, *, force: bool
) -> ImageRecord | None:
    """Fetch the photo, analyse it and put its pictures; None where it is stored already."""
    photo, analyser = examined.photo, parts.analyser
    verdict: Verdict | None = None
    with ExitStack() as held:
        if thumbnail := analyser.prefilter.find_thumbnail(photo):
            with times.stage(Stage.THUMBNAIL):
                examined.stored = parts.objects.describe(photo)
                if _is_settled(previous, examined.stored, parts, force=force):
                    return None
                decode = partial(decode_thumbnail, analyser=analyser, budget=parts.picture_bytes, times=times)
                verdict = analyser.prefilter.judge_thumbnail(thumbnail, parts.objects, analyser.limits, decode)
        with times.stage(Stage.FETCH):
            examined.stored = opened = held.enter_context(parts.objects.open(photo, analyser.limits.max_bytes))
            if _is_settled(previous, opened, parts, force=force):
                return None
            held.enter_context(parts.file_bytes.hold(opened.size_bytes, times.progress))
            data = opened.read()
        header = analyser.decoder.read_header(data, analyser.limits, times)
        held.enter_context(parts.picture_bytes.hold(count_decode_bytes(header), times.progress))
        parts.kill_points.reach("mid-inference")
        content = hashlib.sha256(data).hexdigest()
        examined.twin = None if force else parts.faces.find_twin(content, analyser.model_id)
        analysis = analyse_photo(data, header, analyser, times, examined.twin, verdict)
        examined.faces = _make_face_records(photo, analysis, analyser.model_id)
        with times.stage(Stage.PICTURES):
            _put_pictures(photo, analysis, examined.faces, parts)
    parts.kill_points.reach("after-put")
    left_out = _explain_left_out(examined.faces, analyser.device.pack.manifest.quality)
    return replace(_make_found_record(photo, header, analysis), content=content, left_out=left_out)


def _store_and_report(
    examined: Examined, image: ImageRecord, previous: ImageRecord | None, parts: DetectionParts, times: StageTimes
) -> None:
    """Store the record and the faces, then report them to metrics and log."""
    image = replace(image, model_id=parts.analyser.model_id, timings_s=dict(times.seconds))
    if examined.stored:
        image = replace(image, etag=examined.stored.etag, last_modified=examined.stored.last_modified)
    result = PhotoResult(image, examined.faces)
    _remove_old_pictures(previous, image, parts)
    with times.stage(Stage.STORE):
        _store(result, parts)
    parts.kill_points.reach("after-save")
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


def _is_settled(previous: ImageRecord | None, stored: StoredObject, parts: DetectionParts, *, force: bool) -> bool:
    """Whether there is nothing to do: a newer version is stored, or the same version by the same model."""
    if previous is None:
        return False
    about = {"image": previous.photo.document_id}
    if previous.last_modified and stored.last_modified < previous.last_modified:
        log.info("older version ignored", extra=about)
        return True
    this = (stored.etag, parts.analyser.model_id)
    if force or (previous.etag, previous.model_id) != this or previous.status not in SEEN:
        return False
    # Whoever stored it may have died before its owner was told.
    parts.owner.set_face_indexes([previous])
    log.info("photo is stored already", extra=about)
    return True


def make_saver(faces: FaceStore, owner: OwnerMetadata) -> Callable[[Sequence[PhotoResult]], list[bool]]:
    """A function that stores photos, and returns for each whether a newer version was stored before it."""

    def save(results: Sequence[PhotoResult]) -> list[bool]:
        overtaken = faces.save_photos(results)
        owner.set_face_indexes([result.image for result in results if result not in overtaken])
        return [result in overtaken for result in results]

    return save


def request_grouping(request: DetectImage, parts: DetectionParts) -> None:
    """Mark the gallery as changed, and send its grouping message where this change opens the window of the delay.

    Where the gallery's people are of another model, that is logged once a window.
    """
    message = GroupGallery(gallery_id=request.gallery_id)
    try:
        if parts.galleries.mark_dirty(request.gallery_id, parts.grouping_delay_s):
            # The run continues the trace of the photo that opens the window. Photos that follow in it start no run.
            traceparent = parts.telemetry.tracer.traceparent()
            parts.grouping_queue.send(message.model_dump_json(), parts.grouping_delay_s, traceparent)
            _warn_of_other_model(request.gallery_id, parts)
    except RetryLater as error:
        # This photo may have opened the window. Tried again sooner, it would find the window open and send nothing.
        raise RetryLater(str(error), delay_s=parts.grouping_delay_s + 1) from error


def _warn_of_other_model(gallery_id: str, parts: DetectionParts) -> None:
    gallery, model_id = parts.galleries.find_gallery(gallery_id), parts.analyser.model_id
    people_model = gallery.last_run.get("model") if gallery and gallery.last_run else model_id
    if people_model != model_id:
        about = {"gallery": gallery_id, "model": model_id, "people_model": people_model}
        log.warning("photos are stored under another model than their gallery's people", extra=about)


def _store(result: PhotoResult, parts: DetectionParts) -> None:
    is_overtaken, _ = parts.results.ask(result)
    if is_overtaken:
        # The crops that were just written are those of an older version. The next try replaces them.
        raise RetryLater(f"A newer version of the photo {result.image.photo.document_id} was stored meanwhile.", 0)


def _is_own_output(photo: PhotoRef, parts: DetectionParts) -> bool:
    """With one bucket for photos and results, S3 announces the crops that this service writes; they are ignored."""
    own = photo.bucket == parts.output_bucket and is_output_key(photo.key)
    if own:
        log.info("own output ignored", extra={"key": photo.key})
    return own


def _check_bucket(photo: PhotoRef, parts: DetectionParts) -> None:
    if photo.bucket not in parts.readable_buckets:
        raise RejectMessage(
            f"The bucket {photo.bucket!r:.100} is not on the list; add it to ALLOWED_BUCKETS if its photos may be "
            "read.",
            "foreign bucket",
        )


def _check_same_photo(request: DetectImage, previous: ImageRecord | None) -> None:
    """IMG_1.JPG and IMG_1.MOV beside it must not replace each other again and again."""
    if request.id_from_key and previous and previous.photo.key != request.s3_key:
        raise RejectMessage(
            f"The image id {request.image_id!r} is taken by {previous.photo.key!r}; send {request.s3_key!r} as a "
            "detect_image message with an id of its own if it is another photo.",
            "id taken",
        )


def _make_face_records(photo: PhotoRef, seen: PhotoAnalysis, model_id: str) -> list[FaceRecord]:
    found = seen.detections
    return [
        FaceRecord(
            face_id=make_face_id(photo, model_id, index),
            gallery_id=photo.gallery_id,
            image_id=photo.image_id,
            model_id=model_id,
            box=found.boxes[index],
            landmarks=found.landmarks[index],
            det_score=float(found.scores[index]),
            quality=seen.quality[index],
            embedding=seen.embeddings[index],
            crop_key=make_crop_key(photo, model_id, index),
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


def _explain_left_out(records: list[FaceRecord], bars: QualityBars) -> tuple[str, ...]:
    """The reason of each noise face, whose quality is too low for any person."""
    roles = assign_roles(make_quality_columns([record.quality for record in records])["unified"], bars)
    return tuple(
        explain_unassigned(record.quality, bars)
        for record, role in zip(records, roles, strict=True)
        if role == Role.NOISE
    )


def _make_low_quality_record(photo: PhotoRef, low: LowQuality) -> ImageRecord:
    reason = str(low)
    return ImageRecord(photo, ImageStatus.LOW_QUALITY, reason, prefilter_score=low.score, prefilter_reason=reason)


def _put_pictures(photo: PhotoRef, seen: PhotoAnalysis, records: list[FaceRecord], parts: DetectionParts) -> None:
    if not records:
        return
    with parts.analyser.device.cpu:
        crops = encode_crops(seen.image, seen.in_image.boxes)
        preview = encode_preview(seen.image, parts.preview_side_px) if parts.preview_side_px else None
    for record, crop in zip(records, crops, strict=True):
        parts.objects.put(record.crop_key, crop, "image/webp")
    if preview:
        parts.objects.put(make_preview_key(photo), preview, "image/jpeg")


def _remove_old_pictures(previous: ImageRecord | None, result: ImageRecord, parts: DetectionParts) -> None:
    """Remove crops that the new record does not name, before the record that names them is replaced: a process that
    dies in between then leaves no orphan."""
    if previous is None or previous.model_id != result.model_id:
        return
    photo = result.photo
    gone = [make_crop_key(photo, result.model_id, index) for index in range(result.face_count, previous.face_count)]
    if previous.face_count and not result.face_count:
        gone.append(make_preview_key(photo))
    if gone:
        parts.objects.remove(gone)
