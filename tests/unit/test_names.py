"""What a file is called that is no picture, or a picture that is not read."""

import io
import tarfile
import zipfile

import pytest

from app.core.errors import BadPhoto
from app.core.pictures import PhotoLimits
from app.vision.decode import decode
from app.vision.formats.names import find_format, name_format
from tests import photos


def archive(write: str) -> bytes:
    file = io.BytesIO()
    if write == "zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("a.txt", "a")
    else:
        with tarfile.open(fileobj=file, mode="w") as packed:
            packed.addfile(tarfile.TarInfo("a.txt"))
    return file.getvalue()


NAMES = {
    b"\xff\x0a\xfa\x7f": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51\0": "JPEG 2000",
    b"8BPS\0\1": "a Photoshop document (PSD)",
    b"\0\0\0\x18ftypisom\0\0\2\0isomiso2": "a video (MP4)",
    b"\0\0\0\x14ftypqt  \0\0\0\0qt  ": "a video (QuickTime)",
    b"\0\0\0\x08wide\0\0\1\0mdat": "a video (QuickTime)",
    b"RIFF\0\0\0\0AVI LIST": "a video (AVI)",
    b"RIFF\0\0\0\0WAVEfmt ": "WAVE audio",
    b"RIFF\0\0\0\0abcd": "a RIFF file that is no WebP",
    b"\x1aE\xdf\xa3\x01": "a video (Matroska or WebM)",
    b"\0\0\x01\xba\x44": "a video (MPEG)",
    b"G" + bytes(187) + b"G" + bytes(187) + b"G" + bytes(187): "a video (MPEG transport stream)",
    b"%PDF-1.7": "a PDF document",
    b"%!PS-Adobe-3.0 EPSF-3.0": "a PostScript document (EPS)",
    b"\xd7\xcd\xc6\x9a\0\0": "a Windows metafile (WMF)",
    b'<?xml version="1.0"?><svg xmlns="x">': "an SVG drawing",
    b"<!DOCTYPE html><html><body>Not found": "a web page (HTML)",
    b"\n  <HTML><HEAD><TITLE>403": "a web page (HTML)",
    b'\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?><Error>': "an XML document",
    b'<?xpacket begin="" id="x"?><x:xmpmeta>': "an XMP sidecar",
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>": "an XMP sidecar",
    "Grüße aus dem Urlaub\n".encode(): "text",
    b'{"error": "not found"}': "text",
    b"\xff\xfeh\0i\0": "text (UTF-16)",
    b"\0\x05\x16\x07\0\2\0\0": "an AppleDouble file (what macOS writes beside a file)",
    b"Rar!\x1a\x07\0": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\x1f\x8b\x08": "a gzip archive",
    archive("zip"): "a ZIP archive or an Office document",
    archive("tar"): "a tar archive",
    b"FUJIFILMCCD-RAW 0201": "a camera's raw file",
    photos.jpeg(): "JPEG",
    photos.heic(): "HEIF",
}


@pytest.mark.parametrize(("data", "name"), NAMES.items(), ids=NAMES.values())
def test_first_bytes_have_a_name(data: bytes, name: str) -> None:
    assert name_format(data) == name


def test_what_is_no_picture_is_refused_by_its_name_and_counted_as_such() -> None:
    for data, name in NAMES.items():
        if find_format(data) is None:
            with pytest.raises(BadPhoto) as refusal:
                decode(data, PhotoLimits())
            assert str(refusal.value) == f"The file is not a picture that can be read (it is {name})."
            assert refusal.value.kind == "no picture"


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 50, b"\x01\x02\x03\x04", b"BM and more text \0\1\2", bytes(range(128, 256))]
)
def test_what_nobody_knows_has_no_name(data: bytes) -> None:
    assert name_format(data) is None
