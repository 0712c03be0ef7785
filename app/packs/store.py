"""Finds a pack, fetches its weights, and checks them by hash. All processes of a host share one copy."""

import hashlib
import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from app.core.errors import BadModelPack
from app.packs import https
from app.packs.insightface import describe_directory, download_pack
from app.packs.manifest import PackManifest, read_manifest

Download = Callable[[str, Path], None]
"""Copies the object at an s3:// URL to a path."""

PARTS = ".parts"
"""Beside the weights: files of the source `https` until all of them are there."""

ASIDE = ".fetch-"
"""Beside the weights: how the folders begin in which an install gathers the files."""

MOVED_BUILDERS = {"app.packs.build_open": "app.packs.open_pack.build"}
"""The former module of a builder, which older manifests name → its module."""


@dataclass(frozen=True)
class InstalledPack:
    """A pack whose weights lie in `weights`, and its whitening, if it has one, in `home`; every file has its hash."""

    manifest: PackManifest
    weights: Path
    home: Path = Path()

    @property
    def whitening(self) -> Path | None:
        """The file of the whitening."""
        name = self.manifest.embedder.whitening
        return self.home / name if name else None


@dataclass(frozen=True)
class PackStore:
    """Packs of one host. `model_source` (s3://bucket/prefix), where set, is asked before a pack's own source."""

    models_dir: Path
    accept_research_licence: bool = False
    model_source: str | None = None
    download: Download | None = None

    def read(self, pack: str) -> PackManifest:
        """The manifest alone, without fetching weights. Raises BadModelPack."""
        manifest, _ = self._find(pack)
        _check_hashes_are_known(manifest, pack)
        return manifest

    def find_manifest(self, pack: str) -> Path:
        """The file of a pack's manifest. Raises BadModelPack where there is none."""
        path = self._find_manifest_file(pack)
        if path is None:
            self.read(pack)
            raise BadModelPack(
                f"{pack} has no manifest. Write one after those in {self.models_dir}, with what "
                f"`python -m app.packs describe {pack}` prints, and name that."
            )
        return path

    def install(self, pack: str, *, whitened: bool = True) -> InstalledPack:
        """The pack of this name, manifest path or directory, fetched or built where its weights are missing.

        Unless `whitened`, its vectors are as its network gives them.

        Raises BadModelPack where it is unknown or damaged, can't be fetched, or its licence is not accepted.
        """
        manifest, home = self._find(pack)
        manifest = manifest if whitened else manifest.without_whitening()
        _check_hashes_are_known(manifest, pack)
        self._check_licence(manifest)
        _verify_whitening(manifest, home)
        if manifest.source.kind == "directory":
            weights = (home / manifest.source.path).resolve()
            _verify(manifest, weights)
            return InstalledPack(manifest, weights, home)
        weights = self.models_dir / manifest.name
        # No lock where all files are there: none can be made in the image, which is read-only.
        if not _is_complete(manifest, weights):
            self._fetch_once(manifest, weights)
        elif any(weights.glob(f"{ASIDE}*")):
            # Left by an install that was killed at its very end. The pack can be used though they can't be removed.
            with suppress(BadModelPack), _lock(manifest, weights):
                _remove_leftovers(weights)
        _verify(manifest, weights)
        return InstalledPack(manifest, weights, home)

    def find_missing_hashes(self, pack: str) -> dict[str, str]:
        """File → SHA-256 of the files for which the manifest has no hash, as they come from their source now.

        They are kept for `install`, which takes them once the manifest has their hashes. Raises BadModelPack.
        """
        manifest, _ = self._find(pack)
        self._check_licence(manifest)
        weights = self.models_dir / manifest.name
        parts = weights / PARTS
        if not manifest.missing_hashes:
            return {}
        with _lock(manifest, weights):
            parts.mkdir(exist_ok=True)
            self._download_or_build(manifest, parts)
            return {name: compute_sha256(parts / name) for name in manifest.missing_hashes}

    def _find(self, pack: str) -> tuple[PackManifest, Path]:
        path = self._find_manifest_file(pack)
        if path is not None:
            return read_manifest(path), path.parent
        if Path(pack).is_dir():
            return describe_directory(Path(pack)), Path(pack)
        known = ", ".join(sorted(entry.stem for entry in self.models_dir.glob("*.toml"))) or "none"
        raise BadModelPack(f"There is no pack {pack!r} in {self.models_dir} (known: {known}).")

    def _find_manifest_file(self, pack: str) -> Path | None:
        named = self.models_dir / f"{pack}.toml"
        if Path(pack).suffix == ".toml":
            return Path(pack)
        return named if named.is_file() else None

    def _check_licence(self, manifest: PackManifest) -> None:
        # A user who put the weights into a folder has seen their licence there.
        fetched = manifest.source.kind != "directory"
        if fetched and not manifest.commercial_use and not self.accept_research_licence:
            raise BadModelPack(
                f"The pack {manifest.name} is licensed as “{manifest.licence}”. Set ACCEPT_RESEARCH_LICENCE=true "
                "if your use is allowed by it, or use MODEL_PACK=open."
            )

    def _fetch_once(self, manifest: PackManifest, weights: Path) -> None:
        with _lock(manifest, weights):
            _remove_leftovers(weights)
            if not _is_complete(manifest, weights):
                self._fetch(manifest, weights)

    def _fetch(self, manifest: PackManifest, weights: Path) -> None:
        """Put all files into a temporary folder, check them, and move each into place in one step."""
        with tempfile.TemporaryDirectory(dir=weights, prefix=ASIDE) as aside:
            self._download_or_build(manifest, Path(aside))
            _verify(manifest, Path(aside))
            for name in manifest.weight_files:
                (Path(aside) / name).replace(weights / name)
        shutil.rmtree(weights / PARTS, ignore_errors=True)

    def _download_or_build(self, manifest: PackManifest, aside: Path) -> None:
        source = manifest.source
        prefix = self.model_source or (source.path if source.kind == "s3" else None)
        if prefix and self.download:
            for name in manifest.file_names:
                self.download(f"{prefix.rstrip('/')}/{manifest.name}/{name}", aside / name)
        elif source.kind == "built":
            importlib.import_module(MOVED_BUILDERS.get(source.path, source.path)).build(aside)
        elif source.kind == "insightface":
            download_pack(manifest.name, manifest.weight_files, aside)
        elif source.kind == "https":
            _download_parts(manifest, aside)
        else:
            raise BadModelPack(
                f"The pack {manifest.name} lies on S3 at {source.path}, which can't be reached from here."
            )


