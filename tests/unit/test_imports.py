"""What the services import. The rules between packages are import-linter's (pyproject.toml)."""

from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
NEVER_SHIPPED = ("benchmarks", "infra", "local", "tests", "workshop")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("app", "benchmarks", "infra", "local", "workshop")


@pytest.mark.parametrize("entrypoint", ["run_detection_service.py", "run_grouping_service.py", "app/__main__.py"])
def test_no_service_imports_the_workshop_the_local_stack_or_admin(entrypoint: str, graph: grimp.ImportGraph) -> None:
    """Imports within functions count too; what a string names (a pack's builder) is looked at below."""
    text = (ROOT / entrypoint).read_text("utf-8")
    assert "from app.bootstrap import run" in text
    assert not [name for name in NEVER_SHIPPED if f"import {name}" in text or f"from {name}" in text]
    reached = graph.find_upstream_modules("app.bootstrap") | graph.find_upstream_modules("app.__main__")
    assert "app.detection.handle" in reached
    assert "app.grouping.handle" in reached
    assert not {name for name in reached if name.partition(".")[0] in NEVER_SHIPPED}
    assert not {name for name in reached if name.startswith("app.admin")}


def test_what_a_manifest_may_name_as_its_builder_lies_in_the_packs(graph: grimp.ImportGraph) -> None:
    builders = [name for name in graph.modules if name.startswith("app.packs.open_pack")]
    assert builders
    for name in builders:
        assert not {one for one in graph.find_upstream_modules(name) if one.partition(".")[0] in NEVER_SHIPPED}


SPINE = ("core", "worker", "detection", "grouping", "bootstrap.py")
"""What everybody who changes a service must know."""


def test_what_a_newcomer_must_know_stays_below_eleven_thousand_lines() -> None:
    files = [
        file for name in SPINE for file in ([ROOT / "app" / name] if "." in name else (ROOT / "app" / name).rglob("*"))
    ]
    read = [file for file in files if file.suffix in (".py", ".j2")]
    assert len(read) > 30
    assert sum(len(file.read_text("utf-8").splitlines()) for file in read) < 11_000
