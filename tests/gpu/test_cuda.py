"""What only a GPU can show. Skipped, with the reason, where ONNX Runtime has none."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest

from app.core.arrays import Image
from app.core.pictures import PhotoLimits
from app.packs.manifest import PackManifest, read_manifest
from app.packs.store import InstalledPack
from app.vision import golden
from app.vision.decode import decode
from app.vision.face_pack import FacePack, load_pack
from benchmarks.speed.synthetic import build_pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers(), reason="this ONNX Runtime has no CUDA provider"
    ),
]


@dataclass(frozen=True)
class BothWays:
    """One pack on the GPU and on the CPU."""

    manifest: PackManifest
    cuda: FacePack
    cpu: FacePack


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BothWays]:
    path = build_pack("buffalo_l", tmp_path_factory.mktemp("synthetic"))
    manifest = read_manifest(path)
    pack = InstalledPack(manifest, path.parent)
    yield BothWays(manifest, *(load_pack(pack, provider, 0) for provider in ("cuda", "cpu")))


@pytest.fixture(scope="module")
def photos() -> list[Image]:
    photo = decode(golden.PHOTO.read_bytes(), PhotoLimits(1_000_000, 1_000_000))
    return [photo, photo[:, ::-1].copy(), photo[:240].copy(), photo]


def test_a_batch_gives_what_single_photos_give(both: BothWays, photos: list[Image]) -> None:
    for together, image in zip(both.cuda.detect(photos), photos, strict=True):
        (alone,) = both.cuda.detect([image])
        assert np.allclose(together.boxes, alone.boxes, atol=0.01)
        assert np.allclose(together.scores, alone.scores, atol=1e-5)


def test_the_gpu_finds_what_the_cpu_finds(both: BothWays, photos: list[Image]) -> None:
    for on_gpu, on_cpu in zip(both.cuda.detect(photos), both.cpu.detect(photos), strict=True):
        assert len(on_gpu) == len(on_cpu)
        # TF32 keeps ten bits of each factor.
        assert np.allclose(on_gpu.boxes, on_cpu.boxes, atol=0.5)
        assert np.allclose(on_gpu.scores, on_cpu.scores, atol=0.01)


def test_embeddings_of_gpu_and_cpu_are_of_one_space(both: BothWays) -> None:
    chips = np.random.default_rng(0).integers(0, 256, (33, 112, 112, 3), np.uint8)
    (on_gpu,), (on_cpu,) = both.cuda.embed([chips]), both.cpu.embed([chips])
    assert (on_gpu * on_cpu).sum(axis=1).min() > 0.999


def test_a_batch_too_large_for_the_memory_is_halved_and_done(both: BothWays) -> None:
    """More chips in one call than the largest card has memory for are cut into runs that fit."""
    chips = np.zeros((4096, 112, 112, 3), np.uint8)
    (embeddings,) = both.cuda.embed([chips])
    assert embeddings.shape == (4096, both.manifest.embedder.dimension)
