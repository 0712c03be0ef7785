"""The check of IAM policies, checked itself."""

import json

import pytest

from tests.infra.policies import too_wide

QUEUE = "arn:aws:sqs:eu-central-1:123456789012:face-worker-detection"


def policy(action: str | list[str], resource: str | list[str], effect: str = "Allow") -> str:
    return json.dumps({"Statement": [{"Sid": "It", "Effect": effect, "Action": action, "Resource": resource}]})


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("*", QUEUE),
        ("sqs:*", QUEUE),
        ("s3:Get*", "arn:aws:s3:::photos/*"),
        ("sqs:SendMessage", "*"),
        (["ecr:GetAuthorizationToken", "ecr:BatchGetImage"], "*"),
        ("s3:GetObject", "arn:aws:s3:::*"),
        ("s3:GetObject", "arn:aws:s3:::*/*"),
        ("sqs:SendMessage", "arn:aws:sqs:eu-central-1:123456789012:*"),
        ("sqs:SendMessage", "arn:aws:sqs:*:123456789012:face-worker-detection"),
        ("ecs:Poll", "arn:aws:ecs:eu-central-1:123456789012:container-instance/*"),
        ("logs:PutLogEvents", "arn:aws:logs:eu-central-1:123456789012:log-group:*"),
    ],
)
def test_what_could_be_named_more_narrowly_is_found(action: str | list[str], resource: str) -> None:
    assert too_wide(policy(action, resource))


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("sqs:SendMessage", QUEUE),
        ("ecr:GetAuthorizationToken", "*"),
        ("s3:PutObject", "arn:aws:s3:::results/*/faces/*"),
        ("ecs:UpdateTaskProtection", "arn:aws:ecs:eu-central-1:123456789012:task/face-worker/*"),
        (
            "logs:PutLogEvents",
            "arn:aws:logs:eu-central-1:123456789012:log-group:/face-worker/ecs/detection:log-stream:*",
        ),
    ],
)
def test_what_is_as_narrow_as_it_can_be_passes(action: str, resource: str) -> None:
    assert too_wide(policy(action, resource)) == []


def test_a_denial_may_be_wide() -> None:
    assert too_wide(policy("s3:*", "*", effect="Deny")) == []


def test_all_but_some_is_found() -> None:
    document = {"Statement": {"Effect": "Allow", "NotAction": "iam:*", "Resource": QUEUE}}
    assert too_wide(json.dumps(document)) == ["a statement allows all but some: NotAction"]
