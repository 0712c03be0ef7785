"""What is wrong with an IAM policy document, as sentences."""

import json
import re
from collections.abc import Iterator
from typing import Any

NO_RESOURCE = {
    "batch:ListJobs",
    "ecr:GetAuthorizationToken",
    "ecs:DiscoverPollEndpoint",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}
"""Actions that know no resource, so that only * can stand there:
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html"""


def too_wide(document: str) -> list[str]:
    """Each action or resource of an Allow statement that could be named more narrowly."""
    return [problem for statement in _allowed(document) for problem in _problems(statement)]


def actions_allowed(document: str) -> set[str]:
    return {action for statement in _allowed(document) for action in _listed(statement, "Action")}


def _allowed(document: str) -> Iterator[dict[str, Any]]:
    statements = json.loads(document)["Statement"]
    for statement in [statements] if isinstance(statements, dict) else statements:
        if statement["Effect"] == "Allow":
            yield statement


def _problems(statement: dict[str, Any]) -> Iterator[str]:
    name = statement.get("Sid", "a statement")
    if unknown := {"NotAction", "NotResource"} & statement.keys():
        yield f"{name} allows all but some: {', '.join(unknown)}"
    actions, resources = _listed(statement, "Action"), _listed(statement, "Resource")
    yield from (f"{name} allows {action}" for action in actions if "*" in action)
    for resource in resources:
        if _names_nothing(resource) and not set(actions) <= NO_RESOURCE:
            yield f"{name} allows {', '.join(sorted(set(actions) - NO_RESOURCE))} on {resource}"


def _names_nothing(resource: str) -> bool:
    """Whether it matches all of a service, of an account, or of a kind: *, arn:aws:s3:::*, …:cluster/*."""
    if resource == "*":
        return True
    _arn, _partition, service, region, account, name = resource.split(":", 5)
    of_a_kind = service not in {"s3", "sqs", "sns"}
    named = re.split("[:/]", name, maxsplit=1)[-1] if of_a_kind else name
    return "*" in region + account or not named or named.startswith("*")


def _listed(statement: dict[str, Any], key: str) -> list[str]:
    value = statement.get(key, [])
    return [value] if isinstance(value, str) else list(value)
