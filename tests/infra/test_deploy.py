"""A new image for running services: what is registered, and what happens when a roll-out goes wrong."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.adapters.aws import open_client
from infra.deploy import source
from infra.deploy.__main__ import Clients, Target, deploy, find_target, main
from infra.deploy.ecs import EcsService, shorten_arn
from infra.deploy.image import DeployError, Image, find_image, get_repository, put_image
from infra.deploy.rollout import Patience, roll_out
from tests.fakes import FakeClock
from tests.infra.fake_ecs import Ending, FakeEcs, FakeService

REGION = "eu-central-1"
OLD = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/face-worker@sha256:aa"
NEW = Image("123456789012.dkr.ecr.eu-central-1.amazonaws.com/face-worker@sha256:bb", "0123456789ab")


@dataclass
class Rollout:
    """A roll-out of both services on a fake ECS, and what it printed."""

    ecs: FakeEcs
    well: bool
    lines: list[str]
    seconds: float

    @property
    def revisions(self) -> list[str]:
        return [shorten_arn(service.current) for service in self.ecs.services.values()]


def rolled_out(detection: Ending, grouping: Ending = "stable", lag: int = 0, *, denied: bool = False) -> Rollout:
    clock = FakeClock()
    services = FakeService("s-detection", detection, lag), FakeService("s-grouping", grouping)
    ecs = FakeEcs(clock, *services, image=OLD)
    ecs.denied = denied
    lines: list[str] = []
    began = clock.now()
    both = [EcsService(ecs, "s", service.name) for service in services]
    well = roll_out(both, NEW, Patience(600, clock.now, clock.sleep), lines.append)
    return Rollout(ecs, well, lines, clock.now() - began)


def test_both_services_run_the_new_image_once_ecs_calls_them_stable() -> None:
    done = rolled_out("stable")
    assert done.well
    assert done.revisions == ["s-detection:2", "s-grouping:2"]
    assert done.ecs.updates == [("s-detection", "2"), ("s-grouping", "2")]
    assert 60 <= done.seconds < 80, "they go at the same time"


def test_only_the_worker_gets_the_image_and_the_revision_has_the_commit() -> None:
    done = rolled_out("stable")
    service = done.ecs.services["s-detection"]
    containers = done.ecs.definitions[service.current]["containerDefinitions"]
    assert [one["image"] for one in containers] == [NEW.reference, "otel/collector:1"]
    runs = EcsService(done.ecs, "s", "s-detection").read_running()
    assert (runs.commit, runs.digests, runs.running, runs.desired) == (NEW.commit, {"sha256:bb"}, 2, 2)


def test_settings_that_terraform_registered_meanwhile_come_with_the_deploy() -> None:
    clock = FakeClock()
    ecs = FakeEcs(clock, FakeService("s-detection"), image=OLD)
    containers = [{"name": "worker", "image": OLD, "memory": 4096}]
    ecs.register_task_definition(family="s-detection", containerDefinitions=containers, tags=[])
    revision = EcsService(ecs, "s", "s-detection").register(NEW)
    assert ecs.definitions[revision]["containerDefinitions"] == [{**containers[0], "image": NEW.reference}]


def test_one_failed_service_takes_both_back_and_says_why_its_task_stopped() -> None:
    done = rolled_out("stable", "failed")
    assert not done.well
    assert done.revisions == ["s-detection:1", "s-grouping:1"]
    said = "\n".join(done.lines)
    assert "s-grouping: ECS gave up: tasks failed to start; its last task: Essential container in task exited" in said
    assert "worker exited with 5" in said
    assert "s-detection: runs s-detection:1 again" in said


def test_what_the_circuit_breaker_has_rolled_back_is_not_ordered_again() -> None:
    done = rolled_out("rolled back by the breaker")
    assert not done.well
    assert "s-detection: ECS went back to s-detection:1 by itself (tasks failed to start)" in "\n".join(done.lines)
    assert done.ecs.updates == [("s-detection", "2"), ("s-grouping", "2"), ("s-grouping", "1")]


def test_a_roll_out_that_never_gets_stable_is_taken_back_when_its_time_is_up() -> None:
    done = rolled_out("never stable")
    assert not done.well
    assert "s-detection: was not stable after 600 s" in done.lines
    assert done.revisions == ["s-detection:1", "s-grouping:1"]
    assert 600 <= done.seconds < 700


def test_busy_tasks_that_protect_themselves_do_not_hold_it_up() -> None:
    assert rolled_out("stable once unprotected").well


def test_what_may_not_be_asked_is_taken_back_too() -> None:
    done = rolled_out("stable", denied=True)
    assert not done.well
    assert done.revisions == ["s-detection:1", "s-grouping:1"]
    assert "s-detection: AWS does not tell how far it is: An error occurred (AccessDenied" in "\n".join(done.lines)


def test_an_answer_that_is_older_than_the_order_is_not_taken_for_a_way_back() -> None:
    assert rolled_out("stable", lag=3).well


def test_a_service_that_is_not_there_stops_it_before_anything_is_changed() -> None:
    ecs = FakeEcs(FakeClock(), FakeService("s-detection"), image=OLD)
    services = [EcsService(ecs, "s", name) for name in ("s-detection", "s-grouping")]
    with pytest.raises(DeployError, match="There is no service s-grouping in the cluster s"):
        roll_out(services, NEW, Patience(60))
    assert ecs.updates == []


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("face-worker", "face-worker"),
        ("face-worker:1", "face-worker"),
        ("localhost:5000/face-worker", "localhost:5000/face-worker"),
        ("localhost:5000/face-worker:1@sha256:aa", "localhost:5000/face-worker"),
        (OLD, "123456789012.dkr.ecr.eu-central-1.amazonaws.com/face-worker"),
    ],
)
def test_a_repository_is_read_from_any_form_of_a_name(reference: str, repository: str) -> None:
    assert get_repository(reference) == repository


def test_containers_of_another_repository_are_never_replaced_by_guess() -> None:
    containers = [{"name": "one", "image": "a:1"}, {"name": "two", "image": "b:1"}]
    with pytest.raises(
        DeployError, match=r"No container of s runs an image of .*face-worker: one \(a:1\), two \(b:1\)"
    ):
        put_image(containers, NEW, "s")


@pytest.fixture
def stack(aws: str) -> Iterator[Clients]:
    """A stack as Terraform makes it, in moto: an image in ECR, a service and a job definition of each kind."""
    clients = Clients(open_client("ecr", REGION), open_client("ecs", REGION), open_client("batch", REGION))
    uri = clients.ecr.create_repository(repositoryName="stack")["repository"]["repositoryUri"]
    manifest = (
        '{"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {"digest": "sha256:%s"}, "layers": []}'
    )
    for tag in ("old", "new"):
        clients.ecr.put_image(repositoryName="stack", imageManifest=manifest % tag, imageTag=tag)
    clients.ecs.create_cluster(clusterName="stack")
    for kind in ("detection", "grouping"):
        _make_service(clients.ecs, f"stack-{kind}", f"{uri}:old")
        _make_job_definition(clients.batch, f"stack-{kind}", f"{uri}:old")
    yield clients
    for kind in ("detection", "grouping"):
        clients.ecs.delete_service(cluster="stack", service=f"stack-{kind}", force=True)
    clients.ecs.delete_cluster(cluster="stack")
    clients.ecr.delete_repository(repositoryName="stack", force=True)


def _make_service(ecs: Any, name: str, image: str) -> None:
    worker = {"name": "worker", "image": image, "memory": 2048, "readonlyRootFilesystem": True, "stopTimeout": 110}
    ecs.register_task_definition(
        family=name,
        containerDefinitions=[worker],
        volumes=[{"name": "index"}],
        tags=[{"key": "commit", "value": "old"}, {"key": "owner", "value": "photos"}],
    )
    ecs.create_service(cluster="stack", serviceName=name, taskDefinition=name, desiredCount=1)


def _make_job_definition(batch: Any, name: str, image: str) -> None:
    batch.register_job_definition(
        jobDefinitionName=name,
        type="container",
        containerProperties={
            "image": image,
            "resourceRequirements": [{"type": "VCPU", "value": "4"}, {"type": "MEMORY", "value": "8192"}],
            "command": ["-m", "app"],
        },
        retryStrategy={"attempts": 3, "evaluateOnExit": [{"onStatusReason": "Host EC2*", "action": "RETRY"}]},
        timeout={"attemptDurationSeconds": 3600},
        platformCapabilities=["EC2"],
    )


def stable_ecs(ecs: Any) -> Any:
    """moto's ECS, which never rolls anything out, with what it lacks: the deployment of what is ordered."""

    def answer(method: Any, **named: Any) -> Any:
        result = method(**named)
        for service in result["services"]:
            service["deployments"] = [
                {"taskDefinition": service["taskDefinition"], "status": "PRIMARY", "rolloutState": "COMPLETED"}
            ]
        return result

    class Stable:
        def __getattr__(self, name: str) -> Any:
            method = getattr(ecs, name)
            return (lambda **named: answer(method, **named)) if name == "describe_services" else method

    return Stable()


