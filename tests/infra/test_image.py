"""What can be told of the image without Docker: its context, its packages alone, and a start from a read-only tree."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.adapters.aws import open_client
from infra.deploy.image import DeployError
from infra.deploy.push import push
from infra.image_size import read_wheel_sizes
from local.stack import ROOT

COPY = re.compile(r"^COPY (?!--from)(.+) (\S+)$", re.MULTILINE)
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
SETTINGS = {
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "QUEUE_URL": "http://127.0.0.1:9/1/detection",
    "GROUP_FACE_QUEUE_URL": "http://127.0.0.1:9/1/grouping",
    "BUCKET_NAME": "photos",
    "FACE_GROUP_BUCKET_NAME": "results",
    "GALLERY_IMAGES_MONGO_URI": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500",
    "HUEMN_MONGO_URI": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500",
}


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file into the build: the last line that matches it, or a folder above it, counts."""
    sent = True
    above = ["/".join(path.split("/")[:length]) for length in range(1, path.count("/") + 2)]
    for line in (ROOT / ".dockerignore").read_text("utf-8").split():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/") if line.startswith("**/") else above
        # `*` ends at a slash.
        if any(fnmatch.fnmatch(part, pattern) and part.count("/") == pattern.count("/") for part in parts):
            sent = line.startswith("!")
    return sent


def context() -> list[str]:
    """Files that a build gets to see."""
    files = [path.relative_to(ROOT).as_posix() for name in ("app", "models") for path in (ROOT / name).rglob("*")]
    files += [path.name for path in ROOT.iterdir() if path.is_file()]
    return [name for name in files if (ROOT / name).is_file() and is_sent(name)]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    copied = {source.strip("/") for match in COPY.finditer(DOCKERFILE) for source in match.group(1).split()}
    assert copied == {
        "app",
        "models",
        "pyproject.toml",
        "uv.lock",
        "run_detection_service.py",
        "run_grouping_service.py",
    }
    seen = context()
    assert {name.split("/")[0] for name in seen} == copied
    assert [name for name in seen if "__pycache__" in name or name.endswith(".onnx")] == ["models/parts/faceres.onnx"]
    assert {"models/open.toml", "models/parts/LICENSE-faceres.txt"} <= set(seen)


def test_every_base_can_be_pinned_and_every_process_has_its_own_user() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${PYTHON}", "build"}
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", DOCKERFILE, re.MULTILINE)
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in last_stage
    assert 'ENTRYPOINT ["/opt/venv/bin/python"]' in last_stage
    assert "HEALTHCHECK" in last_stage


def test_the_image_is_built_with_the_uv_that_wrote_the_lock() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
    (uv,) = (package for package in lock["package"] if package["name"] == "uv")
    assert f"uv=={uv['version']}\n" in DOCKERFILE


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`srv` and `venv` of an image for CPUs: the build's own `uv sync`, and only the files that it is sent."""
    home = tmp_path_factory.mktemp("image")
    for name in context():
        (home / "srv" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, home / "srv" / name)
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(home / "venv"), "UV_PYTHON": sys.executable}
    environment.pop("VIRTUAL_ENV", None)
    command = ["uv", "sync", "--frozen", "--quiet", "--no-default-groups", "--extra", "cpu"]
    subprocess.run([sys.executable, "-m", *command], cwd=home / "srv", env=environment, check=True)
    shutil.copytree(ROOT / "models" / "open", home / "srv" / "models" / "open")
    return home


def start(image: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """As ENTRYPOINT does, from a tree that nobody can write to, root included."""
    if os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root, with the right to mount, can make the tree read-only here")
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0/srv" && exec "$0/venv/bin/python" "$@"'
    kept = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, str(image), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={**kept, **settings},
    )


@pytest.mark.parametrize("service", ["detection", "grouping"])
def test_a_service_starts_from_a_read_only_tree_with_the_image_s_packages_alone(
    image: Path, service: str, tmp_path: Path
) -> None:
    folders = {"HEALTH_FILE": str(tmp_path / "health.json"), "GALLERY_INDEX_DIR": str(tmp_path / "index")}
    done = start(image, "-m", "app", SERVICE_TYPE=service, **SETTINGS, **folders)
    assert f"the {service} service runs on the CPU" in done.stdout, done.stdout + done.stderr
    # All but the stores is there: packages, networks, folders.
    assert done.returncode == 4, done.stdout + done.stderr
    assert "MongoDB" in done.stdout


def test_a_folder_that_is_not_mounted_is_reported_with_what_to_do(image: Path) -> None:
    done = start(
        image, "-m", "app", SERVICE_TYPE="grouping", **SETTINGS, GALLERY_INDEX_DIR=str(image / "var" / "face-worker")
    )
    assert done.returncode == 5
    assert "GALLERY_INDEX_DIR needs" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "mount a tmpfs or a volume there" in done.stderr


def test_the_health_check_needs_nothing_but_the_image(image: Path, tmp_path: Path) -> None:
    check = re.search(r"HEALTHCHECK[^\[]*\[(.*)\]", DOCKERFILE)
    assert check is not None
    command = json.loads(f"[{check.group(1)}]")[1:]
    done = start(image, *command)
    assert done.returncode == 1
    assert "There is no health file /tmp/health.json" in done.stdout or "last sign of life" in done.stdout


