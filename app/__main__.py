"""`python -m app`: the service that SERVICE_TYPE names, once this machine is found to suit it; what the image runs."""

import sys

from app.bootstrap import run
from app.config import load_settings
from app.core.errors import FatalWorkerError
from app.preflight import checks as preflight
from app.telemetry.logs import Logging


def main() -> int:
    """The process's exit code."""
    try:
        settings = load_settings()
        # Not to CloudWatch as well: a machine that is wrong may not reach it, and the container's own log has it.
        with Logging(settings.service_type, settings.telemetry.model_copy(update={"log_group": None}), lambda: None):
            preflight.refuse(settings.service_type)
    except FatalWorkerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return run()


if __name__ == "__main__":
    sys.exit(main())
