from pathlib import Path

import psutil
import pytest

from app import host
from app.host import find_memory_limit, measure_memory_share

MB = 1_000_000


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    return tmp_path


def write(cgroup: Path, limit: str, used: int, inactive_file: int | None = None) -> None:
    (cgroup / "memory.max").write_text(f"{limit}\n")
    (cgroup / "memory.current").write_text(f"{used}\n")
    if inactive_file is not None:
        (cgroup / "memory.stat").write_text(f"anon 7\nfile 9\ninactive_anon 5\ninactive_file {inactive_file}\n")


def test_the_share_is_of_the_containers_limit(cgroup: Path) -> None:
    write(cgroup, str(400 * MB), 100 * MB)
    assert measure_memory_share() == 0.25


def test_page_cache_that_can_be_dropped_counts_as_free(cgroup: Path) -> None:
    write(cgroup, str(400 * MB), 100 * MB, 60 * MB)
    assert measure_memory_share() == 0.1


def test_more_cache_than_use_is_no_negative_share(cgroup: Path) -> None:
    write(cgroup, str(400 * MB), 10 * MB, 60 * MB)
    assert measure_memory_share() == 0


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_the_share_is_the_machines(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None
) -> None:
    class Machine:
        total, available = 1000, 400

    monkeypatch.setattr(psutil, "virtual_memory", Machine)
    if limit:
        write(cgroup, limit, 100 * MB)
    assert measure_memory_share() == pytest.approx(0.6)


def test_this_machine_has_a_share_between_nothing_and_all() -> None:
    assert 0 < measure_memory_share() < 1


@pytest.mark.parametrize(
    ("name", "content", "limit"),
    [
        ("memory.max", "400000000", 400 * MB),
        ("memory.max", "max", 1000 * MB),
        ("memory/memory.limit_in_bytes", "300000000", 300 * MB),
        ("memory/memory.limit_in_bytes", "9223372036854771712", 1000 * MB),
        ("cgroup.procs", "1", 1000 * MB),
    ],
)
def test_the_limit_of_memory_is_the_containers_or_the_machines(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, limit: int
) -> None:
    class Machine:
        total, available = 1000 * MB, 400 * MB

    monkeypatch.setattr(psutil, "virtual_memory", Machine)
    (cgroup / name).parent.mkdir(exist_ok=True)
    (cgroup / name).write_text(f"{content}\n")
    assert find_memory_limit() == limit
