"""Whether a selfie finds its person, how many strangers are shown anybody, and how long an answer takes.

`python -m benchmarks find [--pack PACK] [--embeddings FILE.npz] [--images DIR] [--faces N] [--no-latency] [--json]`

FILE.npz is what `python -m workshop embed PACK` wrote of DIR; without it the photos are embedded first. DIR has a
folder of photos for each person. The people are split at random into halves, SPLITS times: the bars are calibrated on
one half, as `python -m workshop calibrate` does it, and measured on the other, and then the same with the halves
exchanged. Of each guest with several photos, up to `--selfies` are selfies, half of them at most; the others are in the
gallery.

right            share of guests for whom their own person is found, and is the most similar one.
wrong            share of guests who are shown somebody else, alone or beside their own person.
strangers_shown  share of people who are not in the gallery and are shown anybody. Each guest is a stranger to the
                 gallery without their own person, too.
unsure           share of strangers for whom the answer is `unsure`.
asked_again      share of guests none of whose selfies is good enough. They are in no other figure.
median_ms        milliseconds from sending a find to its answer at the reply queue, with the gallery's vectors at hand,
                 in a gallery of --faces faces, while the detection worker is busy with photos.
cold_ms          the same where the vectors were published anew and must be read: median of COLD.

Exit code 1 where nothing could be measured.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pil
from pymongo import MongoClient

from app.adapters.aws import open_client
from app.adapters.mongo_records import make_face_fields, make_image_fields
from app.core.arrays import Floats
from app.core.gallery_vectors import UNASSIGNED, GalleryVectors, encode
from app.core.likeness import exceed_crowd
from app.core.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef, make_face_id
from app.core.result_keys import ResultKeys
from app.core.threads import BackgroundThread, repeat
from app.detection.device import open_device
from app.detection.find import NEAR_THE_BEST
from app.packs.store import PackStore
from app.vision.face_pack import load_pack
from benchmarks.common.command import UnusableInput, find_photos, print_result
from benchmarks.common.running import run_local_stack
from local.stack import SELFIES, LocalStack
from workshop.calibration import KnownFaces, measure_central_faces
from workshop.find_calibration import choose_find_bars, invite
from workshop.samples import name_people_below

SPLITS = 4
FINDS, COLD = 30, 5
GALLERY = "find-benchmark"
FACES_A_PERSON = 16
UNASSIGNED_PART = 10
"""One face of so many is unassigned."""
NOISE = 0.6
"""Length of what a synthetic face has beside its person's vector."""
SELFIE_PX = 1500
BUSY_PHOTOS = 300
"""Messages that the detection queue always has at least: more than a worker does in the time of a find."""
ANSWER_S = 60


