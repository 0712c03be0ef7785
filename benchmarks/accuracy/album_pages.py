"""Group photos (pages) composed of portraits, with labels: the person, the place and the degradation of each face.

A page is 1200 by 800 px with 2 to 8 different people on a plain background, each portrait a rectangle around the head.
Portraits come from photos of one person each; the face nearest the middle is taken. Larger faces are made as large as
those of the Labeled Faces in the Wild, some 100 px wide, so that the degradations mean the same for every collection.
The background of a portrait is part of it, and sometimes has another face without a label.
"""

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from app.core.arrays import Floats, Image
from app.detection.device import Device
from app.detection.stage_times import StageTimes
from app.host import count_cores
from benchmarks.accuracy.album import LabelledFace
from workshop.degradations import DEGRADATIONS, Portrait
from workshop.parity import find_most_central
from workshop.samples import read_images

PAGE_PX = (1200, 800)
FEWEST_FACES, MOST_FACES = 2, 8
FACES_A_ROW = 4
PHOTOS_A_PERSON = 40
"""At most so many, as a main person of an event may have. The 530 photos of one politician in the Labeled Faces in the
Wild would decide the figures alone."""
EYES_PX = 45.0
"""The distance between the eyes of a frontal face, about that in a 250 px photo of the Labeled Faces in the Wild."""
EYES_TO_MOUTH = 1.1
"""The distance from the eyes to the mouth of a frontal face, as a multiple of that between the eyes."""
ASIDE, ABOVE, BELOW = 2.0, 2.3, 2.0
"""How far a portrait extends from the nose, as multiples of the distance between the eyes."""
JPEG_QUALITY = 92
CLEAN = "clean"
LABELS = "labels.csv"


@dataclass(frozen=True)
class PageFace(LabelledFace):
    """A face of a page; the centre is its nose. `kind` is the name of its degradation, or CLEAN."""

    kind: str


def choose_people(
    people: Mapping[Path, Sequence[Path]], count: int | None, random: Generator
) -> dict[Path, list[Path]]:
    """At most `count` people at random, each with at most PHOTOS_A_PERSON photos in random order."""
    names = sorted(people)
    chosen = sorted(random.permutation(len(names))[:count].tolist())
    shuffled = {names[number]: random.permutation(np.array(people[names[number]], object)) for number in chosen}
    return {name: photos[:PHOTOS_A_PERSON].tolist() for name, photos in shuffled.items()}


def plan_pages(people: Mapping[Path, Sequence[Path]], count: int | None, random: Generator) -> list[list[Path]]:
    """Person → photos → the photos of each page, until all are used or there are `count` pages.

    No person is on a page twice, and no photo is used twice. A person with many unused photos is more likely to be on
    the next page. Photos of a single person that remain at the end are not used.
    """
    left = {person: list(photos) for person, photos in people.items()}
    pages: list[list[Path]] = []
    while len(left) >= FEWEST_FACES and (count is None or len(pages) < count):
        names = sorted(left)
        size = min(int(random.integers(FEWEST_FACES, MOST_FACES + 1)), len(names))
        odds = np.array([len(left[name]) for name in names], float)
        on_page = [names[row] for row in random.choice(len(names), size, replace=False, p=odds / odds.sum())]
        pages.append([left[name].pop() for name in on_page])
        left = {name: photos for name, photos in left.items() if photos}
    return pages


def write_pages(
    pages: Sequence[Sequence[Path]], folder: Path, device: Device, degraded: float, seed: int
) -> list[PageFace]:
    """Write `page_0000.jpg` and so on and `labels.csv` into `folder`. Returns the labels, in order of pages.

    `degraded` is the probability with which a portrait is degraded. A photo in which no face is detected is left out,
    and so is a page without any other photo.
    """

    def write(numbered: tuple[int, Sequence[Path]]) -> list[PageFace]:
        number, photos = numbered
        random = np.random.default_rng([seed, number])
        found = [(photo, portrait) for photo in photos if (portrait := _find_portrait(photo, device))]
        if not found:
            return []
        with device.cpu:
            page, faces = _compose(found, f"page_{number:04}", degraded, random)
            _write_jpeg(folder / f"page_{number:04}.jpg", page)
        return faces

    with ThreadPoolExecutor(count_cores()) as pool:
        labelled = [face for faces in pool.map(write, enumerate(pages)) for face in faces]
    _write_labels(folder / LABELS, labelled)
    return labelled


