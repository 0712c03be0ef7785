"""The two files that the model reads: AWS's prices, and the workload of the worker."""

import tomllib
from argparse import ArgumentTypeError
from datetime import date
from math import inf, nan
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

INFRA = Path(__file__).parents[1]
PRICES, WORKLOAD = INFRA / "prices.toml", INFRA / "workload.toml"

Usd = Annotated[float, Field(ge=0)]


class UnusableFile(Exception):
    """A file can't be read as what it should be; the message is for the user."""


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Instance(Table):
    on_demand_usd_h: Usd
    spot_usd_h: Usd


class Group(Table):
    """Prices that were checked together: a date, or `never`."""

    checked: date | str
    source: str


class Instances(Group):
    types: dict[str, Instance]


class Volumes(Group):
    usd_gb_month: Usd


class Requests(Group):
    sqs_usd_million: Usd
    s3_get_usd_1000: Usd
    s3_put_usd_1000: Usd
    logs_usd_gb: Usd


class Tier(Table):
    """Calls a month up to `calls` (None for all above) cost `usd_call` each."""

    calls: int | None = None
    usd_call: Usd


class Rekognition(Group):
    face_month_usd: Usd
    tiers: list[Tier]

    @model_validator(mode="after")
    def _check_tiers(self) -> Self:
        bounds = [tier.calls for tier in self.tiers]
        closed = [bound for bound in bounds if bound is not None]
        if bounds != [*sorted(set(closed)), None]:
            raise ValueError("tiers must rise, and the last must have no `calls`")
        return self


class Prices(Table):
    region: str
    written: date
    instances: Instances
    volumes: Volumes
    requests: Requests
    rekognition: Rekognition

    @property
    def unchecked(self) -> list[str]:
        """Names of the groups that nobody has compared with AWS's pages."""
        groups = {name: getattr(self, name) for name in type(self).model_fields}
        return [name for name, group in groups.items() if isinstance(group, Group) and group.checked == "never"]


class Figure(Table):
    value: float = Field(gt=0)
    measured: bool
    source: str


class Workload(Table):
    """Units are in the names."""

    seconds_per_photo: Figure
    faces_per_photo: Figure
    grouping_seconds_per_1000_faces: Figure
    full_runs_per_gallery: Figure
    start_s: Figure
    ecs_idle_s: Figure
    batch_idle_s: Figure
    reclaims_per_instance_hour: Figure
    drain_s: Figure
    max_instances: Figure
    root_volume_gb: Figure
    sqs_requests_per_photo: Figure
    s3_puts_per_photo: Figure
    log_bytes_per_photo: Figure

    def replace_seconds_per_photo(self, seconds: float, source: str) -> Self:
        figure = Figure(value=seconds, measured=False, source=source)
        return self.model_copy(update={"seconds_per_photo": figure})


def parse_positive(text: str) -> float:
    """A number on a command line. Raises ArgumentTypeError where it isn't above 0 and finite."""
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not 0 < number < inf:
        raise ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


Read = TypeVar("Read", bound=Table)


def read_table(path: Path, kind: type[Read]) -> Read:
    """The content of a TOML file. Raises UnusableFile with the problem."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UnusableFile(f"{path} can't be used: {error}") from error
