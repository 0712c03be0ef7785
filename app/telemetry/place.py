"""Whose telemetry it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """What metrics and traces say of where they come from. `compute` is `ecs`, `batch` or `local`."""

    namespace: str
    environment: str
    service: str
    compute: str
