"""`python -m app.reference`: writes the reference pages that follow from the code (settings, JSON Schemas).

`--check` writes nothing and exits 1 where a page is out of date.
"""

import argparse
import json
import sys
from pathlib import Path

from app.config import settings_table
from app.grouping.output import Groups
from app.messages import json_schemas

DOCS = Path(__file__).parents[1] / "docs"


def pages() -> dict[Path, str]:
    """Path below docs/ → text."""
    schemas = {**json_schemas(), "groups": Groups.model_json_schema()}
    written = {
        Path("schemas") / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()
    }
    written[Path("configuration.md")] = (
        "# Configuration\n\nEverything is set by environment variables. A wrong or missing value stops the start, "
        "with every problem listed at once.\nThis page is written by `python -m app.reference`.\n\n" + settings_table()
    )
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which pages are out of date")
    check = parser.parse_args(arguments).check
    outdated = [path for path, text in pages().items() if _read(DOCS / path) != text]
    for path in outdated:
        if check:
            sys.stderr.write(f"docs/{path} is out of date; run `make reference`.\n")
        else:
            (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
            (DOCS / path).write_text(pages()[path], "utf-8")
    return 1 if check and outdated else 0


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
