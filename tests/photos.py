"""Picture files made on the spot: sound ones in every format and mode, and the odd ones customers send."""

import struct
import zlib
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION_TAG = 0x0112

# A gradient of our own, 64 by 48 px, encoded by x265 through libheif. Its irot box turns the picture a quarter
# clockwise and its EXIF block says orientation 6, the same turn: what a telephone held upright writes.
_HEIC = b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAJYAAgAAAAACggABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEA"
    "AQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAMJtZGF0AAAAkigBrwngPg6bnk4QdLDGLT7Bfo0ewL+yACIv17zE"
    "EF8FEHMR3cuzrtuYBflxfbskocDbDhpXy+hKeLYvMoDbFX4YM4AK0+c06yQ4BzcsxPWaNX1Sp6DFrDTCSzmDAsq63FCa1sGKLImT"
    "t7XaQRE5T8YTtWDKy9P+RR7ZOnATr5uh75IGF85Yn1V1NsVqn7wnZRl4AAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAA"
    "AAAA"
)


def gradient(width_px: int = 64, height_px: int = 48) -> NDArray[np.uint8]:
    """(H,W,3) uint8 RGB: red grows to the right, green downwards, blue stays, so that every turn shows."""
    pixels = np.full((height_px, width_px, 3), 64, np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width_px)
    pixels[..., 1] = np.linspace(0, 255, height_px)[:, None]
    return pixels


def noise(width_px: int, height_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """(H,W,3) uint8 RGB at random: a picture whose every pixel matters."""
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)


def saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """What PIL writes."""
    file = BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return exif.tobytes()


def jpeg(mode: str = "RGB", *, pixels: NDArray[np.uint8] | None = None, **options: Any) -> bytes:
    """A JPEG. CMYK comes out inverted under an Adobe marker, as Photoshop writes it."""
    picture = Image.fromarray(gradient() if pixels is None else pixels).convert(mode)
    return saved(picture, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def ycck_jpeg() -> bytes:
    """The same with its first three channels turned into YCbCr, which is how Photoshop saves small files."""
    y, cb, cr = Image.fromarray(255 - gradient()).convert("YCbCr").split()
    black = Image.new("L", y.size, 0)
    # PIL inverts on writing, so that what lies in the file is the channels as they were.
    inverted = Image.merge("CMYK", [*(channel.point(lambda value: 255 - value) for channel in (y, cb, cr)), black])
    adobe = bytearray(saved(inverted, "JPEG", quality=95, subsampling=0))
    adobe[adobe.index(b"Adobe") + 11] = 2  # the marker's last byte: 0 CMYK, 2 YCCK
    return bytes(adobe)


def png(mode: str = "RGB", **options: Any) -> bytes:
    """A PNG of an 8-bit or smaller PIL mode."""
    return saved(Image.fromarray(gradient()).convert(mode), "PNG", **options)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(samples: NDArray[np.uint16]) -> bytes:
    """(H,W,C) uint16 → a 16-bit PNG: grey, grey and alpha, RGB or RGBA for one to four channels."""
    height_px, width_px, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width_px, height_px, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", zlib.compress(rows)) + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def webp(mode: str = "RGB", **options: Any) -> bytes:
    return saved(Image.fromarray(gradient()).convert(mode), "WEBP", **{"quality": 95, **options})


def avif(**options: Any) -> bytes:
    return saved(Image.fromarray(gradient()), "AVIF", **{"quality": 95, **options})


def tiff(mode: str = "RGB", **options: Any) -> bytes:
    return saved(Image.fromarray(gradient()).convert(mode), "TIFF", **options)


def tiff16(samples: NDArray[np.uint16]) -> bytes:
    """(H,W) uint16 → a 16-bit grey TIFF."""
    return saved(Image.fromarray(samples), "TIFF")


def bmp() -> bytes:
    return saved(Image.fromarray(gradient()), "BMP")


def gif() -> bytes:
    return saved(Image.fromarray(gradient()), "GIF")


def heic(clockwise_quarters: int = 0, exif_orientation: int = 1) -> bytes:
    """A 64 by 48 px gradient, turned by the container's irot box; the EXIF orientation is only a note beside it."""
    data = bytearray(_HEIC)
    data[data.index(b"irot") + 4] = -clockwise_quarters % 4  # irot counts anticlockwise
    entry = struct.pack(">HHI", ORIENTATION_TAG, 3, 1)
    data[data.index(entry) + 9] = exif_orientation
    return bytes(data)


def animated(file_format: str) -> bytes:
    """A GIF, WebP or multi-page TIFF: the gradient, then black."""
    first = Image.fromarray(gradient())
    return saved(first, file_format, save_all=True, append_images=[Image.new("RGB", first.size)])


def animated_gif() -> bytes:
    return animated("GIF")


def all_orientations(file_format: str = "JPEG") -> dict[int, bytes]:
    """EXIF orientation 1 to 8 → a file that shows the upright gradient once the orientation is applied."""
    # What a camera held that way stores: the inverse of the turn that the EXIF standard asks the reader for.
    stored: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        1: lambda upright: upright,
        2: lambda upright: upright[:, ::-1],
        3: lambda upright: upright[::-1, ::-1],
        4: lambda upright: upright[::-1],
        5: lambda upright: upright.transpose(1, 0, 2),
        6: lambda upright: np.rot90(upright, 1),
        7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
        8: lambda upright: np.rot90(upright, -1),
    }
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = lossless.get(file_format, {})
    return {
        value: saved(
            Image.fromarray(np.ascontiguousarray(turned(gradient()))), file_format, exif=_exif(value), **options
        )
        for value, turned in stored.items()
    }


