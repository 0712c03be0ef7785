"""The search for neighbours on a Ray cluster. Only this module uses Ray.

For every tile of queries and every shard of the base there is one task, which runs on any node that has room. The
similarity of a pair is the same number on every machine (app.clustering.candidates). So the neighbours are those of an
exact search on one machine, equal ones by index. The nodes run this same image (`ray start --address=…`).
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from app.clustering.candidates import TileResult, TileResults
from app.clustering.neighbours import EXACT, Neighbours, NeighbourSearch, SearchDevice
from app.core.arrays import Floats
from app.core.errors import BadConfiguration, RetryLater

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a task is started. Ray itself retries a task three times when a node or a process dies, but it can't
restore arrays that this process has put into the cluster and that are lost with a node."""
RETRY_DELAY_S = 60.0
CONNECT_TIMEOUT_S = 5.0
WAITING_PER_CORE = 2
"""Submitted tasks for each core: a limit, so that results don't fill the cluster's memory before they are read."""


@dataclass(frozen=True)
class Cluster:
    """The cluster's address, the bytes of memory that each of its processes gets, and the faces of one shard."""

    address: str
    memory_per_process: int
    shard_rows: int = 50_000


@dataclass(frozen=True, kw_only=True)
class ClusterSearch(NeighbourSearch):
    """Searches on the cluster for at least `from_faces` squared pairs, and on this machine for fewer."""

    cluster: Cluster
    from_faces: int

    def search_tiles(self, queries: Floats, base: Floats, k: int) -> TileResults:
        """As of NeighbourSearch. Raises RetryLater where the cluster does not answer or a task fails too often."""
        if len(queries) * len(base) < self.from_faces**2:
            return super().search_tiles(queries, base, k)
        return self._search_cluster(queries, base, k)

    def _search_cluster(self, queries: Floats, base: Floats, k: int) -> TileResults:
        with _connect(self.cluster):
            shards = _Shards(base, self.cluster.shard_rows)
            tiles = shards if queries is base else _Shards(queries, self.cluster.shard_rows)
            yield from _Tasks(tiles, shards, k, self.device, self.cluster).search_tiles()


class _Shards:
    """Rows in parts. Each part is put into the cluster's memory, where all nodes can read it, at its first use."""

    def __init__(self, rows: Floats, size: int) -> None:
        self.starts = range(0, len(rows), size)
        self._rows, self._size = rows, size
        self._stored: dict[int, Any] = {}

    def get_reference(self, start: int) -> Any:  # noqa: ANN401 - Ray's ObjectRef
        if start not in self._stored:
            self._stored[start] = ray.put(self._rows[start : start + self._size])
        return self._stored[start]

    def forget(self, start: int) -> None:
        """Put the part into the cluster again at its next use: the node that held it may be lost."""
        self._stored.pop(start, None)


@dataclass(frozen=True)
class _Task:
    """The first row of its queries, the first row of its shard of the base, and how often it has failed."""

    tile: int
    shard: int
    failures: int = 0


class _Tasks:
    def __init__(self, tiles: _Shards, shards: _Shards, k: int, device: SearchDevice, cluster: Cluster) -> None:
        self._tiles, self._shards, self._k, self._device = tiles, shards, k, device
        options = {"num_cpus": 1, "memory": cluster.memory_per_process, "num_gpus": int(device == "gpu")}
        self._search = ray.remote(_search_shard).options(**options)
        self._running: dict[Any, _Task] = {}

    def search_tiles(self) -> TileResults:
        """Yields the result of each task as it ends."""
        waiting = (_Task(tile, shard) for tile, shard in product(self._tiles.starts, self._shards.starts))
        room = 1 + WAITING_PER_CORE * int(ray.cluster_resources().get("CPU", 1))
        for task in islice(waiting, room):
            self._start(task)
        while self._running:
            (done,), _ = ray.wait(list(self._running))
            task = self._running.pop(done)
            try:
                found: Neighbours = ray.get(done)
            except RayError as error:
                self._start_again(task, error)
                continue
            for following in islice(waiting, 1):
                self._start(following)
            yield TileResult(
                task.tile, np.where(found.indices >= 0, found.indices + task.shard, -1), found.similarities
            )

    def _start(self, task: _Task) -> None:
        queries, base = self._tiles.get_reference(task.tile), self._shards.get_reference(task.shard)
        self._running[self._search.remote(queries, base, self._k, self._device)] = task

    def _start_again(self, task: _Task, error: RayError) -> None:
        if task.failures + 1 == ATTEMPTS:
            raise RetryLater(f"A task of the Ray cluster failed {ATTEMPTS} times: {error}", RETRY_DELAY_S) from error
        log.warning("a task of the Ray cluster failed and starts again", extra={"reason": str(error)})
        self._tiles.forget(task.tile)
        self._shards.forget(task.shard)
        self._start(replace(task, failures=task.failures + 1))


def _search_shard(queries: Floats, base: Floats, k: int, device: SearchDevice) -> Neighbours:
    """The task that runs on a node."""
    return replace(EXACT, device="gpu" if device == "gpu" else "cpu").find_neighbours_in(queries, base, k)


@contextmanager
def _connect(cluster: Cluster) -> Iterator[None]:
    try:
        _check_port(cluster.address)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        _check_memory(cluster)
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"The Ray cluster at {cluster.address} does not answer; see that it runs, or correct RAY_ADDRESS: "
        raise RetryLater(f"{reason}{error}", RETRY_DELAY_S) from error
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Fail at once where nothing listens: `ray.init` itself would try for minutes."""
    _, _, place = address.rpartition("//")
    host, colon, port = place.rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def _check_memory(cluster: Cluster) -> None:
    """Raise BadConfiguration where no node has the memory of one task: such a task would wait for ever."""
    most = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
    if most < cluster.memory_per_process:
        raise BadConfiguration(
            f"No node of the Ray cluster has the {cluster.memory_per_process:,} bytes of RAY_MEMORY_PER_PROCESS; "
            f"the largest has {most:,.0f}."
        )