def _find_portrait(photo: Path, device: Device) -> Portrait | None:
    """The face nearest the middle, None where the photo can't be read or no face is detected."""
    for _, image in read_images([photo], device.pack.view_px):
        found = device.detect(image, StageTimes())
        if len(found):
            return _shrink_to_usual_size(Portrait(image, found.landmarks[find_most_central(found, image)]))
    return None


def _shrink_to_usual_size(portrait: Portrait) -> Portrait:
    """The portrait, made smaller where its face is larger than usual (EYES_PX)."""
    scale = EYES_PX / _measure_face_px(portrait.landmarks)
    if scale >= 1:
        return portrait
    photo = cv2.resize(portrait.photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return Portrait(np.asarray(photo, np.uint8), portrait.landmarks * np.float32(scale))


def _measure_face_px(landmarks: Floats) -> float:
    """(5,2) px → the distance between the eyes, or what it would be if the face were frontal."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    across = np.linalg.norm(landmarks[1] - landmarks[0])
    return max(float(across), float(np.linalg.norm(mouth - eyes)) / EYES_TO_MOUTH, 1.0)


def _compose(
    portraits: Sequence[tuple[Path, Portrait]], image_id: str, degraded: float, random: Generator
) -> tuple[Image, list[PageFace]]:
    """Photos and their portraits → (800,1200,3) uint8 RGB with each portrait at random in a cell of its own, labels."""
    page = _draw_background(random)
    rows = 1 if len(portraits) <= FACES_A_ROW else 2
    columns = -(-len(portraits) // rows)
    cell = np.array(PAGE_PX) // (columns, rows)
    faces = []
    for number, (photo, portrait) in enumerate(portraits):
        kind = str(random.choice(list(DEGRADATIONS))) if random.random() < degraded else CLEAN
        head, nose = _cut_head(portrait, kind, random)
        size = np.array([head.shape[1], head.shape[0]])
        left, top = random.integers(0, np.maximum(cell - size, 1)) + cell * (number % columns, number // columns)
        page[top : top + size[1], left : left + size[0]] = head
        centre_px = (round(float(nose[0]) + int(left), 1), round(float(nose[1]) + int(top), 1))
        faces.append(PageFace(image_id, photo.parent.name, centre_px, kind))
    return page, faces


def _cut_head(portrait: Portrait, kind: str, random: Generator) -> tuple[Image, Floats]:
    """The head cut out of the photo, which is degraded before, and the position (2,) px of its nose in the cut-out."""
    photo = portrait.photo if kind == CLEAN else DEGRADATIONS[kind](portrait, random)
    # Some degradations make the photo smaller. None moves the nose within it.
    scale = photo.shape[1] / portrait.photo.shape[1]
    nose, unit = portrait.landmarks[2] * scale, _measure_face_px(portrait.landmarks) * scale
    size = (photo.shape[1], photo.shape[0])
    left, top = np.clip(np.rint(nose - unit * np.array([ASIDE, ABOVE])), 0, size).astype(int)
    right, bottom = np.clip(np.rint(nose + unit * np.array([ASIDE, BELOW])), 0, size).astype(int)
    return photo[top:bottom, left:right], (nose - np.array([left, top])).astype(np.float32)


def _draw_background(random: Generator) -> Image:
    """(800,1200,3) uint8: a gradient from one random colour at the top to another at the bottom, with noise."""
    colours = random.uniform(40, 210, (2, 3))
    share = np.linspace(0, 1, PAGE_PX[1])[:, None, None]
    plain = np.broadcast_to(colours[0] * (1 - share) + colours[1] * share, (PAGE_PX[1], PAGE_PX[0], 3))
    return np.clip(np.rint(plain + random.normal(0, 2, plain.shape)), 0, 255).astype(np.uint8)


def _write_jpeg(path: Path, page: Image) -> None:
    _, data = cv2.imencode(".jpg", page[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())


def _write_labels(path: Path, labelled: Sequence[PageFace]) -> None:
    """Write the labels as `benchmarks album` reads them, with the kind of degradation as one more column."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "person", "face_center_x_px", "face_center_y_px", "kind"])
        writer.writerows([f"{face.image_id}.jpg", face.person, *face.center_px, face.kind] for face in labelled)
