"""Commands that measure: `python -m benchmarks` lists them."""

from pathlib import Path

import app  # noqa: F401 - before any library: see there

# So that the former command `python -m benchmarks.NAME`, from before there were folders, still works.
__path__ += [str(Path(__file__).parent / folder) for folder in ("accuracy", "robustness", "speed")]
