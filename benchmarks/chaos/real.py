"""One round of the real workload: an album is changed during a storm of faults, then checked by its end."""

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.chaos import album_checks, checks
from benchmarks.chaos.album import list_outcomes, make_plan
from benchmarks.chaos.album_checks import File, is_bad_letter
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.journal import JournalReader
from benchmarks.chaos.nemesis import Nemesis
from benchmarks.chaos.nemesis import make_plan as plan_faults
from benchmarks.chaos.snapshot import read_snapshot
from benchmarks.chaos.storm import (
    GROUPING_WORKERS,
    SENDING_SHARE,
    RoundOptions,
    describe_round,
    run_storm,
    settle,
    sweep,
)
from benchmarks.chaos.uploader import Uploader
from benchmarks.chaos.user import Diary, User
from benchmarks.chaos.watch import FenceWatch
from benchmarks.chaos.workload import NO_SUCH_BUCKET
from benchmarks.chaos.world import SETTINGS, World, WorldOptions

VERSIONED = "chaos-versioned"
FEWEST_WORDS, LATE_WORDS, LATE_WORDS_S = 12, 6, 30.0
"""The user goes on after the storm, until so many words in all, and so many more, or for so long: most of the former
ones went with their photos, and on a slow machine the workers may have found nobody before."""
OVERTAKEN = b"photo changed meanwhile"
"""The log line of app.detection.handle."""
PICTURE_ENDINGS = (".crops", ".jpg")


def run_real_round(options: RoundOptions, world_options: WorldOptions) -> dict[str, Any]:
    """The result of one seed, as it is printed. `messages` are the changes of the buckets."""
    began, seed = time.monotonic(), world_options.seed
    plan = make_plan(options.messages, seed, options.seconds * SENDING_SHARE, SETTINGS["BUCKET_NAME"], VERSIONED)
    allowed = {"ALLOWED_BUCKETS": f"{NO_SUCH_BUCKET},{VERSIONED}"}
    with World(replace(world_options, settings={**allowed, **world_options.settings})) as world:
        _make_versioned_bucket(world)
        nemesis = Nemesis(world, plan_faults(seed, options.kills, options.seconds, changes_photos=True), seed)
        workers = {"detection": options.workers, "grouping": GROUPING_WORKERS}
        fleet = Fleet(world.environment, world_options.home / "logs", workers, nemesis.make_environment)
        uploader = Uploader(world, plan, seed)
        with FenceWatch(world) as watch, fleet:
            with User(world, seed) as user:
                run_storm(fleet, nemesis, uploader.run, options)
                user.await_words(max(FEWEST_WORDS, len(user.diary.words) + LATE_WORDS), LATE_WORDS_S)
            redriven, unrest = settle(world, lambda letter: not is_bad_letter(letter), options.patience_s)
            exits = list(fleet.exits)
        sweep(world)
        run, files, pictures = read_snapshot(world), read_files(world), read_pictures(world)
    _keep_diary(user.diary, world_options.home)
    words = album_checks.Words(user.diary.words, uploader.history, run)
    found = {
        "lost": [*album_checks.find_lost_files(files, run), *album_checks.find_wrong_letters(plan.bad_records, run)],
        "duplicated": album_checks.find_duplicated_files(run),
        "swapped": album_checks.find_swapped(files, run, pictures),
        "revived": album_checks.find_revived(files, run),
        "ungrouped": album_checks.find_ungrouped(run),
        "misplaced": album_checks.find_misplaced(words),
        "fence_violations": checks.find_fence_violations(run, JournalReader(world.journal_path).read(), watch.seen),
        "orphans": [*checks.find_orphans(run), *album_checks.find_left_files(run)],
    }
    others = [*unrest, *album_checks.find_wrong_ends(files, run)]
    return {
        "seed": seed,
        "workload": "real",
        "changes": len(plan.changes),
        "sent": uploader.sent,
        "files": len(files),
        "stored": sum(album_checks.get_place(image) in files for image in run.images.values()),
        "faces": len(run.faces),
        "dead_lettered": sum(map(is_bad_letter, run.dead_letters)),
        "words": len(user.diary.words),
        "words_refused": user.diary.refused,
        "words_held": sum(1 for _ in words.list_held()),
        "words_left": album_checks.count_words(run),
        "races": _count_races(world_options.home / "logs"),
        "redriven_innocent": redriven,
        "seconds": round(time.monotonic() - began, 1),
        **describe_round(world, nemesis, exits, found, others),
    }


def read_files(world: World) -> dict[tuple[str, str], File]:
    """Every file that the buckets have now."""
    outcomes = list_outcomes()
    files = {}
    for bucket in (SETTINGS["BUCKET_NAME"], VERSIONED):
        for key in _list_keys(world, bucket):
            answer = world.s3.get_object(Bucket=bucket, Key=key)
            data = answer["Body"].read()
            outcome = outcomes[hashlib.sha256(data).hexdigest()]
            files[bucket, key] = File((bucket, key), answer["ETag"].strip('"'), data, outcome)
    return files


def read_pictures(world: World) -> dict[str, bytes]:
    """Crops, previews and covers by key."""
    bucket = SETTINGS["FACE_GROUP_BUCKET_NAME"]
    keys = [key for key in _list_keys(world, bucket) if key.endswith(PICTURE_ENDINGS)]
    return {key: world.s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def _keep_diary(diary: Diary, home: Path) -> None:
    """For whoever looks into a round that went wrong."""
    lines = [json.dumps(asdict(word)) for word in diary.words]
    (home / "words.jsonl").write_text("\n".join(lines), "utf-8")


def _count_races(logs: Path) -> int:
    """How often a worker found its photo changed by another one."""
    return sum(log.read_bytes().count(OVERTAKEN) for log in logs.glob("detection-*.log"))


def _list_keys(world: World, bucket: str) -> list[str]:
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def _make_versioned_bucket(world: World) -> None:
    region = {"LocationConstraint": world.straight["AWS_DEFAULT_REGION"]}
    world.s3.create_bucket(Bucket=VERSIONED, CreateBucketConfiguration=region)
    world.s3.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"})
