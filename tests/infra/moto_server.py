"""moto's server with the answers put right that Terraform's provider ends on, or waits for without end.

`python tests/infra/moto_server.py PORT`. Each function names what AWS does and moto does not.
"""

import json
import sys
from typing import Any

from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse
from moto.ecs.models import Service
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket
from moto.server import main as run_moto
from moto.sqs.models import Queue


def leave_out_empty_network_configurations() -> None:
    """A service in bridge mode has no `networkConfiguration`; moto answers {}, on which the provider crashes."""
    begin = Service.__init__

    def begin_with_none(service: Service, *arguments: Any, **options: Any) -> None:
        begin(service, *arguments, **options)
        service.network_configuration = service.network_configuration or None

    Service.__init__ = begin_with_none


def answer_tags_of_scalable_targets() -> None:
    """The provider reads a scalable target's tags; moto knows no such call."""
    ApplicationAutoScalingResponse.list_tags_for_resource = lambda _self: json.dumps({"Tags": {}})


def keep_attributes_of_queues() -> None:
    """moto forgets a queue's policy when another attribute is set, and knows no RedriveAllowPolicy ("" removes it)."""
    set_attributes = Queue._set_attributes

    def set_and_keep(queue: Queue, attributes: dict[str, Any], now: float | None = None) -> None:
        set_attributes(queue, {"Policy": getattr(queue, "policy", None), **attributes}, now)
        queue.redrive_allow_policy = queue.redrive_allow_policy or None

    Queue._set_attributes = set_and_keep
    Queue.redrive_allow_policy = None
    Queue.BASE_ATTRIBUTES = [*Queue.BASE_ATTRIBUTES, "RedriveAllowPolicy"]


def let_plain_http_reach_buckets() -> None:
    """The buckets' policies refuse requests without TLS, which moto's are; and it denies without reading conditions."""
    FakeBucket.get_permission = lambda _bucket, _action, _resource: PermissionResult.NEUTRAL


if __name__ == "__main__":
    leave_out_empty_network_configurations()
    answer_tags_of_scalable_targets()
    keep_attributes_of_queues()
    let_plain_http_reach_buckets()
    run_moto(["-H", "127.0.0.1", "-p", sys.argv[1]])
