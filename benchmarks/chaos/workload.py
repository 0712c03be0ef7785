"""The messages of a round: tiny photos with real faces, unusable pictures, duplicates and poison, in random order."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image

from app.core.messages import DetectImage

GALLERIES = 5
DUPLICATES = 0.10
POISON = 0.02
SIDE_PX = 160
PORTRAIT = (140, 0, 340, 200)
"""Eileen Collins in scikit-image's astronaut.png (NASA, public domain), as left, upper, right, lower."""
LFW_FACES = 100
"""scikit-image's lfw_subset.npy holds 100 faces of 25 x 25 pixels first, then pictures without one."""
NO_SUCH_BUCKET = "chaos-no-such-bucket"
"""The services allow this bucket, but it does not exist: every try fails with a temporary error."""

Kind = Literal["photo", "rejected", "redriven"]


@dataclass(frozen=True)
class Sent:
    """A message of the workload. `number` is in its body, so every body is different."""

    number: int
    kind: Kind
    body: str
    photo: tuple[str, str] | None = None


@dataclass(frozen=True)
class Workload:
    """Photos by gallery and image id, and the messages in the order of sending."""

    photos: dict[tuple[str, str], bytes] = field(repr=False)
    messages: list[Sent] = field(repr=False)

    @property
    def galleries(self) -> list[str]:
        return sorted({gallery for gallery, _ in self.photos})


def make_workload(count: int, seed: int) -> Workload:
    """A workload of `count` messages. The duplicates and the order depend on the seed, the photos do not."""
    chance = random.Random(seed)  # noqa: S311 - a fixed order, not a secret
    poison = max(2, round(count * POISON))
    duplicates = round(count * DUPLICATES)
    names = [(f"gallery-{row % GALLERIES}", f"photo-{row:03}") for row in range(count - poison - duplicates)]
    photos = {name: make_photo(row) for row, name in enumerate(names)}
    wanted = [*names, *(chance.choice(names) for _ in range(duplicates))]
    messages = [_make_detect_message(number, name) for number, name in enumerate(wanted)]
    messages += [_make_poison(len(messages) + row, row) for row in range(poison)]
    chance.shuffle(messages)
    return Workload(photos, messages)


def make_calm_messages(photos: dict[tuple[str, str], bytes]) -> list[Sent]:
    """One message for each photo: the messages of the undisturbed run."""
    return [_make_detect_message(number, name) for number, name in enumerate(photos)]


def make_photo(row: int) -> bytes:
    """A JPEG that is different for each row. Of every twelve, nine have a face, two have none and one is cut off."""
    data = _encode_jpeg(make_picture(row))
    # Half a picture would still be decoded; a header alone is not.
    return data[:120] + row.to_bytes(4, "big") if row % 12 == 11 else data


def make_picture(row: int) -> Image.Image:
    """A picture that is different for each row, with a face but for two of every twelve."""
    kind = row % 12
    if kind in (4, 9):
        return _make_faceless(row)
    return _make_portrait(row) if kind < 4 else _make_passer_by(row)


def _make_portrait(row: int) -> Image.Image:
    side = SIDE_PX + 2 * (row % 37)
    picture = _read_skimage_photo("astronaut.png").crop(PORTRAIT).resize((side, side))
    return picture.point(lambda value: min(255, value * (85 + row % 31) // 100))


def _make_passer_by(row: int) -> Image.Image:
    face = Image.fromarray((255 * _read_lfw()[row % LFW_FACES]).astype(np.uint8)).convert("RGB")
    picture = Image.new("RGB", (200, 200), (127, 120 + row % 16, 127))
    picture.paste(face.resize((120, 120), Image.Resampling.BICUBIC), (40, 40))
    return picture


def _make_faceless(row: int) -> Image.Image:
    return Image.new("RGB", (SIDE_PX + row, SIDE_PX), (row % 256, 90, 160))


def _encode_jpeg(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@cache
def _read_skimage_photo(name: str) -> Image.Image:
    with (files("skimage") / "data" / name).open("rb") as stream:
        return Image.open(stream).convert("RGB")


@cache
def _read_lfw() -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """(100,25,25) float64 grey in 0…1."""
    with (files("skimage") / "data" / "lfw_subset.npy").open("rb") as stream:
        return np.asarray(np.load(stream)[:LFW_FACES])


def _make_detect_message(number: int, name: tuple[str, str]) -> Sent:
    gallery, image = name
    message = DetectImage(gallery_id=gallery, image_id=image, s3_key=f"{gallery}/{image}.jpg")
    return Sent(number, "photo", _add_number(message.model_dump_json(), number), name)


def _make_poison(number: int, row: int) -> Sent:
    """A poison message. The first fails at every try until the queue redrives it; the others are rejected at once."""
    if row == 0:
        message = DetectImage(gallery_id="gallery-0", image_id="poison", s3_key="p.jpg", bucket=NO_SUCH_BUCKET)
        return Sent(number, "redriven", _add_number(message.model_dump_json(), number))
    bodies: Iterator[str] = iter(('{"type": "make_coffee"}', '{"type": "detect_image", "version": 9}', '["not a job"'))
    body = list(bodies)[row % 3]
    return Sent(number, "rejected", _add_number(body, number))


def _add_number(body: str, number: int) -> str:
    """Add the number as a field, which services ignore. A body that is not JSON gets it at its end."""
    return f'{body[:-1]}, "n": {number}}}' if body.endswith("}") else f"{body} {number}"
