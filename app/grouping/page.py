"""The people page: one HTML file that shows a gallery's people, opened from disk or from S3; it needs no other server.

Markup, style and script are in `templates/`. The browser gets the gallery as one JSON block and builds only what is on
the screen, so a gallery of 5,000 people opens as fast as one of ten.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.grouping.output import GroupedFace, GroupedPerson, Groups

# The only hosts that are put into the Content-Security-Policy. A `;` or a space would start a new directive or source.
_CSP_HOST = re.compile(r"[A-Za-z0-9.\-]+(:[0-9]+)?")

# Only the template itself has this element: text from the gallery is escaped.
_TIME = re.compile(r"<time .*?</time>")

_UNASSIGNED = -1


@dataclass(frozen=True)
class PagePhoto:
    """A photo to show: `src` is the percent-encoded URL of its preview, the size is that of the upright original."""

    src: str
    width_px: int
    height_px: int


def render_page(groups: Groups, photos: Mapping[str, PagePhoto], crops: Mapping[str, str]) -> str:
    """The whole page. `photos` maps image ids to photos, `crops` maps face ids to URLs of crops; both may lack entries.

    The page shows a placeholder with the name in place of a photo or crop that is missing or can't be loaded. Hidden
    people are not on it, nor are their faces.
    """
    groups = groups.model_copy(update={"people": [person for person in groups.people if not person.hidden]})
    content = _make_page_content(groups, photos, crops)
    shown = [*(src for _, src, _, _ in content["photos"]), *(person["cover"] for person in content["people"])]
    style, script = _read_asset("people.css"), _read_asset("people.js")
    return (
        _open_environment()
        .get_template("people.html.j2")
        .render(
            groups=groups,
            counts=_count(groups, len(content["photos"])),
            generated=datetime.fromisoformat(groups.generated_at).astimezone(UTC),
            content=content,
            style=Markup(style),  # noqa: S704 - our own file, not data
            script=Markup(script),  # noqa: S704
            policy=_make_content_security_policy(style, script, [*shown, *content["unassigned"]["crops"]]),
        )
    )


def remove_time(page: str) -> str:
    """The page without the time at which it was made."""
    return _TIME.sub("", page, count=1)


@cache
def _open_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


@cache
def _read_asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text("utf-8")


def _count(groups: Groups, photo_count: int) -> list[tuple[str, int]]:
    face_count = sum(len(person.faces) for person in groups.people) + len(groups.unassigned)
    return [
        ("Photos with faces", photo_count),
        ("Faces", face_count),
        ("People", len(groups.people)),
        ("Unassigned", len(groups.unassigned)),
        ("Skipped", len(groups.skipped)),
    ]


def _make_page_content(groups: Groups, photos: Mapping[str, PagePhoto], crops: Mapping[str, str]) -> dict[str, Any]:
    """What the script reads. Faces are listed person by person, so each person's faces are a range of the list."""
    people = sorted(groups.people, key=lambda person: (-person.photo_count, -person.face_count, person.person_id))
    image_ids = {face.image_id: None for person in people for face in person.faces}
    image_ids |= {face.image_id: None for face in groups.unassigned}
    photo_index = {image_id: index for index, image_id in enumerate(image_ids)}
    faces = [
        [photo_index[face.image_id], owner, *_convert_box(face, photos.get(face.image_id))]
        for owner, face in _list_owned_faces(people, groups.unassigned)
    ]
    return {
        "photos": [_make_photo_row(image_id, photos.get(image_id)) for image_id in photo_index],
        "faces": faces,
        "people": list(_make_people_rows(people, crops)),
        "merged": groups.merged,
        "unassigned": {
            "first": len(faces) - len(groups.unassigned),
            "crops": [crops.get(face.face_id) for face in groups.unassigned],
            "why": [face.why_alone or "" for face in groups.unassigned],
        },
        "skipped": [[row.image_id, row.status.replace("_", " ").capitalize(), row.reason] for row in groups.skipped],
    }


def _list_owned_faces(
    people: Sequence[GroupedPerson], unassigned: Iterable[GroupedFace]
) -> Iterator[tuple[int, GroupedFace]]:
    for index, person in enumerate(people):
        for face in person.faces:
            yield index, face
    for face in unassigned:
        yield _UNASSIGNED, face


def _make_people_rows(people: Iterable[GroupedPerson], crops: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    first = 0
    for place, person in enumerate(people, start=1):
        yield {
            "id": person.person_id,
            "label": (person.name or "").strip() or f"Person {person.number or place}",
            "photos": person.photo_count,
            "faces": person.face_count,
            "cover": crops.get(person.cover_face_id),
            "first": first,
            "end": first + len(person.faces),
        }
        first += len(person.faces)


def _make_photo_row(image_id: str, photo: PagePhoto | None) -> tuple[str, str | None, int, int]:
    return (image_id, photo.src, photo.width_px, photo.height_px) if photo else (image_id, None, 0, 0)


def _convert_box(face: GroupedFace, photo: PagePhoto | None) -> list[float]:
    """Left, top, width and height in percent of the upright photo, cut at its edges; empty without a photo's size."""
    if photo is None or photo.width_px <= 0 or photo.height_px <= 0:
        return []
    x1, x2 = (min(max(x / photo.width_px, 0.0), 1.0) * 100 for x in face.box[0::2])
    y1, y2 = (min(max(y / photo.height_px, 0.0), 1.0) * 100 for y in face.box[1::2])
    return [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]


def _make_content_security_policy(style: str, script: str, image_urls: Iterable[str | None]) -> str:
    """Allows this page's own style and script, and images from the page's folder and from the hosts of these URLs."""
    origins = sorted({origin for url in image_urls if url and (origin := _get_origin(url))})
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash_source(script)}'",
            f"style-src '{_hash_source(style)}'",
            # `file:` because browsers disagree on whether 'self' covers a page opened from disk.
            " ".join(["img-src 'self' file: data:", *origins]),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _get_origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    usable = parts.scheme in {"http", "https"} and _CSP_HOST.fullmatch(parts.netloc)
    return f"{parts.scheme}://{parts.netloc}" if usable else None


def _hash_source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
