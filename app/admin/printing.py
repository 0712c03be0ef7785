"""How the commands of `python -m app.admin` print."""

from collections.abc import Callable

Say = Callable[[str, dict[str, object]], None]
"""Prints one thing: its line for people, its fields for scripts."""