def test_nothing_of_the_tests_or_the_local_stack_is_in_the_image(image: Path) -> None:
    installed = {path.name.split("-")[0].lower() for path in (image / "venv").glob("lib/*/site-packages/*.dist-info")}
    assert {"boto3", "onnxruntime", "faiss_cpu", "opencv_python_headless"} <= installed
    assert not installed & {"moto", "secantusdb", "pytest", "ruff", "mtcnn", "pip", "opencv_python"}
    assert not [name for name in installed if name.startswith("fiftyone")], "it contains a mongod under the SSPL"


def test_the_bill_of_materials_names_every_locked_package_with_its_hashes(tmp_path: Path) -> None:
    bill = tmp_path / "bill.json"
    subprocess.run(["make", "-o", "setup", "sbom", f"SBOM={bill}"], cwd=ROOT, check=True, capture_output=True)
    document = json.loads(bill.read_text("utf-8"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    named = {(one["name"], one["version"]) for one in document["components"]}
    pins = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    wanted = {tuple(line.split()[0].split("==")) for line in pins if "==" in line and not line.startswith((" ", "#"))}
    assert ("onnxruntime-gpu", dict(wanted)["onnxruntime-gpu"]) in named
    assert wanted <= named
    assert all(one["externalReferences"][0]["hashes"][0]["alg"] == "SHA-256" for one in document["components"])


def test_the_size_is_that_of_the_wheels_in_the_lock() -> None:
    gpu, cpu = read_wheel_sizes("gpu", (3, 11)), read_wheel_sizes("cpu", (3, 11))
    (onnx,) = (one for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"] if one["name"] == "onnxruntime")
    (wheel,) = (one for one in onnx["wheels"] if "cp311-cp311-manylinux" in one["url"] and "x86_64" in one["url"])
    assert cpu["onnxruntime"] == wheel["size"]
    assert "onnxruntime" not in gpu
    assert gpu["nvidia-cudnn-cu13"] > 100e6
    assert sum(gpu.values()) > 5 * sum(cpu.values())


# Stands for docker: notes what it is told, and gives ECR an image where one is pushed.
FAKE_DOCKER = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
said = sys.stdin.read() if "--password-stdin" in words else ""
with open(os.environ["DOCKER_NOTES"], "a") as notes:
    notes.write(json.dumps([words, said]) + "\\n")
if words[0] == "push":
    import boto3
    manifest = '{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {{}}, "layers": []}}'
    repository, _, tag = words[1].partition("/")[2].partition(":")
    boto3.client("ecr").put_image(repositoryName=repository, imageManifest=manifest, imageTag=tag)
if words[:3] == ["buildx", "imagetools", "inspect"]:
    print("sha256:" + "0" * 64)
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker on PATH; the file has a line of JSON for each call: its words, and its standard input."""
    program, notes = tmp_path / "bin" / "docker", tmp_path / "notes"
    program.parent.mkdir()
    program.write_text(FAKE_DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_NOTES", str(notes))
    return notes


def test_a_push_builds_logs_in_and_prints_the_digest_and_the_second_does_nothing(aws: str, docker: Path) -> None:
    ecr = open_client("ecr", "eu-central-1")
    uri = ecr.create_repository(repositoryName="pushed")["repository"]["repositoryUri"]
    digest = push(ecr, "pushed", "0123456789ab")
    calls = [json.loads(line) for line in docker.read_text().splitlines()]
    assert [words[0] for words, _ in calls] == ["build", "login", "push"]
    assert f"--tag {uri}:0123456789ab" in " ".join(calls[0][0])
    assert calls[1][0][:4] == ["login", "--username", "AWS", "--password-stdin"]
    assert calls[1][1] and calls[1][1] not in " ".join(calls[1][0])
    assert digest.startswith("sha256:")
    assert push(ecr, "pushed", "0123456789ab") == digest
    assert len(docker.read_text().splitlines()) == 3
    with pytest.raises(DeployError, match="There is no ECR repository none-such"):
        push(ecr, "none-such", "0123456789ab")


def test_the_labels_have_the_commit_and_the_version(docker: Path) -> None:
    subprocess.run([str(ROOT / "infra" / "build_image.sh"), "face-worker:test", "--no-cache"], check=True)
    ((words, _),) = [json.loads(line) for line in docker.read_text().splitlines()]
    arguments = dict(word.split("=", 1) for word, flag in zip(words[1:], words, strict=False) if flag == "--build-arg")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert arguments["COMMIT"].removesuffix("-dirty") == head.stdout.strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert arguments["VERSION"] == project["version"]
    assert arguments.keys() == set(re.findall(r'"\$\{(\w+)\}"', DOCKERFILE.rpartition("LABEL")[2]))
    assert words[-2:] == ["--no-cache", "."]


def test_a_pinned_base_keeps_its_tag_and_can_be_pinned_again(docker: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "infra").mkdir(parents=True)
    shutil.copy2(ROOT / "Dockerfile", copy)
    shutil.copy2(ROOT / "infra" / "pin_base.sh", copy / "infra")
    for _ in range(2):
        subprocess.run([str(copy / "infra" / "pin_base.sh")], check=True, capture_output=True)
    tag = re.search(r"^ARG PYTHON=([^@\n]+)", DOCKERFILE, re.MULTILINE)
    assert tag is not None
    pinned = (copy / "Dockerfile").read_text("utf-8")
    assert f"\nARG PYTHON={tag.group(1)}@sha256:{'0' * 64}\n" in pinned
