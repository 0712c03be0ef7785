"""What reaches the detection queue of a stack, applied against moto's server, of what happens in its buckets."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

from tests.infra.emulated import REGION, Emulated, Terraform, moto
from tests.infra.installation import ROOT, VARIABLES

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif("INFRA_TEST" not in os.environ, reason="applying it takes minutes: `make infra-test` does it"),
]
ONLY = ("module.queues", "module.storage")
NETWORK = {"vpc_id": "vpc-1", "subnet_ids": ["subnet-1"]}


@contextmanager
def applied(folder: Path, buckets: dict[str, str], **variables: object) -> Iterator[Emulated]:
    """While inside, queues and buckets of the root are there; `buckets`, by what they are for, were there before."""
    root = folder / "infra" / "terraform"
    shutil.copytree(ROOT / "infra" / "terraform", root, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    settings = VARIABLES | {"network": NETWORK, "existing_buckets": buckets, **variables}
    (root / "test.auto.tfvars.json").write_text(json.dumps(settings), "utf-8")
    with moto() as endpoint:
        aws = Emulated(endpoint)
        for name in set(buckets.values()):
            aws.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        terraform = Terraform(root, endpoint)
        terraform.init()
        terraform.run("apply", "-auto-approve", "-input=false", *(f"-target={name}" for name in ONLY))
        yield aws


def receive(aws: Emulated) -> list[dict[str, Any]]:
    """All messages of the detection queue."""
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{VARIABLES['name']}-detection")["QueueUrl"]
    messages = []
    while answer := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages"):
        messages += [json.loads(message["Body"]) for message in answer]
    return messages


def test_one_bucket_announces_its_photos_by_a_rule_and_never_its_results(tmp_path: Path) -> None:
    with applied(tmp_path, {"photos": "ours", "results": "ours"}, results_prefix="found/") as aws:
        s3 = aws.client("s3")
        for key in ("wedding/1.jpg", "found/wedding/faces/1.jpg/0-aa.crops", "faces/1.jpg"):
            s3.put_object(Bucket="ours", Key=key, Body=b"x")
        for key in ("wedding/1.jpg", "found/wedding/faces/1.jpg/0-aa.crops"):
            s3.delete_object(Bucket="ours", Key=key)
        heard = [(event["detail-type"], event["detail"]["object"]["key"]) for event in receive(aws)]
    created, deleted = "Object Created", "Object Deleted"
    assert sorted(heard) == [(created, "faces/1.jpg"), (created, "wedding/1.jpg"), (deleted, "wedding/1.jpg")]


def test_a_bucket_of_photos_alone_announces_uploads_and_deletions_by_itself(tmp_path: Path) -> None:
    with applied(tmp_path, {"photos": "ours", "results": "theirs"}) as aws:
        s3 = aws.client("s3")
        s3.put_object(Bucket="ours", Key="wedding/1.jpg", Body=b"x")
        s3.put_object(Bucket="theirs", Key="face-worker/wedding/groups.json", Body=b"x")
        s3.delete_object(Bucket="ours", Key="wedding/1.jpg")
        records = [record for message in receive(aws) for record in message.get("Records", [])]
        heard = [
            (record["eventName"].partition(":")[0], unquote_plus(record["s3"]["object"]["key"])) for record in records
        ]
        assert aws.client("events").list_rules()["Rules"] == []
    assert sorted(heard) == [("ObjectCreated", "wedding/1.jpg"), ("ObjectRemoved", "wedding/1.jpg")]
