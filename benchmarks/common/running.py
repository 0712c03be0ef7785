"""The local stack for benchmarks and process tests, of its own in a temporary folder: with the services or without."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local.album import Album
from local.stack import LocalStack


@contextmanager
def run_local_stack(pack: str, settings: Mapping[str, str] | None = None) -> Iterator[LocalStack]:
    """A running stack whose environment holds while inside; everything is stopped and put back after."""
    with _open_stack(settings or {}) as stack:
        stack.start(pack)
        yield stack


@contextmanager
def run_local_stores(settings: Mapping[str, str] | None = None) -> Iterator[LocalStack]:
    """AWS and MongoDB alone, in the same way."""
    with _open_stack(settings or {}) as stack:
        stack.start_stores()
        yield stack


@contextmanager
def _open_stack(settings: Mapping[str, str]) -> Iterator[LocalStack]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="face-worker-") as home:
        stack = LocalStack(Path(home))
        try:
            os.environ.update(settings)
            yield stack
        finally:
            stack.stop()
            os.environ.clear()
            os.environ.update(before)


def wait_until_grouped(album: Album, stack: LocalStack) -> None:
    """Returns once all photos of a sent album are indexed and grouped. Raises LocalStackError where that stalls."""
    for _ in album.follow(stack.check_services):
        pass
