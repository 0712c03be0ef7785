"""The story of a gallery: its faces are grouped into people, these are stored, and what applications, guests and the
people page read is published."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from app.clustering.graph import Rows
from app.clustering.identity import PersonMatches, match_people
from app.clustering.incremental import GalleryFaces, PeopleUpdate, update_people
from app.clustering.suggestions import Suggestion, suggest_merges
from app.core.arrays import Floats
from app.core.errors import RejectMessage, StaleFence
from app.core.events import GalleryGrouped, tell_grouped
from app.core.gallery_vectors import VERSION as VECTORS_VERSION
from app.core.gallery_vectors import GalleryVectors, UnreadableVectors, decode, encode
from app.core.ports import (
    GalleryLease,
)
from app.core.records import FaceBatch, FaceMove, ImageRecord, PersonRecord, join_batches
from app.core.roles import QualityBars, assign_core, assign_roles
from app.core.thresholds import make_threshold
from app.grouping.carrying import FormerFaces, carry_over, find_chosen_covers, find_moves, match_places
from app.grouping.covers import list_covers, write_covers
from app.grouping.output import Groups, dump
from app.grouping.page import render_page
from app.grouping.parts import GroupingParts
from app.grouping.publish import compute_digest, list_page_photos, make_crop_urls, make_groups, name_covers
from app.grouping.recalling import NewFaces, find_lost_people, find_new_faces, recall_people
from app.grouping.run import GroupingRun
from app.grouping.shards import Shards, list_shards, make_shards, write_shards
from app.grouping.summary import find_changed, merge_with_absent, summarise
from app.grouping.vectors import Edition, make_vectors
from app.telemetry.catalogue import Metric

log = logging.getLogger(__name__)

MOST_COMPARED = 20_000
"""People up to which suggestions are looked for: all pairs are compared, which then takes some seconds."""


def check_model(lease: GalleryLease, parts: GroupingParts) -> None:
    """Raise RejectMessage where the gallery's people are of another model, or its faces where it has no people yet, and
    not all of its photos have been examined under this one.

    A run would leave people without a face whose photos wait. Where the last run was under this model, faces of another
    one are what a change of model has left over.
    """
    if lease.grouped and lease.grouped[1] == parts.model_id:
        return
    grouped = lease.grouped if lease.last_run.get("faces") else None
    other = grouped[1] if grouped else parts.faces.find_other_model(lease.gallery_id, parts.model_id)
    if other is None:
        return
    what = f"The gallery {lease.gallery_id} {'was grouped' if grouped else 'has faces'} under the model {other}"
    waiting = parts.faces.count_unexamined(lease.gallery_id, parts.model_id)
    if waiting and not parts.allows_model_change:
        raise RejectMessage(
            f"{what}, and this worker's is {parts.model_id}, under which {waiting} of its photos have not been "
            "examined yet. Have them examined by `python -m app.admin migrate --to PACK`, so that people and names go "
            "over to this model; or set MODEL_PACK to the pack that the gallery was made with. "
            "ALLOW_MODEL_CHANGE=true groups the photos that have been examined, without the others' people.",
            "other model",
        )
    log.warning("%s, and is grouped under %s now", what, parts.model_id)


def group_gallery(run: GroupingRun, parts: GroupingParts, *, full: bool) -> None:
    """Read the gallery's faces, group them into people, store these, and publish vectors, groups.json and the page.

    The three files are not written where they would equal the last run's output, unless a full run was ordered. Raises
    StaleFence once another worker has the gallery's lease.
    """
    started = time.monotonic()
    lease, gallery_id = run.lease, run.lease.gallery_id
    bars = lease.quality or parts.quality
    known = parts.people.read_people(lease)
    former = _read_former_faces(gallery_id, parts)
    faces, found = _find_people(run, parts, bars, full=full)
    run.begin_stage("people")
    images = list(parts.faces.read_images(gallery_id))
    carried = faces
    if former:
        places = match_places(faces, former)
        carried = carry_over(faces, former, places)
        if covers_now := find_chosen_covers(faces, former, places, known):
            parts.people.move_chosen_covers(run.lease, covers_now)
            known = [replace(one, chosen_cover=covers_now.get(one.person_id, one.chosen_cover)) for one in known]
    carried = _recall_people(run, parts, carried, found, known, images)
    matched = match_people(found.labels, carried, known, found.is_core, found.get_embeddings)
    people = merge_with_absent(summarise(faces, matched.person_ids, known), known, matched.merged)
    numbers = _replace_people(run, parts, find_changed(people, known), find_moves(faces, carried, matched, former))
    people = [replace(person, number=numbers.get(person.person_id, person.number)) for person in people]

    covers = list_covers(gallery_id, faces, people, parts.keys)
    groups = name_covers(
        make_groups(_make_header(gallery_id, parts.model_id), faces, matched, people, images, bars),
        {person_id: key for person_id, (key, _) in covers.items()},
    )
    page = render_page(
        groups, list_page_photos(images, parts.keys), make_crop_urls(gallery_id, faces, covers, parts.keys)
    )
    vectors = _make_vectors(run, parts, faces, found, matched, images)
    suggestions = _suggest_merges(run, parts, vectors, groups, people)
    two = parts.groups_version == 2
    shards = make_shards(groups, suggestions, faces, images, parts.keys, parts.results_base_url) if two else None
    run.begin_stage("publish")
    with run.tracer.stage("write covers"):
        old_covers = write_covers(covers, faces, parts.keys.covers(gallery_id), parts.objects)
    content = shards.digest if shards else groups.model_dump_json(exclude={"generated_at"})
    # The vectors follow from the same faces and people; where a former version wrote none, they are owed.
    output = f"{compute_digest(content, page)} {VECTORS_VERSION}"
    if full or output != lease.output:
        with run.tracer.stage("write files"):
            _write_vectors(run, parts, vectors)
            _write_files(run, parts, shards or groups, page)
    if old_covers:
        run.keep()  # Whoever has the lease since may have written them.
        parts.objects.remove(old_covers)
    if former and not parts.keeps_former_model:
        _remove_former_faces(run, parts, former)

    seconds, unassigned = round(time.monotonic() - started, 3), matched.person_ids.count(None)
    counts = {"faces": len(faces), "unassigned": unassigned, "people": len(groups.people), "photos": len(images)}
    how = {"kind": found.kind, "new": found.new, "gone": found.gone, "difference": found.difference}
    _tell_grouped(run, parts, counts, groups, vectors.published)
    summary = {**counts, **how, "published": vectors.published, "seconds": seconds, "stages_s": run.end_stages()}
    parts.galleries.record_run(run.lease, parts.model_id, {**summary, "output": output})
    _report_run(found, len(faces), len(groups.people), seconds, parts)
    log.info("gallery grouped", extra={"gallery": gallery_id, **summary})


def _tell_grouped(
    run: GroupingRun, parts: GroupingParts, counts: Mapping[str, int], groups: Groups, published: int
) -> None:
    """Tell applications of the run, after which `published` is the version of the people.

    What has changed is counted from the last run that was recorded, and not by what this run has written: a run that
    died may have published it.
    """
    gallery_id, before = run.lease.gallery_id, run.lease.last_run.get("published")
    changed = parts.people.list_changed(gallery_id, before if isinstance(before, int) else 0)
    grouped = GalleryGrouped(
        revision=run.lease.revision,
        published=published,
        model=parts.model_id,
        people=counts["people"],
        photos=counts["photos"],
        changed_people=changed,
        changed=len(changed),
        merged=groups.merged,
        groups_key=parts.keys.groups(gallery_id),
    )
    parts.events.add([tell_grouped(gallery_id, grouped)])


def _read_former_faces(gallery_id: str, parts: GroupingParts) -> FormerFaces | None:
    """What former models know of the gallery; None where it has no faces of theirs.

    It is read before the faces of this model are: so of each photo that is found examined, these are read too.
    """
    if parts.faces.find_other_model(gallery_id, parts.model_id) is None:
        return None
    former = join_batches(list(parts.faces.read_former_faces(gallery_id, parts.model_id)))
    images = parts.faces.read_images(gallery_id)
    return FormerFaces(former, {image.photo.image_id for image in images if image.model_id == parts.model_id})


def _recall_people(
    run: GroupingRun,
    parts: GroupingParts,
    faces: FaceBatch,
    found: PeopleUpdate,
    known: Sequence[PersonRecord],
    images: Sequence[ImageRecord],
) -> FaceBatch:
    """The faces, where people have just lost all of theirs: with these people, if their photos came back otherwise."""
    lost = find_lost_people(faces, known)
    new = find_new_faces(faces, found.labels)
    if not lost or not len(new):
        return faces
    gallery_id = run.lease.gallery_id
    data = parts.objects.fetch(parts.keys.vectors(gallery_id))
    try:
        former = decode(data) if data is not None else None
    except UnreadableVectors as error:
        log.warning("former vectors can't be read", extra={"gallery": gallery_id, "error": str(error)})
        return faces
    if former is None or former.model_id != parts.model_id:
        return faces
    threshold = make_threshold(run.lease.threshold or parts.threshold).at_reference
    gallery = NewFaces(faces, found.labels, new, found.get_embeddings, images)
    recalled = recall_people(gallery, lost, former, threshold, lambda: run.advance(0))
    if count := len(set(recalled.person_ids) - set(faces.person_ids)):
        log.info("people are recalled whose photos came back otherwise", extra={"gallery": gallery_id, "people": count})
    return recalled


def _remove_former_faces(run: GroupingRun, parts: GroupingParts, former: FormerFaces) -> None:
    """Remove the former models' faces, vectors and crops of the photos that have been carried over."""
    with run.tracer.stage("remove former faces"):
        crops = parts.people.remove_former_faces(run.lease, parts.model_id, former.examined)
    run.keep()
    parts.objects.remove(crops)
    if crops and parts.forgetting:
        # Their vectors are in the index files of every host that grouped the gallery under that model.
        parts.forgetting.tombstones.note_erasure(run.lease.gallery_id)
    if crops:
        log.info("faces of a former model removed", extra={"gallery": run.lease.gallery_id, "photos": len(crops)})


