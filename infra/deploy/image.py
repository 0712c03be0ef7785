"""The image to deploy: its name as ECS takes it, and the commit that it was built from."""

import re
from dataclasses import dataclass
from typing import Any

REGISTRY = re.compile(r"^\d{12}\.dkr\.ecr\.[\w-]+\.amazonaws\.com(?:\.cn)?/(?P<name>[^:@]+)$")
COMMIT_TAG = "commit"
"""The AWS tag of a revision that says which commit its image is of, since a digest does not."""


class DeployError(Exception):
    """A deployment that is impossible, or failed; the message says why and what to do."""


@dataclass(frozen=True)
class Image:
    """`reference` is what a task definition names; `commit` is the tag that `make push` gave it."""

    reference: str
    commit: str

    @property
    def repository(self) -> str:
        return get_repository(self.reference)


def get_repository(reference: str) -> str:
    """An image's name without tag and digest. (A colon before the last slash is a port.)"""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}{tail.partition(':')[0]}"


def find_image(reference: str, ecr: Any) -> Image:  # noqa: ANN401 - boto3 clients are made at run time
    """The image behind repository:tag, by its digest where it lies in ECR, so that every task runs the same bytes.

    Raises DeployError where ECR has no such tag.
    """
    repository = get_repository(reference)
    tag = reference.removeprefix(repository).removeprefix(":")
    registry = REGISTRY.match(repository)
    if registry is None or tag.startswith("@") or not tag:
        return Image(reference, tag.removeprefix("@") or "latest")
    digest = find_digest(ecr, registry["name"], tag)
    if digest is None:
        raise DeployError(f"There is no image {reference} in ECR; `make push` builds and pushes one.")
    return Image(f"{repository}@{digest}", tag)


def find_digest(ecr: Any, repository: str, tag: str) -> str | None:  # noqa: ANN401
    """The digest that a tag stands for, None where there is no such tag. Raises DeployError for no repository."""
    try:
        answer = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    except ecr.exceptions.ImageNotFoundException:
        return None
    except ecr.exceptions.RepositoryNotFoundException as error:
        raise DeployError(f"There is no ECR repository {repository}; Terraform makes it.") from error
    return str(answer["imageDetails"][0]["imageDigest"])


def find_repository_uri(ecr: Any, repository: str) -> str:  # noqa: ANN401
    """Where docker pushes to. Raises DeployError for no repository."""
    try:
        answer = ecr.describe_repositories(repositoryNames=[repository])
    except ecr.exceptions.RepositoryNotFoundException as error:
        raise DeployError(f"There is no ECR repository {repository}; Terraform makes it.") from error
    return str(answer["repositories"][0]["repositoryUri"])


def put_image(containers: list[dict[str, Any]], image: Image, where: str) -> None:
    """Name the image in the worker's container in place; other containers (a collector) keep theirs.

    The worker's container runs another image of the same repository, or is the only one. Raises DeployError for none.
    """
    chosen = [one for one in containers if get_repository(one["image"]) == image.repository]
    chosen = chosen or (containers if len(containers) == 1 else [])
    if not chosen:
        names = ", ".join(f"{one['name']} ({one['image']})" for one in containers)
        raise DeployError(f"No container of {where} runs an image of {image.repository}: {names}.")
    for container in chosen:
        container["image"] = image.reference
