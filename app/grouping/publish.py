"""The published output of a run: the content of `groups.json` and of the people page."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from app.clustering.identity import PersonMatches
from app.core.records import FaceBatch, ImageRecord, ImageStatus, PersonRecord, PersonStatus
from app.core.result_keys import ResultKeys
from app.core.roles import QualityBars, explain_unassigned
from app.grouping.output import GroupedFace, GroupedPerson, Groups, SkippedPhoto
from app.grouping.page import PagePhoto, remove_time

BOX_DECIMALS = 2
PUBLISHED_MEASURES = ("unified", "size_px", "sharpness", "yaw", "eyes_covered", "mouth_covered")
"""The measures of a face's quality that are published: all of them would be most of the file."""
SCORE_DECIMALS = 4


def make_groups(
    header: Groups,
    faces: FaceBatch,
    matched: PersonMatches,
    people: Sequence[PersonRecord],
    images: Iterable[ImageRecord],
    bars: QualityBars,
) -> Groups:
    """`header` with the active people, the former ids of people merged into them, the unassigned faces and why they are
    unassigned, and the photos without faces."""
    by_person: dict[str | None, list[GroupedFace]] = {}
    for row, person_id in enumerate(matched.person_ids):
        why = None
        if person_id is None:
            why = _explain_rejected(faces.face_ids[row], matched, people) or explain_unassigned(
                faces.get_quality(row), bars
            )
        by_person.setdefault(person_id, []).append(_make_face(faces, row, why))
    active = {person.person_id: person for person in people if person.status is PersonStatus.ACTIVE}
    return header.model_copy(
        update={
            "people": [_make_person(person, by_person[person_id]) for person_id, person in active.items()],
            "merged": {one.person_id: one.merged_into for one in people if one.merged_into in active},
            "unassigned": by_person.get(None, []),
            "skipped": [_list_skipped(image) for image in images if image.status is not ImageStatus.INDEXED],
        }
    )


def compute_digest(content: str, page: str) -> str:
    """A digest that is equal for equal output, whenever it was made. `content` stands for that of `groups.json`."""
    return hashlib.sha256(f"{content}\n{remove_time(page)}".encode()).hexdigest()


def name_covers(groups: Groups, covers: Mapping[str, str]) -> Groups:
    """The groups with the key of each person's cover."""
    named = [one.model_copy(update={"cover_key": covers.get(one.person_id)}) for one in groups.people]
    return groups.model_copy(update={"people": named})


def list_page_photos(images: Iterable[ImageRecord], keys: ResultKeys) -> dict[str, PagePhoto]:
    """Image id → what the page shows of it: the URL of its preview, relative to the page, and the original's size."""
    return {
        image.photo.image_id: PagePhoto(
            keys.make_url(image.photo.gallery_id, image.preview_key), image.width_px, image.height_px
        )
        for image in images
        if image.status is ImageStatus.INDEXED and image.preview_key
    }


def make_crop_urls(
    gallery_id: str, faces: FaceBatch, covers: Mapping[str, tuple[str, int]], keys: ResultKeys
) -> dict[str, str]:
    """Face id → URL of its crop, relative to the page, for faces whose crop is an object of its own: covers, and faces
    that a former version has stored."""
    former = zip(faces.face_ids, faces.crop_keys, faces.crop_ranges, strict=True)
    urls = {face_id: keys.make_url(gallery_id, key) for face_id, key, part in former if key and part is None}
    return urls | {faces.face_ids[row]: keys.make_url(gallery_id, key) for key, row in covers.values()}


def _make_face(faces: FaceBatch, row: int, why_alone: str | None) -> GroupedFace:
    x1, y1, x2, y2 = (round(float(value), BOX_DECIMALS) for value in faces.boxes[row])
    return GroupedFace(
        face_id=faces.face_ids[row],
        digest=faces.digests[row] or None,
        image_id=faces.image_ids[row],
        box=(x1, y1, x2, y2),
        det_score=round(float(faces.det_scores[row]), SCORE_DECIMALS),
        quality={name: value for name in PUBLISHED_MEASURES if (value := faces.measure(name, row)) is not None},
        why_alone=why_alone,
    )


def _explain_rejected(face_id: str, matched: PersonMatches, people: Iterable[PersonRecord]) -> str | None:
    person_id = matched.rejected_for.get(face_id)
    if person_id is None:
        return None
    name = next((person.name for person in people if person.person_id == person_id), None) or person_id
    return f"It is most like {name}, for whom it was rejected, and it is too poor to be somebody of its own."


def _make_person(person: PersonRecord, faces: list[GroupedFace]) -> GroupedPerson:
    return GroupedPerson(
        person_id=person.person_id,
        number=person.number,
        name=person.name,
        hidden=person.hidden,
        face_count=person.face_count,
        photo_count=person.photo_count,
        cover_face_id=person.cover_face_id,
        faces=faces,
    )


def _list_skipped(image: ImageRecord) -> SkippedPhoto:
    key = image.photo.key
    return SkippedPhoto(image_id=image.photo.image_id, key=key, status=image.status, reason=image.reason or "")