def _find_people(
    run: GroupingRun, parts: GroupingParts, bars: QualityBars, *, full: bool
) -> tuple[FaceBatch, PeopleUpdate]:
    """All faces of the gallery, with embeddings only where the run is a full one, and their people."""
    gallery_id = run.lease.gallery_id
    threshold = make_threshold(run.lease.threshold or parts.threshold)
    run.begin_stage("read")
    read_at = datetime.now(UTC)
    known = parts.index.load(gallery_id, parts.model_id, threshold) if parts.index else None
    if parts.index:
        parts.telemetry.metrics.add(Metric.INDEX_MISSES if known is None else Metric.INDEX_HITS)
    anew = full or known is None
    faces = _read_faces(run, parts, with_embeddings=anew)

    def read_embeddings(rows: Rows) -> Floats:
        # The embeddings of all faces may take most of the memory, so a full run gets them without a copy.
        return faces.embeddings if anew else parts.faces.read_embeddings([faces.face_ids[row] for row in rows])

    run.begin_stage("cluster")
    roles = assign_roles(faces.quality["unified"], bars) if parts.uses_quality else assign_core(len(faces))
    gallery = GalleryFaces(faces.face_ids, faces.image_ids, faces.digests, roles)
    search = replace(parts.search, progress=lambda: run.advance(0))
    found = update_people(gallery, known, threshold, read_embeddings, search, full=full)
    if parts.index and (found.kind == "full" or found.new or found.gone):
        parts.index.save(gallery_id, parts.model_id, threshold, found.known, read_at)
    return faces, found


