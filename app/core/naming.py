"""Which photo has which image id, where several files of a gallery have one name.

A camera writes `IMG_1.JPG`, `IMG_1.NEF` and `IMG_1.MOV`. The plain id, `IMG_1`, belongs to one photo; every other one
keeps the ending of its file in its id. Which one it is follows from the files alone, so it is the same in whatever
order they arrive. A picture that can't be read has the plain id only while no other picture claims it, and a file that
is no photo never has it.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from app.core.pictures import MAIN_PICTURES, FileKind, classify_name, split_ending
from app.core.records import ImageRecord, ImageStatus, PhotoRef

READ = frozenset({ImageStatus.INDEXED, ImageStatus.NO_FACES, ImageStatus.LOW_QUALITY})
"""The statuses of pictures that could be read."""
BELONGS = "belongs to"
_ORDER = list(FileKind)


def settle_names(members: Sequence[ImageRecord], name: str, taken: Collection[str]) -> list[ImageRecord]:
    """The records of all photos that claim the id `name`, each with the id and status that it has now, in order.

    `taken` are ids of the gallery's other records. Among the members may be a photo that claims another id and only
    has this one; it must make room.
    """
    main = find_main_picture(members)
    settled = [_attach_raw(one, main) for one in members]
    owner = next((one for one in sorted(settled, key=_rank) if _may_own(one, name)), None)
    used = {*taken, *([name] if owner else [])}
    ids: dict[int, str] = {}
    for one in sorted(settled, key=_rank):
        if one is not owner:
            ids[id(one)] = _choose_long_id(one.photo, used)
            used.add(ids[id(one)])
    return [replace(one, photo=replace(one.photo, image_id=ids.get(id(one), name))) for one in settled]


def find_orphaned_raws(members: Sequence[ImageRecord]) -> list[PhotoRef]:
    """Raw files that were left out for a picture which is no longer there: they are photos of their own now."""
    if find_main_picture(members):
        return []
    return [one.photo for one in members if one.status is ImageStatus.NOT_A_PHOTO and _is_raw(one)]


def find_main_picture(members: Sequence[ImageRecord]) -> ImageRecord | None:
    """The JPEG or HEIC beside which raw files of its name are no photos of their own."""
    return next((one for one in sorted(members, key=_rank) if _is_main_picture(one)), None)


def guess_name(image_id: str, key: str) -> str | None:
    """The id, where it is the key's end without the ending: then it was made of the key, by whomever."""
    stem = split_ending(key)[0]
    return image_id if stem == image_id or stem.endswith(f"/{image_id}") else None


def make_long_id(photo: PhotoRef) -> str:
    """The id of a photo that doesn't have its plain id: `IMG_1.png`."""
    name, ending = photo.plain_id, split_ending(photo.key)[1]
    # An id that was made of the key has lost an ending, though it may look as if it had one: `IMG_1.png.png`.
    return name if photo.name is None and name.endswith(ending) else f"{name}{ending}"


def _choose_long_id(photo: PhotoRef, used: Collection[str]) -> str:
    long_id = make_long_id(photo)
    return f"{long_id}~{photo.slot}" if long_id in used else long_id


def _may_own(image: ImageRecord, name: str) -> bool:
    if image.photo.plain_id != name:
        return False
    chosen = image.photo.name is None or make_long_id(image.photo) == name
    return image.status is not ImageStatus.NOT_A_PHOTO or chosen


def _attach_raw(image: ImageRecord, main: ImageRecord | None) -> ImageRecord:
    """A raw file beside its JPEG or HEIC is the same photo once more."""
    if main is None or image is main or not _is_raw(image):
        return image
    reason = f"{BELONGS} {main.photo.key.rpartition('/')[2]}"
    return ImageRecord(
        image.photo,
        ImageStatus.NOT_A_PHOTO,
        reason,
        etag=image.etag,
        last_modified=image.last_modified,
        sequencer=image.sequencer,
        model_id=image.model_id,
    )


def _is_raw(image: ImageRecord) -> bool:
    return image.photo.name is not None and classify_name(image.photo.key) is FileKind.RAW


def _is_main_picture(image: ImageRecord) -> bool:
    return image.status in READ and classify_name(image.photo.key) in MAIN_PICTURES


def _rank(image: ImageRecord) -> tuple[bool, bool, int, str, str]:
    """Pictures that were read come first, of these the ones with an id of their own, then by kind, then by key."""
    photo = image.photo
    kind = _ORDER.index(classify_name(photo.key))
    return (image.status not in READ, photo.name is not None, kind, photo.key, photo.bucket)
