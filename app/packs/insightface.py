"""InsightFace packs through the insightface package's own loader and downloader.

The package is imported here only, when it is needed: importing it takes a second and loads scikit-image.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime

from app.core.errors import BadModelPack
from app.packs.manifest import EmbedderConfig, PackManifest, ScrfdConfig, Source

UNCALIBRATED_THRESHOLD = 0.45
"""For a directory without a manifest: between the thresholds of the InsightFace packs that come with one."""


def describe_directory(directory: Path) -> PackManifest:
    """A manifest for a directory like InsightFace's own packs, by the package's model router.

    Raises BadModelPack where no SCRFD detector or no embedder is among its .onnx files.
    """
    from insightface.model_zoo import model_zoo

    models: dict[str, tuple[Path, Any]] = {}
    onnxruntime.set_default_logger_severity(3)
    for path in sorted(directory.glob("*.onnx")):
        try:
            model = model_zoo.get_model(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadModelPack(f"insightface can't load {path}: {error}") from error
        if model is not None:
            models.setdefault(model.taskname, (path, model))
    if "detection" not in models or "recognition" not in models:
        raise BadModelPack(
            f"{directory} holds no InsightFace pack: it needs an SCRFD detector and an ArcFace embedder."
        )
    detector, embedder = models["detection"][0], models["recognition"][0]
    return PackManifest(
        name=directory.resolve().name.lower().replace(" ", "-"),
        licence="unknown; InsightFace's own weights are for research only",
        commercial_use=False,
        files={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (detector, embedder)},
        detector=ScrfdConfig(kind="scrfd", file=detector.name),
        embedder=_make_embedder_config(embedder.name, models["recognition"][1]),
        similarity_threshold=UNCALIBRATED_THRESHOLD,
        source=Source(kind="directory", path="."),
    )


def _make_embedder_config(name: str, model: Any) -> EmbedderConfig:  # noqa: ANN401 - insightface has no types
    return EmbedderConfig(
        file=name,
        input_size_px=int(model.input_size[0]),
        mean=(model.input_mean,) * 3,
        scale=model.input_std,
        dimension=int(model.output_shape[-1]),
    )


def download_pack(name: str, files: list[str], target: Path) -> None:
    """Have insightface fetch its pack `name`, and move the wanted files to `target`. Raises BadModelPack."""
    from insightface.utils import storage

    with tempfile.TemporaryDirectory(dir=target.parent) as root:
        try:
            storage.download("models", name, root=root)
        except Exception as error:
            raise BadModelPack(f"insightface could not fetch the pack {name}: {error}") from error
        for file in files:
            # Some archives hold their files in a folder of the pack's name.
            found = next(Path(root).rglob(file), None)
            if found is None:
                raise BadModelPack(f"insightface's pack {name} has no file {file}.")
            shutil.move(found, target / file)
