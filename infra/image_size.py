"""The sizes of the image's packages, from uv.lock: `python -m infra.image_size [--extra gpu] [--python 3.11]`.

The sizes are those of the wheels as they are downloaded. That is about what their layer takes in a registry, and what a
new host must pull. The base image, some tens of megabytes, and the model pack come on top.
"""

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
# Debian 12, which the image is based on.
GLIBC = (2, 36)
SHOWN = 12


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.image_size", description=__doc__)
    parser.add_argument("--extra", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--python", default="3.11", help="Python version of the image (3.11)")
    options = parser.parse_args(arguments)
    sizes = read_wheel_sizes(options.extra, tuple(int(part) for part in options.python.split(".")))
    for name, size in sorted(sizes.items(), key=lambda one: -one[1])[:SHOWN]:
        sys.stdout.write(f"{size / 1e6:8.1f} MB  {name}\n")
    rest = sum(sorted(sizes.values(), reverse=True)[SHOWN:])
    sys.stdout.write(f"{rest / 1e6:8.1f} MB  {max(0, len(sizes) - SHOWN)} others\n")
    sys.stdout.write(f"{sum(sizes.values()) / 1e6:8.1f} MB  in all\n")
    return 0


def read_wheel_sizes(extra: str, python: tuple[int, ...]) -> dict[str, int]:
    """Package → bytes of the wheel that the image gets. Raises LookupError where the lock has none for it."""
    locked = {
        (package["name"], package["version"]): package
        for package in tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
        if "version" in package
    }
    tags = list(_list_tags(python))
    return {name: _get_wheel_bytes(locked[name, version], tags) for name, version in _list_pins(extra, python)}


def _list_pins(extra: str, python: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Names and versions that are installed, as the Dockerfile's `uv sync` chooses them."""
    from packaging.requirements import Requirement

    command = ["uv", "export", "--frozen", "--quiet", "--no-default-groups", "--no-emit-project", "--no-header"]
    command += ["--no-hashes", "--no-annotate", "--extra", extra]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=True)
    environment = _make_environment(python)
    for line in done.stdout.splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield canonicalize_name(requirement.name), next(iter(requirement.specifier)).version


def _make_environment(python: tuple[int, ...]) -> dict[str, str]:
    version = ".".join(map(str, python))
    return {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "implementation_version": f"{version}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }


def _list_tags(python: tuple[int, ...]) -> Iterator[Tag]:
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC[1], 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    yield from cpython_tags(python, platforms=platforms)
    yield from compatible_tags(python, platforms=platforms)


def _get_wheel_bytes(package: Mapping[str, Any], tags: list[Tag]) -> int:
    wheels = {wheel["url"].rpartition("/")[2]: int(wheel["size"]) for wheel in package.get("wheels", [])}
    for tag in tags:
        for name, size in wheels.items():
            if tag in parse_wheel_filename(name)[3]:
                return size
    raise LookupError(f"uv.lock has no wheel of {package['name']} {package['version']} for the image.")


if __name__ == "__main__":
    sys.exit(main())
