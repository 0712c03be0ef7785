"""The analysis of a photo: from its bytes to embedded faces."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.core.pictures import PhotoLimits
from app.core.records import PhotoResult
from app.core.stages import Stage
from app.detection.budget import Budget
from app.detection.decoders import DecodeHere, Decoder, count_decode_bytes
from app.detection.device import Device
from app.detection.prefilter import Prefilter
from app.detection.stage_times import StageTimes
from app.vision.decode import PhotoHeader
from app.vision.face_pack import FacePack
from app.vision.photo_quality import LEAST_COPY_PX, Verdict
from app.vision.quality.inputs import FaceColumns
from app.vision.types import Detections


@dataclass(frozen=True)
class Analyser:
    """What it takes to analyse photos. Faces are looked for in no more than `most_view_px` of a photo's longer side."""

    device: Device
    limits: PhotoLimits
    prefilter: Prefilter = field(default_factory=Prefilter)
    decoder: Decoder = field(default_factory=DecodeHere)
    most_view_px: float = math.inf

    @property
    def model_id(self) -> str:
        return self.device.pack.model_id


@dataclass(frozen=True)
class PhotoAnalysis:
    """The faces of a photo, best first: `detections` and `in_image` are the same ones in pixels of the upright original
    and of `image`, which may be smaller; `embeddings` (N,D) float32 of unit length; the pre-filter's verdict.
    """

    image: Image
    detections: Detections
    in_image: Detections
    quality: Sequence[Mapping[str, float]]
    embeddings: Floats
    verdict: Verdict | None = None


def analyse_photo(
    data: bytes,
    header: PhotoHeader,
    analyser: Analyser,
    times: StageTimes,
    twin: PhotoResult | None = None,
    verdict: Verdict | None = None,
) -> PhotoAnalysis:
    """Decode as much as detection needs, detect faces, decode more where a face needs more, measure quality, embed.

    What the networks found in a twin, a photo of the very same bytes, is taken over, and with a `verdict` the
    pre-filter is not asked. Raises BadPhoto for a file that can't be decoded, LowQuality where the pre-filter says so.
    """
    device, full_size = analyser.device, np.array([header.width_px, header.height_px], np.float32)
    verdict = verdict or analyser.prefilter.judge_header(header)
    with device.cpu:
        with times.stage(Stage.DECODE):
            view_px = device.pack.choose_view_px(header.width_px, header.height_px)
            view_px = round(min(view_px, analyser.most_view_px))
            image = analyser.decoder.decode(data, header, analyser.limits, view_px, times)
        with times.stage(Stage.PREFILTER):
            verdict = verdict or analyser.prefilter.judge_image(image)
    if twin is not None:
        known = _restore_detections(twin)
        in_image = known.scale_to(_get_size(image) / full_size)
        image, in_image = _decode_details(data, header, image, in_image, analyser, times)
        embeddings = _stack_embeddings([face.embedding for face in twin.faces], device.pack)
        return PhotoAnalysis(image, known, in_image, [face.quality for face in twin.faces], embeddings, verdict)
    image, in_image = _decode_details(data, header, image, device.detect(image, times), analyser, times)
    detections = in_image.scale_to(full_size / _get_size(image))
    if not len(detections):
        return PhotoAnalysis(image, detections, in_image, [], _stack_embeddings([], device.pack), verdict)
    with device.cpu, times.stage(Stage.ALIGN):
        chips = device.pack.cut_chips(image, in_image.landmarks)
        plain = device.pack.cut_quality_chips(image, in_image.landmarks, chips)
    vectors = device.embed(chips, times)
    photo_px = np.tile(full_size, (len(detections), 1))
    faces = FaceColumns(plain, detections.boxes, detections.landmarks, detections.scores, photo_px)
    quality = device.measure_quality(faces, vectors, times)
    return PhotoAnalysis(image, detections, in_image, quality, device.pack.make_embeddings(vectors), verdict)


def keep_faces(seen: PhotoAnalysis, kept: NDArray[np.bool_]) -> PhotoAnalysis:
    """The analysis with the faces of the chosen (N,) rows alone."""
    return replace(
        seen,
        detections=seen.detections.take(kept),
        in_image=seen.in_image.take(kept),
        quality=[measures for measures, is_kept in zip(seen.quality, kept, strict=True) if is_kept],
        embeddings=seen.embeddings[kept],
    )


def decode_thumbnail(data: bytes, analyser: Analyser, budget: Budget, times: StageTimes) -> Image:
    """(H,W,3) uint8 RGB of a photo's thumbnail, as large as the pre-filter needs it. Raises BadPhoto."""
    header = analyser.decoder.read_header(data, analyser.limits, times)
    with budget.hold(count_decode_bytes(header), times.progress):
        return analyser.decoder.decode(data, header, analyser.limits, LEAST_COPY_PX, times)


def _decode_details(
    data: bytes, header: PhotoHeader, image: Image, in_image: Detections, analyser: Analyser, times: StageTimes
) -> tuple[Image, Detections]:
    """The photo in so many pixels as the smallest face's chip needs, and the same faces in it."""
    detail = analyser.device.pack.compute_detail_needed(in_image.landmarks)
    if detail <= 1 or image.shape[1] >= header.width_px:
        return image, in_image
    with analyser.device.cpu, times.stage(Stage.DECODE):
        enough_px = round(max(image.shape[:2]) * detail)
        sharper = analyser.decoder.decode(data, header, analyser.limits, enough_px, times)
    return sharper, in_image.scale_to(_get_size(sharper) / _get_size(image))


def _restore_detections(twin: PhotoResult) -> Detections:
    if not twin.faces:
        return Detections.make_empty()
    return Detections(
        np.stack([face.box for face in twin.faces]),
        np.stack([face.landmarks for face in twin.faces]),
        np.array([face.det_score for face in twin.faces], np.float32),
    )


def _stack_embeddings(embeddings: Sequence[Floats], pack: FacePack) -> Floats:
    return np.stack(embeddings) if embeddings else np.empty((0, pack.dimension), np.float32)


def _get_size(image: Image) -> Floats:
    """Width and height."""
    return np.array([image.shape[1], image.shape[0]], np.float32)
