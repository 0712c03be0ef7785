"""Photos damaged on purpose: a face framed in several ways, then blurred, darkened, over-exposed, shrunk and so on.

Everything follows from the random generator that is passed in, so that results can be reproduced.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from app.core.arrays import Floats, Image

SCENE_PX = 600
SMALL = (0.35, 1.0)
"""Scale of a face that is small in its scene: with LFW's faces of 100 px, it has 6 to 17 % of the scene's side."""


@dataclass(frozen=True)
class Subject:
    """A photo and the box (4,) px x1 y1 x2 y2 of the face in it that counts."""

    photo: Image
    box: Floats


Framing = Callable[[Subject, Image, Generator], Subject]
"""A subject, another photo for the background → the same face in another frame."""

Damage = Callable[[Image, Generator], Image]
"""(H,W,3) uint8 RGB → the same scene, damaged; only "down-scaled" changes the size."""


def keep(subject: Subject, _: Image, __: Generator) -> Subject:
    return subject


def crop_close_up(subject: Subject, _: Image, __: Generator) -> Subject:
    """The face alone, filling the frame."""
    height, width = subject.photo.shape[:2]
    margin = 0.1 * (subject.box[2:] - subject.box[:2])
    left, top = np.maximum(subject.box[:2] - margin, 0).astype(int)
    right, bottom = np.minimum(subject.box[2:] + margin, (width, height)).astype(int)
    photo = np.ascontiguousarray(subject.photo[top:bottom, left:right])
    return Subject(photo, subject.box - np.array([left, top, left, top], np.float32))


def put_before_blur(subject: Subject, other: Image, random: Generator) -> Subject:
    scene = cv2.resize(other, (SCENE_PX, SCENE_PX), interpolation=cv2.INTER_LINEAR)
    return _put_small_in(np.asarray(cv2.GaussianBlur(scene, (0, 0), 15), np.uint8), subject, random)


def put_in_the_dark(subject: Subject, _: Image, random: Generator) -> Subject:
    return _put_small_in(np.full((SCENE_PX, SCENE_PX, 3), 3, np.uint8), subject, random)


def put_before_white(subject: Subject, _: Image, random: Generator) -> Subject:
    return _put_small_in(np.full((SCENE_PX, SCENE_PX, 3), 252, np.uint8), subject, random)


def _put_small_in(scene: Image, subject: Subject, random: Generator) -> Subject:
    """The head alone, made smaller, anywhere in a scene (S,S,3), which is written to."""
    scale = random.uniform(*SMALL)
    photo = np.asarray(cv2.resize(subject.photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    box = subject.box * np.float32(scale)
    height, width = photo.shape[:2]
    left, top = random.integers(0, SCENE_PX - width), random.integers(0, SCENE_PX - height)
    patch, mask = scene[top : top + height, left : left + width], _make_head_mask(photo, box)
    patch[:] = np.rint(photo * mask + patch * (1 - mask)).astype(np.uint8)
    return Subject(scene, box + np.array([left, top, left, top], np.float32))


def _make_head_mask(photo: Image, box: Floats) -> Floats:
    """(H,W,1) float32, 1 on the head and 0 beyond, with a soft rim."""
    mask = np.zeros(photo.shape[:2], np.float32)
    (x, y), (width, height) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    cv2.ellipse(mask, (int(x), int(y)), (int(0.65 * width), int(0.65 * height)), 0, 0, 360, 1, cv2.FILLED)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.05 * float(width)), np.float32)[..., None]


FRAMINGS: Mapping[str, Framing] = {
    "as it is": keep,
    "close-up": crop_close_up,
    "before a blurred background": put_before_blur,
    "lit in the dark": put_in_the_dark,
    "before white": put_before_white,
}


def leave_undamaged(photo: Image, _: Generator) -> Image:
    return photo


def blur_by_motion(photo: Image, random: Generator) -> Image:
    """As if the camera moved by 7 to 41 px in a straight line."""
    return move_camera(photo, random.uniform(7, 41), random.uniform(0, np.pi))


def move_camera(photo: Image, length_px: float, angle: float) -> Image:
    """As if the camera moved in a straight line while the shutter was open; `angle` in radians."""
    middle = int(length_px) // 2 + 2
    reach = (length_px - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    kernel = np.zeros((2 * middle + 1, 2 * middle + 1), np.uint8)
    # The last argument says how many bits of the coordinates are the fraction.
    start, end = (tuple(int(v) for v in np.rint((middle + sign * reach) * 16)) for sign in (-1, 1))
    cv2.line(kernel, start, end, 255, 1, cv2.LINE_AA, 4)
    return _filter(photo, kernel)


def defocus(photo: Image, random: Generator) -> Image:
    """Every point becomes a disk of 2 to 20 px radius."""
    radius = _draw_log_uniform(random, 2, 20)
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filter(photo, np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1))


def darken(photo: Image, random: Generator) -> Image:
    """1 to 40 % of the light, and noise of 1 to 16 grey levels."""
    return _add_noise(photo * _draw_log_uniform(random, 0.01, 0.4), _draw_log_uniform(random, 1, 16), random)


def over_expose(photo: Image, random: Generator) -> Image:
    """1.5 to 30 times the light."""
    return _add_noise(photo * _draw_log_uniform(random, 1.5, 30), 0, random)


def veil(photo: Image, random: Generator) -> Image:
    """2 to 40 % of the contrast, as in fog or against the light, at any brightness."""
    contrast = _draw_log_uniform(random, 0.02, 0.4)
    return _add_noise(photo * contrast + random.uniform(0, 255) * (1 - contrast), 1, random)


def scale_down(photo: Image, random: Generator) -> Image:
    """A longer side of 12 to 120 px."""
    scale = _draw_log_uniform(random, 12, 120) / max(photo.shape)
    return np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def compress(photo: Image, random: Generator) -> Image:
    """JPEG of quality 4 to 14."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(4, 15))]
    _, data = cv2.imencode(".jpg", photo[..., ::-1], quality)
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])


