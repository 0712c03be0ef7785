"""What a service says when it can't start, and the image's way of starting one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.adapters.aws import open_client
from app.adapters.models import make_model_downloader
from app.core.errors import BadModelPack
from app.packs.__main__ import main as packs
from local.stack import ROOT
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
