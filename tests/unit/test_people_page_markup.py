"""The people page's markup and content policy, without a browser."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import UndefinedError

from app.core.records import ImageStatus
from app.grouping import page
from app.grouping.output import GroupedFace, GroupedPerson, Groups, SkippedPhoto
from app.grouping.page import PagePhoto, render_page

HOSTILE = "</script><!--<script>alert(\"x\")</script> & 'q' \u2028\u2029 {{ 7 * 7 }} Zoë"


class _Reader(HTMLParser):
    """Keeps the text of the elements that matter here, the policy and every attribute of every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._open = attributes.get("type") or tag
        self.texts.setdefault(self._open, "")

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data

    def handle_endtag(self, _tag: str) -> None:
        self._open = ""


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def _content(html: str) -> dict[str, Any]:
    return json.loads(_read(html).texts["application/json"])


def _policy(html: str) -> dict[str, str]:
    value = next(a["content"] for t, a in _read(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    return dict(directive.split(" ", 1) for directive in (value or "").split("; "))


def _face(image_id: str, face_id: str = "f", box: tuple[float, float, float, float] = (10, 20, 30, 60)) -> GroupedFace:
    return GroupedFace(face_id=face_id, image_id=image_id, box=box, det_score=0.9, quality={})


def _person(person_id: str, faces: list[GroupedFace], name: str | None = None) -> GroupedPerson:
    return GroupedPerson(
        person_id=person_id,
        name=name,
        face_count=len(faces),
        photo_count=len({face.image_id for face in faces}),
        cover_face_id=faces[0].face_id,
        faces=faces,
    )


def _groups(
    people: list[GroupedPerson], unassigned: list[GroupedFace] | None = None, skipped: list[SkippedPhoto] | None = None
) -> Groups:
    return Groups(
        gallery_id="summer",
        model="open-abc",
        generated_at="2025-06-14T18:20:05+02:00",
        people=people,
        unassigned=unassigned or [],
        skipped=skipped or [],
    )


def _hostile_page() -> str:
    skipped = SkippedPhoto(image_id=HOSTILE, status=ImageStatus.REJECTED, reason=HOSTILE)
    groups = _groups([_person(HOSTILE, [_face(HOSTILE)], name=HOSTILE)], [_face(HOSTILE)], [skipped])
    groups = groups.model_copy(update={"gallery_id": HOSTILE, "model": HOSTILE})
    return render_page(groups, {HOSTILE: PagePhoto("photos/a.jpg", 100, 100)}, {})


def test_hostile_names_add_no_element_and_come_back_word_for_word() -> None:
    html = _hostile_page()
    harmless = render_page(_groups([_person("p", [_face("a.jpg")])]), {}, {})
    assert [tag for tag, _ in _read(html).tags] == [tag for tag, _ in _read(harmless).tags]
    content = _content(html)
    assert content["people"][0]["id"] == HOSTILE
    assert content["people"][0]["label"] == HOSTILE
    assert content["photos"][0][0] == HOSTILE
    assert content["skipped"] == [[HOSTILE, "Rejected", HOSTILE]]
    assert _read(html).texts["h1"] == HOSTILE


def test_the_json_block_holds_nothing_that_could_end_it_or_break_a_line_in_a_script() -> None:
    block = re.search(r'<script type="application/json" id="gallery">(.*?)</script>', _hostile_page(), re.DOTALL)
    assert block is not None
    assert not set(block[1]) & set("<>&'\u2028\u2029")


def test_a_hostile_gallery_brings_no_foreign_address() -> None:
    html = _hostile_page()
    assert "http://" not in html
    assert "https://" not in html
    linked = [a[key] for _, a in _read(html).tags for key in ("src", "href") if a.get(key)]
    assert all(value == "data:," or (value or "").startswith("#") for value in linked)


def test_the_policy_allows_exactly_this_pages_style_and_script() -> None:
    html = _hostile_page()
    texts = _read(html).texts
    policy = _policy(html)
    for directive, text in (("style-src", texts["style"]), ("script-src", texts["module"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "'self' file: data:"


def test_images_are_allowed_from_the_hosts_of_the_given_addresses_only() -> None:
    faces = [_face("a", "f1"), _face("b", "f2")]
    photos = {"a": PagePhoto("https://photos.example/a.jpg?sig=1", 100, 100), "b": PagePhoto("b.jpg", 100, 100)}
    crops = {"f1": "http://127.0.0.1:9000/faces/1.webp", "f2": "https://unused.example/2.webp"}
    html = render_page(_groups([_person("p", faces)]), photos, crops)
    assert _policy(html)["img-src"] == "'self' file: data: http://127.0.0.1:9000 https://photos.example"


@pytest.mark.parametrize(
    "src",
    ["https://x.example; script-src *//a", "https://user@x.example/a", "https://[broken/a", "javascript:alert(1)"],
)
def test_an_address_that_is_no_plain_host_adds_nothing_to_the_policy(src: str) -> None:
    html = render_page(_groups([_person("p", [_face("a")])]), {"a": PagePhoto(src, 100, 100)}, {})
    assert _policy(html)["img-src"] == "'self' file: data:"
    assert set(_policy(html)) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_people_come_by_photos_then_faces_and_the_nameless_get_their_place_as_name() -> None:
    few = _person("few", [_face("a", "1")], name="  ")
    more_faces = _person("more-faces", [_face("a", "2"), _face("a", "3")])
    most_photos = _person("most-photos", [_face("a", "4"), _face("b", "5")], name="Ana")
    content = _content(render_page(_groups([few, more_faces, most_photos]), {}, {}))
    assert [(p["id"], p["label"]) for p in content["people"]] == [
        ("most-photos", "Ana"),
        ("more-faces", "Person 2"),
        ("few", "Person 3"),
    ]


def test_each_persons_range_holds_that_persons_faces_and_the_unassigned_stand_last() -> None:
    people = [_person("p", [_face("a", "1")]), _person("q", [_face("a", "2"), _face("b", "3")])]
    crops = {"2": "faces/2.webp", "4": "faces/4.webp"}
    content = _content(render_page(_groups(people, [_face("c", "4")]), {}, crops))
    assert content["faces"] == [[0, 0], [1, 0], [0, 1], [2, -1]]
    assert [(p["id"], p["first"], p["end"], p["cover"]) for p in content["people"]] == [
        ("q", 0, 2, "faces/2.webp"),
        ("p", 2, 3, None),
    ]
    assert content["unassigned"] == {"first": 3, "crops": ["faces/4.webp"], "why": [""]}


def test_boxes_become_percent_of_the_upright_photo_and_end_at_its_edges() -> None:
    faces = [_face("a", "1", (20, 30, 60, 150)), _face("a", "2", (-40, 270, 220, 330))]
    content = _content(render_page(_groups([_person("p", faces)]), {"a": PagePhoto("a.jpg", 200, 300)}, {}))
    assert [face[2:] for face in content["faces"]] == [[10, 10, 20, 40], [0, 90, 100, 10]]


def test_a_photo_without_address_or_size_has_no_boxes() -> None:
    faces = [_face("missing", "1"), _face("sizeless", "2")]
    html = render_page(_groups([_person("p", faces)]), {"sizeless": PagePhoto("s.jpg", 0, 0)}, {})
    assert _content(html)["faces"] == [[0, 0], [1, 0]]
    assert _content(html)["photos"] == [["missing", None, 0, 0], ["sizeless", "s.jpg", 0, 0]]


def test_the_header_counts_and_the_footer_tells_the_time_in_utc_and_the_model() -> None:
    skipped = SkippedPhoto(image_id="z", status=ImageStatus.NO_FACES, reason="No face was found.")
    html = render_page(_groups([_person("p", [_face("a"), _face("b")])], [_face("b")], [skipped]), {}, {})
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html) == [
        ("Photos with faces", "2"),
        ("Faces", "3"),
        ("People", "1"),
        ("Unassigned", "1"),
        ("Skipped", "1"),
    ]
    assert "14 June 2025, 16:20 UTC" in html
    assert '<span class="id">open-abc</span>' in html


def test_a_value_that_the_template_misses_is_an_error_and_not_an_empty_place() -> None:
    with pytest.raises(UndefinedError):
        page._open_environment().from_string("{{ nothing_of_this_name }}").render()


def test_a_box_that_is_no_number_is_refused_rather_than_written_as_broken_json() -> None:
    face = _face("a", box=(float("nan"), 0, 10, 10))
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_page(_groups([_person("p", [face])]), {"a": PagePhoto("a.jpg", 100, 100)}, {})


def test_the_page_has_the_reason_why_a_face_is_unassigned() -> None:
    face = _face("c", "4").model_copy(update={"why_alone": "Its quality is 7 of 100, below 20: it is dark."})
    content = _content(render_page(_groups([], [face]), {}, {}))
    assert content["unassigned"]["why"] == ["Its quality is 7 of 100, below 20: it is dark."]


def test_hidden_people_and_their_faces_are_not_on_the_page() -> None:
    hidden = _person("p2", [_face("a.jpg", "f2")]).model_copy(update={"hidden": True})
    content = _content(render_page(_groups([_person("p1", [_face("a.jpg")]), hidden]), {}, {}))
    assert [person["id"] for person in content["people"]] == ["p1"]
    assert len(content["faces"]) == 1
