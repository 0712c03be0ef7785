"""Terraform run against moto's server, to look at what AWS would have been told."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from tests.tools import lacks

MODULES = Path(__file__).parents[2] / "infra/terraform/modules"
REGION = "eu-central-1"
PROVIDER = """
provider "aws" {
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""


class Emulated:
    """Clients of the emulator."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def client(self, service: str):  # noqa: ANN201 - boto3 clients are made at run time
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@contextmanager
def applied(module: str, arguments: str, folder: Path) -> Iterator[Emulated]:
    """While inside, the module is applied with these arguments (HCL). Skips where Terraform or its provider lacks."""
    (folder / "main.tf").write_text(f'{PROVIDER}\nmodule "it" {{\n  source = "{MODULES / module}"\n{arguments}\n}}\n')
    with moto() as endpoint:
        terraform = Terraform(folder, endpoint)
        terraform.init()
        terraform.run("apply", "-auto-approve", "-input=false")
        yield Emulated(endpoint)


class Terraform:
    """Terraform in one folder, told that the emulator is AWS."""

    def __init__(self, folder: Path, endpoint: str, variables: dict[str, str] | None = None) -> None:
        """`variables` by name, in HCL."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
        self._folder = folder
        self._environment = mine | {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            # What moto does not know ends in an error; the provider would ask for it 25 times, ever more slowly.
            "AWS_MAX_ATTEMPTS": "3",
            # The provider is loaded anew for each command, and a third of its time would go into collecting garbage.
            "GOGC": "400",
            **{f"TF_VAR_{name}": value for name, value in (variables or {}).items()},
        }

    def init(self) -> None:
        """Where Terraform or its provider lacks, the test is skipped or, with CI set, fails."""
        if shutil.which("terraform") is None:
            lacks("terraform is not installed: https://developer.hashicorp.com/terraform/install.")
        plugins = os.environ.get("TF_PLUGIN_DIR")
        ended = self._run(["init", "-input=false", *([f"-plugin-dir={plugins}"] if plugins else [])])
        if ended.returncode:
            lacks("The AWS provider can't be had: set TF_PLUGIN_DIR to a folder that has it, or go online.")

    def run(self, *command: str) -> str:
        """What the command printed; fails the test, with its last words, where it fails."""
        ended = self._run(list(command))
        if ended.returncode:
            pytest.fail(f"terraform {command[0]} failed:\n{ended.stderr[-3000:]}")
        return ended.stdout

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["terraform", *command, "-no-color"],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def moto() -> Iterator[str]:
    """URL of a moto server of its own, with the answers that the provider needs (see moto_server.py)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("moto_server.py")), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _await(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _await(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("moto's server did not start within 60 s")
