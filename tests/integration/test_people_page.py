"""The people page in a real browser, opened from disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Locator, Page, expect

from app.core.records import ImageStatus
from app.grouping.output import GroupedFace, GroupedPerson, Groups, SkippedPhoto
from app.grouping.page import PagePhoto, render_page
from tests.integration.chromium import headless_chromium

SCREENSHOTS = Path(__file__).parents[2] / "test-output" / "people-page"

BEACH = "be\"ach' <b>&amp; n°1 #50%.jpg"
ROTATED = "rotated by its EXIF.jpg"
LOST = "lost </script>.jpg"
UNKNOWN = "never-mapped.jpg"
ANA = "Ana \"O'Neil\" <script>document.title='owned'</script>"
ZOE = "Zoë </script> Ёлка"
FORMER_ID = "an/a & <old>"
ODD_ID = "id / with #hash & 100%"

ANA_ON_BEACH = (120.0, 60.0, 220.0, 190.0)
ZOE_ON_BEACH = (420.0, 80.0, 500.0, 180.0)
STRANGER_ON_BEACH = (560.0, 20.0, 590.0, 60.0)
ANA_ROTATED = (50.0, 300.0, 170.0, 440.0)
MAGENTA = (255, 0, 255)

VIEWS = {
    "people": "",
    "person": "#person/ana",
    "photo": f"#person/ana/{quote(BEACH, safe='')}",
    "unassigned": "#unassigned",
    "skipped": "#skipped",
}


@dataclass
class Visit:
    """A page and what went wrong on it."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda m: m.type == "error" and self.problems.append(f"{m.text} {m.location['url']}"))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed {request.url}"))


OpenPage = Callable[..., Page]


def _face(image_id: str, face_id: str, box: tuple[float, float, float, float]) -> GroupedFace:
    return GroupedFace(face_id=face_id, image_id=image_id, box=box, det_score=0.9, quality={})


def _person(person_id: str, name: str | None, faces: list[GroupedFace]) -> GroupedPerson:
    return GroupedPerson(
        person_id=person_id,
        name=name,
        face_count=len(faces),
        photo_count=len({face.image_id for face in faces}),
        cover_face_id=faces[0].face_id,
        faces=faces,
    )


def _groups(people: list[GroupedPerson], unassigned: list[GroupedFace], skipped: list[SkippedPhoto]) -> Groups:
    return Groups(
        gallery_id="summer <2025> & friends",
        model="open-0123456789ab",
        generated_at="2025-06-14T16:20:05Z",
        people=people,
        unassigned=unassigned,
        skipped=skipped,
    )


def _nasty_groups() -> Groups:
    ana = [
        _face(BEACH, "ana/0", ANA_ON_BEACH),
        _face(ROTATED, "ana/1", ANA_ROTATED),
        _face(LOST, "ana/2", (1, 1, 9, 9)),
    ]
    zoe = [_face(BEACH, "zoe/0", ZOE_ON_BEACH), _face(ROTATED, "zoe/1", (200.0, 30.0, 300.0, 150.0))]
    odd = [_face(UNKNOWN, "odd/0", (10.0, 10.0, 20.0, 20.0))]
    skipped = [
        SkippedPhoto(image_id="broken <i>.jpg", status=ImageStatus.REJECTED, reason="The file ends too early."),
        SkippedPhoto(image_id="sea.jpg", status=ImageStatus.NO_FACES, reason="No face was found."),
        SkippedPhoto(image_id="x" * 120 + ".jpg", status=ImageStatus.LOW_QUALITY, reason="Every face is too small."),
    ]
    people = [_person(ODD_ID, None, odd), _person("zoe", ZOE, zoe), _person("ana", ANA, ana)]
    groups = _groups(people, [_face(BEACH, "stranger/0", STRANGER_ON_BEACH)], skipped)
    return groups.model_copy(update={"merged": {FORMER_ID: "ana"}})


