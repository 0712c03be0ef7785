"""Hostile inputs, each made from its seed and number alone, so that a finding can be reproduced."""

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from tests import photos

Json = object
PNG_START = b"\x89PNG\r\n\x1a\n"
MOST_EDITS = 4
RARE = 0.05

MESSAGES: tuple[Json, ...] = (
    {"type": "detect_image", "version": 1, "gallery_id": "g", "image_id": "day 1/IMG_7", "s3_key": "g/day 1/IMG_7.jpg"},
    {"type": "detect_image", "gallery_id": "g", "image_id": "7", "s3_key": "g/7", "bucket": "b", "etag": "e"},
    {"type": "group_gallery", "version": 1, "gallery_id": "g", "mode": "full"},
    {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"},
    {
        "Records": [
            {
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "b"}, "object": {"key": "g/caf%C3%A9+1.jpg", "eTag": "e", "versionId": "v"}},
            }
        ]
    },
)
NASTY_VALUES: tuple[Json, ...] = (
    *(None, True, 0, -1, 2**63, 1e308, float("nan"), float("inf"), [], {}, [[]], "", " ", "/", "..", "a/../b", "a//b"),
    *("\0", "\x7f", "\ud800", "\u202e", "é" * 600, "x" * 100_000, "%00", "%ff%fe", "%2e%2e/x", "g/%", "{}", "1"),
    *("detect_image", "group_gallery", "ObjectCreated:Put", {"type": "detect_image"}, ["detect_image"]),
)
NASTY_TEXTS = (
    *("", " ", "null", "[]", "{}", '"', "\ufeff{}", "\0", "\ud800", "NaN", "-", "1e999", "{" * 100_000),
    *("[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '{"type":' + "9" * 10_000 + "}", '{"Records":[' + "{}," * 10_000),
)
ALPHABET = '{}[]":,\\/ \t\n0123456789.eE+-truefalsnvydgckim_%\0\x7fé\u2028\ud800😀'


def make_message_case(seed: int, number: int) -> str:
    """One message body: random text, a random value, or a valid message with changes."""
    chance = _make_random("message", seed, number)
    kind = number % 4
    if kind == 0:
        if chance.random() < RARE:
            return chance.choice(NASTY_TEXTS)
        return "".join(chance.choices(ALPHABET, k=chance.randrange(200)))
    if kind == 1:
        return json.dumps(_make_random_value(chance, depth=4))
    value = copy.deepcopy(chance.choice(MESSAGES))
    if kind == 2:
        for _ in range(chance.randint(1, MOST_EDITS)):
            value = _tamper(chance, value)
        return json.dumps(value, ensure_ascii=chance.random() < 0.5)
    return _edit(chance, json.dumps(value))


def make_image_case(seed: int, number: int) -> bytes:
    """One image file: a valid one that was damaged, or random bytes after the begin of a valid one."""
    chance = _make_random("image", seed, number)
    samples = make_image_samples()
    data = samples[number % len(samples)]
    if chance.random() < RARE:
        return data[:16] + chance.randbytes(chance.randrange(4_000))
    for _ in range(chance.randint(1, MOST_EDITS)):
        data = chance.choice(_DAMAGES)(chance, data)
    # A PNG decoder stops at the first wrong checksum.
    return correct_checksums(data) if data.startswith(PNG_START) and chance.random() < 0.7 else data


