"""Builds the image of this checkout and pushes it to ECR under its commit: `python -m infra.deploy.push --name NAME`.

A commit that is in the repository already is neither built nor pushed again.
"""

import argparse
import base64
import os
import subprocess
import sys
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra.deploy.image import DeployError, find_digest, find_repository_uri
from infra.deploy.source import ROOT, make_head_tag


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.deploy.push", description=__doc__)
    parser.add_argument("--name", required=True, help="the ECR repository, which has the stack's name")
    parser.add_argument(
        "--force", action="store_true", help="push a checkout with uncommitted files too; its tag says so"
    )
    options = parser.parse_args(arguments)
    try:
        push(boto3.client("ecr"), options.name, make_head_tag(force=options.force))
    except (DeployError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def push(ecr: Any, name: str, tag: str) -> str:  # noqa: ANN401 - boto3 clients are made at run time
    """The digest of the image in ECR. Raises DeployError where it can't be built or pushed."""
    reference = f"{find_repository_uri(ecr, name)}:{tag}"
    digest = find_digest(ecr, name, tag)
    if digest:
        print(f"{reference} is there already")
    else:
        _run("build", [str(ROOT / "infra" / "build_image.sh"), reference])
        _log_in(ecr, reference.partition("/")[0])
        _run("push", ["docker", "push", reference])
        digest = find_digest(ecr, name, tag)
        if digest is None:
            raise DeployError(f"docker pushed {reference}, but ECR does not have it.")
    print(f"{reference}\n{digest}")
    return digest


def _log_in(ecr: Any, host: str) -> None:  # noqa: ANN401
    """By a token that is valid for twelve hours. It is passed by standard input: arguments are visible to all
    processes."""
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    _run("login", ["docker", "login", "--username", user, "--password-stdin", host], password)


def _run(what: str, command: list[str], standard_input: str | None = None) -> None:
    try:
        subprocess.run(command, input=standard_input, text=True, check=True, env=os.environ)
    except FileNotFoundError as error:
        raise DeployError(f"{command[0]} is missing; install Docker.") from error
    except subprocess.CalledProcessError as error:
        raise DeployError(f"The {what} failed with exit code {error.returncode}; see the lines above.") from error


if __name__ == "__main__":
    sys.exit(main())
