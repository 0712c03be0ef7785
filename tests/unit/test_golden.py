from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from app.core.arrays import Floats, Image
from app.core.errors import BadModelPack
from app.packs.store import PackStore
from app.vision import golden
from app.vision.face_pack import FacePack, load_pack
from app.vision.types import Detections
from tests.toy_pack import ToyDetector, toy_manifest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class KnowsTheFace:
    """Finds the face where it is, `count` times."""

    count: int = 1
    view_px = 640

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        return [self._face(len(image) / 320) for image in images]

    def _face(self, scale: float) -> Detections:
        boxes = np.tile(golden.FACE * scale, (self.count, 1)).astype(np.float32)
        landmarks = boxes[:, None, :2] + np.arange(10, dtype=np.float32).reshape(5, 2)
        return Detections(boxes, landmarks, np.ones(self.count, np.float32))


@dataclass
class Fixed:
    """Gives these vectors in turn."""

    given: list[list[float]]

    def compute_vectors(self, chips: Image) -> Floats:
        return np.array([self.given.pop(0) for _ in chips], np.float32)


def pack_of(*vectors: list[float], count: int = 1) -> FacePack:
    return FacePack(toy_manifest(similarity_threshold=0.5), KnowsTheFace(count), Fixed(list(vectors)))


def test_a_pack_that_detects_the_face_and_recognises_it_passes() -> None:
    golden.check_golden_photo(pack_of([1, 0], [0.8, 0.6]))


@pytest.mark.parametrize("second", [[0, 1], [-1, 0], [np.nan, 0]])
def test_a_pack_that_does_not_know_the_face_again_is_refused(second: list[float]) -> None:
    with pytest.raises(BadModelPack, match="The pack toy does not recognise a face in a smaller copy of its photo"):
        golden.check_golden_photo(pack_of([1, 0], second))


@pytest.mark.parametrize("count", [0, 2])
def test_a_pack_that_finds_another_number_of_faces_is_refused(count: int) -> None:
    with pytest.raises(BadModelPack, match=f"detects {count} faces at .* in a photo of 320 px that has one"):
        golden.check_golden_photo(pack_of(count=count))


def test_a_pack_that_finds_a_face_elsewhere_is_refused() -> None:
    with pytest.raises(BadModelPack, match="Check the manifest's detector"):
        golden.check_golden_photo(FacePack(toy_manifest(), ToyDetector(1), Fixed([])))


@pytest.mark.parametrize("name", ["open", "open-1", "tests/packs/shared-insightface.toml"])
def test_real_packs_pass(name: str, shared_dir: Path) -> None:
    pack = PackStore(ROOT / "models").install(str(ROOT / name) if name.endswith(".toml") else name)
    golden.check_golden_photo(load_pack(pack, "cpu", 1))
