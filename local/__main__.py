"""`./dev_worker.sh`: run the whole system on this machine."""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.adapters.aws import open_client
from app.core.errors import WorkerError
from app.grouping.output import Groups
from local.album import Album, count_left_out, find_photos, list_outputs
from local.sample import make_sample_album
from local.stack import QUEUES, ROOT, SERVICES, LocalStack

console = Console(highlight=False)
SHOWN_SKIPPED = 8
EXIT_INTERRUPTED = 130


def main() -> int:
    options = _make_parser().parse_args()
    stack = LocalStack(Path(os.environ.get("DEV_WORKER_HOME", ROOT / ".local")).resolve())
    try:
        return COMMANDS[options.command](stack, options)
    except WorkerError as error:
        console.print(f"[red]{error}[/red]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. ./dev_worker.sh status says what runs, and ./dev_worker.sh stop ends it.")
        return EXIT_INTERRUPTED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev_worker.sh", description="Run the face worker on this machine.")
    default_pack = os.environ.get("MODEL_PACK", "open")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    up = commands.add_parser("up", help="start everything and leave it running (the default)")
    album = commands.add_parser("album", help="a folder of photos in, people out")
    album.add_argument("photos", type=Path, nargs="?", help="folder with photos; a sample album without it")
    album.add_argument("--out", type=Path, default=Path("album-out"), help="where the result goes (album-out)")
    for command in (up, album):
        command.add_argument("--pack", default=default_pack, help="model pack: name or manifest")
    send = commands.add_parser("send", help="send a folder of photos to the running services")
    send.add_argument("photos", type=Path)
    commands.add_parser("status", help="which processes run, and how far the galleries are")
    commands.add_parser("stop", help="stop everything; data in .local stays")
    parser.set_defaults(command="up", pack=default_pack)
    return parser


def _leave_running(stack: LocalStack, options: argparse.Namespace) -> int:
    begin = time.monotonic()
    started = _start_stack(stack, options.pack)
    names = ", ".join(started) if started else "nothing new"
    console.print(f"Started {names} in {time.monotonic() - begin:.1f} s; logs in {stack.logs}.")
    console.print("Try:  ./dev_worker.sh send PHOTO_DIR\n      ./dev_worker.sh status\n      ./dev_worker.sh stop")
    return 0


def _run_album(stack: LocalStack, options: argparse.Namespace) -> int:
    photos = options.photos or _open_sample()
    find_photos(photos)  # An unusable folder is reported before anything is started for it.
    begin = time.monotonic()
    was_running = True
    try:
        with stack.locked():
            was_running = stack.is_running("detection")
            _start_stack(stack, options.pack)
        ready = time.monotonic()
        with Album(photos, stack.environment) as album:
            console.print(f"{len(album.photos)} photos of {photos} as gallery {album.gallery_id}", soft_wrap=True)
            _tell_left_out(photos)
            _follow(album, stack)
            groups = album.collect(options.out)
        now = time.monotonic()
        _print_summary(groups, len(album.photos), options.out, (ready - begin, now - ready))
    finally:
        if not was_running:
            stack.stop()
    return 0


def _send_photos(stack: LocalStack, options: argparse.Namespace) -> int:
    stack.check_services()
    stack.enter_environment()
    with Album(options.photos, stack.environment) as album:
        album.send()
        _tell_left_out(options.photos)
        console.print(f"Sent {len(album.photos)} photos as gallery {album.gallery_id}; see ./dev_worker.sh status.")
    return 0


def _tell_left_out(folder: Path) -> None:
    if left_out := count_left_out(folder):
        files = ", ".join(f"{count} {ending}" for ending, count in left_out.items())
        console.print(f"Left out, because they are no pictures: {files}.", soft_wrap=True)


