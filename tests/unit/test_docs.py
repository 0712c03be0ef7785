"""The pages: each is in the index, and each relative link leads to a file and a section that exist."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "infra/README.md")
PAGES = [*(ROOT / name for name in BESIDE), *sorted(DOCS.rglob("*.md"))]

FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^()\s<>]+(?:\([^()]*\)[^()\s]*)*)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:|^//", re.IGNORECASE)


def list_links(text: str) -> list[str]:
    """Targets of all links and pictures of a page that lead to other files of this repository, or within it."""
    prose = INLINE_CODE.sub("`code`", FENCED.sub("", text))
    return [target for target in LINK.findall(prose) + DEFINITION.findall(prose) if not ELSEWHERE.match(target)]


def list_anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them: of equal ones all but the first get a number."""
    anchors: Counter[str] = Counter()
    made = set()
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", FENCED.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        made.add(f"{anchor}-{anchors[anchor]}" if anchors[anchor] else anchor)
        anchors[anchor] += 1
    return made | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def leads_somewhere(link: str, page: Path) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists() or not anchor or target.suffix != ".md":
        return target.exists()
    return anchor in list_anchors(target.read_text("utf-8"))


def find_broken_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    return [link for link in list_links(page.read_text("utf-8")) if not leads_somewhere(link, page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_section_that_exist(page: Path) -> None:
    assert find_broken_links(page) == []


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "index.md"
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in list_links(index.read_text("utf-8"))}
    missing = [str(page.relative_to(ROOT)) for page in PAGES if page != index and page.resolve() not in listed]
    assert missing == []


def test_a_link_to_a_missing_file_or_section_is_told(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text(
        "# A title\n\n## Two words: `code`, and *more*\n\n## 39 Same\n\n## 39 Same\n", "utf-8"
    )
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n[a](other.md#two-words-code-and-more) [b](other.md#39-same-1) ![c](gone.png) [d](other.md#gone) "
        "[e](#page) [f](#nowhere) [g](https://example.com/x.md#y) `[h](code.md)`\n\n```\n[i](fenced.md)\n```\n",
        "utf-8",
    )
    assert find_broken_links(page) == ["gone.png", "other.md#gone", "#nowhere"]
