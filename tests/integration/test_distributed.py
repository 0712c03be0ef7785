"""A search on a Ray cluster of two nodes, one of which is killed amid it. Skipped, with the reason, without Ray."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: `uv sync --extra cpu --extra ray`")


@pytest.fixture(scope="module")
def search() -> dict[str, Any]:
    """In a process of its own, for Ray leaves threads and signal handlers behind."""
    command = [sys.executable, "-m", "tests.integration.ray_cluster"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def test_neighbours_are_those_of_one_machine_to_the_id_and_to_the_bit(search: dict[str, Any]) -> None:
    assert search["tasks"] == 25
    assert search["same_ids"]
    assert search["same_similarities"]


def test_the_search_survives_a_node(search: dict[str, Any]) -> None:
    assert (search["nodes_dead"], search["nodes_alive"]) == (1, 2)