@contextmanager
def _lock(manifest: PackManifest, weights: Path) -> Iterator[None]:
    """While inside, no other process writes the pack's weights. Raises BadModelPack where nothing can be written."""
    try:
        # In the image a pack's folder is a link into the volume, since the image itself is read-only.
        weights.resolve().mkdir(parents=True, exist_ok=True)
        with FileLock(weights / ".lock"):
            yield
    except OSError as error:
        raise BadModelPack(
            f"The weights of the pack {manifest.name} can't be written to {weights}: {error}. "
            "Mount a writable folder there, or bring them into the image."
        ) from error


def _remove_leftovers(weights: Path) -> None:
    """Remove the folders of installs that were killed. Only for the owner of the lock, who has none yet."""
    for folder in weights.glob(f"{ASIDE}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _download_parts(manifest: PackManifest, aside: Path) -> None:
    """Complete all files among the parts, which a download that fails leaves for the next one, then move them."""
    parts = aside.parent / PARTS
    parts.mkdir(exist_ok=True)
    for name, remote in manifest.source.files.items():
        https.download(name, remote, parts / name)
        _check_part(manifest, name, parts)
    for name in manifest.source.files:
        (parts / name).replace(aside / name)


def _check_part(manifest: PackManifest, name: str, parts: Path) -> None:
    expected, remote = manifest.files.get(name), manifest.source.files[name]
    if expected is None or (actual := compute_sha256(parts / name)) == expected:
        return
    https.forget(parts / name)
    raise BadModelPack(
        f"The file {name} from {remote.url} has sha256 {actual}, not {expected} as the manifest of {manifest.name} "
        "says. It was removed. If it is wrong again, the publisher has another file there: compare its hash with what "
        "the publisher states before you correct the manifest."
    )


def _check_hashes_are_known(manifest: PackManifest, pack: str) -> None:
    if manifest.missing_hashes:
        raise BadModelPack(
            f"The manifest of {manifest.name} has no hash of {', '.join(manifest.missing_hashes)}. Run "
            f"`python -m app.packs install {pack}`, which prints them, and write them into the manifest."
        )


def _is_complete(manifest: PackManifest, weights: Path) -> bool:
    return all((weights / name).is_file() for name in manifest.weight_files)


def _verify(manifest: PackManifest, weights: Path) -> None:
    for name in manifest.weight_files:
        _verify_file(weights / name, manifest.files[name], f"run `python -m app.packs install {manifest.name}`")


def _verify_whitening(manifest: PackManifest, home: Path) -> None:
    name = manifest.embedder.whitening
    if name:
        remedy = f"copy it there together with the manifest, or run `python -m workshop crowd {manifest.name}`"
        _verify_file(home / name, manifest.files[name], remedy)


def _verify_file(path: Path, expected: str, remedy: str) -> None:
    if not path.is_file():
        raise BadModelPack(f"The file {path} of the pack is missing; {remedy}.")
    actual = compute_sha256(path)
    if actual != expected:
        raise BadModelPack(
            f"The file {path} of the pack has sha256 {actual}, not {expected} as the manifest says. "
            "Delete the file to get it again, or correct the manifest."
        )


def compute_sha256(path: Path) -> str:
    """Hash of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
