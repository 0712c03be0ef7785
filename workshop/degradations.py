"""Degrades photos of one face, as happens at weddings and races: small, blurred, dark, compressed, covered, rotated.

Everything follows from the random generator that is passed in, so that results can be reproduced. Sizes suit photos of
some 250 px whose face is some 100 px wide, such as those of Labeled Faces in the Wild.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from workshop.prefilter_photos import compress, move_camera


@dataclass(frozen=True)
class Portrait:
    """A photo (H,W,3) uint8 RGB and the landmarks (5,2) px of the face in it that counts."""

    photo: Image
    landmarks: Floats

    @property
    def eyes_px(self) -> float:
        """Distance between the eyes."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    def on(self, photo: Image) -> "Portrait":
        """The same face in another version of its photo."""
        return Portrait(photo, self.landmarks)


Degradation = Callable[[Portrait, Generator], Image]
"""A portrait → its photo, degraded; the face may lie elsewhere in it, and may be smaller."""


def make_smaller(portrait: Portrait, random: Generator) -> Image:
    """Shrink to 18 to 40 % of the size."""
    scale = random.uniform(0.18, 0.40)
    return np.asarray(cv2.resize(portrait.photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def blur_by_motion(portrait: Portrait, random: Generator) -> Image:
    """As if the camera moved by 7 to 19 px."""
    return move_camera(portrait.photo, random.uniform(7, 19), random.uniform(0, np.pi))


def compress_badly(portrait: Portrait, random: Generator) -> Image:
    return compress(portrait.photo, random)


def darken(portrait: Portrait, random: Generator) -> Image:
    """4 to 15 % of the light, noise of 3 to 8 grey levels."""
    dark = portrait.photo * random.uniform(0.04, 0.15) + random.normal(0, random.uniform(3, 8), portrait.photo.shape)
    return np.clip(np.rint(dark), 0, 255).astype(np.uint8)


def rotate(portrait: Portrait, random: Generator) -> Image:
    """Rotate by 15 to 50 degrees to either side, about the nose."""
    degrees = float(random.uniform(15, 50) * random.choice((-1, 1)))
    height, width = portrait.photo.shape[:2]
    centre = (float(portrait.landmarks[2, 0]), float(portrait.landmarks[2, 1]))
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    return np.asarray(cv2.warpAffine(portrait.photo, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def sharpen(portrait: Portrait, random: Generator) -> Image:
    """No damage, but sharper than LFW's photos: as telephones sharpen, and as large faces look once they are shrunk."""
    soft = cv2.GaussianBlur(portrait.photo, (0, 0), random.uniform(0.8, 2))
    strength = random.uniform(0.3, 2)
    return np.asarray(cv2.addWeighted(portrait.photo, 1 + strength, soft, -strength, 0), np.uint8)


def cover(portrait: Portrait, random: Generator) -> Image:
    """Put one of COVERS on the face."""
    return COVERS[str(random.choice(list(COVERS)))](portrait, random)


DEGRADATIONS: Mapping[str, Degradation] = {
    "small": make_smaller,
    "motion blur": blur_by_motion,
    "JPEG": compress_badly,
    "dark": darken,
    "covered": cover,
    "turned": rotate,
}

# Frame of a face: the middle between the eyes is (0, 0), an eye (±0.5, 0), y runs down to the mouth, near (±0.4, 1.1).
_EYE_X, _MOUTH_Y = 0.5, 1.1
Outline = list[tuple[float, float]]


@dataclass(frozen=True)
class _Cloth:
    """The material of a cover: its colour, the other colour of its stripes, the y of its dark folds, its opacity."""

    colour: NDArray[np.float64]
    stripes: NDArray[np.float64] | None = None
    folds: Sequence[float] = ()
    opacity: float = 1.0


def put_surgical_mask(portrait: Portrait, random: Generator) -> Image:
    """A mask of one colour, from the nose over the chin, with folds."""
    colour = np.array([(170, 205, 225), (235, 235, 235), (40, 40, 45), (215, 170, 190)][random.integers(4)])
    top = random.uniform(0.45, 0.7)
    rim = [(-0.95, top + 0.1), (0.0, top - 0.1), (0.95, top + 0.1)]
    outline = [*rim, (0.85, 1.55), (0.35, 2.0), (-0.35, 2.0), (-0.85, 1.55)]
    folds = np.arange(top + 0.3, 1.9, 0.25).tolist()
    return _paint(portrait, random, [outline], _Cloth(np.clip(colour + random.normal(0, 12, 3), 0, 255), folds=folds))


def put_cone_mask(portrait: Portrait, random: Generator) -> Image:
    """A mask with a ridge in the middle, dark on one side."""
    colour = np.clip(np.array((225, 225, 220)) - random.uniform(0, 190), 0, 255)
    top = random.uniform(0.35, 0.6)
    left = [(0.0, top), (0.0, 1.9), (-0.5, 1.75), (-0.9, 1.1), (-0.6, top + 0.25)]
    half = _paint(portrait, random, [left], _Cloth(colour))
    right = [(-x, y) for x, y in left]
    return _paint(portrait.on(half), random, [right], _Cloth(colour * random.uniform(0.6, 0.85)))


def put_scarf(portrait: Portrait, random: Generator) -> Image:
    """Striped cloth up to the mouth or the nose."""
    top = random.uniform(0.5, 0.85)
    rim = [(-1.3, top), (-0.6, top + 0.12), (0.0, top + 0.05), (0.6, top + 0.12), (1.3, top)]
    cloth = _Cloth(random.uniform(20, 230, 3), stripes=random.uniform(20, 230, 3))
    return _paint(portrait, random, [[*rim, (1.3, 2.6), (-1.3, 2.6)]], cloth)


def put_dark_glasses(portrait: Portrait, random: Generator) -> Image:
    """Two dark or tinted lenses and a bridge."""
    cloth = _Cloth(random.uniform(0, 100, 3), opacity=random.uniform(0.75, 1))
    return _put_glasses(portrait, random, (0.36, 0.27), cloth)


def put_mirrored_glasses(portrait: Portrait, random: Generator) -> Image:
    """Large lenses in which the sky is seen, brighter at the top."""
    colour, sky = random.uniform(60, 210, 3), random.uniform(40, 110)
    photo = _put_glasses(portrait, random, (0.42, 0.34), _Cloth(colour))
    upper = [[(x, min(y, 0.0)) for x, y in _make_ring(side, (0.40, 0.32))] for side in (-_EYE_X, _EYE_X)]
    return _paint(portrait.on(photo), random, upper, _Cloth(np.clip(colour + sky, 0, 255), opacity=0.8))


def put_fingers_on_mouth(portrait: Portrait, random: Generator) -> Image:
    """Four fingers, in the colour of the face."""
    return _paint_fingers(portrait, random, (0.0, _MOUTH_Y), np.full(4, random.uniform(0.16, 0.24)))


def put_fingers_on_eye(portrait: Portrait, random: Generator) -> Image:
    return _paint_fingers(portrait, random, (_choose_eye_x(random), 0.0), np.full(4, random.uniform(0.16, 0.24)))


def put_fist_on_mouth(portrait: Portrait, random: Generator) -> Image:
    """A hand's back."""
    return _paint_fingers(portrait, random, (0.0, _MOUTH_Y), np.array([random.uniform(0.55, 0.75)]))


def put_fist_on_eye(portrait: Portrait, random: Generator) -> Image:
    return _paint_fingers(portrait, random, (_choose_eye_x(random), 0.0), np.array([random.uniform(0.45, 0.7)]))


def put_hair(portrait: Portrait, random: Generator) -> Image:
    """Strands over one or both eyes, light and dark ones."""
    colour = random.uniform(10, 90) * np.array([1.0, 0.8, 0.6])
    middle, spread = random.choice((-0.55, 0.0, 0.55)), random.uniform(0.2, 0.35)
    photo = portrait.photo
    for shade in (-10, 0, 10):
        strands = [_make_strand(middle, spread, random) for _ in range(int(random.integers(14, 30)))]
        photo = _paint(portrait.on(photo), random, strands, _Cloth(np.clip(colour + shade, 0, 255)))
    return photo


def put_cup(portrait: Portrait, random: Generator) -> Image:
    """Something straight before the mouth: a cup, a telephone, a microphone."""
    half, top = random.uniform(0.35, 0.7), random.uniform(0.6, 0.85)
    foot = half * random.uniform(0.7, 1)
    outline = [(-half, top), (half, top), (foot, 2.2), (-foot, 2.2)]
    return _paint(portrait, random, [outline], _Cloth(random.uniform(0, 255, 3)))


COVERS: Mapping[str, Degradation] = {
    "surgical mask": put_surgical_mask,
    "cone mask": put_cone_mask,
    "scarf": put_scarf,
    "dark glasses": put_dark_glasses,
    "mirrored glasses": put_mirrored_glasses,
    "fingers on mouth": put_fingers_on_mouth,
    "fingers on eye": put_fingers_on_eye,
    "fist on mouth": put_fist_on_mouth,
    "fist on eye": put_fist_on_eye,
    "hair": put_hair,
    "cup": put_cup,
}
OVER_EYES = frozenset({"dark glasses", "mirrored glasses", "hair", "fingers on eye", "fist on eye"})
OVER_MOUTH = frozenset(COVERS) - OVER_EYES
UNSEEN_COVERS = frozenset({"cone mask", "mirrored glasses", "fingers on mouth", "fingers on eye"})
"""Kinds that take no part in the fit that is tested, so that it is tested on kinds that it has not seen."""


def _choose_eye_x(random: Generator) -> float:
    return float(random.choice((-_EYE_X, _EYE_X)))


def _put_glasses(portrait: Portrait, random: Generator, radii: tuple[float, float], cloth: _Cloth) -> Image:
    grow = random.uniform(0.9, 1.2)
    lenses = [_make_ring(side, (radii[0] * grow, radii[1] * grow)) for side in (-_EYE_X, _EYE_X)]
    bridge = [(-0.2, -0.08), (0.2, -0.08), (0.2, 0.0), (-0.2, 0.0)]
    return _paint(portrait, random, [*lenses, bridge], cloth)


def _make_ring(x: float, radii: tuple[float, float], corners: int = 16) -> Outline:
    angles = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    return [(x + radii[0] * float(np.cos(a)), 0.03 + radii[1] * float(np.sin(a))) for a in angles]


def _make_strand(middle: float, spread: float, random: Generator) -> Outline:
    x, width, lean = middle + random.normal(0, spread), random.uniform(0.02, 0.06), random.normal(0, 0.12)
    return [(x, -1.2), (x + width, -1.2), (x + lean + width, 0.45), (x + lean, 0.45)]


def _paint_fingers(
    portrait: Portrait, random: Generator, tip: tuple[float, float], widths: NDArray[np.float64]
) -> Image:
    """Fingers side by side from below, their tips at `tip`, in about the colour of the cheeks."""
    cheek = _map_to_photo(portrait.landmarks, np.array([(-0.45, 0.6), (0.45, 0.6)]))
    rows, columns = np.clip(np.rint(cheek[:, ::-1]).astype(int), 0, np.array(portrait.photo.shape[:2]) - 1).T
    skin = np.median(portrait.photo[rows, columns].astype(np.float64), axis=0) * random.uniform(0.75, 1.15)
    photo, lean, (x, y) = portrait.photo, random.uniform(-0.5, 0.5), tip
    for finger, width in enumerate(widths):
        across = x + (finger - (len(widths) - 1) / 2) * 2.1 * width
        end = [(across - width, y - 0.35), (across, y - 0.35 - width), (across + width, y - 0.35)]
        outline = [*end, (across + width + lean, y + 1.6), (across - width + lean, y + 1.6)]
        photo = _paint(portrait.on(photo), random, [outline], _Cloth(np.clip(skin + random.normal(0, 6), 0, 255)))
    return photo


def _paint(portrait: Portrait, random: Generator, outlines: Sequence[Outline], cloth: _Cloth) -> Image:
    """Fill the outlines, in the face's frame, with cloth that is brighter on one side and has a grain."""
    photo = portrait.photo.astype(np.float32)
    hidden = np.zeros(photo.shape[:2], np.float32)
    for outline in outlines:
        corners = _map_to_photo(portrait.landmarks, np.array(outline) + random.normal(0, 0.02, (len(outline), 2)))
        cv2.fillPoly(hidden, [np.rint(corners * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    share = np.asarray(cv2.GaussianBlur(hidden, (0, 0), 0.7), np.float32)[..., None] * np.float32(cloth.opacity)
    fall = random.normal(0, 25) * np.linspace(-0.5, 0.5, photo.shape[1])[:, None]
    shaded = (
        _make_pattern(portrait, random, cloth) + fall + _make_folds(portrait, cloth) + random.normal(0, 3, photo.shape)
    )
    return np.asarray(np.clip(np.rint(photo * (1 - share) + shaded * share), 0, 255), np.uint8)


def _make_pattern(portrait: Portrait, random: Generator, cloth: _Cloth) -> NDArray[np.float64]:
    """(H,W,3): the colour, or two colours in oblique stripes."""
    if cloth.stripes is None:
        return np.broadcast_to(cloth.colour, portrait.photo.shape)
    rows, columns = np.mgrid[: portrait.photo.shape[0], : portrait.photo.shape[1]]
    phase = (rows + random.uniform(-1, 1) * columns) / (portrait.eyes_px * random.uniform(0.12, 0.35))
    return np.where(np.sin(2 * np.pi * phase)[..., None] > 0, cloth.colour, cloth.stripes)


def _make_folds(portrait: Portrait, cloth: _Cloth) -> NDArray[np.float64]:
    """(H,W,1): how much darker it is along the folds."""
    shade = np.zeros(portrait.photo.shape[:2])
    for y in cloth.folds:
        start, end = np.rint(_map_to_photo(portrait.landmarks, np.array([(-0.9, y), (0.9, y)]))).astype(int).tolist()
        cv2.line(shade, start, end, -18.0, max(1, round(portrait.eyes_px / 30)), cv2.LINE_AA)
    return shade[..., None]


def _map_to_photo(landmarks: Floats, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5,2) px, (M,2) in the face's frame → (M,2) px."""
    left, right, mouth = landmarks[0], landmarks[1], landmarks[3:].mean(axis=0)
    across, down = right - left, (mouth - (left + right) / 2) / _MOUTH_Y
    result: NDArray[np.float64] = (left + right) / 2 + points[:, :1] * across + points[:, 1:] * down
    return result
