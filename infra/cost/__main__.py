"""The cost of 1,000 photos on ECS and Batch, and the price of Rekognition for them.

`python -m infra.cost [--photos 50000] [--seconds-per-photo S] [--detection-on TYPE] [--json]`

Prices are in infra/prices.toml, the workload of a photo in infra/workload.toml, each with its source. Not included:
MongoDB, the storage of photos and results, traffic out of AWS, and NAT gateways (S3 and SQS are reached by endpoints).
"""

import argparse
import json
import sys
from pathlib import Path

from infra.cost.inputs import PRICES, WORKLOAD, Prices, UnusableFile, Workload, parse_positive, read_table
from infra.cost.model import Model
from infra.cost.report import Question, make_json, make_text


def main(arguments: list[str] | None = None) -> int:
    options = _make_parser().parse_args(arguments)
    try:
        model = _make_model(options)
    except UnusableFile as error:
        print(error, file=sys.stderr)
        return 1
    question = Question(options.photos, options.photos_a_month)
    print(json.dumps(make_json(model, question)) if options.json else make_text(model, question), end="")
    return 0


def _make_model(options: argparse.Namespace) -> Model:
    prices, workload = read_table(options.prices, Prices), read_table(options.workload, Workload)
    for instance_type in (options.detection_on, options.grouping_on):
        if instance_type not in prices.instances.types:
            known = ", ".join(prices.instances.types)
            raise UnusableFile(f"{options.prices} has no price of {instance_type}, only of {known}.")
    if options.seconds_per_photo is not None:
        workload = workload.replace_seconds_per_photo(options.seconds_per_photo, "given by --seconds-per-photo")
    return Model(prices, workload, options.detection_on, options.grouping_on)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=_parse_count, default=50_000, help="photos that arrive at once (50,000)")
    parser.add_argument(
        "--photos-a-month",
        type=_parse_count,
        default=1_000_000,
        help="photos in a month, for prices by the month (1,000,000)",
    )
    parser.add_argument(
        "--seconds-per-photo", type=parse_positive, help="seconds of one instance, in place of the file's"
    )
    parser.add_argument("--detection-on", default="g4dn.xlarge", metavar="TYPE", help="instance type (g4dn.xlarge)")
    parser.add_argument("--grouping-on", default="c5.2xlarge", metavar="TYPE", help="instance type (c5.2xlarge)")
    parser.add_argument("--prices", type=Path, default=PRICES, metavar="FILE")
    parser.add_argument("--workload", type=Path, default=WORKLOAD, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


def _parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
