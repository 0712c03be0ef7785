"""What both services do where something is erased: pictures with all their versions, and records without a face."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from app.core.ports import ObjectStore, ObjectVersion
from app.core.records import FaceRecord, ImageRecord, ImageStatus, PhotoRef
from app.core.result_keys import ResultKeys

NOBODY_LEFT = "No face is left: those that were found are forgotten."


def exclude_faces(image: ImageRecord, left: int, excluded: int) -> ImageRecord:
    """A photo's record with so many faces left, and so many more that are forgotten."""
    image = replace(image, face_count=left, excluded=image.excluded + excluded)
    if left or image.status is not ImageStatus.INDEXED:
        return image
    return replace(image, status=ImageStatus.NO_FACES, reason=NOBODY_LEFT, left_out=(), preview_key=None)


def erase_pictures(photo: PhotoRef, edition: int, named: Iterable[str], objects: ObjectStore, keys: ResultKeys) -> int:
    """Erase a photo's pictures of this edition and of former ones, and those that its record named, with all versions.
    Returns how many versions these were."""
    versions = [one for prefix in keys.pictures_of(photo) for one in objects.list_versions(prefix)]
    former = set(keys.choose_former({one.key for one in versions}, photo, edition))
    found = [one for one in versions if one.key in former]
    objects.erase(found)
    return len(found) + erase_keys(set(named) - former, objects)


def erase_unnamed(
    image: ImageRecord, faces: Iterable[FaceRecord], edition: int, objects: ObjectStore, keys: ResultKeys
) -> None:
    """Erase the former pictures of a photo of this edition, and former versions of those that its record and its faces,
    of all models, name: a worker that was killed has left them."""
    named = {image.preview_key, *(face.crop_key for face in faces)}
    versions = [one for prefix in keys.pictures_of(image.photo) for one in objects.list_versions(prefix)]
    former = set(keys.choose_former({one.key for one in versions}, image.photo, edition - 1)) - named
    objects.erase([one for one in versions if one.key in former or not one.is_current])


def erase_keys(keys: Iterable[str], objects: ObjectStore) -> int:
    """Erase objects with all versions. Returns how many versions these were."""
    versions = [one for key in keys for one in objects.list_versions(key) if one.key == key]
    objects.erase(versions)
    return len(versions)


def erase_below(prefix: str, objects: ObjectStore, choose: Callable[[ObjectVersion], bool]) -> int:
    """Erase the chosen versions of objects below a prefix. Returns how many these were."""
    versions = [one for one in objects.list_versions(prefix) if choose(one)]
    objects.erase(versions)
    return len(versions)
