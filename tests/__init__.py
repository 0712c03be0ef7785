import app  # noqa: F401 - before any library: see there