def _paint(path: Path, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    image = Image.new("RGB", size, (90, 120, 140))
    ImageDraw.Draw(image).rectangle(box, fill=MAGENTA)
    image.save(path, quality=95)
    return image


def _write_nasty_gallery(folder: Path) -> Path:
    _paint(folder / BEACH, (640, 400), ANA_ON_BEACH)
    upright = _paint(folder / ROTATED, (400, 600), ANA_ROTATED)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side; a viewer turns it a quarter clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / ROTATED, exif=exif, quality=95)
    for name in ("ana", "stranger"):
        Image.new("RGB", (112, 112), (200, 150, 120)).save(folder / f'{name}\'s "face".webp')
    photos = {
        BEACH: PagePhoto(quote(BEACH), 640, 400),
        ROTATED: PagePhoto(quote(ROTATED), 400, 600),
        LOST: PagePhoto(quote(LOST), 640, 400),
    }
    crops = {f"{name}/0": quote(f'{name}\'s "face".webp') for name in ("ana", "stranger")}
    path = folder / "people.html"
    path.write_text(render_page(_nasty_groups(), photos, crops), "utf-8")
    return path


def _write_large_gallery(folder: Path) -> Path:
    """5,000 people with 20 faces each, but one who is in 2,000 photos; 100,000 faces in 20,000 photos."""
    Image.new("RGB", (112, 112), (120, 150, 120)).save(folder / "face.webp")
    Image.new("RGB", (300, 200), (90, 120, 140)).save(folder / "photo.jpg")
    image_ids = [f"DSC_{index:06}.jpg" for index in range(20_000)]
    people = []
    for index in range(5_000):
        count = 2_000 if index == 0 else 20
        chosen = [(index * 37 + step * 11) % 20_000 for step in range(count)]
        faces = [_face(image_ids[photo], f"large/{index}/{photo}", (30, 30, 90, 110)) for photo in chosen]
        people.append(_person(f"p-{index:05}", None, faces))
    photos = {image_id: PagePhoto("photo.jpg", 300, 200) for image_id in image_ids}
    crops = {person.cover_face_id: "face.webp" for person in people}
    path = folder / "people.html"
    path.write_text(render_page(_groups(people, [], []), photos, crops), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_nasty_gallery(tmp_path_factory.mktemp("nasty gallery"))


@pytest.fixture(scope="module")
def large_gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_large_gallery(tmp_path_factory.mktemp("large"))


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens a page; at the end, whatever it asked for lay on disk and only the lost photo was missing."""
    visits: list[Visit] = []

    def open_page(path: Path, route: str = "", width: int = 1280, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        visits.append(visit := Visit(context.new_page()))
        visit.watch()
        visit.page.goto(path.as_uri() + route)
        return visit.page

    yield open_page
    for visit in visits:
        visit.page.context.close()
        assert [problem for problem in visit.problems if quote(LOST) not in problem] == []
        assert [url for url in visit.requested if not url.startswith(("file:", "data:"))] == []


def _screenshot(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def _names(page: Page) -> list[str]:
    return page.locator(".people .name").all_text_contents()


def _card(page: Page, name: str) -> Locator:
    return page.locator(".people").get_by_role("link", name=name)


def test_people_are_shown_most_photos_first_with_their_names_as_written(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery)
    assert _names(page) == [ANA, ZOE, "Person 3"]
    assert page.locator(".people li").first.locator(".facts span").all_text_contents() == ["3 photos", "3 faces"]
    assert page.title() == "People in summer <2025> & friends"
    assert page.locator(".masthead dd").all_inner_texts() == ["4", "7", "3", "1", "3"]


def test_a_cover_that_is_missing_is_an_initial_and_no_broken_picture(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery)
    expect(page.locator(".people li").nth(1).locator(".initial")).to_have_text("Z")
    page.wait_for_load_state("networkidle")
    widths = page.locator(".people img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths == [112]


def test_a_click_opens_a_person_and_the_back_button_returns_to_the_people(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery)
    _card(page, ZOE).click()
    expect(page.get_by_role("heading", name=ZOE)).to_be_focused()
    assert page.url.endswith("#person/zoe")
    assert page.locator(".photos figcaption").all_inner_texts() == [BEACH, ROTATED]
    assert page.locator(".people").is_hidden()
    page.go_back()
    expect(page.locator(".people")).to_be_visible()
    expect(_card(page, ZOE)).to_be_focused()


def test_the_keyboard_alone_opens_a_person_and_a_photo_leafs_and_returns(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery)
    for _ in range(5):  # three views, the search box, the first person
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#person-name")).to_have_text(ANA)
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".photos .open").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-position")).to_have_text("2 of 3")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#viewer-name")).to_have_text(BEACH)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#viewer-position")).to_have_text("1 of 3")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator(".photos .open").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(_card(page, ANA)).to_be_focused()


def test_a_person_and_a_photo_can_be_linked_to_whatever_their_ids(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery, "#person/" + quote(ODD_ID, safe=""))
    expect(page.locator("#person-name")).to_have_text("Person 3")
    expect(page.locator("#person-id")).to_have_text(ODD_ID)
    page = open_page(gallery, VIEWS["photo"])
    expect(page.locator("#viewer-name")).to_have_text(BEACH)
    page.get_by_role("link", name="Close the photo").click()
    expect(page.locator("#person-name")).to_have_text(ANA)


def test_a_link_to_somebody_who_was_merged_leads_to_who_they_are_now(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery, f"#person/{quote(FORMER_ID, safe='')}/{quote(BEACH)}")
    expect(page.locator("#viewer-name")).to_have_text(BEACH)
    expect(page.locator("#person-name")).to_have_text(ANA)
    expect(page.locator("#person-id")).to_have_text("ana")


@pytest.mark.parametrize("route", ["#person/nobody", "#person/%E0%A4%A", "#person/ana/nothing", "#no-such-view"])
def test_an_address_that_leads_nowhere_shows_what_there_is(open_page: OpenPage, gallery: Path, route: str) -> None:
    page = open_page(gallery, route)
    expect(page.locator("[data-view]:not([hidden])")).to_have_count(1)
    expect(page.locator("#viewer")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 1440])
def test_boxes_lie_on_their_faces_at_any_width(open_page: OpenPage, gallery: Path, width: int) -> None:
    page = open_page(gallery, "#person/ana", width)
    tile = page.locator(".photos li").first
    frame = tile.locator("img").bounding_box()
    assert frame is not None
    scale = frame["width"] / 640
    for selector, face in ((".own", ANA_ON_BEACH), ("a.box", ZOE_ON_BEACH), (".unknown", STRANGER_ON_BEACH)):
        box = tile.locator(selector).bounding_box()
        assert box is not None
        edges = [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        origin = [frame["x"], frame["y"]] * 2
        assert edges == pytest.approx([o + value * scale for o, value in zip(origin, face, strict=True)], abs=1)
    _screenshot(page, f"person-{width}")


def test_a_photo_that_lies_on_its_side_is_turned_upright_under_its_box(
    open_page: OpenPage, gallery: Path, tmp_path: Path
) -> None:
    page = open_page(gallery, f"#person/ana/{quote(ROTATED)}")
    expect(page.locator("#viewer-stage img")).to_have_js_property("naturalWidth", 400)
    box = page.locator("#viewer-stage .own").bounding_box()
    assert box is not None
    page.screenshot(path=tmp_path / "rotated.png")
    with Image.open(tmp_path / "rotated.png") as shot:
        pixels = shot.convert("RGB")
    middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    beside = [(box["x"] - 9, middle_y), (box["x"] + box["width"] + 9, middle_y), (middle_x, box["y"] - 9)]
    inside = [(box["x"] + 9, middle_y), (box["x"] + box["width"] - 9, middle_y), (middle_x, box["y"] + 9)]
    assert all(_is_magenta(pixels, at) for at in inside)
    assert not any(_is_magenta(pixels, at) for at in beside)


def _is_magenta(pixels: Image.Image, at: tuple[float, float]) -> bool:
    red, green, blue = pixels.getpixel((round(at[0]), round(at[1])))
    return bool(red > 200 and green < 60 and blue > 200)


def test_someone_elses_box_leads_to_them(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery, "#person/ana")
    page.locator(".photos li").first.get_by_role("link", name=ZOE, exact=True).click()
    expect(page.locator("#person-name")).to_have_text(ZOE)
    expect(page.locator(".photos .own")).to_have_count(2)


def test_the_search_finds_by_name_without_accents_and_by_id(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery)
    search = page.get_by_role("searchbox")
    search.fill("ZOE")
    assert _names(page) == [ZOE]
    expect(page.get_by_role("status")).to_have_text("1 of 3 people")
    search.fill("#hash")
    assert _names(page) == ["Person 3"]
    search.fill("nobody at all")
    assert _names(page) == []
    expect(page.get_by_role("status")).to_have_text("Nobody has this name or id.")
    search.fill("")
    assert len(_names(page)) == 3


def test_unassigned_faces_are_shown_and_lead_to_their_photo(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery)
    page.get_by_role("link", name="Unassigned").click()
    expect(page.locator(".faces img")).to_have_attribute("alt", f"A face in {BEACH}")
    page.locator(".faces a").click()
    expect(page.locator("#viewer-name")).to_have_text(BEACH)
    expect(page.locator("#viewer-stage .own")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".faces a")).to_be_focused()


def test_skipped_photos_stand_in_a_table_with_status_and_reason(open_page: OpenPage, gallery: Path) -> None:
    page = open_page(gallery, "#skipped")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    assert rows.first.locator("th, td").all_inner_texts() == ["broken <i>.jpg", "Rejected", "The file ends too early."]
    assert rows.nth(1).locator("td").all_inner_texts() == ["No faces", "No face was found."]


@pytest.mark.parametrize(("person", "name"), [("ana", LOST), (ODD_ID, UNKNOWN)])
def test_a_photo_that_cant_be_shown_is_a_placeholder_with_its_name_and_no_boxes(
    open_page: OpenPage, gallery: Path, person: str, name: str
) -> None:
    page = open_page(gallery, "#person/" + quote(person, safe=""))
    tile = page.locator(".photos li").last
    tile.scroll_into_view_if_needed()
    expect(tile.locator(".placeholder")).to_have_text(name)
    expect(tile.locator(".box:visible")).to_have_count(0)
    expect(tile.locator("img")).to_have_count(0)


def test_an_empty_gallery_says_what_will_appear(open_page: OpenPage, tmp_path: Path) -> None:
    path = tmp_path / "people.html"
    path.write_text(render_page(_groups([], [], []), {}, {}), "utf-8")
    page = open_page(path)
    expect(page.get_by_role("status")).to_contain_text("No people yet.")
    expect(page.get_by_role("searchbox")).to_be_hidden()


# The lowest contrast (WCAG 2) of any text on the page with what is painted behind it.
LOWEST_CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const painted = channels(getComputedStyle(element).backgroundColor);
    return painted.length === 3 ? painted : behind(element.parentElement);
  };
  const ratio = (element, color) => {
    const [a, b] = [light(channels(color)), light(behind(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const root = document.querySelector("dialog[open]") ?? document.body;
  const texts = [...root.querySelectorAll("*")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim()));
  const ratios = texts.map((element) => [ratio(element, getComputedStyle(element).color), element.outerHTML]);
  const filter = document.getElementById("filter");
  ratios.push([ratio(filter, getComputedStyle(filter, "::placeholder").color), "placeholder"]);
  return [...ratios.sort((a, b) => a[0] - b[0])[0], ratios.length];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(open_page: OpenPage, gallery: Path, scheme: str) -> None:
    for view, route in VIEWS.items():
        page = open_page(gallery, route, scheme=scheme)
        page.wait_for_load_state("networkidle")
        ratio, where, texts = page.evaluate(LOWEST_CONTRAST)
        assert texts > 4
        assert ratio >= 4.5, where
        _screenshot(page, f"{scheme}-{view}")


def test_light_and_dark_have_different_grounds(open_page: OpenPage, gallery: Path) -> None:
    def ground(scheme: str) -> Any:
        return open_page(gallery, scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")

    assert (ground("light"), ground("dark")) == ("rgb(251, 250, 248)", "rgb(19, 18, 17)")


@pytest.mark.parametrize("view", VIEWS)
def test_a_narrow_phone_never_scrolls_sideways(open_page: OpenPage, gallery: Path, view: str) -> None:
    page = open_page(gallery, VIEWS[view], width=320)
    assert page.evaluate("document.scrollingElement.scrollWidth") == 320
    _screenshot(page, f"phone-{view}")


@pytest.mark.alone
def test_5000_people_open_within_three_seconds_and_few_nodes(open_page: OpenPage, large_gallery: Path) -> None:
    page = open_page(large_gallery)
    # The script builds the first cards before the load event, whose time the browser counts from the navigation.
    assert page.locator(".people li").count() > 0
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 3_000
    assert page.evaluate("document.querySelectorAll('*').length") < 2_000
    shown = page.locator(".people li").count()
    page.locator(".people li").last.scroll_into_view_if_needed()
    expect(page.locator(".people li").nth(shown)).to_be_attached()


@pytest.mark.alone  # it needs the same large page, which takes long to make
def test_a_person_in_2000_photos_opens_with_few_nodes(open_page: OpenPage, large_gallery: Path) -> None:
    page = open_page(large_gallery, "#person/p-00000")
    expect(page.locator("#person-counts")).to_contain_text("2,000 photos")
    expect(page.locator(".photos li").first).to_be_visible()
    assert page.evaluate("document.querySelectorAll('*').length") < 4_000