def main(arguments: Sequence[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    return 1 if print_result(lambda: run(options), as_json=options.json) is None else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both. Returns the result as it is printed."""
    pack = PackStore(Path("models"), accept_research_licence=True).install(options.pack)
    file = options.embeddings or _embed(options, pack)
    try:
        arrays = np.load(file)
        images, names = arrays["image"].astype(str), arrays["label"].astype(str)
        known = KnownFaces(
            arrays["embedding"],
            np.unique(names, return_inverse=True)[1].astype(np.int64),
            arrays["mirrored"],
            arrays["quality"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnusableInput(f"{file} can't be read: {error}. `python -m workshop embed` writes such files.") from error
    wanted, has = load_pack(pack, "cpu", 1).dimension, known.embeddings.shape[1]
    if has != wanted:
        raise UnusableInput(f"{file} has embeddings of {has} values, and {options.pack} makes {wanted}: name its pack.")
    result: dict[str, Any] = {"pack": pack.manifest.name, "model": pack.manifest.model_id}
    result |= measure_accuracy(known, pack.manifest.quality.core, options.selfies)
    if not options.no_latency:
        print("a gallery is made, and guests are looked for in it", file=sys.stderr)
        result |= measure_latency(options, known, [options.images / image for image in images])
    return result


def measure_accuracy(known: KnownFaces, least_quality: float, selfies: int) -> dict[str, Any]:
    """The means over all halves, and the worst of them."""
    rows = []
    for seed in range(SPLITS):
        side = np.random.default_rng(seed).permutation(int(known.people.max()) + 1)[known.people] % 2
        first, second = (_take(known, side == half) for half in (0, 1))
        for calibrated, measured in ((first, second), (second, first)):
            rows.append(_measure_half(calibrated, measured, least_quality, selfies, seed))
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {
        "halves": len(rows),
        **{name: round(value, 4) for name, value in mean.items()},
        "right_worst": round(min(row["right"] for row in rows), 4),
        "strangers_shown_worst": round(max(row["strangers_shown"] for row in rows), 4),
    }


def _measure_half(
    calibrated: KnownFaces, measured: KnownFaces, least_quality: float, selfies: int, seed: int
) -> dict[str, float]:
    bars = choose_find_bars(calibrated, least_quality)
    if bars is None:
        raise UnusableInput("There are too few people with good photos to calibrate on half of them.")
    guests = invite(measured, least_quality, selfies, seed)
    similarities = exceed_crowd(guests.gallery.compare(guests.vectors), bars.crowd)
    sure, unsure = bars.choose(similarities.shape[1])
    invited = np.flatnonzero(guests.own >= 0)
    own, best = guests.own[invited], similarities[invited]
    highest = best.max(axis=1, keepdims=True)
    shown = (best >= sure) & (best >= highest - NEAR_THE_BEST)
    right = shown.any(axis=1) & (best.argmax(axis=1) == own)
    shown[np.arange(len(own)), own] = False
    as_strangers = exceed_crowd(guests.compare_to_others(), bars.crowd).max(axis=1)
    return {
        "guests": len(invited),
        "strangers": len(as_strangers),
        "people": similarities.shape[1],
        "right": float(right.mean()),
        "wrong": float(shown.any(axis=1).mean()),
        "strangers_shown": float((as_strangers >= sure).mean()),
        "unsure": float(((as_strangers >= unsure) & (as_strangers < sure)).mean()),
        "asked_again": guests.missing / (len(invited) + guests.missing),
    }


def _take(known: KnownFaces, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> KnownFaces:
    people = np.unique(known.people[chosen], return_inverse=True)[1].astype(np.int64)
    assert known.mirrored is not None
    assert known.quality is not None
    return KnownFaces(known.embeddings[chosen], people, known.mirrored[chosen], known.quality[chosen])


def measure_latency(options: argparse.Namespace, known: KnownFaces, photos: Sequence[Path]) -> dict[str, Any]:
    """Send finds one after the other, while the detection worker has more photos than it can do."""
    guests = _choose_guests(known, FINDS)
    busy = find_photos(options.busy, 40)
    with run_local_stack(options.pack, {"ACCEPT_RESEARCH_LICENCE": "true"}) as stack:
        world = _World(stack, options)
        world.make_gallery(known, guests, options.faces)
        with world.keep_busy(busy):
            cold = []
            for number in range(COLD):
                world.publish(number + 1)
                cold.append(world.find(f"cold-{number}", photos[guests[number][0]])[0])
            warm = [world.find(f"warm-{number}", photos[selfie]) for number, (selfie, _) in enumerate(guests)]
    answered = [answer for _, answer in warm]
    right = [
        answer["status"] == "found" and answer["people"][0]["person_id"] == f"guest{number}"
        for number, answer in enumerate(answered)
    ]
    times = [seconds for seconds, _ in warm]
    return {
        "faces": options.faces,
        "finds": len(warm),
        "median_ms": round(1000 * statistics.median(times)),
        "p90_ms": round(1000 * float(np.quantile(times, 0.9))),
        "cold_ms": round(1000 * statistics.median(cold)),
        "found_in_the_gallery": sum(right),
        "photos_meanwhile": world.done,
    }


def _choose_guests(known: KnownFaces, count: int) -> list[tuple[int, list[int]]]:
    """The selfie's row and the gallery's rows of so many people with the most photos."""
    counts = np.bincount(known.people)
    chosen = np.argsort(-counts, kind="stable")[:count]
    rows = [np.flatnonzero(known.people == person) for person in chosen]
    if known.quality is not None:
        rows = [some[np.argsort(-known.quality[some], kind="stable")] for some in rows]
    return [(int(some[0]), some[1 : 1 + FACES_A_PERSON].tolist()) for some in rows]


class _World:
    """The running services, and a gallery that is made of what they would have stored."""

    def __init__(self, stack: LocalStack, options: argparse.Namespace) -> None:
        self.environment = stack.environment
        region = self.environment["AWS_DEFAULT_REGION"]
        self._s3, self._sqs = open_client("s3", region), open_client("sqs", region, read_timeout_s=30)
        self._database = MongoClient[dict[str, Any]](self.environment["GALLERY_IMAGES_MONGO_URI"]).get_default_database(
            "gallery_images"
        )
        self._model = PackStore(Path("models"), accept_research_licence=True).read(options.pack).model_id
        self._vectors: GalleryVectors | None = None
        self.done = 0

    def make_gallery(self, known: KnownFaces, guests: Sequence[tuple[int, list[int]]], faces: int) -> None:
        """Guests with their real faces, and synthetic people and unassigned faces up to so many faces."""
        random = np.random.default_rng(0)
        dimension = known.embeddings.shape[1]
        people = [(f"guest{number}", known.embeddings[rows]) for number, (_, rows) in enumerate(guests)]
        others = (faces - faces // UNASSIGNED_PART) // FACES_A_PERSON - len(people)
        for number in range(others):
            center = _make_unit(random.normal(size=(1, dimension)))
            noise = _make_unit(random.normal(size=(FACES_A_PERSON, dimension)))
            people.append((f"person{number}", _make_unit(center + NOISE * noise)))
        alone = _make_unit(random.normal(size=(faces // UNASSIGNED_PART, dimension)))
        records: list[tuple[FaceRecord, str | None]] = []
        for person_id, vectors in [*people, (None, alone)]:
            records += [(self._make_face(len(records) + row, vector), person_id) for row, vector in enumerate(vectors)]
        self._insert(records, [person_id for person_id, _ in people])
        of_people: dict[str | None, list[FaceRecord]] = {}
        for face, person_id in records:
            of_people.setdefault(person_id, []).append(face)
        exemplars = [(face, number) for number, (one, _) in enumerate(people) for face in of_people[one][:4]]
        exemplars += [(face, UNASSIGNED) for face in of_people[None][:10_000]]
        self._vectors = GalleryVectors(
            gallery_id=GALLERY,
            model_id=self._model,
            published=1,
            fence=1,
            person_ids=[person_id for person_id, _ in people],
            means=_make_unit(np.stack([vectors.mean(axis=0) for _, vectors in people])).astype(np.float16),
            face_sets=[""] * len(people),
            exemplars=np.stack([face.embedding for face, _ in exemplars]).astype(np.float16),
            exemplar_person=np.array([number for _, number in exemplars], np.int32),
            face_ids=[face.face_id for face, _ in exemplars],
            image_ids=[face.image_id for face, _ in exemplars],
            digests=[face.digest for face, _ in exemplars],
            boxes=np.zeros((len(exemplars), 4), np.float32),
        )

    def publish(self, version: int) -> None:
        """Write the vectors, as a run does with each output."""
        assert self._vectors is not None
        data = encode(GalleryVectors(**{**vars(self._vectors), "published": version}))
        key = ResultKeys().vectors(GALLERY)
        self._s3.put_object(Bucket=self.environment["FACE_GROUP_BUCKET_NAME"], Key=key, Body=data)

    def find(self, request_id: str, photo: Path) -> tuple[float, dict[str, Any]]:
        """Seconds from sending a find to having its answer, and the answer."""
        with Pil.open(photo) as picture, BytesIO() as file:
            picture.convert("RGB").resize((SELFIE_PX, SELFIE_PX), Pil.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            self._s3.put_object(Bucket=SELFIES, Key=f"{request_id}.jpg", Body=file.getvalue())
        replies = self.environment["ALLOWED_REPLY_QUEUE_URLS"]
        body = {
            "type": "find_person",
            "request_id": request_id,
            "gallery_id": GALLERY,
            "selfies": [{"bucket": SELFIES, "s3_key": f"{request_id}.jpg"}],
            "delete_selfies": True,
            "reply_queue_url": replies,
        }
        began = time.monotonic()
        self._sqs.send_message(QueueUrl=self.environment["FIND_QUEUE_URL"], MessageBody=json.dumps(body))
        while time.monotonic() < began + ANSWER_S:
            for message in self._sqs.receive_message(QueueUrl=replies, WaitTimeSeconds=20).get("Messages", []):
                seconds = time.monotonic() - began
                self._sqs.delete_message(QueueUrl=replies, ReceiptHandle=message["ReceiptHandle"])
                answer: dict[str, Any] = json.loads(message["Body"])
                if answer["request_id"] == request_id:
                    return seconds, answer
        raise UnusableInput(f"No answer came within {ANSWER_S} s; the log of the detection service says why.")

    @contextmanager
    def keep_busy(self, photos: Sequence[Path]) -> Iterator[None]:
        """Within, the detection queue always has photos."""
        bucket, url = self.environment["BUCKET_NAME"], self.environment["QUEUE_URL"]
        for number, photo in enumerate(photos):
            self._s3.put_object(Bucket=bucket, Key=f"busy/{number}.jpg", Body=photo.read_bytes())
        sent = 0

        def refill() -> None:
            nonlocal sent
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            counts = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            waiting = int(counts[names[0]])
            self.done = sent - waiting - int(counts[names[1]])
            while waiting < BUSY_PHOTOS:
                entries = []
                for place in range(10):
                    number = (sent + place) % len(photos)
                    body = {"type": "detect_image", "gallery_id": "busy", "image_id": str(number), "force": True}
                    body["s3_key"] = f"busy/{number}.jpg"
                    entries.append({"Id": str(place), "MessageBody": json.dumps(body)})
                self._sqs.send_message_batch(QueueUrl=url, Entries=entries)
                sent, waiting = sent + 10, waiting + 10

        refill()
        with BackgroundThread("busy", partial(repeat, every_s=1.0, action=refill)):
            time.sleep(5)
            yield

    def _make_face(self, number: int, vector: Floats) -> FaceRecord:
        of = PhotoRef(GALLERY, f"photo{number}", "photos", f"{GALLERY}/photo{number}.jpg")
        return FaceRecord(
            face_id=make_face_id(of, self._model, 0),
            gallery_id=GALLERY,
            image_id=of.image_id,
            model_id=self._model,
            box=np.array([10, 10, 110, 110], np.float32),
            landmarks=np.zeros((5, 2), np.float32),
            det_score=0.9,
            quality={"unified": 80.0},
            embedding=vector.astype(np.float32),
            crop_key="",
        )

    def _insert(self, faces: Sequence[tuple[FaceRecord, str | None]], people: Sequence[str]) -> None:
        now = datetime.now(UTC)
        documents, images = [], []
        for face, person_id in faces:
            fields = {"_id": face.face_id, **make_face_fields(face, "etag")}
            documents.append({**fields, **({"person_id": person_id, "version": 1} if person_id else {})})
            of = PhotoRef(GALLERY, face.image_id, "photos", f"{GALLERY}/{face.image_id}.jpg")
            record = ImageRecord(of, ImageStatus.INDEXED, None, "etag", now, 1000, 1000, 1, self._model)
            images.append({"_id": of.document_id, **make_image_fields(record)})
        self._database["faces"].insert_many(documents, ordered=False)
        self._database["images"].insert_many(images, ordered=False)
        stored = {"gallery_id": GALLERY, "status": "active", "merged_into": None, "version": 1, "was": None}
        self._database["people"].insert_many(
            {**stored, "_id": f"{GALLERY}/{one}", "person_id": one, "name": None, "face_count": 1, "photo_count": 1}
            for one in people
        )
        run = {"revision": 1, "model": self._model, "faces": len(faces)}
        self._database["galleries"].insert_one({"_id": GALLERY, "revision": 1, "published": 1, "last_run": run})


def _make_unit(vectors: Any) -> Floats:  # noqa: ANN401 - any real numbers
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _embed(options: argparse.Namespace, pack: Any) -> BytesIO:  # noqa: ANN401
    """What `python -m workshop embed` writes, in memory."""
    print(f"the photos of {options.images} are embedded; --embeddings would save that", file=sys.stderr)
    people = name_people_below(options.images)
    with open_device(pack, "cpu") as device:
        faces = measure_central_faces(list(people), device)
    file = BytesIO()
    np.savez(
        file,
        embedding=np.stack([face.embedding for face in faces.values()]),
        mirrored=np.stack([face.mirrored for face in faces.values()]),
        quality=np.array([face.quality for face in faces.values()], np.float32),
        label=np.array([people[photo] for photo in faces]),
        image=np.array([photo.relative_to(options.images).as_posix() for photo in faces]),
    )
    file.seek(0)
    return file


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks find", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", default="tests/packs/shared-insightface.toml", help="name or manifest")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npz")
    parser.add_argument("--images", type=Path, default=Path("../shared/eval/lfw-dev"), metavar="DIR")
    parser.add_argument(
        "--busy", type=Path, default=Path("../shared/album"), metavar="DIR", help="photos to be busy with"
    )
    parser.add_argument("--selfies", type=int, default=1, help="of a guest, at most (1)")
    parser.add_argument("--faces", type=int, default=100_000, help="of the gallery whose answers are timed")
    parser.add_argument("--no-latency", action="store_true", help="measure who is found alone")
    parser.add_argument("--json", action="store_true")
    return parser
