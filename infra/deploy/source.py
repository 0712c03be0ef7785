"""The checkout that an image is built from."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from infra.deploy.image import DeployError

ROOT = Path(__file__).parents[2]
COMMIT_LETTERS = 12


def make_head_tag(root: Path = ROOT, *, force: bool = False) -> str:
    """The image tag of what is checked out: the commit's first 12 letters.

    Raises DeployError where files differ from the commit, for the tag would lie; with `force` the tag says so.
    """
    commit = _run_git(root, "rev-parse", f"--short={COMMIT_LETTERS}", "HEAD")
    changed = _run_git(root, "status", "--porcelain").splitlines()
    if not changed:
        return commit
    if not force:
        raise DeployError(
            f"The checkout differs from the commit {commit}, such as in {changed[0].split()[-1]}: commit it, or set "
            "FORCE=1 for an image that is tagged as dirty."
        )
    # With the time, since such a tag can't be told from the next one's by the commit, and tags are never moved.
    return f"{commit}-dirty-{datetime.now(UTC):%Y%m%dT%H%M%S}"


def _run_git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise DeployError("git is missing; install it.") from error
    except subprocess.CalledProcessError as error:
        raise DeployError(f"git {arguments[0]} failed: {error.stderr.strip()}") from error
    return done.stdout.strip("\n")
