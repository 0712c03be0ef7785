"""A search on a Ray cluster of two nodes, one of which is killed amid it. Skipped, with the reason, without Ray."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from app.errors import RetryLater
from app.grouping.neighbours import EXACT

pytest.importorskip("ray", reason="Ray is not installed: `uv sync --extra cpu --extra ray`")

from app.grouping.distributed import Cluster, ClusterSearch

# A node counts as dead once it has missed its heartbeats for half a minute; on a busy machine Ray starts slowly too.
PATIENCE_S = 400
pytestmark = pytest.mark.timeout(PATIENCE_S + 20)

NO_CLUSTER = Cluster("ray://127.0.0.1:1", memory_per_process=1)
ROWS = np.random.default_rng(0).standard_normal((50, 8), np.float32)


@pytest.fixture(scope="module")
def search() -> dict[str, Any]:
    """In a process of its own, for Ray leaves threads and signal handlers behind."""
    command = [sys.executable, "-m", "tests.integration.ray_cluster"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def test_neighbours_are_those_of_one_machine_to_the_id_and_to_the_bit(search: dict[str, Any]) -> None:
    assert search["tasks"] == 25
    assert search["same_ids"]
    assert search["same_similarities"]


def test_the_search_survives_a_node(search: dict[str, Any]) -> None:
    assert (search["nodes_dead"], search["nodes_alive"]) == (1, 2)


def test_a_small_gallery_is_searched_without_the_cluster() -> None:
    search = ClusterSearch(cluster=NO_CLUSTER, from_faces=51)
    found, exact = search.nearest_neighbours(ROWS, 3), EXACT.nearest_neighbours(ROWS, 3)
    np.testing.assert_array_equal(found.indices, exact.indices)


def test_a_cluster_that_is_away_is_told_at_once_and_asked_again_later() -> None:
    search = ClusterSearch(cluster=NO_CLUSTER, from_faces=50)
    with pytest.raises(RetryLater, match="does not answer"):
        search.nearest_neighbours(ROWS, 3)
