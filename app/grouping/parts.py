"""What the grouping service works with."""

from dataclasses import dataclass, field
from typing import Literal

from app.clustering.neighbours import NeighbourSearch
from app.core.events import NoEvents
from app.core.kill_points import KillPoints
from app.core.ports import (
    EditJournal,
    EventSink,
    FaceReader,
    FaceStore,
    GalleryStore,
    MessageQueue,
    ObjectStore,
    OwnerMetadata,
    PeopleEditor,
    PeopleStore,
    Tombstones,
)
from app.core.result_keys import ResultKeys
from app.core.roles import QualityBars
from app.core.thresholds import Threshold
from app.grouping.index import GalleryIndex
from app.grouping.slot import RunSlot
from app.telemetry.interface import Telemetry


@dataclass(frozen=True)
class ForgetParts:
    """What forgetting works with beside the grouping service's parts. Without `owner` it is refused: `face_index` would
    stay. Without `retention_days` only galleries with retention days of their own expire."""

    tombstones: Tombstones
    photos: FaceStore
    owner: OwnerMetadata | None = None
    retention_days: int | None = None


@dataclass(frozen=True)
class GroupingParts:
    """What the grouping service works with. Without `uses_quality` every face is a core face, whatever its quality;
    without an `index` every run is a full one. Without `allows_model_change` a gallery of another model is refused
    until all of its photos have been examined under this one; with `keeps_former_model` that model's faces stay."""

    queue: MessageQueue
    objects: ObjectStore
    faces: FaceReader
    galleries: GalleryStore
    people: PeopleStore
    editor: PeopleEditor
    journal: EditJournal
    model_id: str
    threshold: Threshold
    quality: QualityBars
    uses_quality: bool
    grouping_delay_s: int
    lease_s: float
    search: NeighbourSearch
    index: GalleryIndex | None = None
    allows_model_change: bool = False
    keeps_former_model: bool = False
    groups_version: Literal[1, 2] = 2
    results_base_url: str | None = None
    keys: ResultKeys = field(default_factory=ResultKeys)
    kill_points: KillPoints = field(default_factory=KillPoints)
    events: EventSink = field(default_factory=NoEvents)
    telemetry: Telemetry = field(default_factory=Telemetry)
    run_slot: RunSlot = field(default_factory=RunSlot)
    forgetting: ForgetParts | None = None
