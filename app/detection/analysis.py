"""What the networks see in a photo: from its bytes to embedded faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.core.arrays import Floats, Image
from app.core.pictures import PhotoLimits
from app.core.records import PhotoResult
from app.detection.device import Device
from app.detection.prefilter import Prefilter
from app.detection.stages import StageTimes
from app.vision.decode import PhotoHeader, decode
from app.vision.embedder import normalise
from app.vision.face_pack import FacePack
from app.vision.photo_quality import Verdict
from app.vision.quality.inputs import FaceColumns
from app.vision.quality.measures import measure_quality, split_into_rows
from app.vision.types import Detections


@dataclass(frozen=True)
class Analyser:
    """What it takes to look at photos."""

    device: Device
    limits: PhotoLimits
    prefilter: Prefilter = field(default_factory=Prefilter)


@dataclass(frozen=True)
class PhotoAnalysis:
    """The faces of a photo, best first: `found` and `in_image` are the same detections in pixels of the upright
    original and of `image`, which may be smaller; `embeddings` (N,D) float32 of unit length; the pre-filter's verdict.
    """

    image: Image
    found: Detections
    in_image: Detections
    quality: Sequence[Mapping[str, float]]
    embeddings: Floats
    verdict: Verdict | None = None


def analyse_photo(
    data: bytes,
    header: PhotoHeader,
    eyes: Analyser,
    times: StageTimes,
    twin: PhotoResult | None = None,
    verdict: Verdict | None = None,
) -> PhotoAnalysis:
    """Decode as much as detection needs, find faces, decode more where a face needs more, embed.

    What the networks found in a twin, a photo of the very same bytes, is not looked for again, and with a `verdict` the
    pre-filter is not asked. Raises BadPhoto for a file that can't be decoded, LowQuality where the pre-filter says so.
    """
    verdict = verdict or eyes.prefilter.judge_header(header)
    pack = eyes.device.pack
    full_size = np.array([header.width_px, header.height_px], np.float32)
    with eyes.device.cpu:
        with times.stage("decode"):
            image = decode(data, eyes.limits, pack.view_px)
        with times.stage("prefilter"):
            verdict = verdict or eyes.prefilter.judge_image(image)
    known = None if twin is None else _restore_detections(twin)
    in_image = eyes.device.detect(image, times) if known is None else known.scale_to(_get_size(image) / full_size)
    detail = pack.compute_detail_needed(in_image.landmarks)
    if detail > 1 and image.shape[1] < header.width_px:
        with eyes.device.cpu, times.stage("decode"):
            sharper = decode(data, eyes.limits, round(max(image.shape[:2]) * detail))
        in_image = in_image.scale_to(_get_size(sharper) / _get_size(image))
        image = sharper
    if twin is not None and known is not None:
        embeddings = _stack_embeddings([face.embedding for face in twin.faces], pack)
        return PhotoAnalysis(image, known, in_image, [face.quality for face in twin.faces], embeddings, verdict)
    found = in_image.scale_to(full_size / _get_size(image))
    if not len(found):
        return PhotoAnalysis(image, found, in_image, [], _stack_embeddings([], pack), verdict)
    with eyes.device.cpu, times.stage("align"):
        chips = pack.cut_chips(image, in_image.landmarks)
    vectors = eyes.device.embed(chips, times)
    with eyes.device.cpu, times.stage("quality"):
        plain = pack.cut_quality_chips(image, in_image.landmarks, chips)
        photo_px = np.tile(full_size, (len(found), 1))
        faces = FaceColumns(plain, found.boxes, found.landmarks, found.scores, photo_px)
        quality = split_into_rows(measure_quality(faces, pack.quality, vectors))
    return PhotoAnalysis(image, found, in_image, quality, normalise(vectors), verdict)


def _restore_detections(twin: PhotoResult) -> Detections:
    if not twin.faces:
        return Detections.make_empty()
    return Detections(
        np.stack([face.box for face in twin.faces]),
        np.stack([face.landmarks for face in twin.faces]),
        np.array([face.det_score for face in twin.faces], np.float32),
    )


def _stack_embeddings(embeddings: Sequence[Floats], pack: FacePack) -> Floats:
    return np.stack(embeddings) if embeddings else np.empty((0, pack.manifest.embedder.dimension), np.float32)


def _get_size(image: Image) -> Floats:
    """Width and height."""
    return np.array([image.shape[1], image.shape[0]], np.float32)
