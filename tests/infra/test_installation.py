"""All of infra/terraform applied against moto's server: does what it makes fit the worker, and is it narrow enough?"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from tests.infra.installation import BATCH_ROLE, NAME, ROOT, Installation, installed
from tests.infra.policies import actions_allowed, too_wide
from tests.integration.test_bad_input import astronaut

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif("INFRA_TEST" not in os.environ, reason="applying all takes minutes: `make infra-test` does it"),
]
POLICY_KINDS = (
    "aws_iam_role_policy",
    "aws_iam_policy",
    "aws_sqs_queue_policy",
    "aws_s3_bucket_policy",
    "aws_sns_topic_policy",
)
QUICKLY = {"QUEUE_WAIT_S": "1", "DRAIN_EMPTY_POLLS": "2", "GROUPING_DELAY_S": "0", "HEALTH_FILE": ""}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, mongo_uri: str) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("installation"), mongo_uri) as installation:
        yield installation


def run_worker(installation: Installation, service: str) -> subprocess.CompletedProcess[str]:
    """The service as a container would run it: settings from the outputs, secrets from Secrets Manager."""
    settings = installation.output("worker_environment")[service]
    # The weights are here; the model bucket is empty.
    settings = {name: value for name, value in settings.items() if name not in {"MODEL_SOURCE", "LOG_GROUP"}}
    [container] = [one for one in containers(installation, service) if one["name"] == "worker"]
    secrets = installation.aws.client("secretsmanager")
    for secret in container["secrets"]:
        settings[secret["name"]] = secrets.get_secret_value(SecretId=secret["valueFrom"])["SecretString"]
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    credentials = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": installation.aws.endpoint,
    }
    environment = mine | credentials | settings | QUICKLY | {"SERVICE_TYPE": service, "WORKER_MODE": "drain"}
    command = [sys.executable, "-m", "app"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=150)


def containers(installation: Installation, service: str) -> list[dict[str, Any]]:
    definition = installation.aws.client("ecs").describe_task_definition(taskDefinition=f"{NAME}-{service}")
    return list(definition["taskDefinition"]["containerDefinitions"])


def test_a_photo_in_the_bucket_becomes_a_person_in_the_results(installation: Installation, mongo_uri: str) -> None:
    buckets = installation.output("buckets")
    s3 = installation.aws.client("s3")
    # Nothing but the upload: the bucket's own notification is the message.
    s3.put_object(Bucket=buckets["photos"]["name"], Key="wedding/eileen.png", Body=astronaut())
    for service in ("detection", "grouping"):
        done = run_worker(installation, service)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def read(path: str) -> dict[str, Any]:
        answer = s3.get_object(Bucket=buckets["results"]["name"], Key=f"face-worker/wedding/{path}")
        return dict(json.loads(answer["Body"].read()))

    [person] = read("groups.json")["people"]
    assert list(read(person["shard"])["photos"]) == ["eileen"]
    with MongoClient[dict[str, Any]](mongo_uri) as mongo:
        assert mongo["gallery_images"]["people"].count_documents({"gallery_id": "wedding"}) == 1


def test_a_message_that_nobody_can_read_ends_in_the_dead_letter_queue(installation: Installation) -> None:
    queues = installation.output("queues")
    sqs = installation.aws.client("sqs")
    sqs.send_message(QueueUrl=queues["detection"]["url"], MessageBody="not a message")
    done = run_worker(installation, "detection")
    assert done.returncode == 0, done.stderr[-3000:]
    [letter] = sqs.receive_message(QueueUrl=queues["detection"]["dead"]["url"])["Messages"]
    assert letter["Body"] == "not a message"


def test_no_policy_allows_what_could_be_named_more_narrowly(installation: Installation) -> None:
    documents = {
        address: attributes["policy"]
        for kind in POLICY_KINDS
        for address, attributes in installation.resources(kind).items()
    }
    assert len(documents) >= 15, "the policies were not found"
    problems = [f"{address}: {problem}" for address, document in documents.items() for problem in too_wide(document)]
    assert problems == []


def test_no_role_has_a_policy_that_aws_manages(installation: Installation) -> None:
    assert installation.resources("aws_iam_role_policy_attachment") == {}
    assert all(not role["managed_policy_arns"] for role in installation.resources("aws_iam_role").values())


def test_each_service_may_do_what_its_code_calls_and_no_more(installation: Installation) -> None:
    policies = installation.resources("aws_iam_role_policy")
    both = {
        *("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:SendMessage"),
        *(
            "sqs:GetQueueAttributes",
            "sqs:GetQueueUrl",
            "s3:ListBucket",
            "s3:GetObject",
            "s3:PutObject",
            "s3:DeleteObject",
        ),
        *("ecs:GetTaskProtection", "ecs:UpdateTaskProtection", "xray:PutTraceSegments", "xray:PutTelemetryRecords"),
        *("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
    }
    detection = actions_allowed(policies['module.iam.aws_iam_role_policy.task["detection"]']["policy"])
    grouping = actions_allowed(policies['module.iam.aws_iam_role_policy.task["grouping"]']["policy"])
    # What is erased goes with its noncurrent versions; an answer to a guest carries a tag.
    erasing = {"s3:ListBucketVersions", "s3:DeleteObjectVersion"}
    assert detection == both | erasing | {"s3:PutObjectTagging"}
    assert grouping == both | erasing


def test_every_queue_and_bucket_refuses_those_who_come_without_tls(installation: Installation) -> None:
    for queue in installation.resources("aws_sqs_queue").values():
        document = json.loads(queue_attributes(installation, queue["url"])["Policy"])
        assert refuses_without_tls(document), queue["name"]
    buckets = installation.resources("aws_s3_bucket")
    assert len(buckets) == 3
    for bucket in buckets.values():
        document = json.loads(installation.aws.client("s3").get_bucket_policy(Bucket=bucket["bucket"])["Policy"])
        assert refuses_without_tls(document), bucket["bucket"]


def queue_attributes(installation: Installation, url: str) -> dict[str, str]:
    answer = installation.aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    return dict(answer["Attributes"])


def refuses_without_tls(document: dict[str, Any]) -> bool:
    wanted = {"Bool": {"aws:SecureTransport": "false"}}
    return any(one["Effect"] == "Deny" and one.get("Condition") == wanted for one in document["Statement"])


def test_no_mongo_uri_is_in_a_task_definition_a_job_definition_or_the_state(
    installation: Installation, mongo_uri: str
) -> None:
    definitions = installation.resources("aws_ecs_task_definition") | installation.resources("aws_batch_job_definition")
    secrets = installation.resources("aws_secretsmanager_secret_version")
    assert len(definitions) == 4
    assert len(secrets) == 2
    assert mongo_uri not in json.dumps([definitions, secrets])


def test_containers_are_ended_gently_watched_and_can_write_nowhere_but_tmp_and_the_index(
    installation: Installation,
) -> None:
    for service in ("detection", "grouping"):
        [worker] = [one for one in containers(installation, service) if one["name"] == "worker"]
        assert worker["stopTimeout"] == 110
        assert worker["readonlyRootFilesystem"] is True
        assert worker["user"] == "10001:10001"
        assert worker["linuxParameters"]["sharedMemorySize"] == 2048
        assert [mount["containerPath"] for mount in worker["linuxParameters"]["tmpfs"]] == ["/tmp"]  # noqa: S108
        assert [mount["containerPath"] for mount in worker["mountPoints"]] == ["/var/lib/face-worker"]
        assert worker["healthCheck"]["command"][1:4] == ["/opt/venv/bin/python", "-m", "app.health"]
        assert worker["logConfiguration"]["options"]["mode"] == "non-blocking"


def test_machines_ask_for_session_tokens_and_pass_spot_notices_on(installation: Installation) -> None:
    templates = installation.resources("aws_launch_template")
    ecs = [one for address, one in templates.items() if address.startswith("module.ecs")]
    assert len(ecs) == 2
    for template in templates.values():
        assert template["metadata_options"][0]["http_tokens"] == "required"
    for template in ecs:
        assert template["metadata_options"][0]["http_put_response_hop_limit"] == 1


def test_scaling_counts_what_ecs_is_left_to_do_with_a_quarter_at_batch(installation: Installation) -> None:
    policies = installation.resources("aws_appautoscaling_policy")
    policy = policies['module.ecs[0].module.service["detection"].aws_appautoscaling_policy.backlog']
    [tracking] = policy["target_tracking_scaling_policy_configuration"]
    assert (tracking["target_value"], tracking["scale_out_cooldown"], tracking["scale_in_cooldown"]) == (600, 60, 300)
    expressions = {one["id"]: one["expression"] for one in tracking["customized_metric_specification"][0]["metrics"]}
    assert expressions["m1"].endswith("* 0.75")
    assert expressions["backlog_per_task"] == "IF(FILL(m2, 0) > 0, m1 / m2, m1)"


def test_destroying_leaves_nothing(installation: Installation) -> None:
    """Last in the file, for the others need what it removes."""
    installation.destroy()
    client = installation.aws.client
    endpoints = client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    # moto leaves the clusters that Batch made to themselves.
    clusters = client("ecs").describe_clusters(clusters=[NAME])["clusters"]
    roles = [role["RoleName"] for role in client("iam").list_roles()["Roles"]]
    left = {
        "queues": client("sqs").list_queues().get("QueueUrls", []),
        "buckets": client("s3").list_buckets()["Buckets"],
        "repositories": client("ecr").describe_repositories()["repositories"],
        "roles": [name for name in roles if name != BATCH_ROLE],
        "clusters": [cluster for cluster in clusters if cluster["status"] == "ACTIVE"],
        "groups": client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"],
        "templates": client("ec2").describe_launch_templates()["LaunchTemplates"],
        "endpoints": [endpoint for endpoint in endpoints if endpoint["State"] != "deleted"],
        "functions": client("lambda").list_functions()["Functions"],
        "job queues": client("batch").describe_job_queues()["jobQueues"],
        "logs": client("logs").describe_log_groups()["logGroups"],
        "alarms": client("cloudwatch").describe_alarms()["MetricAlarms"],
        "secrets": client("secretsmanager").list_secrets()["SecretList"],
        "topics": client("sns").list_topics()["Topics"],
    }
    assert {kind: found for kind, found in left.items() if found} == {}
