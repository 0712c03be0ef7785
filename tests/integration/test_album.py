"""The album command, as a newcomer types it, and what it leaves behind."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from app.grouping.output import Groups, read_groups
from benchmarks.common.running import run_local_stack, wait_until_grouped
from benchmarks.robustness.idempotence import measure
from local.album import Album
from local.stack import ROOT, LocalStack
from tests.integration.test_bad_input import astronaut

pytestmark = pytest.mark.slow
SOON_S = 30.0
"""Far less than the 180 s for which the command waits where nothing advances."""
SHARED_PACK = ROOT / "tests" / "packs" / "shared-insightface.toml"


def dev_worker(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """`./dev_worker.sh ARGUMENTS`, with its state in a folder of the test's."""
    environment = {**os.environ, "DEV_WORKER_HOME": str(home)}
    return subprocess.run(
        [str(ROOT / "dev_worker.sh"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
        env=environment,
    )


def read_folder(out: Path) -> Groups:
    return read_groups((out / "groups.json").read_bytes(), lambda path: (out / path).read_bytes())


def scores(groups: Path, labels: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks", "album", "--groups", str(groups), "--labels", str(labels)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return dict(json.loads(done.stdout))


def test_the_labelled_album_with_insightface_models_is_grouped_without_a_mistake(
    tmp_path: Path, shared_dir: Path
) -> None:
    album = shared_dir / "album"
    done = dev_worker("album", str(album), "--out", str(tmp_path / "out"), "--pack", str(SHARED_PACK), home=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    found = scores(tmp_path / "out" / "groups.json", album / "labels.csv")
    assert (found["found_faces"], found["pairwise_f"], found["bcubed_f"]) == (36, 1.0, 1.0)


def test_the_labelled_album_with_the_open_pack_is_grouped_nearly_without_a_mistake(
    tmp_path: Path, shared_dir: Path
) -> None:
    album = shared_dir / "album"
    done = dev_worker("album", str(album), "--out", str(tmp_path / "out"), home=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    found = scores(tmp_path / "out" / "groups.json", album / "labels.csv")
    assert found["found_faces"] == 36
    assert found["false_faces"] <= 1
    assert found["bcubed_f"] >= 0.97


def test_an_album_of_ones_own_ends_with_a_summary_a_valid_result_and_a_page(tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    photos.mkdir()
    (photos / "portrait 1.png").write_bytes(astronaut())
    Image.new("RGB", (64, 48), "teal").save(photos / "nobody.jpg")
    (photos / "notes.txt").write_text("not a photo", "utf-8")
    out = tmp_path / "out"
    done = dev_worker("album", str(photos), "--out", str(out), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"people +1, 0 in several photos", done.stdout)
    assert "nobody: no_faces: No face was found." in done.stdout
    assert str(out / "people.html") in done.stdout

    groups = json.loads((out / "groups.json").read_text("utf-8"))
    schema = json.loads((ROOT / "docs" / "schemas" / "groups.schema.json").read_text("utf-8"))
    jsonschema.validate(groups, schema)
    person = json.loads((out / groups["people"][0]["shard"]).read_text("utf-8"))
    assert list(person["photos"]) == ["portrait 1"]
    (path,) = (out / "previews").glob("portrait 1.*/*.jpg")
    with Image.open(path) as preview:
        assert preview.size == (512, 512)
    assert not LocalStack(tmp_path / "home").is_running("detection"), "the album command left its services running"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["album", "/does/not/exist"], "is not a folder"),
        (["album", str(ROOT / "docs"), "--out", "x"], "There is no photo in"),
        (["album", "--pack", "none-such"], "There is no pack 'none-such'"),
        (["send", str(ROOT / "docs")], "is not running"),
    ],
)
def test_what_cannot_work_ends_with_one_clear_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = dev_worker(*arguments, home=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_started_stack_takes_photos_tells_its_state_and_stops(tmp_path: Path) -> None:
    photos = tmp_path / "race"
    photos.mkdir()
    (photos / "finish.png").write_bytes(astronaut())
    assert dev_worker(home=tmp_path).returncode == 0
    try:
        sent = dev_worker("send", str(photos), home=tmp_path)
        assert "Sent 1 photos as gallery race-" in sent.stdout, sent.stdout
        assert "Started nothing new" in dev_worker(home=tmp_path).stdout
        status = dev_worker("status", home=tmp_path)
        assert "detection  running" in status.stdout
        assert "detection queue:" in status.stdout
    finally:
        stopped = dev_worker("stop", home=tmp_path)
    assert "detection" in stopped.stdout
    assert dev_worker("status", home=tmp_path).returncode == 1


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with run_local_stack("open") as stack:
        yield stack


def process(folder: Path, stack: LocalStack, out: Path) -> Groups:
    """The folder once through the running services, soon. Leaves in `out` what is in S3 now and nothing else."""
    shutil.rmtree(out, ignore_errors=True)
    begin = time.monotonic()
    with Album(folder, stack.environment) as album:
        album.send()
        wait_until_grouped(album, stack)
        groups = album.collect(out)
    assert not list(out.rglob("*.vectors"))
    assert time.monotonic() - begin < SOON_S
    return groups


def photos_of(groups: Groups) -> dict[str, int]:
    """Image id → its faces that were found, and 0 for a photo that is listed as skipped."""
    faces = [face for person in groups.people for face in person.faces] + groups.unassigned
    counts = {photo.image_id: 0 for photo in groups.skipped}
    for face in faces:
        counts[face.image_id] = counts.get(face.image_id, 0) + 1
    return counts


def count_analysed(stack: LocalStack) -> int:
    lines = (stack.logs / "detection.log").read_text("utf-8").splitlines()
    return sum(json.loads(line)["message"].startswith("photo indexed") for line in lines)


def test_the_same_folder_again_is_soon_done_and_each_change_of_it_is_followed(
    tmp_path: Path, stack: LocalStack
) -> None:
    folder, out = tmp_path / "day", tmp_path / "out"
    folder.mkdir()
    (folder / "a.png").write_bytes(astronaut())
    Image.new("RGB", (64, 48), "teal").save(folder / "empty.jpg")
    (folder / "broken.jpg").write_text("not a picture", "utf-8")
    first = process(folder, stack, out)
    analysed = count_analysed(stack)
    assert photos_of(first) == {"a": 1, "broken": 0, "empty": 0}

    assert process(folder, stack, out).people == first.people
    assert count_analysed(stack) == analysed, "what was stored is analysed again"

    with Image.open(folder / "a.png") as photo:
        photo.convert("RGB").save(folder / "b.jpg", quality=95)
    added = process(folder, stack, out)
    assert photos_of(added) == {"a": 1, "b": 1, "broken": 0, "empty": 0}
    assert [(person.person_id, person.photo_count) for person in added.people] == [(first.people[0].person_id, 2)]

    shutil.copy(folder / "b.jpg", folder / "empty.jpg")
    Image.new("RGB", (64, 48), "navy").save(folder / "b.jpg")
    assert photos_of(process(folder, stack, out)) == {"a": 1, "b": 0, "broken": 0, "empty": 1}

    (folder / "empty.jpg").unlink()
    assert photos_of(process(folder, stack, out)) == {"a": 1, "b": 0, "broken": 0}
    (folder / "broken.jpg").unlink()
    (folder / "a.png").write_bytes((folder / "b.jpg").read_bytes())
    assert photos_of(process(folder, stack, out)) == {"a": 0, "b": 0}


def test_a_folder_with_pairs_sidecars_and_videos_is_processed_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    folder, out = tmp_path / "shoot", tmp_path / "out"
    folder.mkdir()
    (folder / "IMG_1.png").write_bytes(astronaut())
    with Image.open(folder / "IMG_1.png") as photo:
        photo.convert("RGB").save(folder / "IMG_1.JPG")
    for name in ("IMG_1.MOV", "IMG_1.xmp", "._IMG_1.JPG"):
        (folder / name).write_text("no picture", "utf-8")
    done = dev_worker("album", str(folder), "--out", str(out), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Left out, because they are no pictures: 1 .mov, 1 .xmp, 1 hidden." in done.stdout
    groups = read_folder(out)
    assert photos_of(groups) == {"IMG_1": 1, "IMG_1.png": 1}


def test_a_folder_is_done_again_after_a_restart_that_lost_its_files(tmp_path: Path) -> None:
    folder, home = tmp_path / "day", tmp_path / "home"
    folder.mkdir()
    (folder / "a.png").write_bytes(astronaut())
    Image.new("RGB", (64, 48), "teal").save(folder / "empty.jpg")
    results, files = [], []
    # The command stops everything at its end, and the local S3 and SQS keep nothing.
    for run in ("first", "second", "third"):
        if run == "third":
            (folder / "b.png").write_bytes(astronaut() + b"after the end of the picture")
        out, begin = tmp_path / run, time.monotonic()
        done = dev_worker("album", str(folder), "--out", str(out), home=home)
        assert done.returncode == 0, done.stderr + done.stdout
        assert time.monotonic() - begin < 2 * SOON_S
        results.append(read_folder(out))
        files.append({str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()})
    first, second, third = results
    without_covers = [
        [person.model_copy(update={"cover_key": None}) for person in groups.people] for groups in (first, second)
    ]
    assert without_covers[0] == without_covers[1]
    assert len(files[0]) == len(files[1]) < len(files[2]), "pictures of the page are lost"
    assert photos_of(third) == {"a": 1, "b": 1, "empty": 0}
    assert third.people[0].person_id == first.people[0].person_id


def test_five_more_messages_for_each_photo_change_no_byte(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(astronaut())
    with run_local_stack("open") as stack:
        result = measure(stack, tmp_path, times=5)
    assert result["messages"] == 15
    assert result["compared"] >= 4 * 3, "an image, a face, a crop and a preview for each photo"
    assert result["different"] == 0
