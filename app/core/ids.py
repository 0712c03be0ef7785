"""What ids and keys in messages may be."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

MAX_S3_KEY_BYTES = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""
# Old MongoDB servers limit an index entry to 1,024 bytes, and a face's id is gallery/image/model/index.
MAX_ID_CHARS = 400


def _check_plain(value: str) -> str:
    """Refuse control characters, which break logs and pages, and `..`, which would leave a gallery's folder."""
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("has a control character")
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError("has a '.' or '..' path segment")
    return value


def _check_key(value: str) -> str:
    if len(value.encode("utf-8", "replace")) > MAX_S3_KEY_BYTES:
        raise ValueError(f"is longer than {MAX_S3_KEY_BYTES} bytes")
    return _check_plain(value)


GalleryId = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^/]+$"), AfterValidator(_check_plain)
]
ImageId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_check_plain)]
FaceId = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_check_plain)]
PersonId = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^/]+$"), AfterValidator(_check_plain)
]
RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""The sender's own id of a request or an edit. It may become a part of a key, so it has no slash."""
Text = Annotated[str, StringConstraints(max_length=1024)]
"""The constraint also makes pydantic refuse text that is not valid Unicode."""
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(_check_plain)
]
"""What people, galleries and users are called."""
S3Key = Annotated[str, StringConstraints(min_length=1), AfterValidator(_check_key)]
