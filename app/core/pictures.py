"""What the name of a file says of it, and how large a photo may be."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class FileKind(StrEnum):
    """What a file is by the ending of its name. The order of the pictures is that in which they claim an image id."""

    JPEG = "JPEG"
    HEIC = "HEIC"
    AVIF = "AVIF"
    WEBP = "WebP"
    PNG = "PNG"
    TIFF = "TIFF"
    RAW = "camera's raw file"
    OTHER = "file"
    """Another picture, or an ending that is not known: the first bytes decide."""
    VIDEO = "video"
    SOUND = "sound recording"
    SIDECAR = "sidecar file"
    DOCUMENT = "document"


_ENDINGS = {
    FileKind.JPEG: "jpg jpeg jpe jfif",
    FileKind.HEIC: "heic heif hif",
    FileKind.AVIF: "avif",
    FileKind.WEBP: "webp",
    FileKind.PNG: "png",
    FileKind.TIFF: "tif tiff",
    FileKind.RAW: "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf "
    "srw x3f",
    FileKind.VIDEO: "3g2 3gp avi insv lrf lrv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv",
    FileKind.SOUND: "aac aif aiff flac m4a mp3 oga ogg opus wav wma",
    FileKind.SIDECAR: "aae cos cot cop dop lrtemplate on1 pp3 thm vrd xmp",
    FileKind.DOCUMENT: "7z cfg csv db doc docx exe gz htm html ini ics json lnk log lrcat md ods odt pages pdf ppt "
    "pptx rar rtf sh sql sqlite tar toml txt url vcf xls xlsx xml yaml yml zip",
}
_KINDS = {f".{ending}": kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
_SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini", ".picasa.ini", "picasa.ini"})
_APPLE_DOUBLE = "._"
"""macOS keeps what it knows of `IMG_1.jpg` in `._IMG_1.jpg` on other file systems."""

NOT_PHOTOS = frozenset({FileKind.VIDEO, FileKind.SOUND, FileKind.SIDECAR, FileKind.DOCUMENT})
MAIN_PICTURES = frozenset({FileKind.JPEG, FileKind.HEIC})
"""Beside one of these of the same name, a camera's raw file is no photo of its own."""

PICTURE_ENDINGS = frozenset(ending for ending, kind in _KINDS.items() if kind not in NOT_PHOTOS) | {".gif", ".bmp"}
"""Endings of the files of a folder that are read. The first bytes of a file tell its format (app/vision/decode.py)."""


def classify_name(name: str) -> FileKind:
    """What a file is by its name or key."""
    file = name.rpartition("/")[2].lower()
    if file.startswith(_APPLE_DOUBLE) or file in _SYSTEM_FILES:
        return FileKind.SIDECAR
    return _KINDS.get(split_ending(file)[1], FileKind.OTHER)


def split_ending(name: str) -> tuple[str, str]:
    """`day 1/IMG_7.JPG` → `day 1/IMG_7` and `.JPG`. A name that only begins with a dot has no ending."""
    folder, slash, file = name.rpartition("/")
    stem, dot, ending = file.rpartition(".")
    return (f"{folder}{slash}{stem}", f".{ending}") if dot and stem else (name, "")


def is_picture(path: Path) -> bool:
    """Whether a file's name has a picture's ending, in upper or lower case."""
    return path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(_APPLE_DOUBLE)


@dataclass(frozen=True)
class PhotoLimits:
    """How large a photo may be: bytes of its file, and pixels by its header. The defaults are those of settings."""

    max_bytes: int = 100_000_000
    max_pixels: int = 150_000_000
