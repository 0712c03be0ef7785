"""What this process may use of its machine: memory and cores."""

import os
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def measure_memory_share() -> float:
    """Used share of the container's limit (cgroup v2), or of the machine's memory where there is none.

    Page cache counts as free in both: the kernel gives it back before anything is killed.
    """
    limit = _read_number("memory.max")
    if limit is None:
        memory = psutil.virtual_memory()
        return 1 - memory.available / memory.total
    used = _read_number("memory.current") or 0
    return max(0, used - _read_inactive_file_bytes()) / limit


def find_memory_limit() -> int:
    """Bytes that this process may use: its container's limit (cgroup v2 or v1), or the machine's memory."""
    limits = (_read_number("memory.max"), _read_number("memory/memory.limit_in_bytes"), psutil.virtual_memory().total)
    return min(limit for limit in limits if limit)  # cgroup v1 writes a huge number where there is no limit


def count_cores() -> int:
    """Cores that this process may keep busy: those it may run on, or fewer where its container has a quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = (CGROUP / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        return allowed
    return max(1, min(allowed, round(int(quota) / int(period)))) if quota.isdigit() else allowed


def _read_number(name: str) -> int | None:
    try:
        text = (CGROUP / name).read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_inactive_file_bytes() -> int:
    try:
        lines = (CGROUP / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
