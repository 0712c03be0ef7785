"""`python -m app`: the service that SERVICE_TYPE names; what the image runs."""

import sys

from app.bootstrap import run

if __name__ == "__main__":
    sys.exit(run())
