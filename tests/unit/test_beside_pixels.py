"""What lies beside the pixels never decides whether they are used, and never changes them."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Pil

from app.core.errors import BadPhoto
from app.core.pictures import PhotoLimits
from app.vision.decode import decode, read_header
from tests import photos

LIMITS = PhotoLimits(50_000_000, 150_000_000)
GRADIENT = photos.gradient()


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(5).bytes(count)


ZTXT = b"Comment\0\0"
PNG_CHUNKS = {
    "profile of 3 MB": photos.png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3_000_000))),
    "profile of 50 MB": photos.png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(50_000_000))),
    "profile that is not packed": photos.png_chunk(b"iCCP", b"name\0\0" + random_bytes(100)),
    "profile without a name's end": photos.png_chunk(b"iCCP", b"x" * 200),
    "profile with a wrong checksum": photos.png_chunk(b"iCCP", b"name\0\0" + zlib.compress(b"x" * 99), crc=1),
    "text of 40 MB": photos.png_chunk(b"zTXt", ZTXT + zlib.compress(bytes(40_000_000))),
    "text that is not packed": photos.png_chunk(b"zTXt", ZTXT + random_bytes(50)),
    "text with a wrong checksum": photos.png_chunk(b"tEXt", b"Comment\0hello", crc=7),
    "international text": photos.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + random_bytes(40)),
    "exif": photos.png_chunk(b"eXIf", random_bytes(60)),
    "exif with a wrong checksum": photos.png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", crc=7),
    "gamma that is too short": photos.png_chunk(b"gAMA", b"\0"),
    "resolution that is too short": photos.png_chunk(b"pHYs", b"\0"),
    "colours of 0": photos.png_chunk(b"cHRM", bytes(32)),
    "animation": photos.png_chunk(b"acTL", b"\xff" * 8),
    "transparency with a wrong checksum": photos.png_chunk(b"tRNS", bytes(6), crc=9),
    "of a kind that nobody knows": photos.png_chunk(b"zzZz", random_bytes(500)),
}


@pytest.mark.parametrize("chunk", PNG_CHUNKS.values(), ids=PNG_CHUNKS.keys())
def test_a_chunk_beside_the_pixels_of_a_png_changes_nothing(chunk: bytes) -> None:
    data = photos.png_with(chunk)
    assert (read_header(data, LIMITS).width_px, read_header(data, LIMITS).height_px) == (64, 48)
    assert np.array_equal(decode(data, LIMITS), GRADIENT)
    behind = photos.png()[:-12] + chunk + photos.png()[-12:]
    assert np.array_equal(decode(behind, LIMITS), GRADIENT)


def test_a_png_whose_pixels_have_a_wrong_checksum_is_refused() -> None:
    data = bytearray(photos.png())
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(BadPhoto):
        decode(bytes(data), LIMITS)


THUMBNAIL = photos.jpeg(pixels=photos.noise(32, 24))
JPEG_SEGMENTS = {
    "reserved marker": photos.jpeg_segment(0x02, b"what"),
    "reserved marker F0": photos.jpeg_segment(0xF0, b"what"),
    "empty EXIF": photos.jpeg_segment(0xE1, b""),
    "damaged EXIF": photos.jpeg_segment(0xE1, b"Exif\0\0" + random_bytes(300).replace(b"\xff", b"\0")),
    "EXIF longer than the file": photos.jpeg_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0", length=60_000),
    "EXIF whose length ends in the tables": photos.jpeg_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0", length=100),
    "EXIF of a wrong length with a thumbnail": photos.jpeg_segment(0xE1, b"Exif\0\0" + THUMBNAIL, length=50_000),
    "EXIF that ends in its thumbnail": photos.jpeg_segment(0xE1, b"Exif\0\0" + THUMBNAIL, length=300),
    "thumbnail behind a segment that says it is empty": photos.jpeg_segment(0xE5, THUMBNAIL, length=2),
    "segment of length 0": photos.jpeg_segment(0xE5, b"", length=0),
    "comment of length 1": photos.jpeg_segment(0xFE, b"", length=1),
    "profile that is none": photos.jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + random_bytes(50).replace(b"\xff", b"\0")),
    "second part of a profile": photos.jpeg_segment(0xE2, b"ICC_PROFILE\0\2\2" + bytes(50)),
    "pictures beside this one": photos.jpeg_segment(0xE2, b"MPF\0" + bytes(40)),
    "Photoshop's block": photos.jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\xff\xff\xff" + b"\0" * 9),
    "short JFIF": photos.jpeg_segment(0xE0, b"JFIF\0"),
    "noise before a marker": photos.jpeg_segment(0xFE, b"x") + bytes(30),
    "fill bytes": b"\xff" * 20,
}


@pytest.mark.parametrize("segment", JPEG_SEGMENTS.values(), ids=JPEG_SEGMENTS.keys())
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_segment_beside_the_pixels_of_a_jpeg_changes_nothing(segment: bytes, mode: str, progressive: bool) -> None:
    plain = photos.jpeg(mode, progressive=progressive)
    data = plain[:2] + segment + plain[2:]
    header = read_header(data, LIMITS)
    assert (header.format, header.width_px, header.height_px) == ("JPEG", 64, 48)
    assert np.array_equal(decode(data, LIMITS), decode(plain, LIMITS))


def test_the_pictures_behind_the_end_of_a_jpeg_are_not_taken_for_scans_of_it() -> None:
    many = b"".join(photos.jpeg(progressive=True) for _ in range(30))
    data = photos.jpeg(progressive=True) + many
    assert np.array_equal(decode(data, LIMITS), decode(photos.jpeg(progressive=True), LIMITS))


@pytest.mark.parametrize("kind", [b"EXIF", b"XMP ", b"ICCP", b"zzzz"])
@pytest.mark.parametrize("make", [photos.webp, lambda **options: photos.webp("RGBA", lossless=True, **options)])
def test_a_chunk_beside_the_pixels_of_a_webp_changes_nothing(kind: bytes, make: Callable[..., bytes]) -> None:
    exif = Pil.Exif()
    exif[271] = "Maker"
    plain = make(exif=exif.tobytes())
    noise = random_bytes(100)
    data = plain[:30] + kind + struct.pack("<I", len(noise)) + noise + plain[30:]
    assert np.array_equal(decode(data, LIMITS), decode(make(), LIMITS))


@pytest.mark.parametrize(("make", "tolerance"), [(photos.heic, 12), (photos.avif, 8)])
def test_items_beside_the_picture_of_a_heif_change_nothing(make: Callable[[], bytes], tolerance: int) -> None:
    exif = Pil.Exif()
    exif[271] = "Maker"
    plain = make() if make is photos.heic else photos.avif(exif=exif.tobytes(), xmp=b"<x/>")
    expected = decode(make(), LIMITS)
    for old, new in ((b"Exif", b"\xb8xif"), (b"MM\0*", b"\xff\xff\xff\xff"), (b"II*\0", bytes(4))):
        data = plain.replace(old, new)
        assert np.array_equal(decode(data, LIMITS), expected)


def test_an_orientation_in_xmp_alone_is_ignored_as_browsers_do() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    jpeg = photos.jpeg_with(photos.jpeg_segment(0xE1, xmp))
    png = photos.png_with(photos.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp[29:]))
    for data in (jpeg, png, photos.saved(Pil.fromarray(GRADIENT), "WEBP", lossless=True, xmp=xmp[29:])):
        assert np.abs(decode(data, LIMITS).astype(int) - GRADIENT).max() <= 4


def test_comments_of_a_gif_change_nothing_however_many_they_are() -> None:
    plain = photos.gif()
    at = 13 + (3 << (plain[10] & 7) + 1)
    comment = b"!\xfe" + b"\xff" + b"x" * 255
    many = b"!\xfe" + (b"\xff" + b"x" * 255) * 40_000 + b"\0"
    data = plain[:at] + comment + b"\0" + many + plain[at:]
    assert np.array_equal(decode(data, LIMITS), decode(plain, LIMITS))


def test_a_jpeg_of_very_many_scans_is_refused_from_its_header() -> None:
    decode(photos.jpeg_of_many_scans(60), LIMITS)
    for scans in (200, 2_000):
        with pytest.raises(BadPhoto, match="more than 100 scans") as refusal:
            read_header(photos.jpeg_of_many_scans(scans), LIMITS)
        assert refusal.value.kind == "too large"


def test_bytes_that_look_like_scans_in_the_tables_of_a_jpeg_are_not_counted() -> None:
    plain = photos.jpeg(progressive=True)
    last = plain.rindex(b"\xff\xda")
    tables = b"".join(photos.jpeg_segment(0xFE, b"\xff\xda" * 60) for _ in range(3))
    data = plain[:last] + tables + plain[last:]
    assert np.array_equal(decode(data, LIMITS), decode(plain, LIMITS))


def test_a_jpeg_of_a_kind_that_is_not_read_is_named() -> None:
    for marker, sentence in ((0xC3, "a lossless or hierarchical JPEG"), (0xC7, "a lossless or hierarchical JPEG")):
        data = photos.jpeg().replace(b"\xff\xc0", bytes((0xFF, marker)))
        with pytest.raises(BadPhoto, match=sentence):
            read_header(data, LIMITS)
    twelve_bits = bytearray(photos.jpeg())
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(BadPhoto, match="12 bits a colour"):
        read_header(bytes(twelve_bits), LIMITS)


def test_a_webp_whose_canvas_is_larger_than_its_picture_is_refused() -> None:
    picture = Pil.fromarray(GRADIENT).convert("RGBA")
    picture.putalpha(100)
    data = bytearray(photos.saved(picture, "WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (11_999).to_bytes(3, "little") * 2
    with pytest.raises(BadPhoto, match="canvas has another size"):
        read_header(bytes(data), LIMITS)
    nothing_behind = bytes(data[:30])
    with pytest.raises(BadPhoto, match="cut off"):
        read_header(nothing_behind, LIMITS)


def test_the_first_frame_of_an_animated_webp_lies_where_it_belongs() -> None:
    frame = photos.saved(Pil.fromarray(GRADIENT), "WEBP", lossless=True)
    body = frame[12:]
    place = (10 // 2).to_bytes(3, "little") + (20 // 2).to_bytes(3, "little")
    size = (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    anmf = place + size + (100).to_bytes(3, "little") + b"\0" + body
    canvas = b"\x02\0\0\0" + (99).to_bytes(3, "little") + (79).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    chunks += b"ANMF" + struct.pack("<I", len(anmf)) + anmf
    data = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
    expected = np.full((80, 100, 3), 255, np.uint8)
    expected[20:68, 10:74] = GRADIENT
    assert np.array_equal(decode(data, LIMITS), expected)


def test_pixels_are_pillows_to_the_bit() -> None:
    for data in (photos.webp(), photos.webp(lossless=True), photos.avif(), photos.png("P"), photos.gif(), photos.bmp()):
        with Pil.open(BytesIO(data)) as picture:
            assert np.array_equal(decode(data, LIMITS), np.asarray(picture.convert("RGB")))
