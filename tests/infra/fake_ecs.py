"""An ECS whose roll-outs take time and go wrong, with the answers of boto3's client and a clock of the test's."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import boto3
from botocore.exceptions import ClientError

from tests.fakes import FakeClock

Ending = Literal["stable", "failed", "rolled back by the breaker", "never stable", "stable once unprotected"]
PREFIX = "arn:aws:ecs:eu-central-1:123456789012:task-definition/"


@dataclass
class FakeService:
    """`ending` is what becomes of any other revision than the first, `lag` how many answers come too late."""

    name: str
    ending: Ending = "stable"
    lag: int = 0
    desired: int = 2
    current: str = ""
    first: str = ""
    changed_at: float = 0.0
    protected: set[str] = field(default_factory=set)


class FakeEcs:
    """What infra.deploy.ecs calls; a roll-out takes 60 s. `updates` are the revisions that were ordered, in order."""

    meta = boto3.client("ecs", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x").meta

    def __init__(self, clock: FakeClock, *services: FakeService, image: str) -> None:
        self._clock = clock
        self.services = {service.name: service for service in services}
        self.definitions: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, list[dict[str, str]]] = {}
        self.updates: list[tuple[str, str]] = []
        self.denied = False
        for service in services:
            containers = [{"name": "worker", "image": image}, {"name": "collector", "image": "otel/collector:1"}]
            answer = self.register_task_definition(family=service.name, containerDefinitions=containers, tags=[])
            service.first = service.current = answer["taskDefinition"]["taskDefinitionArn"]
            service.protected = {service.first}

    def register_task_definition(self, *, tags: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
        number = sum(arn.startswith(f"{PREFIX}{fields['family']}:") for arn in self.definitions) + 1
        arn = f"{PREFIX}{fields['family']}:{number}"
        self.definitions[arn] = {**fields, "taskDefinitionArn": arn, "revision": number, "status": "ACTIVE"}
        self.tags[arn] = tags
        return {"taskDefinition": self.definitions[arn]}

    def describe_task_definition(self, *, taskDefinition: str, include: list[str]) -> dict[str, Any]:
        assert include == ["TAGS"]
        newest = [arn for arn in self.definitions if arn.startswith(f"{PREFIX}{taskDefinition}:")]
        arn = taskDefinition if taskDefinition in self.definitions else newest[-1]
        return {"taskDefinition": self.definitions[arn], "tags": self.tags[arn]}

    def update_service(self, *, cluster: str, service: str, taskDefinition: str) -> None:
        chosen = self.services[service]
        chosen.current, chosen.changed_at = taskDefinition, self._clock.now()
        self.updates.append((service, taskDefinition.rpartition(":")[2]))

    def describe_services(self, *, cluster: str, services: list[str]) -> dict[str, Any]:
        (name,) = services
        if name not in self.services:
            return {"services": [], "failures": [{"reason": "MISSING"}]}
        return {"services": [self._described(self.services[name])]}

    def update_task_protection(self, *, cluster: str, tasks: list[str], protectionEnabled: bool) -> None:
        assert not protectionEnabled
        if self.denied:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "UpdateTaskProtection")
        for service in self.services.values():
            service.protected -= {task.removeprefix("task of ") for task in tasks}

    def get_paginator(self, operation: str) -> "FakeEcs":
        assert operation == "list_tasks"
        return self

    def paginate(self, *, cluster: str, serviceName: str, desiredStatus: str) -> Iterator[dict[str, Any]]:
        service = self.services[serviceName]
        running = service.current if self._state(service) == "COMPLETED" else service.first
        stopped = [f"stopped {service.current}"] if self._state(service) == "FAILED" else []
        yield {"taskArns": [f"task of {running}"] if desiredStatus == "RUNNING" else stopped}

    def describe_tasks(self, *, cluster: str, tasks: list[str]) -> dict[str, Any]:
        def task(arn: str) -> dict[str, Any]:
            revision = arn.removeprefix("task of ").removeprefix("stopped ")
            if arn.startswith("stopped"):
                reason, container = "Essential container in task exited", {"name": "worker", "exitCode": 5}
                return {
                    "taskArn": arn,
                    "taskDefinitionArn": revision,
                    "stoppedReason": reason,
                    "containers": [container],
                }
            image = self.definitions[revision]["containerDefinitions"][0]["image"]
            digest = {"imageDigest": image.partition("@")[2]} if "@" in image else {}
            return {"taskArn": arn, "taskDefinitionArn": revision, "containers": [digest]}

        return {"tasks": [task(arn) for arn in tasks]}

    def _state(self, service: FakeService) -> str:
        if service.current == service.first:
            return "COMPLETED"
        if service.ending == "stable once unprotected" and service.first in service.protected:
            return "IN_PROGRESS"
        if service.ending == "never stable" or self._clock.now() - service.changed_at < 60:
            return "IN_PROGRESS"
        return "COMPLETED" if service.ending.startswith("stable") else "FAILED"

    def _described(self, service: FakeService) -> dict[str, Any]:
        state = self._state(service)
        mine = {"taskDefinition": service.current, "status": "PRIMARY", "rolloutState": state, "failedTasks": 0}
        deployments = [mine]
        if service.lag and service.current != service.first:
            service.lag -= 1
            deployments = [{**mine, "taskDefinition": service.first, "rolloutState": "COMPLETED"}]
        elif state == "FAILED":
            mine |= {"rolloutStateReason": "tasks failed to start", "failedTasks": 3}
            if service.ending == "rolled back by the breaker":
                back = {"taskDefinition": service.first, "status": "PRIMARY", "rolloutState": "COMPLETED"}
                deployments = [back, {**mine, "status": "ACTIVE"}]
        return {
            "status": "ACTIVE",
            "taskDefinition": deployments[0]["taskDefinition"],
            "deployments": deployments,
            "desiredCount": service.desired,
            "runningCount": service.desired,
            "events": [],
        }
