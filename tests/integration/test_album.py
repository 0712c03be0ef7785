"""The album command, as a newcomer types it, and what it leaves behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from benchmarks.common.running import run_local_stack
from benchmarks.robustness.idempotence import measure
from local.stack import ROOT, LocalStack
from tests.integration.test_bad_input import astronaut

pytestmark = pytest.mark.slow
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
    [face] = groups["people"][0]["faces"]
    assert face["image_id"] == "portrait 1"
    with Image.open(out / "previews" / "portrait 1.jpg") as preview:
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


def test_five_more_messages_for_each_photo_change_no_byte(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(astronaut())
    with run_local_stack("open") as stack:
        result = measure(stack, tmp_path, times=5)
    assert result["messages"] == 15
    assert result["compared"] >= 4 * 3, "an image, a face, a crop and a preview for each photo"
    assert result["different"] == 0
