import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import BadConfiguration
from app.health import Health, judge_health, main
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "health"


def said(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def is_well(file: Path, clock: FakeClock, ready: bool = False) -> bool:
    return judge_health(file, max_age_s=60, must_be_ready=ready, now_s=clock.now())[0]


def test_a_worker_that_starts_is_alive_and_not_ready(file: Path, clock: FakeClock) -> None:
    Health(file, clock.now)
    assert said(file) == {"time": clock.now(), "ready": False, "state": "starting", "busy": False}
    assert is_well(file, clock)
    assert judge_health(file, 60, True, clock.now()) == (False, "The worker is alive but not ready: it is starting.")


def test_a_worker_whose_models_and_stores_are_there_is_ready(file: Path, clock: FakeClock) -> None:
    Health(file, clock.now).mark_ready()
    assert said(file)["state"] == "working"
    assert is_well(file, clock, ready=True)


def test_a_worker_that_stops_beating_is_no_longer_alive(file: Path, clock: FakeClock) -> None:
    health = Health(file, clock.now)
    clock.sleep(59)
    health.beat()
    clock.sleep(60)
    assert is_well(file, clock)
    clock.sleep(1)
    well, sentence = judge_health(file, 60, False, clock.now())
    assert (well, sentence) == (False, "The worker's last sign of life is 61 s old; at most 60 s are allowed.")


def test_beats_are_written_at_most_once_a_second(file: Path, clock: FakeClock) -> None:
    health = Health(file, clock.now)
    file.unlink()
    clock.sleep(0.5)
    health.beat()
    assert not file.exists()
    clock.sleep(0.5)
    health.beat()
    assert said(file)["time"] == clock.now()


def test_a_worker_that_waits_for_a_store_says_so_and_is_alive_but_not_ready(file: Path, clock: FakeClock) -> None:
    health = Health(file, clock.now)
    health.mark_ready()
    health.report_waiting("MongoDB")
    assert said(file) == {"time": clock.now(), "ready": False, "state": "waiting for MongoDB", "busy": False}
    assert is_well(file, clock)
    assert "waiting for MongoDB" in judge_health(file, 60, False, clock.now())[1]
    assert not is_well(file, clock, ready=True)
    health.report_waiting(None)
    assert is_well(file, clock, ready=True)


def test_a_store_is_written_when_it_changes_and_not_at_every_call(file: Path, clock: FakeClock) -> None:
    health = Health(file, clock.now)
    health.report_waiting("S3")
    file.unlink()
    health.report_waiting("S3")
    assert not file.exists()
    health.report_waiting("MongoDB")
    assert said(file)["state"] == "waiting for MongoDB"


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    health = Health(None)
    health.beat()
    health.mark_ready()
    health.report_waiting("S3")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="HEALTH_FILE can't be written"):
        Health(tmp_path / "nowhere" / "health")


def test_work_goes_on_when_the_file_can_no_longer_be_written_and_one_line_says_so(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    health = Health(folder / "health", clock.now)
    (folder / "health").unlink()
    folder.rmdir()
    for _ in range(3):
        clock.sleep(1)
        health.beat()
    assert caplog.text.count("can't be written") == 1
    folder.mkdir()
    clock.sleep(1)
    health.beat()
    assert said(folder / "health")["time"] == clock.now()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"time": "now", "ready": true, "state": "working"}'])
def test_a_damaged_file_is_not_well(file: Path, clock: FakeClock, content: str) -> None:
    file.write_text(content)
    well, sentence = judge_health(file, 60, False, clock.now())
    assert not well
    assert f"The health file {file} can't be read" in sentence


def test_a_file_from_before_the_machine_started_is_not_well(file: Path, clock: FakeClock) -> None:
    Health(file, clock.now)
    well, sentence = judge_health(file, 60, False, now_s=clock.now() - 500)
    assert not well
    assert "older than this machine's last start" in sentence


def test_the_command_answers_with_its_exit_code_and_a_sentence(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Health(file)
    assert main(["--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith("The worker is alive and starting")
    assert main(["--file", str(file), "--ready"]) == 1
    assert main(["--file", str(tmp_path / "other")]) == 1
    assert "There is no health file" in capsys.readouterr().out


def test_another_process_reads_the_same_clock(file: Path) -> None:
    Health(file).mark_ready()
    command = [sys.executable, "-m", "app.health", "--file", str(file), "--max-age-s", "30", "--ready"]
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    age_s = float(done.stdout.split("is ")[-1].split(" s old")[0])
    assert age_s <= time.monotonic() - begin + 1


def test_the_check_needs_nothing_but_the_standard_library() -> None:
    code = "import sys, app.health; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"numpy", "pydantic", "boto3", "pymongo"} & set(done.stdout.split())
