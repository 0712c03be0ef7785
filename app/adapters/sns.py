"""A topic of SNS that is told of events."""

import json
from collections.abc import Mapping, Sequence

from app.adapters.aws import open_client, translate_aws_errors


class SnsTopic:
    """An event is one message: its body the CloudEvent, its attributes `type` and `gallery_id` for subscriptions'
    filters."""

    def __init__(self, arn: str, region: str) -> None:
        self._arn = arn
        self._sns = open_client("sns", region, read_timeout_s=10)

    def send(self, events: Sequence[Mapping[str, object]]) -> list[int]:
        entries = [
            {
                "Id": str(place),
                "Message": json.dumps(event, ensure_ascii=False),
                "MessageAttributes": {
                    "type": {"DataType": "String", "StringValue": event["type"]},
                    "gallery_id": {"DataType": "String", "StringValue": event["subject"]},
                },
            }
            for place, event in enumerate(events)
        ]
        with translate_aws_errors(f"Sending events to {self._arn}", "SNS"):
            answer = self._sns.publish_batch(TopicArn=self._arn, PublishBatchRequestEntries=entries)
        return [int(entry["Id"]) for entry in answer.get("Failed", [])]