def _read_faces(run: GroupingRun, parts: GroupingParts, *, with_embeddings: bool) -> FaceBatch:
    last = run.lease.last_run.get("faces")
    batches: list[FaceBatch] = []
    for batch in parts.faces.read_faces(run.lease.gallery_id, parts.model_id, with_embeddings=with_embeddings):
        batches.append(batch)
        run.advance(sum(map(len, batches)) / last if isinstance(last, int) and last else 0)
    return join_batches(batches)


def _replace_people(
    run: GroupingRun, parts: GroupingParts, people: list[PersonRecord], moves: list[FaceMove]
) -> dict[str, int]:
    """Write and publish changed people and moved faces. Readers see all of it at once, or still the last run's.

    Returns the numbers of the people who have got one."""
    if not people and not moves:
        return {}
    with run.tracer.stage("write people"):
        numbers = parts.people.write_people(run.lease, people, _report_progress(moves, run))
    parts.kill_points.reach("before-publish")
    with run.tracer.stage("publish people"):
        parts.people.publish_people(run.lease)
    parts.kill_points.reach("after-publish")
    return numbers


def _make_vectors(
    run: GroupingRun,
    parts: GroupingParts,
    faces: FaceBatch,
    found: PeopleUpdate,
    matched: PersonMatches,
    images: list[ImageRecord],
) -> GalleryVectors:
    """The vectors by which guests are found, of the people that are published now."""
    gallery_id = run.lease.gallery_id
    gallery = parts.galleries.find_gallery(gallery_id)
    edition = Edition(gallery_id, parts.model_id, gallery.published if gallery else 0, run.lease.fence)
    return make_vectors(edition, faces, found, matched.person_ids, images)


