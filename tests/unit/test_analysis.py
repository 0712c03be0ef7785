"""From a photo's bytes to embedded faces: what is decoded how finely, and where coordinates are."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image as Pil

from app.core.arrays import Image
from app.core.pictures import PhotoLimits
from app.detection import decoders
from app.detection.analysis import Analyser, PhotoAnalysis, analyse_photo
from app.detection.device import Device
from app.detection.stage_times import StageTimes
from app.vision.decode import decode, read_header
from app.vision.face_pack import FacePack
from app.vision.types import Detections
from tests import photos
from tests.toy_pack import ToyEmbedder, toy_manifest

LIMITS = PhotoLimits(10_000_000, 10_000_000)
EYES_AND_MOUTH = np.array([(0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75)], np.float32)


class OneFace:
    """Finds one face whose box is the given part (x1 y1 x2 y2) of every photo."""

    view_px = 400

    def __init__(self, part: Sequence[float]) -> None:
        self.part = np.array(part, np.float32)
        self.seen: list[tuple[int, ...]] = []

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.seen += [image.shape for image in images]
        return [self._face(image.shape[1], image.shape[0]) for image in images]

    def _face(self, width: int, height: int) -> Detections:
        box = self.part * np.array([width, height, width, height], np.float32)
        landmarks = box[:2] + EYES_AND_MOUTH * (box[2:] - box[:2])
        return Detections(box[None], landmarks[None], np.ones(1, np.float32))


class Nobody(OneFace):
    def _face(self, width: int, height: int) -> Detections:
        return Detections.make_empty()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths that were decoded."""
    widths: list[int] = []

    def noted(data: bytes, limits: PhotoLimits, enough_px: int | None = None) -> Image:
        image = decode(data, limits, enough_px)
        widths.append(image.shape[1])
        return image

    monkeypatch.setattr(decoders.here, "decode", noted)
    return widths


def seen_by(detector: OneFace, data: bytes) -> PhotoAnalysis:
    pack = FacePack(toy_manifest(), detector, ToyEmbedder())
    with Device(pack, calls=1, photos=1, faces=8) as device:
        return analyse_photo(data, read_header(data, LIMITS), Analyser(device, LIMITS), StageTimes())


def camera_photo(width: int = 1600, height: int = 1200) -> bytes:
    return photos.saved(Pil.fromarray(photos.gradient(width, height)), "JPEG")


def test_a_large_face_is_cut_from_the_small_picture_that_the_detector_saw(decoded: list[int]) -> None:
    detector = OneFace((0.1, 0.1, 0.6, 0.9))
    seen = seen_by(detector, camera_photo())
    assert decoded == [400]
    assert detector.seen == [(300, 400, 3)]
    assert seen.image.shape == (300, 400, 3)


@pytest.mark.parametrize(("side", "widths"), [(0.15, [400, 800]), (0.05, [400, 1600]), (0.01, [400, 1600])])
def test_a_smaller_face_is_cut_from_as_much_as_its_chip_needs(
    decoded: list[int], side: float, widths: list[int]
) -> None:
    seen = seen_by(OneFace((0.1, 0.1, 0.1 + side, 0.1 + side * 4 / 3)), camera_photo())
    assert decoded == widths
    assert seen.image.shape[1] == widths[-1]


@pytest.mark.parametrize("side", [0.5, 0.15, 0.05])
def test_boxes_are_in_pixels_of_the_original_and_of_the_picture_that_crops_are_cut_from(side: float) -> None:
    part = np.array([0.1, 0.2, 0.1 + side, 0.2 + side], np.float32)
    seen = seen_by(OneFace(part), camera_photo())
    height, width = seen.image.shape[:2]
    assert seen.detections.boxes[0] == pytest.approx(part * [1600, 1200, 1600, 1200], abs=0.01)
    assert seen.in_image.boxes[0] == pytest.approx(part * [width, height, width, height], abs=0.01)
    assert seen.quality[0]["size_px"] == pytest.approx(side * 1200, abs=0.01)


def test_a_photo_on_its_side_is_seen_upright() -> None:
    picture = Pil.fromarray(photos.gradient(1600, 1200))
    exif = Pil.Exif()
    exif[0x0112] = 6
    detector = OneFace((0.1, 0.1, 0.6, 0.5))
    seen = seen_by(detector, photos.saved(picture, "JPEG", exif=exif))
    assert detector.seen == [(400, 300, 3)]
    assert seen.detections.boxes[0] == pytest.approx([120, 160, 720, 800], abs=0.01)


def test_a_photo_of_nobody_is_decoded_once_and_gives_nothing(decoded: list[int]) -> None:
    seen = seen_by(Nobody((0, 0, 1, 1)), camera_photo())
    assert decoded == [400]
    assert (len(seen.detections), seen.embeddings.shape) == (0, (0, 8))


def test_what_is_no_jpeg_is_decoded_whole(decoded: list[int]) -> None:
    seen_by(OneFace((0.1, 0.1, 0.2, 0.2)), photos.saved(Pil.fromarray(photos.gradient(800, 600)), "PNG"))
    assert decoded == [800]