@cache
def make_image_samples() -> tuple[bytes, ...]:
    """Valid files of every format that is decoded, in several modes."""
    grey16 = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    return (
        *(photos.jpeg(mode) for mode in ("RGB", "L", "CMYK")),
        *(photos.ycck_jpeg(), photos.jpeg(progressive=True), photos.jpeg(pixels=photos.noise(200, 150))),
        *(photos.jpeg(subsampling=2, restart_marker_rows=1), photos.all_orientations()[6], photos.truncated_jpeg()),
        *(photos.png(mode) for mode in ("RGB", "RGBA", "P", "1", "LA")),
        *(photos.png16(np.dstack([grey16] * channels)) for channels in (1, 2, 3, 4)),
        *(photos.webp(), photos.webp("RGBA"), photos.webp(lossless=True), photos.animated("WEBP")),
        *(photos.avif(), photos.heic(), photos.heic(1, 6), photos.bmp(), photos.gif(), photos.animated_gif()),
        *(photos.tiff(compression=name) for name in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")),
        *(photos.tiff16(grey16), photos.tiff("CMYK"), photos.animated("TIFF"), photos.all_orientations("PNG")[5]),
    )


def correct_checksums(png: bytes) -> bytes:
    """The same PNG with correct CRCs of all chunks, as far as the chunks can be read."""
    data, at = bytearray(png), len(PNG_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def _make_random(kind: str, seed: int, number: int) -> random.Random:
    return random.Random(f"{kind}/{seed}/{number}")  # noqa: S311 - reproducible, not a secret


def _make_random_value(chance: random.Random, depth: int) -> Json:
    if depth == 0 or chance.random() < 0.3:
        return _choose_nasty(chance)
    names = ("type", "version", "gallery_id", "image_id", "s3_key", "bucket", "mode", "Records", "s3", "object", "key")
    some = range(chance.randrange(5))
    if chance.random() < 0.3:
        return [_make_random_value(chance, depth - 1) for _ in some]
    return {chance.choice(names): _make_random_value(chance, depth - 1) for _ in some}


def _choose_nasty(chance: random.Random) -> Json:
    # A copy: the next change may modify a value that was put into a message.
    return copy.deepcopy(chance.choice(NASTY_VALUES))


def _tamper(chance: random.Random, value: Json) -> Json:
    """The value with one of its nodes replaced, removed or wrapped."""
    if not isinstance(value, dict | list) or not value or chance.random() < RARE:
        return _choose_nasty(chance)
    name = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    inner = value[name]
    if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
        value[name] = _tamper(chance, inner)
        return value
    how = chance.randrange(4)
    if how == 0:
        del value[name]
    else:
        value[name] = _choose_nasty(chance) if how < 3 else [inner]
    return value


def _edit(chance: random.Random, text: str) -> str:
    for _ in range(chance.randint(1, MOST_EDITS)):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.randrange(8))
        new = "".join(chance.choices(ALPHABET, k=chance.randrange(4)))
        text = text[:at] + new + text[end:] if chance.random() < 0.9 else text[:at]
    return text


def _flip_bits(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 4, 16)) if data else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _put_number(chance: random.Random, data: bytes) -> bytes:
    """Overwrite bytes that may be a length or a size with an extreme value, more often near the start."""
    size = chance.choice((1, 2, 4))
    edge = chance.choice(
        (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 10_000 % 2 ** (8 * size))
    )
    at = chance.randrange(max(1, min(len(data), chance.choice((64, 512, len(data) + 1)))))
    return data[:at] + edge.to_bytes(size, chance.choice(("big", "little"))) + data[at + size :]


def _cut_off(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _cut_out(chance: random.Random, data: bytes) -> bytes:
    begin, end = _choose_range(chance, data)
    return data[:begin] + data[end:]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    begin, end = _choose_range(chance, data)
    return data[:end] + data[begin:end] * chance.choice((1, 1, 50)) + data[end:]


def _put_noise(chance: random.Random, data: bytes) -> bytes:
    begin, _ = _choose_range(chance, data)
    return data[:begin] + chance.randbytes(chance.choice((1, 4, 64, 512))) + data[begin:]


def _splice(chance: random.Random, data: bytes) -> bytes:
    other = chance.choice(make_image_samples())
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other)) :]


def _choose_range(chance: random.Random, data: bytes) -> tuple[int, int]:
    begin = chance.randrange(len(data) + 1)
    return begin, min(len(data), begin + chance.choice((1, 4, 32, 256)))


_DAMAGES: Sequence[Callable[[random.Random, bytes], bytes]] = (
    *(_flip_bits, _put_number, _put_number, _cut_off, _cut_out, _repeat, _put_noise, _splice),
)
