"""`python -m benchmarks NAME [options] [--json]` runs one of these; without a name it lists them.

`python -m benchmarks NAME --help` says what a benchmark measures, what its options are and when its exit code is 1.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Benchmark(NamedTuple):
    """Its module below `benchmarks`, what it measures, and whether it prints JSON without `--json` too."""

    module: str
    measures: str
    prints_json_anyway: bool = False


BENCHMARKS = {
    "album": Benchmark("accuracy.album", "the people of a groups.json against a labelled album", True),
    "albums": Benchmark("accuracy.albums", "people of composed group photos with poor faces"),
    "calibration": Benchmark("accuracy.calibration", "whether a calibrated threshold holds for other people"),
    "continuity": Benchmark(
        "accuracy.continuity", "whether people keep ids and names under another model, other bytes and other keys"
    ),
    "covered": Benchmark("accuracy.covered", "faces detected behind masks, glasses, hands and hair"),
    "everybody": Benchmark("accuracy.everybody", "whether one setting serves every age, group and gallery size"),
    "find": Benchmark("accuracy.find", "whether a selfie finds its person, strangers see nobody, and how fast that is"),
    "grouping": Benchmark("accuracy.grouping", "how well faces are grouped into people, at any size"),
    "prefilter": Benchmark("accuracy.prefilter", "what the pre-filter rejects, and which faces are lost by it"),
    "quality": Benchmark("accuracy.quality", "whether the quality measures predict recognition; `fit` fits them again"),
    "rotated": Benchmark("accuracy.rotated", "faces detected in rotated photos, and what that costs"),
    "small_faces": Benchmark(
        "accuracy.small_faces", "what the closer look detects in group photos, and what it costs", True
    ),
    "verification": Benchmark("accuracy.verification", "accuracy of verification, against insightface's pipeline"),
    "coalescing": Benchmark("speed.coalescing", "grouping runs that a burst of photos leads to"),
    "decoding": Benchmark("speed.decoding", "what it costs that untrusted pictures are decoded in child processes"),
    "detection": Benchmark("speed.detection", "photos a second against insightface's loop"),
    "load": Benchmark("speed.load", "messages a second through worker processes with a stub for the networks"),
    "loading": Benchmark("speed.loading", "seconds until grouping has a gallery's faces"),
    "neighbours": Benchmark("speed.neighbours", "seconds, memory and recall of the search for neighbours"),
    "output": Benchmark("speed.output", "bytes of what applications read of a gallery, and of one more photo"),
    "prefilter_savings": Benchmark("speed.prefilter_savings", "what the pre-filter saves a service", True),
    "service": Benchmark("speed.service", "photos a second of the detection service as a process", True),
    "telemetry": Benchmark("speed.telemetry", "what metrics and traces cost a photo"),
    "chaos": Benchmark("chaos.__main__", "whether anything is lost or done twice when machines die", True),
    "edits": Benchmark("chaos.edits", "whether each edit of people is applied exactly once, and how soon"),
    "erasure": Benchmark("robustness.erasure", "whether what was forgotten is gone and stays gone", True),
    "exits": Benchmark("robustness.exits", "seconds from SIGTERM to the end", True),
    "fuzz": Benchmark("robustness.fuzz", "whether hostile input crashes or hangs a worker", True),
    "hostile": Benchmark("robustness.hostile", "whether files made to hurt stop the service or any photo", True),
    "idempotence": Benchmark("robustness.idempotence", "whether a result is the same after five more messages", True),
    "memory": Benchmark("robustness.memory", "whether the memory of the detection service grows", True),
    "storm": Benchmark("robustness.storm", "whether 2,000 tiny photos at once stay within bounds", True),
    "scaling": Benchmark("scaling.__main__", "a simulated day of load on ECS, Batch and both"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("", "-h", "--help"):
        print(__doc__)
        print("\n".join(f"{one:18}{BENCHMARKS[one].measures}" for one in BENCHMARKS))
        return 0
    chosen = BENCHMARKS.get(name)
    if chosen is None:
        print(f"There is no benchmark {name!r}; `python -m benchmarks` lists them.", file=sys.stderr)
        return 2
    if chosen.prints_json_anyway:
        rest = [option for option in rest if option != "--json"]
    code: int = importlib.import_module(f"benchmarks.{chosen.module}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