def make_black_frame(photo: Image, random: Generator) -> Image:
    """As if the lens was covered."""
    return _add_noise(np.zeros(photo.shape), random.uniform(0, 8), random)


def make_white_frame(photo: Image, random: Generator) -> Image:
    return _add_noise(np.full(photo.shape, 255), random.uniform(0, 8), random)


def make_blank_frame(photo: Image, random: Generator) -> Image:
    """One colour, a little darker towards one side, as a wall or a sheet of paper is."""
    fall = np.linspace(0, random.uniform(0, 20), photo.shape[1])[None, :, None]
    return _add_noise(random.uniform(30, 235, 3) - np.broadcast_to(fall, photo.shape), random.uniform(0, 4), random)


DAMAGES: Mapping[str, Damage] = {
    "undamaged": leave_undamaged,
    "motion blur": blur_by_motion,
    "defocus": defocus,
    "dark": darken,
    "over-exposed": over_expose,
    "veiled": veil,
    "down-scaled": scale_down,
    "JPEG": compress,
    "black frame": make_black_frame,
    "white frame": make_white_frame,
    "blank frame": make_blank_frame,
}

EMPTY = frozenset({"black frame", "white frame", "blank frame"})
"""Damage that leaves no face."""


def _filter(photo: Image, kernel: NDArray[np.generic]) -> Image:
    weights = (kernel / kernel.sum()).astype(np.float32)
    return np.asarray(cv2.filter2D(photo, -1, weights, borderType=cv2.BORDER_REFLECT), np.uint8)


def _add_noise(scene: ArrayLike, sigma: float, random: Generator) -> Image:
    """Gaussian noise of `sigma` grey levels, the same in bright and dark parts."""
    clean = np.asarray(scene, np.float32)
    return np.clip(np.rint(clean + random.normal(0, sigma, clean.shape)), 0, 255).astype(np.uint8)


def _draw_log_uniform(random: Generator, least: float, most: float) -> float:
    return float(np.exp(random.uniform(np.log(least), np.log(most))))
