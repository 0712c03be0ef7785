"""The whole root module, applied against moto's server with everything switched on."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.package_lambda import write_zip
from tests.infra.emulated import Emulated, Terraform, moto

ROOT = Path(__file__).parents[2]
NAME = "face-worker-test"
BATCH_ROLE = "batch"
MONGO_NAMES = ("gallery_images", "huemn")

GPU_TYPES, CPU_TYPES = ["g4dn.xlarge", "g4dn.2xlarge"], ["r5.large", "r5a.large"]


def _machines(types: list[str]) -> dict[str, object]:
    return {
        "primary": {"instance_types": types, "max_vcpus": 40},
        "secondary": {"instance_types": types, "max_vcpus": 16},
    }


VARIABLES = {
    "name": NAME,
    "environment": "staging",
    "image_tag": "0123abc",
    "ecs_enabled": True,
    "batch_enabled": True,
    "traffic_share": 25,
    "force_destroy": True,
    "photo_notifications": {"enabled": True},
    "former_galleries": False,
    "model_prefix": "packs/",
    "further_photo_buckets": ["more-photos"],
    "worker_log_group": "/face-worker-test/workers",
    "collector_image": "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3",
    "runbook_base_url": "https://example.com/runbooks.md",
    "alarm_emails": ["oncall@example.com"],
    "unsupported_by_emulators": True,
    "pools": {
        "gpu": {"instance_types": GPU_TYPES, "gpu": True, "max_instances": 5},
        "cpu": {"instance_types": CPU_TYPES, "max_instances": 2},
    },
    "detection": {
        "pool": "gpu",
        "one_task_an_instance": True,
        "task": {"cpu": 3584, "memory_mib": 12288, "gpus": 1},
        "scaling": {"max_tasks": 5, "latency_goal_s": 600, "seconds_per_message": 0.5},
        "batch": {"messages_per_job": 1000, "max_jobs": 5, **_machines(GPU_TYPES)},
    },
    "grouping": {
        "pool": "cpu",
        "task": {"cpu": 1024, "memory_mib": 8192},
        "scaling": {"max_tasks": 2, "latency_goal_s": 600, "seconds_per_message": 10},
        "batch": {"messages_per_job": 10, "max_jobs": 2, **_machines(CPU_TYPES)},
    },
}


class Installation:
    """What was applied, seen through Terraform's state and through AWS's interfaces."""

    def __init__(self, terraform: Terraform, aws: Emulated) -> None:
        self.aws = aws
        self._terraform = terraform

    def output(self, name: str) -> Any:
        return self._outputs[name]

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Attributes of every resource of this type, by address."""
        return {one["address"]: one["values"] for one in self._managed if one["type"] == kind}

    @cached_property
    def _managed(self) -> list[dict[str, Any]]:
        state = json.loads(self._terraform.run("show", "-json"))
        return [one for one in _below(state["values"]["root_module"]) if one["mode"] == "managed"]

    @cached_property
    def _outputs(self) -> dict[str, Any]:
        return {name: one["value"] for name, one in json.loads(self._terraform.run("output", "-json")).items()}

    def destroy(self) -> None:
        self._terraform.run("destroy", "-auto-approve", "-input=false")


def _below(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from module.get("resources", [])
    for child in module.get("child_modules", []):
        yield from _below(child)


@contextmanager
def installed(folder: Path, mongo_uri: str) -> Iterator[Installation]:
    """While inside, the root is applied. Its secrets hold the URIs of two databases of this MongoDB."""
    root = folder / "infra" / "terraform"
    # A copy, for Terraform writes its state and its providers beside what it reads.
    shutil.copytree(ROOT / "infra" / "terraform", root, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    write_zip(ROOT / "infra" / "lambda" / "batch_submitter", folder / "build" / "batch_submitter.zip")
    uris = ", ".join(f'{name} = "{mongo_uri}/{name}"' for name in MONGO_NAMES)
    with moto() as endpoint:
        aws = Emulated(endpoint)
        (root / "test.auto.tfvars.json").write_text(json.dumps(VARIABLES | _surroundings(aws)), "utf-8")
        terraform = Terraform(root, endpoint, {"mongo_uris": f"{{ {uris} }}"})
        terraform.init()
        terraform.run("apply", "-auto-approve", "-input=false")
        yield Installation(terraform, aws)


def _surroundings(aws: Emulated) -> dict[str, Any]:
    """What an account has before: a VPC with subnets and route tables, and Batch's role, which moto doesn't make."""
    ec2 = aws.client("ec2")
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    tables = [table["RouteTableId"] for table in ec2.describe_route_tables()["RouteTables"]]
    role = aws.client("iam").create_role(RoleName=BATCH_ROLE, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    network = {
        "vpc_id": vpc["VpcId"],
        "subnet_ids": subnets,
        "s3_gateway_endpoint": True,
        "route_table_ids": tables,
        "interface_endpoints": ["sqs", "ecr.api", "ecr.dkr", "logs", "secretsmanager"],
    }
    return {"network": network, "batch_service_role_arn": role}
