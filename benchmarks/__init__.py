"""Commands that measure: `python -m benchmarks` lists them."""

from pathlib import Path

# So that `python -m benchmarks.NAME`, by which they were called before they had folders, still finds them.
__path__ += [str(Path(__file__).parent / folder) for folder in ("accuracy", "robustness", "speed")]
