"""What a process looks up and speaks to, noted by a library that is loaded before all others (outgoing.c)."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("outgoing.c")
KEPT = ("PATH", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""All else is left out: onnxruntime, for one, is silent where a variable such as CI tells of a build server."""


@dataclass(frozen=True)
class Outgoing:
    """`what` is lookup, connect or send, `port` is 0 for a look-up."""

    process: int
    what: str
    name: str
    port: int


class OutgoingRecord:
    """What the processes that are started with `environment` look up and speak to. They have an empty home folder."""

    def __init__(self, folder: Path) -> None:
        self._library, self._file, self.home = folder / "outgoing.so", folder / "outgoing", folder / "home"
        self.home.mkdir()
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("what a process sends is noted by a library in C, and there is no C compiler `cc` here")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)

    @property
    def environment(self) -> dict[str, str]:
        """All variables for such a process."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {**kept, "HOME": str(self.home), "OUTGOING_FILE": str(self._file), "LD_PRELOAD": str(self._library)}

    def read(self) -> list[Outgoing]:
        lines = self._file.read_text("utf-8").splitlines() if self._file.exists() else []
        fields = [line.split() for line in lines]
        return [Outgoing(int(process), what, name, int(port)) for process, what, name, port in fields]

    def list_written_files(self) -> list[str]:
        """Files in the home folder, by their paths in it."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())
