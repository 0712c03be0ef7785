"""Deploys a new image to the running services: `python -m infra.deploy --help`."""
