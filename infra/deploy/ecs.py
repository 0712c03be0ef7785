"""One ECS service: its revisions, the state of its roll-out, and its running tasks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.deploy.image import COMMIT_TAG, DeployError, Image, put_image

# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DescribeTasks.html
TASKS_A_CALL = 100
# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_UpdateTaskProtection.html
PROTECTIONS_A_CALL = 10

Answer = dict[str, Any]


@dataclass(frozen=True)
class Deployment:
    """ECS's record of one roll-out. `state` is IN_PROGRESS, COMPLETED or FAILED; the primary is the one that ECS aims
    at."""

    revision: str
    primary: bool
    state: str
    reason: str
    failed_tasks: int = 0


@dataclass(frozen=True)
class ServiceState:
    """Roll-outs of a service, newest first, its numbers of tasks, and ECS's last event."""

    deployments: tuple[Deployment, ...]
    desired: int
    running: int
    last_event: str


@dataclass(frozen=True)
class Running:
    """What a service runs: `digests` of the images of its running tasks, `commit` of its revision where it has one."""

    revision: str
    commit: str
    digests: frozenset[str]
    desired: int
    running: int


class EcsService:
    """A service of a cluster. boto3's errors are not translated: whoever deploys reads them as they are."""

    def __init__(self, ecs: Any, cluster: str, name: str) -> None:  # noqa: ANN401 - boto3 clients are made at run time
        self._ecs = ecs
        self._cluster = cluster
        self.name = name

    def exists(self) -> bool:
        try:
            self._describe()
        except (DeployError, self._ecs.exceptions.ClusterNotFoundException):
            return False
        return True

    def get_revision(self) -> str:
        """The ARN of the task definition that the service is set to."""
        return str(self._describe()["taskDefinition"])

    def register(self, image: Image) -> str:
        """A revision like the newest one but with this image. Returns its ARN.

        The newest, and not the running one: Terraform registers revisions with new settings, and a deployment brings
        them to the service. Their family has the service's name.
        """
        answer = self._ecs.describe_task_definition(taskDefinition=self.name, include=["TAGS"])
        # Every field that a revision may have is copied, also those that AWS adds after this was written.
        fields = self._ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape.members
        copied = {name: value for name, value in answer["taskDefinition"].items() if name in fields}
        put_image(copied["containerDefinitions"], image, self.name)
        tags = [tag for tag in answer.get("tags", []) if tag["key"] != COMMIT_TAG]
        tags.append({"key": COMMIT_TAG, "value": image.commit})
        registered = self._ecs.register_task_definition(**copied, tags=tags)
        return str(registered["taskDefinition"]["taskDefinitionArn"])

    def set_revision(self, revision: str) -> None:
        """Have ECS roll this revision out."""
        self._ecs.update_service(cluster=self._cluster, service=self.name, taskDefinition=revision)

    def read_state(self) -> ServiceState:
        service = self._describe()
        events = service.get("events") or [{"message": ""}]
        return ServiceState(
            tuple(_read_deployment(one) for one in service["deployments"]),
            service["desiredCount"],
            service["runningCount"],
            str(events[0]["message"]),
        )

    def unprotect(self, revision: str) -> None:
        """Remove the scale-in protection of a revision's tasks; else a roll-out would wait until the queue is empty.

        No message is lost by that: a worker that is stopped finishes what it has started and gives the rest back.
        """
        tasks = [task["taskArn"] for task in self._list_tasks("RUNNING") if task["taskDefinitionArn"] == revision]
        for chunk in _split_into_chunks(tasks, PROTECTIONS_A_CALL):
            self._ecs.update_task_protection(cluster=self._cluster, tasks=chunk, protectionEnabled=False)

    def explain_last_stop(self, revision: str) -> str | None:
        """Why the last task of a revision stopped, with the exit codes of its containers; None where none did."""
        stopped = [task for task in self._list_tasks("STOPPED") if task["taskDefinitionArn"] == revision]
        if not stopped:
            return None
        last = max(stopped, key=lambda task: str(task.get("stoppedAt", "")))
        codes = [f"{one['name']} exited with {one['exitCode']}" for one in last["containers"] if "exitCode" in one]
        return "; ".join([str(last.get("stoppedReason", "no reason given")), *codes])

    def read_running(self) -> Running:
        service = self._describe()
        revision = str(service["taskDefinition"])
        tags = self._ecs.describe_task_definition(taskDefinition=revision, include=["TAGS"]).get("tags", [])
        digests = {
            str(container["imageDigest"])
            for task in self._list_tasks("RUNNING")
            for container in task["containers"]
            if "imageDigest" in container
        }
        commit = next((tag["value"] for tag in tags if tag["key"] == COMMIT_TAG), "unknown")
        return Running(revision, commit, frozenset(digests), service["desiredCount"], service["runningCount"])

    def _describe(self) -> Answer:
        answer = self._ecs.describe_services(cluster=self._cluster, services=[self.name])
        active = [service for service in answer["services"] if service["status"] == "ACTIVE"]
        if not active:
            raise DeployError(f"There is no service {self.name} in the cluster {self._cluster}.")
        service: Answer = active[0]
        return service

    def _list_tasks(self, status: str) -> Iterator[Answer]:
        pages = self._ecs.get_paginator("list_tasks").paginate(
            cluster=self._cluster, serviceName=self.name, desiredStatus=status
        )
        arns = [arn for page in pages for arn in page["taskArns"]]
        for chunk in _split_into_chunks(arns, TASKS_A_CALL):
            yield from self._ecs.describe_tasks(cluster=self._cluster, tasks=chunk)["tasks"]


def _read_deployment(answer: Answer) -> Deployment:
    return Deployment(
        revision=answer["taskDefinition"],
        primary=answer["status"] == "PRIMARY",
        state=answer["rolloutState"],
        reason=answer.get("rolloutStateReason", ""),
        failed_tasks=answer.get("failedTasks", 0),
    )


def _split_into_chunks(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def shorten_arn(revision: str) -> str:
    """family:number of a task definition's ARN."""
    return revision.rpartition("/")[2]
