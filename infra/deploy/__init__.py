"""A new image for the running services: `python -m infra.deploy --help`."""
