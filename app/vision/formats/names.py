"""What kind of file the first bytes show: the formats that are read, and the names of those that are not."""

import re
from typing import Literal

FormatName = Literal["JPEG", "PNG", "WebP", "HEIF", "AVIF", "TIFF", "GIF", "BMP", "camera raw"]

_SIGNATURES: dict[bytes, FormatName] = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0\x08\0\0\0": "TIFF",
    b"MM\0+\0\x08\0\0": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    # Raw files that don't look like TIFF: Fujifilm, Olympus (three), Panasonic and Leica, Sigma, Minolta, Canon (CRW).
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIRO": "camera raw",
    b"IIRS": "camera raw",
    b"MMOR": "camera raw",
    b"IIU\0": "camera raw",
    b"FOVb": "camera raw",
    b"\0MRM": "camera raw",
    b"II\x1a\0\0\0HEAPCCDR": "camera raw",
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

_REFUSED: dict[bytes, str] = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop document (PSD)",
    b"II\xbc\x01": "JPEG XR",
    b"\x89JNG\r\n\x1a\n": "JNG",
    b"\x89MNG\r\n\x1a\n": "MNG",
    b"%PDF-": "a PDF document",
    b"%!PS": "a PostScript document (EPS)",
    b"\xc5\xd0\xd3\xc6": "a PostScript document (EPS)",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile (WMF)",
    b"\x01\0\0\0\x58\0\0\0": "a Windows metafile (EMF)",
    b"\0\0\x01\0": "a Windows icon",
    b"\0\0\x02\0": "a Windows cursor",
    b"icns": "an Apple icon",
    b"gimp xcf": "a GIMP document (XCF)",
    b"qoif": "QOI",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"DDS ": "a DirectDraw surface (DDS)",
    b"\x1aE\xdf\xa3": "a video (Matroska or WebM)",
    b"\0\0\x01\xba": "a video (MPEG)",
    b"\0\0\x01\xb3": "a video (MPEG)",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "a video (Windows Media)",
    b"FLV\x01": "a video (Flash)",
    b"OggS": "Ogg audio or video",
    b"ID3": "MP3 audio",
    b"fLaC": "FLAC audio",
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office document",
    b"{\\rtf": "a text document (RTF)",
    b"\0\x05\x16\x07": "an AppleDouble file (what macOS writes beside a file)",
    b"\0\x05\x16\x00": "an AppleSingle file",
    b"bplist": "an Apple property list",
    b"SQLite format 3\0": "an SQLite database",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"Exif\0\0": "EXIF data without a picture",
}
_RIFF = {b"AVI ": "a video (AVI)", b"WAVE": "WAVE audio", b"ACON": "an animated cursor", b"CDDA": "a CD track"}
_BRANDS = {
    b"jxl ": "JPEG XL",
    b"jp2 ": "JPEG 2000",
    b"jpx ": "JPEG 2000",
    b"qt  ": "a video (QuickTime)",
    b"M4A ": "MPEG-4 audio",
    b"M4B ": "MPEG-4 audio",
    b"crx ": "camera raw",
}
_QUICKTIME_ATOMS = frozenset({b"moov", b"mdat", b"wide", b"pnot"})
_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_TEXT_START = 4_096
_MARKUP = (
    (re.compile(rb"<svg[\s>]", re.IGNORECASE), "an SVG drawing"),
    (re.compile(rb"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]", re.IGNORECASE), "a web page (HTML)"),
    (re.compile(rb"<x:xmpmeta|<\?xpacket"), "an XMP sidecar"),
    (re.compile(rb"^\s*<plist|<!DOCTYPE plist"), "an Apple property list"),
    (re.compile(rb"^\s*<(\?xml|[A-Za-z!])"), "an XML document"),
)


def find_format(data: bytes) -> FormatName | None:
    """The format that the first bytes show, if it is one of those that are read. A raw file may look like a TIFF."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if data[4:8] == b"ftyp":
        brands = _read_brands(data)
        if data[8:12] == b"crx ":
            return "camera raw"
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIF" if brands & _HEIF_BRANDS else None
    return next((name for signature, name in _SIGNATURES.items() if data.startswith(signature)), None)


def name_format(data: bytes) -> str | None:
    """A name, for people, of what the first bytes show: "JPEG", "a video (MP4)", "a web page (HTML)". None: unknown."""
    readable = find_format(data)
    if readable:
        return "a camera's raw file" if readable == "camera raw" else readable
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], "a RIFF file that is no WebP")
    if data[4:8] == b"ftyp" or data[4:8] in _QUICKTIME_ATOMS:
        return _BRANDS.get(data[8:12], "a video (MP4)") if data[4:8] == b"ftyp" else "a video (QuickTime)"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:
        return "a video (MPEG transport stream)"
    known = next((name for signature, name in _REFUSED.items() if data.startswith(signature)), None)
    return known or _name_text(data[:_TEXT_START])


def _read_brands(data: bytes) -> set[bytes]:
    # ISO base media file: the major brand, then a version, then the compatible brands (ISO/IEC 14496-12).
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}


def _name_text(start: bytes) -> str | None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text (UTF-16)"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    # Markup, or text in any encoding that has no control characters.
    if not text or any(byte < 9 or 13 < byte < 27 for byte in text):
        return None
    for pattern, name in _MARKUP:
        if text.startswith(b"<") and pattern.search(text):
            return name
    printable = sum(byte >= 32 or byte in b"\t\r\n" for byte in text)
    return "text" if printable == len(text) and _is_utf8(text) else None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        # The start may end within a character.
        return error.start >= len(text) - 3
    return True