def test_services_and_job_definitions_get_the_digest_and_keep_all_else(
    stack: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = Clients(stack.ecr, stable_ecs(stack.ecs), stack.batch)
    names = ["stack-detection", "stack-grouping"]
    uri = stack.ecr.describe_repositories(repositoryNames=["stack"])["repositories"][0]["repositoryUri"]
    digest = stack.ecr.describe_images(repositoryName="stack", imageIds=[{"imageTag": "new"}])["imageDetails"][0]
    pinned = f"{uri}@{digest['imageDigest']}"
    assert deploy(Target("stack", names, names), f"{uri}:new", clients, Patience(10))

    answer = stack.ecs.describe_task_definition(taskDefinition="stack-detection", include=["TAGS"])
    (worker,) = answer["taskDefinition"]["containerDefinitions"]
    assert worker["image"] == pinned
    assert (worker["readonlyRootFilesystem"], worker["stopTimeout"]) == (True, 110)
    assert answer["taskDefinition"]["volumes"] == [{"name": "index"}]
    assert {tag["key"]: tag["value"] for tag in answer["tags"]} == {"commit": "new", "owner": "photos"}
    service = stack.ecs.describe_services(cluster="stack", services=["stack-detection"])["services"][0]
    assert shorten_arn(service["taskDefinition"]) == shorten_arn(answer["taskDefinition"]["taskDefinitionArn"])

    jobs = stack.batch.describe_job_definitions(jobDefinitionName="stack-grouping", status="ACTIVE")["jobDefinitions"]
    first, newest = sorted(jobs, key=lambda job: job["revision"])[-2:]
    assert newest["revision"] == first["revision"] + 1
    assert newest["containerProperties"]["image"] == pinned
    assert newest["retryStrategy"] == first["retryStrategy"]
    assert newest["timeout"] == {"attemptDurationSeconds": 3600}
    assert newest["tags"]["commit"] == "new"
    said = capsys.readouterr().out
    assert "stack-detection: jobs submitted from now on are stack-detection:" in said
    assert "commit new" in said


def test_what_there_is_of_a_stack_is_found_and_nothing_at_all_is_an_error(stack: Clients) -> None:
    names = ["stack-detection", "stack-grouping"]
    assert find_target("stack", stack) == Target("stack", names, names)
    _make_job_definition(stack.batch, "batch-only-detection", "face-worker:1")
    assert find_target("batch-only", stack) == Target("batch-only", [], ["batch-only-detection"])
    with pytest.raises(DeployError, match="neither a service nor a job definition of nothing here"):
        find_target("nothing", stack)


def test_an_image_that_was_never_pushed_is_an_error_before_any_change(
    stack: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = stack.ecr.describe_repositories(repositoryNames=["stack"])["repositories"][0]["repositoryUri"]
    with pytest.raises(DeployError, match="`make push` builds and pushes one"):
        find_image(f"{uri}:none-such", stack.ecr)
    assert main(["--name", "stack", "--image", f"{uri}:none-such"]) == 1
    assert "There is no image" in capsys.readouterr().err
    before = stack.ecs.describe_services(cluster="stack", services=["stack-detection"])["services"][0]
    assert shorten_arn(before["taskDefinition"]).startswith("stack-detection")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    (tmp_path / "file").write_text("one")
    for command in (
        ["init", "--quiet"],
        ["add", "file"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "one"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env=environment)
    return tmp_path


def test_a_tag_is_the_commit_and_a_changed_tree_has_none_unless_forced(checkout: Path) -> None:
    tag = source.make_head_tag(checkout)
    assert len(tag) == 12
    (checkout / "file").write_text("two")
    with pytest.raises(DeployError, match=f"The checkout differs from the commit {tag}, such as in file: commit it"):
        source.make_head_tag(checkout)
    assert source.make_head_tag(checkout, force=True).startswith(f"{tag}-dirty-")
