"""Deploys an image to the running services: `python -m infra.deploy --name face-worker-production`.

It registers a new revision of each service's task definition, like the newest one but with the image by its digest,
updates the services, and waits until ECS calls them stable. If a service does not become stable, all are rolled back to
their former revisions, and the exit code is 1. Batch's job definitions follow once the services are stable. At the end,
it prints what runs.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra.deploy.batch import has_active_definition, register
from infra.deploy.ecs import EcsService, shorten_arn
from infra.deploy.image import DeployError, find_image, find_repository_uri
from infra.deploy.rollout import Patience, roll_out
from infra.deploy.source import make_head_tag

KINDS = ("detection", "grouping")


@dataclass(frozen=True)
class Target:
    """The target of a deployment: ECS services of a cluster, Batch job definitions, or both."""

    cluster: str
    services: Sequence[str]
    job_definitions: Sequence[str]


@dataclass(frozen=True)
class Clients:
    """boto3 clients, which are made at run time and have no types."""

    ecr: Any
    ecs: Any
    batch: Any


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m infra.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="name of the stack: of its cluster and its ECR repository")
    parser.add_argument("--image", help="repository:tag; by default the image of the commit that is checked out")
    parser.add_argument("--timeout-s", type=float, default=1800, help="limit of a roll-out, and of a rollback (1800)")
    options = parser.parse_args(arguments)
    try:
        clients = Clients(boto3.client("ecr"), boto3.client("ecs"), boto3.client("batch"))
        image = options.image or f"{find_repository_uri(clients.ecr, options.name)}:{make_head_tag()}"
        return 0 if deploy(find_target(options.name, clients), image, clients, Patience(options.timeout_s)) else 1
    except (DeployError, BotoCoreError, ClientError) as error:
        print(f"{error}\nLook at the services before you try again: what was begun may be under way.", file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped waiting; ECS goes on with the roll-out.", file=sys.stderr)
    return 1


def find_target(name: str, clients: Clients) -> Target:
    """The services and job definitions of a stack. Raises DeployError where there are none."""
    names = [f"{name}-{kind}" for kind in KINDS]
    target = Target(
        name,
        [one for one in names if EcsService(clients.ecs, name, one).exists()],
        [one for one in names if has_active_definition(clients.batch, one)],
    )
    if not target.services and not target.job_definitions:
        raise DeployError(
            f"There is neither a service nor a job definition of {name} here: are name, region and account right?"
        )
    return target


def deploy(target: Target, reference: str, clients: Clients, patience: Patience) -> bool:
    """Whether everything runs the image now, or will with its next job. Raises DeployError before any change."""
    image = find_image(reference, clients.ecr)
    print(f"{reference} is {image.reference}")
    services = [EcsService(clients.ecs, target.cluster, name) for name in target.services]
    succeeded = roll_out(services, image, patience)
    if succeeded:
        for name in target.job_definitions:
            revision = register(clients.batch, name, image)
            print(f"{name}: jobs submitted from now on are {shorten_arn(revision)}")
    for service in services:
        _print_running(service)
    return succeeded


def _print_running(service: EcsService) -> None:
    runs = service.read_running()
    digests = ", ".join(sorted(runs.digests)) or "no task yet"
    what = f"{shorten_arn(runs.revision)}, commit {runs.commit}, {digests}"
    print(f"{service.name}: {what}, {runs.running} of {runs.desired} running")


if __name__ == "__main__":
    sys.exit(main())
