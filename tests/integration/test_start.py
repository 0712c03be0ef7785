"""What a service says when it can't start, and the image's way of starting one."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from app.adapters.aws import open_client
from app.adapters.models import make_model_downloader
from app.core.errors import BadModelPack
from app.packs.__main__ import main as packs
from local.stack import LEADS_ELSEWHERE, NAMED_WITH_QUEUE, ROOT, SERVICES, LocalStack, LocalStackError
from tests.integration.services import wait_for
from tests.toy_networks import write_toy_pack

SETTINGS = {
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "QUEUE_URL": "http://127.0.0.1:9/1/detection",
    "GROUP_FACE_QUEUE_URL": "http://127.0.0.1:9/1/grouping",
    "BUCKET_NAME": "photos",
    "FACE_GROUP_BUCKET_NAME": "results",
    "GALLERY_IMAGES_MONGO_URI": "mongodb://user:hunter2@127.0.0.1:9/?serverSelectionTimeoutMS=500",
    "HUEMN_MONGO_URI": "mongodb://user:hunter2@127.0.0.1:9/?serverSelectionTimeoutMS=500",
}


def start(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "HOME", "COVERAGE"))}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**kept, **settings},
    )


@pytest.mark.parametrize("service", ["detection", "grouping"])
def test_missing_and_wrong_settings_are_all_listed_at_once(service: str) -> None:
    wrong = {"QUEUE_WAIT_S": "many", "GROUP_FACE_QUEUE_URL": "", "FACE_GROUP_BUCKET_NAME": ""}
    done = start(f"run_{service}_service.py", **{**SETTINGS, **wrong})
    assert done.returncode == 2
    for problem in ("GROUP_FACE_QUEUE_URL is not set", "FACE_GROUP_BUCKET_NAME is not set", "QUEUE_WAIT_S"):
        assert problem in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_an_unknown_pack_ends_the_start_with_its_own_code() -> None:
    done = start("run_detection_service.py", **{**SETTINGS, "MODEL_PACK": "none-such"})
    assert done.returncode == 3
    assert "There is no pack 'none-such'" in done.stderr


def test_a_database_that_cannot_be_reached_ends_the_start_without_the_password() -> None:
    done = start("-m", "app", **{**SETTINGS, "SERVICE_TYPE": "grouping"})
    assert done.returncode == 4, done.stderr
    assert "the service can't start" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_amazon_documentdb_ends_the_start_with_a_sentence_that_says_what_to_use() -> None:
    uri = "mongodb://user:hunter2@faces.cluster-abc.eu-central-1.docdb.amazonaws.com:27017/?retryWrites=false"
    done = start("-m", "app", **{**SETTINGS, "SERVICE_TYPE": "grouping", "GALLERY_IMAGES_MONGO_URI": uri})
    assert done.returncode == 2, done.stderr
    assert "GALLERY_IMAGES_MONGO_URI leads to Amazon DocumentDB" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_weights_come_from_a_bucket_and_a_missing_one_is_named(aws: str, tmp_path: Path) -> None:
    s3 = open_client("s3", "eu-central-1")
    s3.create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.put_object(Bucket="models", Key="packs/mine/net.onnx", Body=b"weights")
    download = make_model_downloader("eu-central-1")
    download("s3://models/packs/mine/net.onnx", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == b"weights"
    with pytest.raises(BadModelPack, match=r"s3://models/packs/mine/other\.onnx can't be fetched"):
        download("s3://models/packs/mine/other.onnx", tmp_path / "other.onnx")


# Stands for docker: builds nothing, and runs the image's script from the checkout with only the environment given.
FAKE_DOCKER = f"""#!{sys.executable}
import os, sys
arguments = sys.argv[1:]
if arguments[0] != "run":
    sys.exit(0)
