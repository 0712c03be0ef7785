"""The commands of `python -m app.admin galleries`: all galleries, and what belongs to one of them, set by a message."""

import argparse
import json
from dataclasses import asdict
from uuid import uuid4

from app.adapters.mongo_galleries import MongoGalleryStore
from app.admin.people import open_galleries, send_grouping
from app.admin.printing import Say
from app.core.errors import WorkerError
from app.core.messages import parse_grouping
from app.core.ports import GalleryState


def list_galleries(_options: argparse.Namespace, say: Say) -> None:
    database = open_galleries()
    with database.client:
        galleries = MongoGalleryStore(database)
        for gallery_id in galleries.list_galleries():
            if state := galleries.find_gallery(gallery_id):
                say(_describe(gallery_id, state), _make_fields(gallery_id, state))


def set_gallery(options: argparse.Namespace, say: Say) -> None:
    fields: dict[str, object] = {"type": "set_gallery", "gallery_id": options.gallery, "request_id": uuid4().hex}
    given = {"display_name": options.display_name, "retention_days": options.retention_days}
    given["similarity_threshold"] = options.similarity
    given = {name: value for name, value in given.items() if value is not None}
    both = sorted(set(given) & set(options.reset))
    if both:
        raise WorkerError(f"Give {both[0]} a value, or reset it, but not both.")
    fields |= given | dict.fromkeys(options.reset)
    send_grouping(parse_grouping(json.dumps(fields)))
    say(f"{options.gallery}: queued as the request {fields['request_id']}", fields)


def _describe(gallery_id: str, state: GalleryState) -> str:
    run = state.last_run or {}
    about = [
        state.display_name or "(no name)",
        f"{run.get('people', 0)} people in {run.get('photos', 0)} photos" if run else "never grouped",
        *([f"kept for {state.retention_days} days"] if state.retention_days else []),
    ]
    return f"{gallery_id}  {'  '.join(about)}"


def _make_fields(gallery_id: str, state: GalleryState) -> dict[str, object]:
    shown = json.loads(json.dumps(asdict(state), default=str))
    return {"gallery_id": gallery_id, **shown}


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser
) -> None:
    commands.add_parser("list", parents=[every], help="all galleries").set_defaults(run=list_galleries)
    change = commands.add_parser("set", parents=[every], help="set what belongs to a gallery")
    change.add_argument("gallery")
    change.add_argument("--display-name", help="what it is called")
    change.add_argument("--retention-days", type=int, help="days after its newest photo until it is forgotten")
    change.add_argument("--similarity", type=float, help="its similarity threshold, 0 to 1")
    change.add_argument(
        "--reset",
        action="append",
        default=[],
        choices=["display_name", "retention_days", "quality", "similarity_threshold"],
        help="take the gallery's own value away; may be given several times",
    )
    change.set_defaults(run=set_gallery)
