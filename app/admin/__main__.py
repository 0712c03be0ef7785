"""`python -m app.admin`: what operators do by hand.

    dlq list | show MESSAGE_ID | redrive  --queue detection|grouping|find   the dead letters of a queue
    replay --gallery G [--image I | --group]                           photos or a grouping done again
    gallery GALLERY                                                    its last run, and the progress of the present one
    quality --gallery G (--core C --border B | --reset)                the quality bars of a gallery
    threshold --gallery G (--similarity S | --reset)                   the similarity threshold of a gallery
    repair [--gallery G] [--dry-run]                                   what former versions left wrong
    people list GALLERY | show GALLERY PERSON | edit GALLERY EDIT      people, and what became of an edit
    people name|merge|split|move|confirm|reject|hide|… GALLERY PERSON  users' edits of people, as messages
    people undo GALLERY EDIT                                           an edit undone
    galleries list | set GALLERY …                                     galleries, and what belongs to one
    forget photo|person|gallery GALLERY … [--confirm | --prove]  have something forgotten, or prove that it is
    forget again                                             after MongoDB was restored: requests that it has lost
    expire                                                   forget galleries whose retention is over
    sweep [--gallery G] [--older-than-s S]                             remove pictures that no record names
    migrate --to PACK (--gallery G | --all)                            have galleries examined under another model

Prints a line for each item, or with --json an object a line. Exit codes: 0 done, 1 not done and a sentence says why,
2 a wrong argument or setting.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from app.adapters.dead_letters import MAX_MOVES_PER_S, DeadLetter, DeadLetters
from app.adapters.mongo import open_database
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore
from app.adapters.sqs import SqsQueue
from app.admin import forget, galleries, migrate, sweep
from app.admin.people import SEND_VISIBILITY_S, add_commands, make_grouping_order, send_grouping
from app.admin.printing import Say
from app.admin.repair import repair_galleries
from app.config import read_setting
from app.core.errors import FatalWorkerError, WorkerError
from app.core.messages import DetectImage
from app.core.records import ImageRecord, PhotoRef
from app.core.roles import FORMER_NAMES, QualityBars

QUEUES = {"detection": "queue_url", "grouping": "group_face_queue_url", "find": "find_queue_url"}
SHOW_MOST = 1_000
LINE_CHARS = 120
ASK_EVERY_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    say: Say = _say_json if options.json else _say_line
    try:
        options.run(options, say)
    except WorkerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, FatalWorkerError) else 1
    return 0


def list_letters(options: argparse.Namespace, say: Say) -> None:
    letters = _open_dead_letters(options).look(options.most)
    for letter in letters:
        first_line = next(iter(letter.body.splitlines()), "")[:LINE_CHARS]
        age, count = _format_age(_measure_age_s(letter)), letter.receive_count
        say(
            f"{letter.message_id}  {age} old  received {count}x  {_describe_reason(letter)}  {first_line}",
            _make_fields(letter),
        )
    if not letters and not options.json:
        say(f"There are no dead letters of the {options.queue} queue.", {})


def show_letter(options: argparse.Namespace, say: Say) -> None:
    for letter in _open_dead_letters(options).look(SHOW_MOST):
        if letter.message_id == options.message_id:
            fields = _make_fields(letter)
            lines = [f"{name}: {value}" for name, value in fields.items() if name not in ("reason", "body")]
            say("\n".join([*lines, f"reason: {_describe_reason(letter)}", "", letter.body]), fields)
            return
    raise WorkerError(
        f"Among {SHOW_MOST:,} dead letters of the {options.queue} queue, none has the id {options.message_id}."
    )


def redrive_letters(options: argparse.Namespace, say: Say) -> None:
    letters = _open_dead_letters(options)
    if options.one_by_one:
        count = 0
        for count, letter in enumerate(letters.move_one_by_one(options.per_second), 1):  # noqa: B007 - read below
            say(f"moved {letter.message_id}", {"message_id": letter.message_id})
        say(f"{count} dead letters moved.", {"moved": count})
        return
    try:
        letters.start_move(options.per_second)
    except WorkerError as error:
        raise WorkerError(f"{error} With --one-by-one, the letters are moved from here instead.") from error
    _follow_move(letters, say)


def _follow_move(letters: DeadLetters, say: Say) -> None:
    before = None
    while True:
        move = letters.get_last_move()
        if move is None:
            raise WorkerError("SQS knows of no move, although it took the order.")
        if move != before:
            total = "?" if move.total is None else move.total
            say(f"{move.status.lower()}: {move.moved} of {total} dead letters moved", asdict(move))
        if move.status == "COMPLETED":
            return
        if move.status != "RUNNING":
            raise WorkerError(f"The move ended as {move.status}: {move.problem or 'SQS gives no reason'}.")
        before = move
        time.sleep(ASK_EVERY_S)


def replay_messages(options: argparse.Namespace, say: Say) -> None:
    if options.group:
        order = make_grouping_order(options.gallery, "full")
        send_grouping(order)
        say(f"sent: full grouping of {options.gallery}", order.model_dump())
        return
    queue = SqsQueue(read_setting("queue_url"), read_setting("aws_default_region"), SEND_VISIBILITY_S)
    sent = 0
    for image in _find_images(options, read_setting("gallery_images_mongo_uri")):
        message = _make_detect_message(image.photo)
        queue.send(message.model_dump_json(exclude_none=True))
        say(f"sent: {image.photo.document_id} (was {image.status.value})", message.model_dump(exclude_none=True))
        sent += 1
    if not sent:
        raise WorkerError(f"MongoDB knows no such photo: {'/'.join(filter(None, (options.gallery, options.image)))}.")


def set_quality(options: argparse.Namespace, say: Say) -> None:
    if not options.reset and (options.core is None or options.border is None):
        raise WorkerError("Give both --core and --border (0 to 100), or --reset.")
    try:
        bars = None if options.reset else QualityBars(core=options.core, border=options.border)
    except ValidationError as error:
        raise WorkerError(f"--core and --border do not fit together: {error.errors()[0]['msg']}") from error
    _change_gallery(options.gallery, lambda store: store.set_quality(options.gallery, bars))
    asked = f"{bars.core:g} of a core face, {bars.border:g} of a border face" if bars else "what the pack asks"
    say(f"{options.gallery} asks of faces: {asked}; it is grouped anew", {"gallery_id": options.gallery, "asks": asked})


def set_threshold(options: argparse.Namespace, say: Say) -> None:
    if not options.reset and not (options.similarity and 0 < options.similarity < 1):
        raise WorkerError("Give --similarity, a number between 0 and 1, or --reset.")
    threshold = None if options.reset else options.similarity
    _change_gallery(options.gallery, lambda store: store.set_threshold(options.gallery, threshold))
    what = f"a similarity above {threshold:g}" if threshold else "the pack's similarity"
    say(
        f"{options.gallery}: two faces need {what} to be one person; it is grouped anew",
        {"gallery_id": options.gallery, "threshold": threshold},
    )


def _change_gallery(gallery_id: str, change: Callable[[MongoGalleryStore], None]) -> None:
    """Make a change, and order the run that applies it. A setting that the order lacks stops the command before."""
    order = make_grouping_order(gallery_id, "auto")
    read_setting("group_face_queue_url")
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    with database.client:
        change(MongoGalleryStore(database))
    send_grouping(order)


def show_gallery(options: argparse.Namespace, say: Say) -> None:
    database = open_database(read_setting("gallery_images_mongo_uri"), "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    with database.client:
        state = MongoGalleryStore(database).find_gallery(options.gallery)
    if state is None:
        raise WorkerError(f"MongoDB knows no gallery {options.gallery}: nothing of it has been stored yet.")
    run, progress = state.last_run, state.progress
    fields = json.loads(json.dumps({"gallery_id": options.gallery, **asdict(state)}, default=_format_time))
    lines = [f"revision: {state.revision}"]
    if run:
        lines += [f"last run: {name} {_format_value(value)}" for name, value in fields["last_run"].items()]
        behind = state.revision - int(str(run["revision"]))
        lines.append(f"changes that are not grouped yet: {behind}")
    else:
        lines.append("never grouped")
    if progress:
        eta = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s to go"
        ago = _format_age((datetime.now(UTC) - progress.at).total_seconds())
        lines.append(f"being grouped: {progress.stage}, {progress.share:.0%}{eta} ({ago} ago)")
    say("\n".join(lines), fields)


def _format_time(value: object) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)


def _format_value(value: object) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _find_images(options: argparse.Namespace, uri: str) -> Iterator[ImageRecord]:
    database = open_database(uri, "gallery_images", "GALLERY_IMAGES_MONGO_URI")
    with database.client:
        faces = MongoFaceStore(database)
        if options.image is None:
            yield from faces.read_images(options.gallery)
        elif image := faces.find_by_id(options.gallery, options.image):
            yield image


def _make_detect_message(photo: PhotoRef) -> DetectImage:
    return DetectImage(
        gallery_id=photo.gallery_id,
        image_id=photo.plain_id,
        s3_key=photo.key,
        bucket=photo.bucket,
        force=True,
    )


def _open_dead_letters(options: argparse.Namespace) -> DeadLetters:
    return DeadLetters(read_setting(QUEUES[options.queue]), read_setting("aws_default_region"))


def _make_fields(letter: DeadLetter) -> dict[str, object]:
    return {
        "message_id": letter.message_id,
        "age_s": round(_measure_age_s(letter)),
        "receive_count": letter.receive_count,
        "reason": letter.reason,
        "body": letter.body,
    }


def _describe_reason(letter: DeadLetter) -> str:
    return letter.reason or "Received too often without being done; see the log for the reason."


def _measure_age_s(letter: DeadLetter) -> float:
    return max(0.0, (datetime.now(UTC) - letter.sent_at).total_seconds())


def _format_age(age_s: float) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"


def _say_line(line: str, _fields: dict[str, object]) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say_json(_line: str, fields: dict[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(fields, ensure_ascii=False)}\n")
    sys.stdout.flush()


class _FormerOption(argparse.Action):
    """An option by its former name, for one more version."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - as argparse has it
        option_string: str | None = None,
    ) -> None:
        sys.stderr.write(f"{option_string} is now --{self.dest}; the next version will not know it any more.\n")
        setattr(namespace, self.dest, values)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.admin", description="What operators do by hand.")
    commands = parser.add_subparsers(required=True)
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--json", action="store_true", help="an object a line, for scripts")
    _add_dlq(commands.add_parser("dlq", help="the dead letters of a queue").add_subparsers(required=True), every)

    again = commands.add_parser("replay", parents=[every], help="have photos, or a grouping, done again")
    again.add_argument("--gallery", required=True)
    what = again.add_mutually_exclusive_group()
    what.add_argument("--image", help="this photo's id alone; without it, all photos of the gallery")
    what.add_argument("--group", action="store_true", help="no photo: group the gallery's faces in full")
    again.set_defaults(run=replay_messages)

    mend = commands.add_parser(
        "repair", parents=[every], help="find what former versions left wrong, and have it mended"
    )
    mend.add_argument("--gallery", help="this gallery alone; without it, all of them")
    mend.add_argument("--dry-run", action="store_true", help="only say what is wrong")
    mend.set_defaults(run=repair_galleries)

    one = commands.add_parser("gallery", parents=[every], help="its last run, and the progress of the present one")
    one.add_argument("gallery")
    one.set_defaults(run=show_gallery)

    asked = commands.add_parser("quality", parents=[every], help="the quality bars of a gallery, instead of the pack's")
    asked.add_argument("--gallery", required=True)
    asked.add_argument(
        "--core", type=float, help="least unified quality (0 to 100) of a core face, which can form a person"
    )
    asked.add_argument("--border", type=float, help="least unified quality of a border face, which may join a person")
    for former, name in FORMER_NAMES.items():
        asked.add_argument(f"--{former}", dest=name, type=float, action=_FormerOption, help=argparse.SUPPRESS)
    asked.add_argument("--reset", action="store_true", help="use the pack's quality bars again")
    asked.set_defaults(run=set_quality)

    similar = commands.add_parser("threshold", parents=[every], help="a gallery's similarity threshold, not the pack's")
    similar.add_argument("--gallery", required=True)
    similar.add_argument("--similarity", type=float, help="0 to 1; a higher one merges fewer people")
    similar.add_argument("--reset", action="store_true", help="use the pack's threshold again")
    similar.set_defaults(run=set_threshold)

    edits = commands.add_parser("people", help="a gallery's people, and users' edits of them")
    add_commands(edits.add_subparsers(required=True), every)
    mine = commands.add_parser("galleries", help="all galleries, and what belongs to one of them")
    galleries.add_commands(mine.add_subparsers(required=True), every)
    forget.add_command(commands, every)
    sweep.add_command(commands, every)
    migrate.add_command(commands, every)
    return parser


def _add_dlq(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", every: argparse.ArgumentParser) -> None:
    of_queue = argparse.ArgumentParser(add_help=False, parents=[every])
    of_queue.add_argument("--queue", required=True, choices=QUEUES, help="the queue they were sent to")

    show_all = commands.add_parser("list", parents=[of_queue], help="list them, with the reason of each")
    show_all.add_argument(
        "--most", type=_make_range_parser(1, 10_000), default=100, metavar="N", help="at most N (100)"
    )
    show_all.set_defaults(run=list_letters)

    one = commands.add_parser("show", parents=[of_queue], help="print one of them in full")
    one.add_argument("message_id")
    one.set_defaults(run=show_letter)

    back = commands.add_parser("redrive", parents=[of_queue], help="move all of them back to their queue")
    back.add_argument(
        "--per-second",
        type=_make_range_parser(1, MAX_MOVES_PER_S),
        default=10,
        metavar="N",
        help="how many a second (10)",
    )
    back.add_argument("--one-by-one", action="store_true", help="move them from here, where SQS can't move them")
    back.set_defaults(run=redrive_letters)


def _make_range_parser(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least} to {most:,}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