def truncated_jpeg() -> bytes:
    """A JPEG whose second half never arrived."""
    whole = jpeg(pixels=noise(64, 48))
    return whole[: len(whole) // 2]


def jpeg_without_end_marker(**options: Any) -> bytes:
    """All pixels are there; only the two bytes that end a JPEG are missing."""
    return jpeg(pixels=noise(64, 48), **options)[:-2]


def text_named_jpg() -> bytes:
    return b"This is a shopping list, whatever its name says.\n"


def jpeg_claiming(width_px: int, height_px: int) -> bytes:
    """A small JPEG whose header was patched to another size."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height_px, width_px)
    return bytes(data)


def jpeg_claiming_200_megapixels() -> bytes:
    return jpeg_claiming(20_000, 10_000)


def png_bomb(width_px: int = 30_000, height_px: int = 30_000) -> bytes:
    """A valid black PNG of 900 megapixels in 3 MB. `height_px` is a multiple of 100."""
    strip = bytes((1 + 3 * width_px) * 100)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed_strip = packer.compress(strip) + packer.flush(zlib.Z_FULL_FLUSH)
    # The Adler-32 of n zeros is (n mod 65521, 1); after a full flush the same block may be said again.
    adler = (len(strip) * (height_px // 100) % 65_521) << 16 | 1
    body = b"\x78\xda" + packed_strip * (height_px // 100) + packer.flush() + struct.pack(">I", adler)
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", body) + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def webp_claiming_268_megapixels() -> bytes:
    """The largest canvas WebP's header can name."""
    data = bytearray(animated("WEBP"))
    data[24:30] = b"\xff\x3f\x00" * 2
    return bytes(data)


def png_chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG, with a wrong checksum if one is given."""
    return _png_chunk(kind, body)[:-4] + struct.pack(">I", crc) if crc is not None else _png_chunk(kind, body)


def png_with(*chunks: bytes, mode: str = "RGB", **options: Any) -> bytes:
    """A PNG with further chunks right behind its header."""
    data = png(mode, **options)
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(*segments: bytes, **options: Any) -> bytes:
    """A JPEG with further segments right behind its start."""
    data = jpeg(**options)
    return data[:2] + b"".join(segments) + data[2:]


def jpeg_segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    """A segment of a JPEG, with a wrong length if one is given."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def jpeg_of_many_scans(scans: int, width_px: int = 64, height_px: int = 48) -> bytes:
    """A progressive grey JPEG whose coefficients come in so many scans of which most say nothing."""
    data = saved(Image.fromarray(gradient(width_px, height_px)).convert("L"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    body = data[last:-2]
    return data[:-2] + body * (scans - data.count(b"\xff\xda")) + data[-2:]


def written_tiff(tags: dict[int, tuple[int, list[int]]], segments: list[bytes], *, tiled: bool = False) -> bytes:
    """A little-endian TIFF of one page: tag → type (3: 16 bits, 4: 32 bits) and values, and its strips or tiles."""
    data, offsets = bytearray(b"II*\0\0\0\0\0"), []
    for segment in segments:
        offsets.append(len(data))
        data += segment + b"\0" * (len(segment) % 2)
    tags = {**tags, 324 if tiled else 273: (4, offsets), 325 if tiled else 279: (4, [len(part) for part in segments])}
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            at = len(data)
            data += packed + b"\0" * (len(packed) % 2)
            packed = struct.pack("<I", at)
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    struct.pack_into("<I", data, 4, len(data))
    return bytes(data) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def dng(width_px: int, height_px: int, orientation: int = 1) -> bytes:
    """A camera's raw file as LibRaw knows them: a thumbnail first, the sensor's pixels, and a JPEG of that size."""
    import tifffile

    camera = [
        (271, 2, None, "Maker", True),
        (272, 2, None, "Model 1", True),
        (274, 3, 1, orientation, True),
        (50706, 1, 4, (1, 4, 0, 0), True),
        (50708, 2, None, "Maker Model 1", True),
    ]
    sensor = [
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, (0, 1, 1, 2), True),
        (50717, 4, 1, 4095, True),
        (50721, 10, 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), True),
    ]
    file = BytesIO()
    with tifffile.TiffWriter(file, byteorder="<") as writer:
        writer.write(gradient(40, 30), photometric="rgb", subfiletype=1, subifds=2, extratags=camera)
        pattern = np.full((height_px, width_px), 1000, np.uint16)
        writer.write(pattern, photometric=32803, subfiletype=0, extratags=sensor)
        embedded = jpeg(pixels=gradient(width_px, height_px))
        writer.write(
            iter([embedded]),
            shape=(height_px, width_px, 3),
            dtype=np.uint8,
            photometric="ycbcr",
            compression=7,
            subfiletype=1,
            rowsperstrip=height_px,
        )
    return file.getvalue()


def heic_grid(columns: int, rows: int) -> bytes:
    """A HEIC of many tiles, as telephones write: each is the 64 by 64 px that the small one is cut from."""
    return _make_grid(bytes(_HEIC), columns, rows)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _make_grid(single: bytes, columns: int, rows: int) -> bytes:
    """Item 1 is the grid, all others are the one tile of `single`, whose bytes they share (ISO/IEC 23008-12)."""
    hvcc_at = single.index(b"hvcC") - 4
    hvcc = single[hvcc_at : hvcc_at + int.from_bytes(single[hvcc_at : hvcc_at + 4], "big")]
    tile = single[single.index(b"mdat") + 4 :][:0x96]
    count, width_px, height_px = columns * rows, 64 * columns, 64 * rows
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width_px, height_px)
    infe = [(1, b"grid"), *((2 + n, b"hvc1") for n in range(count))]
    iinf = b"".join(_box(b"infe", struct.pack(">IHH", 2 << 24, item, 0) + kind + b"\0") for item, kind in infe)
    properties = _box(b"ipco", hvcc + _ispe(64, 64) + _ispe(width_px, height_px))
    links = struct.pack(">HBB", 1, 1, 3) + b"".join(struct.pack(">HBBB", 2 + n, 2, 0x81, 2) for n in range(count))
    ipma = _box(b"ipma", struct.pack(">II", 0, count + 1) + links)
    dimg = _box(b"dimg", struct.pack(f">HH{count}H", 1, count, *range(2, 2 + count)))
    ftyp = _box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(grid_at: int, tile_at: int) -> bytes:
        places = [(1, grid_at, len(grid)), *((2 + n, tile_at, len(tile)) for n in range(count))]
        iloc = b"".join(struct.pack(">HHHII", item, 0, 1, at, length) for item, at, length in places)
        return _box(
            b"meta",
            b"\0\0\0\0"
            + _box(b"hdlr", b"\0" * 8 + b"pict" + b"\0" * 13)
            + _box(b"pitm", struct.pack(">IH", 0, 1))
            + _box(b"iinf", struct.pack(">IH", 0, count + 1) + iinf)
            + _box(b"iprp", properties + ipma)
            + _box(b"iref", struct.pack(">I", 0) + dimg)
            + _box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, count + 1) + iloc),
        )

    begin = len(ftyp) + len(meta(0, 0)) + 8
    return ftyp + meta(begin, begin + len(grid)) + _box(b"mdat", grid + tile)


def _ispe(width_px: int, height_px: int) -> bytes:
    return _box(b"ispe", struct.pack(">III", 0, width_px, height_px))