names = ["PATH", "HOME", *(a.removeprefix("--env=") for a in arguments if a.startswith("--env="))]
environment = {{name: os.environ[name] for name in names if name in os.environ}}
os.execve(sys.executable, [sys.executable, os.path.join({str(ROOT)!r}, arguments[-1])], environment)
"""


@pytest.mark.slow
def test_rebuild_runs_both_services_in_the_image(tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}", "DEV_WORKER_HOME": str(tmp_path)}
    command = [str(ROOT / "dev_worker.sh"), "--rebuild", "album", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "people.html").exists()


@pytest.mark.parametrize("script", ["prod_worker.sh", "dev_worker.sh"])
def test_the_scripts_explain_themselves_and_name_what_is_missing(script: str, tmp_path: Path) -> None:
    usage = subprocess.run([str(ROOT / script), "--help"], capture_output=True, text=True, check=True)
    assert usage.stdout.startswith(f"Usage: ./{script}")
    # A PATH with the shell's own tools and nothing else.
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    arguments = ["--rebuild"] if script == "dev_worker.sh" else []
    command = ["/usr/bin/env", "bash", str(ROOT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "docker is missing" in done.stderr


def test_the_image_can_be_built_with_weights_of_a_bucket(aws: str, tmp_path: Path) -> None:
    s3 = open_client("s3", "eu-central-1")
    s3.create_bucket(Bucket="weights", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    _, manifest = write_toy_pack(tmp_path / "made")
    for name in ("detector.onnx", "embedder.onnx"):
        s3.put_object(Bucket="weights", Key=f"packs/toy/{name}", Body=(tmp_path / "made" / name).read_bytes())
    models = tmp_path / "models"
    models.mkdir()
    text = manifest.read_text().replace('kind = "directory"\npath = "."', 'kind = "s3"\npath = "s3://elsewhere"')
    (models / "toy.toml").write_text(text)
    install = ["--models-dir", str(models), "install", "toy", "--source", "s3://weights/packs"]
    assert packs(install) == 2, "a bucket without its region"
    assert packs([*install, "--region", "eu-central-1"]) == 0
    assert (models / "toy" / "embedder.onnx").read_bytes() == (tmp_path / "made" / "embedder.onnx").read_bytes()


# --- ./dev_worker.sh ---


def dev_worker(home: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    """`./dev_worker.sh ARGUMENTS` with its state in `home`, and nothing in its environment that names an AWS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "QUEUE_", "BUCKET_"))}
    return subprocess.Popen(
        [str(ROOT / "dev_worker.sh"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**kept, "DEV_WORKER_HOME": str(home), **settings},
        # Whoever runs the tests in the background may have them ignore Ctrl-C, which children inherit.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def end(command: "subprocess.Popen[str]") -> str:
    """What it said; fails where it did not end with 0."""
    words, _ = command.communicate(timeout=120)
    assert command.returncode == 0, words
    return words


def wait_for_process(home: Path, name: str) -> None:
    wait_for(lambda: LocalStack(home).is_running(name), f"the process {name}")


def check_that_services_use_local_aws(home: Path) -> None:
    stack = LocalStack(home)
    endpoint = stack.state.environment["AWS_ENDPOINT_URL"]
    assert endpoint.startswith("http://127.0.0.1:")
    for name in SERVICES:
        assert psutil.Process(stack.state.processes[name].pid).environ()["AWS_ENDPOINT_URL"] == endpoint


def find_left_processes(home: Path) -> list[list[str]]:
    """Command lines of all processes that were started for this home and run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("DEV_WORKER_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
    return found


@pytest.mark.slow
def test_two_starts_at_once_make_one_system_that_talks_to_local_aws(tmp_path: Path) -> None:
    both = [dev_worker(tmp_path), dev_worker(tmp_path)]
    try:
        started = sorted(end(command) for command in both)
        assert sum("Started aws, mongo, detection, grouping in" in words for words in started) == 1, started
        assert sum("Started nothing new in" in words for words in started) == 1, started
        assert all(words.count("MongoDB: ") == 1 for words in started), "which MongoDB is used is not said"
        check_that_services_use_local_aws(tmp_path)
    finally:
        end(dev_worker(tmp_path, "stop"))
    assert find_left_processes(tmp_path) == []


@pytest.mark.slow
def test_a_start_after_one_that_was_interrupted_completes_it(tmp_path: Path) -> None:
    try:
        # While AWS starts, and while the services do.
        for process in ("aws", "detection"):
            first = dev_worker(tmp_path)
            wait_for_process(tmp_path, process)
            first.send_signal(signal.SIGINT)
            words, _ = first.communicate(timeout=60)
            assert first.returncode == 130, words
            assert "Traceback" not in words
        assert "Started" in end(dev_worker(tmp_path))
        check_that_services_use_local_aws(tmp_path)
    finally:
        end(dev_worker(tmp_path, "stop"))
    assert find_left_processes(tmp_path) == []


def test_what_could_lead_past_local_aws_is_left_out_of_the_services_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "https://sqs.eu-central-1.amazonaws.com")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.delenv("QUEUE_URL", raising=False)
    stack = LocalStack(tmp_path)
    stack.state.ports["aws"] = 1
    stack.state.environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
    assert {name: value for name, value in stack.environment.items() if name.startswith(LEADS_ELSEWHERE)} == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1"
    }


def test_without_an_endpoint_and_without_named_queues_nothing_is_started_or_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "QUEUE_URL"):
        monkeypatch.delenv(name, raising=False)
    # As an older version left it when it was interrupted.
    mine = psutil.Process()
    entry = {"pid": mine.pid, "started": mine.create_time()}
    state = {"processes": {"aws": entry}, "environment": {"AWS_DEFAULT_REGION": "eu-central-1"}}
    (tmp_path / "state.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(LocalStackError, match=r"^The endpoint of the local AWS is not known, "):
        LocalStack(tmp_path).start("open")
    assert set(LocalStack(tmp_path).state.processes) == {"aws"}


def test_real_queues_ask_for_the_rest_of_what_is_in_real_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMED_WITH_QUEUE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/1/detection")
    monkeypatch.setenv("BUCKET_NAME", "mine")
    sentence = r"^QUEUE_URL is set, so real AWS is used\. Then set GROUP_FACE_QUEUE_URL, FACE_GROUP_BUCKET_NAME, AWS_"
    with pytest.raises(LocalStackError, match=sentence):
        LocalStack(tmp_path).start_stores()
