"""`python -m app.reference`: writes the reference pages that follow from the code (settings, metrics, JSON Schemas).

`--check` writes nothing and exits 1 where a page is out of date.
"""

import argparse
import json
import sys
from pathlib import Path

from app.config import make_settings_page
from app.core.events import make_event_schemas
from app.core.finds import FindAnswer
from app.core.messages import make_json_schemas
from app.core.stages import make_stages_table
from app.grouping.output import make_json_schemas as make_output_schemas
from app.telemetry.catalogue import make_metrics_table

DOCS = Path(__file__).parents[1] / "docs"

CONFIGURATION_INTRODUCTION = """# Configuration

Everything is set by environment variables. A wrong or missing value stops the start, with every problem listed at once.
A service demands only the settings that it reads. This page is written by `python -m app.reference`.

"""

METRICS_INTRODUCTION = """# Metrics

Exported where `METRICS` names an exporter; [telemetry](telemetry.md) says how. This page is written by
`python -m app.reference`.

In CloudWatch each has the dimension sets {`Environment`, `Service`} and {`Environment`, `Service`, `Compute`}, in the
namespace `METRICS_NAMESPACE`. A point of a counter is what it grew by since the last point, so its `Sum` counts; a
distribution has percentiles (`p50`, `p99`) within 2.5 %, an exact `Sum`, `Minimum`, `Maximum` and `SampleCount`; a
gauge is read every 20 s. A metric without values has no points: alarms must treat missing data as zero or as good.

In Prometheus the names are in small letters, `PhotosIndexed` being `face_worker_photos_indexed_total`, with the labels
`environment`, `service` and `compute`; distributions are histograms, and a counter is there from the start.

"""


STAGES_INTRODUCTION = """
## Stages of a photo

Every photo's log line and record have the seconds of each stage that it passed, by these names; so do its traces.

"""


def make_pages() -> dict[Path, str]:
    """Path below docs/ → text."""
    schemas = {
        **make_json_schemas(),
        **make_event_schemas(),
        **make_output_schemas(),
        "find_answer": FindAnswer.model_json_schema(),
    }
    written = {
        Path("schemas") / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()
    }
    written[Path("configuration.md")] = CONFIGURATION_INTRODUCTION + make_settings_page()
    written[Path("metrics.md")] = (
        METRICS_INTRODUCTION + make_metrics_table() + STAGES_INTRODUCTION + make_stages_table()
    )
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only list the pages that are out of date")
    check = parser.parse_args(arguments).check
    outdated = [path for path, text in make_pages().items() if _read(DOCS / path) != text]
    for path in outdated:
        if check:
            sys.stderr.write(f"docs/{path} is out of date; run `make reference`.\n")
        else:
            (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
            (DOCS / path).write_text(make_pages()[path], "utf-8")
    return 1 if check and outdated else 0


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
