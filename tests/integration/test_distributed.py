"""A search on a Ray cluster of two nodes, one of which is killed amid it."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayError

from app.clustering import distributed
from app.clustering.distributed import Cluster, ClusterSearch
from app.clustering.neighbours import EXACT
from app.core.errors import BadConfiguration, RetryLater

# A node counts as dead once it has missed its heartbeats for half a minute; on a busy machine Ray starts slowly too.
PATIENCE_S = 400
pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE_S + 20)]

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
    found, exact = search.find_neighbours(ROWS, 3), EXACT.find_neighbours(ROWS, 3)
    np.testing.assert_array_equal(found.indices, exact.indices)


def test_a_cluster_that_is_away_is_told_at_once_and_asked_again_later() -> None:
    search = ClusterSearch(cluster=NO_CLUSTER, from_faces=50)
    with pytest.raises(RetryLater, match="does not answer"):
        search.find_neighbours(ROWS, 3)


class LosingRay:
    """Ray as far as a search sees it, in this process; the first `losses` results are lost."""

    def __init__(self, losses: int) -> None:
        self.losses, self.puts = losses, 0

    def put(self, rows: np.ndarray) -> tuple[np.ndarray]:
        self.puts += 1
        return (rows,)

    def remote(self, work: Callable[..., object]) -> SimpleNamespace:
        later = SimpleNamespace(remote=lambda queries, base, *others: partial(work, queries[0], base[0], *others))
        return SimpleNamespace(options=lambda **_: later)

    def get(self, result: Callable[[], object]) -> object:
        if self.losses:
            self.losses -= 1
            raise RayError("the node is gone")
        return result()

    def wait(self, running: list[object]) -> tuple[list[object], list[object]]:
        return running[:1], running[1:]

    def init(self, *_: object, **__: object) -> None: ...

    def shutdown(self) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"memory": 1_000}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}


def test_what_is_lost_is_put_and_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = LosingRay(losses=2)
    monkeypatch.setattr(distributed, "ray", ray)
    search = ClusterSearch(cluster=Cluster("auto", memory_per_process=1, shard_rows=20), from_faces=1)
    found, exact = search.find_neighbours(ROWS, 3), EXACT.find_neighbours(ROWS, 3)
    np.testing.assert_array_equal(found.indices, exact.indices)
    assert ray.puts > 3, "three shards, and again what was lost"


def test_a_cluster_that_loses_everything_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "ray", LosingRay(losses=1_000))
    search = ClusterSearch(cluster=Cluster("auto", memory_per_process=1), from_faces=1)
    with pytest.raises(RetryLater, match="failed 3 times: the node is gone"):
        search.find_neighbours(ROWS, 3)


def test_more_memory_than_any_node_has_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "ray", LosingRay(losses=0))
    search = ClusterSearch(cluster=Cluster("auto", memory_per_process=1_001), from_faces=1)
    with pytest.raises(BadConfiguration, match="1,001 bytes of RAY_MEMORY_PER_PROCESS; the largest has 1,000"):
        search.find_neighbours(ROWS, 3)
