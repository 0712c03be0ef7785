"""How long grouping takes to read a gallery's faces, and which share of that time is the database's.

`python -m benchmarks loading [--faces 100000] [--dimension 512] [--database mongod|secantus] [--json]`

Faces are stored as detection stores them, three a photo, nine of ten with a person, in a temporary database: on a
server that is started here, or on that of GALLERY_IMAGES_MONGO_URI where that is set.

- `seconds`: read_faces with its batches joined; `cpu_seconds` and `server_cpu_seconds` are the CPU time of this process
  and of the server that was started meanwhile
- `server_seconds`: the same query without decoding its answers
- `decoding_seconds`: the decoding of these answers into columns
- `seconds_without_embeddings`: the query of an incremental run, without embeddings
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from uuid import uuid4

import numpy as np
import psutil

from app.adapters.mongo import (
    Document,
    MongoDatabase,
    ensure_indexes,
    open_database,
    split_into_batches,
    translate_mongo_errors,
)
from app.adapters.mongo_faces import MongoFaceStore, decode_face_batch, read_raw_faces
from app.adapters.mongo_records import make_face_fields
from app.core.records import FaceRecord, PhotoRef, join_batches, make_face_id
from app.core.result_keys import ResultKeys
from app.vision.quality.fitted import load_quality_model
from app.vision.quality.inputs import CHIP_PX, FaceColumns
from app.vision.quality.measures import measure_quality, split_into_rows
from benchmarks.common.command import add_database_option, print_result
from benchmarks.common.peak import PeakMemory
from benchmarks.common.running import run_local_stores
from local.database import DatabaseName

GALLERY, MODEL = "gallery", "model-0123456789ab"
FACES_A_PHOTO = 3
FACES_A_PERSON = 12
NEW_FACES = 10
"""One of so many faces has no person yet."""
WRITE_BATCH = 1_000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    add_database_option(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    measured = print_result(
        lambda: measure_loading(options.faces, options.dimension, options.database), as_json=options.json
    )
    return 1 if measured is None else 0


def measure_loading(count: int, dimension: int, wanted: DatabaseName | None = None) -> dict[str, float | str]:
    """The figures for a gallery of so many faces. Raises NoMongod where one is wanted and none starts."""
    name = f"loading_{uuid4().hex}"
    with run_local_stores(database=wanted) as stack:
        uri = stack.environment["GALLERY_IMAGES_MONGO_URI"]
        database = open_database(uri, "gallery_images", "GALLERY_IMAGES_MONGO_URI")
        with translate_mongo_errors("Measuring"), database.client as client:
            try:
                _fill(client[name], count, dimension)
                server = stack.state.processes.get("mongo")
                figures = _measure_figures(client[name], psutil.Process(server.pid) if server else None)
                return {"faces": count, "dimension": dimension, "database": stack.state.database, **figures}
            finally:
                client.drop_database(name)


def _measure_figures(database: MongoDatabase, server: psutil.Process | None) -> dict[str, float]:
    begin = time.perf_counter()
    received = sum(map(len, read_raw_faces(database["faces"], GALLERY, MODEL)))
    server_s = time.perf_counter() - begin
    decoding_s = 0.0
    for raw in read_raw_faces(database["faces"], GALLERY, MODEL):
        begin = time.perf_counter()
        decode_face_batch(raw)
        decoding_s += time.perf_counter() - begin
    with PeakMemory() as memory:
        begin, cpu_begin, server_cpu_begin = time.perf_counter(), time.process_time(), _measure_cpu_s(server)
        faces = join_batches(list(MongoFaceStore(database).read_faces(GALLERY, MODEL)))
        seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_begin
        server_cpu_s = _measure_cpu_s(server) - server_cpu_begin
    assert len(faces) == database["faces"].count_documents({})
    begin = time.perf_counter()
    for _ in MongoFaceStore(database).read_faces(GALLERY, MODEL, with_embeddings=False):
        pass
    without_s = time.perf_counter() - begin
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_s, 2),
        "server_cpu_seconds": round(server_cpu_s, 2),
        "server_seconds": round(server_s, 2),
        "decoding_seconds": round(decoding_s, 2),
        "server_share": round(server_s / (server_s + decoding_s), 3),
        "seconds_without_embeddings": round(without_s, 2),
        "received_mb": round(received / 1e6, 1),
        "peak_memory_mb": round(memory.peak / 1e6, 1),
    }


def _measure_cpu_s(process: psutil.Process | None) -> float:
    """CPU seconds of a process so far; 0 for a server that is not on this machine."""
    times = process.cpu_times() if process else None
    return times.user + times.system if times else 0.0


def _fill(database: MongoDatabase, count: int, dimension: int) -> None:
    ensure_indexes(database)
    for some in split_into_batches(islice(_make_documents(dimension), count), WRITE_BATCH):
        database["faces"].insert_many(some)


def _make_documents(dimension: int) -> Iterator[Document]:
    """Yields an unlimited number of faces, as detection and grouping store them."""
    generator = np.random.default_rng(0)
    qualities = _make_qualities(generator)
    number = 0
    while True:
        vectors = generator.standard_normal((WRITE_BATCH, dimension), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for vector in vectors:
            photo_number, index = divmod(number, FACES_A_PHOTO)
            photo = PhotoRef(GALLERY, f"2024/wedding/IMG_{photo_number:07}", "photos", "")
            face = FaceRecord(
                face_id=make_face_id(photo, MODEL, index),
                gallery_id=GALLERY,
                image_id=photo.image_id,
                model_id=MODEL,
                box=(4000 * generator.random(4)).astype(np.float32),
                landmarks=(4000 * generator.random((5, 2))).astype(np.float32),
                det_score=float(generator.random()),
                quality=qualities[number % len(qualities)],
                embedding=vector,
                crop_key=ResultKeys().crops(photo, 0, "0" * 64, MODEL),
            )
            document = {"_id": face.face_id, **make_face_fields(face, etag=f"{photo_number:032x}")}
            if number % NEW_FACES:
                document |= {"person_id": f"p{number // FACES_A_PERSON:016x}", "assigned_by": "auto"}
            yield document
            number += 1


def _make_qualities(generator: np.random.Generator, count: int = 100) -> list[dict[str, float]]:
    """All quality measures of random chips: only their number and size matter here, not their values."""
    faces = FaceColumns(
        chips=generator.integers(0, 256, (count, CHIP_PX, CHIP_PX, 3), np.uint8),
        boxes=np.tile(np.array([100, 100, 200, 220], np.float32), (count, 1)),
        landmarks=100 + 100 * generator.random((count, 5, 2), np.float32),
        det_scores=np.full(count, 0.9, np.float32),
        photo_px=np.full((count, 2), 4000, np.float32),
    )
    return split_into_rows(measure_quality(faces, load_quality_model()))


if __name__ == "__main__":
    sys.exit(main())