def _show_status(stack: LocalStack, _options: argparse.Namespace) -> int:
    for name in ("aws", "mongo", *SERVICES):
        console.print(f"{name:10} {'running' if stack.is_running(name) else 'not running'}")
    if not stack.is_running("detection"):
        return 1
    console.print(stack.describe_database(), soft_wrap=True)
    stack.enter_environment()
    environment = stack.environment
    sqs = open_client("sqs", environment["AWS_DEFAULT_REGION"])
    wanted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    for variable, name in QUEUES.items():
        if variable not in environment:
            continue
        counts = sqs.get_queue_attributes(QueueUrl=environment[variable], AttributeNames=wanted)["Attributes"]
        console.print(f"{name} queue: {counts[wanted[0]]} waiting, {counts[wanted[1]]} in flight")
    with MongoClient[dict[str, Any]](environment["GALLERY_IMAGES_MONGO_URI"]) as mongo:
        database = mongo.get_default_database("gallery_images")
        for gallery in database["galleries"].find():
            images = database["images"].count_documents({"gallery_id": gallery["_id"]})
            console.print(f"gallery {gallery['_id']}: {images} photos, {_describe_last_run(gallery)}", soft_wrap=True)
    return 0


def _describe_last_run(gallery: Mapping[str, Any]) -> str:
    run = gallery.get("last_run")
    if run is None:
        return "not grouped yet"
    state = "all grouped" if run["revision"] == gallery["revision"] else "changed since the last run"
    return f"{run['faces']} faces, {run['people']} people, {state}"


def _stop_stack(stack: LocalStack, _options: argparse.Namespace) -> int:
    stopped = stack.stop()
    console.print(f"Stopped {', '.join(stopped) if stopped else 'nothing: nothing was running'}.")
    return 0


COMMANDS = {
    "up": _leave_running,
    "album": _run_album,
    "send": _send_photos,
    "status": _show_status,
    "stop": _stop_stack,
}


def _start_stack(stack: LocalStack, pack: str) -> list[str]:
    if "/" in pack or pack.endswith(".toml"):
        # A relative path is resolved here, because the services run in the repository's folder.
        pack = str(Path(pack).resolve())
    with console.status("Starting local AWS, MongoDB and both services…"):
        started = stack.start(pack)
    stack.check_services()
    console.print(stack.describe_database(), soft_wrap=True)
    return started


def _open_sample() -> Path:
    folder = ROOT / ".local" / "sample-album"
    make_sample_album(folder)
    return folder


def _follow(album: Album, stack: LocalStack) -> None:
    columns = (TextColumn("photos"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    counts = TextColumn("faces {task.fields[faces]}  people {task.fields[people]}")
    with Progress(*columns, counts, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("photos", total=len(album.photos), faces=0, people=0)
        album.send()
        for progress in album.follow(stack.check_services):
            bar.update(task, completed=progress.photos, faces=progress.faces, people=progress.people)


def _print_summary(groups: Groups, photo_count: int, out: Path, seconds: tuple[float, float]) -> None:
    faces = sum(person.face_count for person in groups.people) + len(groups.unassigned)
    table = Table(show_header=False, box=None)
    table.add_row("photos", f"{photo_count} ({len(groups.skipped)} without faces or not usable)")
    table.add_row("faces", f"{faces} ({len(groups.unassigned)} not assigned)")
    table.add_row("people", f"{len(groups.people)}, {sum(p.photo_count > 1 for p in groups.people)} in several photos")
    table.add_row("model", groups.model)
    table.add_row("time", f"{seconds[0]:.1f} s to start, {seconds[1]:.1f} s for the photos")
    console.print(table)
    for photo in groups.skipped[:SHOWN_SKIPPED]:
        console.print(f"  {photo.image_id}: {photo.status.value}: {photo.reason}", soft_wrap=True)
    if len(groups.skipped) > SHOWN_SKIPPED:
        console.print(f"  … and {len(groups.skipped) - SHOWN_SKIPPED} more, in groups.json")
    for path in list_outputs(out):
        console.print(str(path.resolve()), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