def _suggest_merges(
    run: GroupingRun, parts: GroupingParts, vectors: GalleryVectors, groups: Groups, people: Sequence[PersonRecord]
) -> list[Suggestion]:
    """Pairs that may be one person; none in a gallery of so many people that comparing all pairs takes too long."""
    if parts.groups_version == 1 or len(vectors.person_ids) > MOST_COMPARED:
        return []
    photos_of = {person.person_id: {face.image_id for face in person.faces} for person in groups.people}
    threshold = make_threshold(run.lease.threshold or parts.threshold).compute(len(vectors.person_ids))
    return suggest_merges(vectors.person_ids, vectors.means, threshold, photos_of, people)


def _write_vectors(run: GroupingRun, parts: GroupingParts, vectors: GalleryVectors) -> None:
    key = parts.keys.vectors(run.lease.gallery_id)
    _replace_file(run, parts, key, encode(vectors), "application/octet-stream")
    parts.kill_points.reach("after-vectors")


def _write_files(run: GroupingRun, parts: GroupingParts, output: Shards | Groups, page: str) -> None:
    """Write `groups.json`, after the files that it names, and the page; then remove the files that it names no more."""
    gallery_id, fence = run.lease.gallery_id, run.lease.fence
    if isinstance(output, Shards):
        index, left_over = write_shards(output, parts.keys, parts.objects, fence)
        data = dump(index)
    else:
        left_over = list_shards(gallery_id, parts.keys, parts.objects, fence)
        data = output.model_dump_json().encode()
    _replace_file(run, parts, parts.keys.groups(gallery_id), data, "application/json")
    parts.kill_points.reach("after-groups")
    run.keep()
    _replace_file(run, parts, parts.keys.page(gallery_id), page.encode(), "text/html; charset=utf-8")
    if left_over:
        run.keep()
        parts.objects.remove(left_over)


def _replace_file(run: GroupingRun, parts: GroupingParts, key: str, data: bytes, content_type: str) -> None:
    """Write a file of the gallery. Raises StaleFence once another worker has the lease."""
    try:
        parts.objects.replace(key, data, content_type, run.lease.fence)
    except StaleFence as stale:
        if stale.stored_fence is None:
            raise
        # While this run's lease is the newest, nobody can have written with a higher fence, except in a time of which
        # MongoDB knows nothing: it was restored, or the gallery was removed there by hand.
        run.lift_fence(stale.stored_fence)
        about = {"gallery": run.lease.gallery_id, "key": key, "fence": stale.stored_fence}
        log.warning("a file is newer than its gallery in MongoDB, and is replaced", extra=about)
        parts.objects.replace(key, data, content_type, run.lease.fence)


def _report_run(found: PeopleUpdate, faces: int, people: int, seconds: float, parts: GroupingParts) -> None:
    metrics = parts.telemetry.metrics
    metrics.add(Metric.FULL_RUNS if found.kind == "full" else Metric.INCREMENTAL_RUNS)
    metrics.add(Metric.FACES_GROUPED, faces)
    metrics.observe(Metric.PEOPLE, people)
    metrics.observe(Metric.GROUPING_SECONDS, seconds)
    if found.difference is not None:
        metrics.observe(Metric.GROUPING_DIFFERENCE, found.difference)


def _report_progress(moves: list[FaceMove], run: GroupingRun) -> Iterator[FaceMove]:
    for number, move in enumerate(moves, 1):
        yield move
        run.advance(number / len(moves))


def _make_header(gallery_id: str, model_id: str) -> Groups:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Groups(gallery_id=gallery_id, model=model_id, generated_at=now, people=[], unassigned=[], skipped=[])
