"""Steps of a process's wall clock. They need a C compiler; without one `clock_steps` in the result is 0."""

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("clock_skew.c")


class Clock:
    """The wall clock of the processes that are started with `environment`. Their monotonic clock is not changed."""

    def __init__(self, home: Path, name: str) -> None:
        self._file = home / f"clock-{name}"
        self._library = home / "clock_skew.so"
        self._file.write_bytes(_encode(0))

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for a process; empty where the clock can't be changed."""
        if not self._build():
            return {}
        return {"LD_PRELOAD": str(self._library), "CLOCK_SKEW_FILE": str(self._file)}

    def step_to(self, skew_s: int) -> bool:
        """Set the clock to the real time plus `skew_s`. False where it can't be changed."""
        if not self._library.exists():
            return False
        with self._file.open("r+b") as stream:
            stream.write(_encode(skew_s))
        return True

    def _build(self) -> bool:
        compiler = shutil.which("cc")
        if compiler and not self._library.exists():
            # Compiled under another name: another process may load the library at this moment.
            partial = self._library.with_suffix(f".{os.getpid()}")
            command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(partial), str(SOURCE)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                partial.replace(self._library)
        return self._library.exists()


def _encode(skew_s: int) -> bytes:
    return struct.pack("=q", skew_s)
