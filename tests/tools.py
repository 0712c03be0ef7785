"""What to do where a machine lacks a tool that a test needs."""

import os
from typing import NoReturn

import pytest


def lacks(sentence: str) -> NoReturn:
    """Skips the test, and tells why; with CI set it fails, for there every tool is promised."""
    if os.environ.get("CI"):
        pytest.fail(f"{sentence} With CI set, this fails.")
    pytest.skip(sentence)
