"""A short version of the hostile benchmark: files that are made to hurt stop neither the service nor other photos."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.peak import measure_tree
from benchmarks.robustness import hostile

ORDINARY, HOSTILE = 12, 14


@pytest.mark.slow
def test_hostile_files_are_settled_and_ordinary_photos_are_done_in_two_gigabytes() -> None:
    result = hostile.measure(ORDINARY, HOSTILE, "open", limit_mb=2000)
    assert hostile.is_sound(result), result
    assert result["peak_mb"] > 100
    assert all(result["reasons"].values())


@pytest.mark.slow
def test_a_service_that_holds_too_much_is_ended_and_the_ending_is_counted() -> None:
    result = hostile.measure(1, 0, "open", limit_mb=50)
    assert result["restarts"] > 0
    assert not hostile.is_sound(result)


def test_memory_that_processes_share_counts_once_and_what_is_not_mapped_counts_too() -> None:
    before = measure_tree(os.getpid())
    kept = np.ones(50_000_000, np.uint8)
    file = os.memfd_create("photo")
    os.write(file, b"x" * 30_000_000)
    script = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, pass_fds=[file], cwd=Path("/")):
        grown = measure_tree(os.getpid()) - before
    os.close(file)
    assert kept.all()
    assert 78_000_000 < grown < 110_000_000
