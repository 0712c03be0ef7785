"""The detection service: photos become faces. Settings come from the environment (see README.md)."""

import sys

from app.bootstrap import run

if __name__ == "__main__":
    sys.exit(run("detection"))
