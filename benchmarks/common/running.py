"""A local stack for benchmarks and process tests in a temporary folder, with the services or without."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local.album import Album
from local.database import DatabaseName
from local.stack import LocalStack


@contextmanager
def run_local_stack(pack: str, settings: Mapping[str, str] | None = None) -> Iterator[LocalStack]:
    """A context with a running stack and its environment; afterwards all is stopped and the environment restored."""
    with _open_stack(settings or {}) as stack:
        stack.start(pack)
        yield stack


@contextmanager
def run_local_stores(
    settings: Mapping[str, str] | None = None, database: DatabaseName | None = None
) -> Iterator[LocalStack]:
    """The same with AWS and MongoDB alone. Raises NoMongod where a mongod is wanted as database and none starts."""
    with _open_stack(settings or {}, database) as stack:
        stack.start_stores()
        yield stack


@contextmanager
def _open_stack(settings: Mapping[str, str], database: DatabaseName | None = None) -> Iterator[LocalStack]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="face-worker-") as home:
        stack = LocalStack(Path(home), database)
        try:
            os.environ.update(settings)
            yield stack
        finally:
            stack.stop()
            os.environ.clear()
            os.environ.update(before)


def wait_until_grouped(album: Album, stack: LocalStack) -> None:
    """Wait until all photos of an album are stored and grouped. Raises LocalStackError where nothing advances."""
    for _ in album.follow(stack.check_services):
        pass
