"""`python -m app.preflight`: checks whether this machine suits a service, and prints a line for each check."""

import argparse
import sys

from pydantic import ValidationError

from app.config import read_service
from app.core.errors import BadConfiguration
from app.preflight.checks import Machine, examine, read_needs
from app.preflight.machine import ThisMachine


def main(arguments: list[str] | None = None, machine: Machine | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m app.preflight",
        description="Checks whether this machine suits a service, one line per check, and exits as the service would.",
    )
    parser.add_argument("--service", choices=("detection", "grouping"), help="in place of SERVICE_TYPE")
    options = parser.parse_args(arguments)
    try:
        needs = read_needs(options.service or read_service("detection"))
    except ValidationError as error:
        names = ", ".join(str(part["loc"][0]).upper() for part in error.errors())
        sys.stderr.write(f"These settings must be put right: {names}.\n")
        return BadConfiguration.exit_code
    findings = examine(needs, machine or ThisMachine())
    for finding in findings:
        sys.stdout.write(f"{'wrong' if finding.error else 'ok':6}{finding.check:10}{finding.sentence}\n")
    return next((finding.error.exit_code for finding in findings if finding.error), 0)


if __name__ == "__main__":
    sys.exit(main())
