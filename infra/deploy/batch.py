"""New revisions of Batch job definitions. Jobs that are submitted by the name alone take the newest from then on."""

from typing import Any

from infra.deploy.image import COMMIT_TAG, DeployError, Image, put_image


def register(batch: Any, name: str, image: Image) -> str:  # noqa: ANN401 - boto3 clients are made at run time
    """A revision like the newest active one but with this image. Returns its ARN. Raises DeployError for none.

    Jobs that run or wait keep the revision that they were submitted with.
    """
    newest = _find_newest(batch, name)
    fields = batch.meta.service_model.operation_model("RegisterJobDefinition").input_shape.members
    # Batch answers with empty lists and objects for what was never set, and refuses some of them.
    copied = {key: value for key, value in newest.items() if key in fields and value not in ({}, [], None)}
    put_image([_get_container(copied, name)], image, f"the job definition {name}")
    copied["tags"] = {**newest.get("tags", {}), COMMIT_TAG: image.commit}
    return str(batch.register_job_definition(**copied)["jobDefinitionArn"])


def has_active_definition(batch: Any, name: str) -> bool:  # noqa: ANN401
    """Whether there is an active job definition of this name."""
    return bool(_list_revisions(batch, name))


def _find_newest(batch: Any, name: str) -> dict[str, Any]:  # noqa: ANN401
    revisions = _list_revisions(batch, name)
    if not revisions:
        raise DeployError(f"There is no active Batch job definition {name}.")
    return max(revisions, key=lambda one: int(one["revision"]))


def _list_revisions(batch: Any, name: str) -> list[dict[str, Any]]:  # noqa: ANN401
    pages = batch.get_paginator("describe_job_definitions").paginate(jobDefinitionName=name, status="ACTIVE")
    return [one for page in pages for one in page["jobDefinitions"]]


def _get_container(definition: dict[str, Any], name: str) -> dict[str, Any]:
    """The properties of the definition's single container."""
    properties: dict[str, Any] | None = definition.get("containerProperties")
    if properties is None:
        raise DeployError(f"The job definition {name} is not one of a single container, so its image is unknown.")
    return properties
