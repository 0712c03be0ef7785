"""The cost model: US dollars for a burst of photos, from prices and the workload of a photo. Pure functions.

A burst is a gallery that arrives at once while nothing runs. Its instances start, work it off, stay idle until scaling
has noticed, and end: no work, no instance. An instance is paid by the second from its start to its end.
"""

from dataclasses import dataclass, fields
from math import ceil
from typing import Literal

from infra.cost.inputs import Prices, Rekognition, Workload

HOUR_S = 3600
HOURS_A_MONTH = 730
GB = 1e9

Market = Literal["on-demand", "spot"]


@dataclass(frozen=True)
class Way:
    """Where a service runs, and how its instances are paid."""

    compute: Literal["ecs", "batch"]
    market: Market

    def __str__(self) -> str:
        compute = {"ecs": "ECS", "batch": "Batch"}[self.compute]
        return f"{compute} {self.market.replace('spot', 'Spot')}"


WAYS = (Way("ecs", "on-demand"), Way("ecs", "spot"), Way("batch", "spot"))


@dataclass(frozen=True)
class Cost:
    """US dollars of one burst. `lifecycle` is what starting, idling and Spot's reclaims add to the work itself."""

    work: float
    lifecycle: float
    requests: float
    grouping: float

    @property
    def total(self) -> float:
        return self.work + self.lifecycle + self.requests + self.grouping

    def scale_to_1000(self, photos: int) -> "Cost":
        return Cost(*(getattr(self, field.name) * 1000 / photos for field in fields(self)))


@dataclass(frozen=True)
class Model:
    """`detection` and `grouping` are the instance types that the two services run on."""

    prices: Prices
    workload: Workload
    detection: str
    grouping: str

    def compute_burst(self, way: Way, photos: int) -> Cost:
        work_s = photos * self.workload.seconds_per_photo.value
        instances = self.count_instances(photos)
        price = self.compute_hourly_usd(self.detection, way.market)
        lifecycle_s = self._compute_lifecycle_s(way, instances, work_s)
        return Cost(
            work=work_s / HOUR_S * price,
            lifecycle=lifecycle_s / HOUR_S * price,
            requests=self._compute_requests(photos),
            grouping=self._compute_grouping(way, photos),
        )

    def count_instances(self, photos: int) -> int:
        """As many as work the burst off within `drain_s`, as the scaling policy and the submitter compute it."""
        needed = ceil(photos * self.workload.seconds_per_photo.value / self.workload.drain_s.value)
        return max(1, min(needed, int(self.workload.max_instances.value)))

    def compute_always_on(self, photos: int, photos_a_month: int) -> Cost:
        """The burst's share of one on-demand instance that always runs; grouping's instances start and end."""
        month = self.compute_hourly_usd(self.detection, WAYS[0].market) * HOURS_A_MONTH
        return Cost(
            month * photos / photos_a_month, 0, self._compute_requests(photos), self._compute_grouping(WAYS[0], photos)
        )

    def compute_hourly_usd(self, instance_type: str, market: Market) -> float:
        """US dollars for an hour of an instance with its root volume."""
        instance = self.prices.instances.types[instance_type]
        machine = instance.spot_usd_h if market == "spot" else instance.on_demand_usd_h
        volume = self.workload.root_volume_gb.value * self.prices.volumes.usd_gb_month / HOURS_A_MONTH
        return machine + volume

    def _compute_lifecycle_s(self, way: Way, instances: int, work_s: float) -> float:
        start_s = self.workload.start_s.value
        idle = self.workload.ecs_idle_s if way.compute == "ecs" else self.workload.batch_idle_s
        # A reclaimed worker gives its messages back, so what a reclaim costs is another start.
        reclaims = work_s / HOUR_S * self.workload.reclaims_per_instance_hour.value if way.market == "spot" else 0
        return instances * (start_s + idle.value) + reclaims * start_s

    def _compute_grouping(self, way: Way, photos: int) -> float:
        faces = photos * self.workload.faces_per_photo.value
        run_s = faces / 1000 * self.workload.grouping_seconds_per_1000_faces.value
        work_s = run_s * self.workload.full_runs_per_gallery.value
        return (
            (work_s + self._compute_lifecycle_s(way, 1, work_s))
            / HOUR_S
            * self.compute_hourly_usd(self.grouping, way.market)
        )

    def _compute_requests(self, photos: int) -> float:
        prices, workload = self.prices.requests, self.workload
        each = (
            workload.sqs_requests_per_photo.value * prices.sqs_usd_million / 1e6
            + prices.s3_get_usd_1000 / 1000
            + workload.s3_puts_per_photo.value * prices.s3_put_usd_1000 / 1000
            + workload.log_bytes_per_photo.value / GB * prices.logs_usd_gb
        )
        return photos * each


def compute_rekognition_per_1000(prices: Rekognition, photos_a_month: int, faces_per_photo: float) -> float:
    """US dollars: IndexFaces once a photo, SearchFaces once a face, and the faces kept for a month."""
    calls = photos_a_month * (1 + faces_per_photo)
    kept = photos_a_month * faces_per_photo * prices.face_month_usd
    return (_price_calls(prices, calls) + kept) * 1000 / photos_a_month


def _price_calls(prices: Rekognition, calls: float) -> float:
    total, below = 0.0, 0
    for tier in prices.tiers:
        upper = calls if tier.calls is None else min(calls, tier.calls)
        total += max(0.0, upper - below) * tier.usd_call
        below = tier.calls or below
    return total
