"""`python -m tests.integration.ray_cluster`: a search on a Ray cluster on this machine, one of whose nodes is killed.

The head only holds what is put there. Every task runs on one other node, until that is killed amid the search and a
new one joins: what ran there, and what it had found and not yet handed over, is lost.
"""

import json
import os
import sys
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster as LocalCluster

from app.clustering import distributed
from app.clustering.neighbours import EXACT

MEGABYTE = 1_000_000
NODE = {"num_cpus": 2, "memory": 500 * MEGABYTE, "object_store_memory": 100 * MEGABYTE, "include_dashboard": False}
KILL_AFTER_OFFERS = 3
PATIENCE_S = "120"


def main() -> None:
    # Of this process only: Ray starts a dozen, and with coverage each of them takes seconds longer.
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        os.environ.pop(name, None)
    os.environ["RAY_raylet_start_wait_time_s"] = PATIENCE_S  # noqa: SIM112 - Ray reads it as it is written
    rows = np.random.default_rng(0).standard_normal((2_000, 32), np.float32)
    rows[1_500:] = rows[:500]  # every fourth face has an equal one in another shard
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    local = LocalCluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    victim = local.add_node(**NODE)
    told = 0

    def kill_once() -> None:
        nonlocal told
        told += 1
        if told == KILL_AFTER_OFFERS:
            local.remove_node(victim, allow_graceful=False)
            local.add_node(**NODE)

    cluster = distributed.Cluster(local.address, 100 * MEGABYTE, shard_rows=400)
    search = distributed.ClusterSearch(cluster=cluster, from_faces=1, progress=kill_once)
    began = time.monotonic()
    found, exact = (way.find_neighbours(rows, 20) for way in (search, EXACT))
    seconds = time.monotonic() - began
    ray.init(local.address, log_to_driver=False)
    nodes = ray.nodes()
    ray.shutdown()
    local.shutdown()
    result = {
        "same_ids": bool((found.indices == exact.indices).all()),
        "same_similarities": bool((found.similarities == exact.similarities).all()),
        "tasks": told,
        "nodes_alive": sum(node["Alive"] for node in nodes),
        "nodes_dead": sum(not node["Alive"] for node in nodes),
        "seconds": round(seconds, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
