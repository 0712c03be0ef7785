import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from app.core.errors import BadModelPack, DeviceOutOfMemory
from app.packs.manifest import EmbedderConfig
from app.vision.embedder import Embedder, open_embedder
from tests import photos
from tests.toy_pack import onnx_graph

SIDE, DIMENSION = 8, 4
WEIGHTS = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, DIMENSION)).astype(np.float32)
CONFIG = EmbedderConfig(file="toy.onnx", input_size_px=SIDE, dimension=DIMENSION)
CHIPS = np.stack([photos.noise(SIDE, SIDE, seed) for seed in range(5)])

FLATTEN = make_node("Flatten", ["image"], ["flat"])
DENSE = make_node("MatMul", ["flat", "weights"], ["dense"])


def saved(tmp_path: Path, nodes: list[onnx.NodeProto], batch: int | str = 1, **constants: np.ndarray) -> Path:
    path = tmp_path / "toy.onnx"
    path.write_bytes(onnx_graph(nodes, {"weights": WEIGHTS, **constants}, [batch, 3, SIDE, SIDE]))
    return path


def sound_graph(tmp_path: Path, batch: int | str = 1) -> Path:
    return saved(tmp_path, [FLATTEN, DENSE, make_node("Identity", ["dense"], ["out"])], batch)


def expected(chips: np.ndarray, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    blob = ((chips.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2).reshape(len(chips), -1)
    vectors = blob @ weights
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class SpySession:
    """Gives the mean of each channel, and notes the batches."""

    input_names = ("image",)

    def __init__(self) -> None:
        self.blobs: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.blobs.append(inputs["image"])
        return [inputs["image"].mean(axis=(2, 3))]


@pytest.mark.parametrize("batch", [1, "N", 5])
def test_a_graph_runs_in_batches_whatever_batch_its_export_fixed(tmp_path: Path, batch: int | str) -> None:
    embedder = open_embedder(sound_graph(tmp_path, batch), CONFIG, "cpu", 1)
    assert embedder._limit.now_px > SIDE * SIDE
    assert np.allclose(embedder.embed(CHIPS), expected(CHIPS), atol=1e-5)


def test_embeddings_are_float32_of_unit_length(tmp_path: Path) -> None:
    embeddings = open_embedder(sound_graph(tmp_path), CONFIG, "cpu", 1).embed(CHIPS)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_a_graph_that_mixes_its_rows_runs_one_face_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mean = make_node("ReduceMean", ["dense"], ["mean"], axes=[0], keepdims=1)
    graph = saved(tmp_path, [FLATTEN, DENSE, mean, make_node("Add", ["dense", "mean"], ["out"])])
    embedder = open_embedder(graph, CONFIG, "cpu", 1)
    assert np.allclose(embedder.embed(CHIPS), expected(CHIPS), atol=1e-5)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert warning.getMessage() == "toy.onnx can't be run in batches; it runs one face at a time"


def test_a_graph_that_fails_on_a_batch_runs_one_face_at_a_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = make_node("Reshape", ["image", "shape"], ["flat"])
    nodes = [fixed, DENSE, make_node("Identity", ["dense"], ["out"])]
    graph = saved(tmp_path, nodes, shape=np.array([1, 3 * SIDE * SIDE], np.int64))
    embedder = open_embedder(graph, CONFIG, "cpu", 1)
    assert np.allclose(embedder.embed(CHIPS), expected(CHIPS), atol=1e-5)
    assert "one face at a time" in caplog.text


@pytest.mark.parametrize("dimension", [2, 3, 512])
def test_another_dimension_than_the_manifests_is_a_bad_pack(tmp_path: Path, dimension: int) -> None:
    config = CONFIG.model_copy(update={"dimension": dimension})
    with pytest.raises(BadModelPack, match=rf"toy\.onnx doesn't give {dimension} numbers a face"):
        open_embedder(sound_graph(tmp_path), config, "cpu", 1)


def test_many_chips_go_through_in_batches_of_powers_of_two_within_the_size_that_is_set() -> None:
    session = SpySession()
    chips = np.stack([photos.noise(SIDE, SIDE, seed) for seed in range(7)])
    config = CONFIG.model_copy(update={"dimension": 3})
    embeddings = Embedder(session, config, max_batch=5).embed(chips)
    assert [len(blob) for blob in session.blobs] == [4, 2, 1]
    assert np.array_equal(embeddings, Embedder(session, config, max_batch=1).embed(chips))


def test_no_chips_give_no_embeddings_and_run_nothing() -> None:
    session = SpySession()
    assert Embedder(session, CONFIG).embed(np.empty((0, SIDE, SIDE, 3), np.uint8)).shape == (0, DIMENSION)
    assert session.blobs == []


@pytest.mark.parametrize(("order", "first"), [("rgb", 0), ("bgr", 2)])
def test_channels_come_in_the_order_the_manifest_names(order: Any, first: int) -> None:
    session = SpySession()
    chip = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    chip[..., first] = 255
    config = EmbedderConfig(file="x", dimension=3, channel_order=order, mean=(0, 0, 0), scale=255, input_size_px=SIDE)
    assert Embedder(session, config).embed(chip).tolist() == [[1, 0, 0]]


def test_a_chip_without_any_signal_gives_no_nan() -> None:
    config = EmbedderConfig(file="x", dimension=3, mean=(0, 0, 0), scale=1, input_size_px=SIDE)
    assert Embedder(SpySession(), config).embed(np.zeros((1, SIDE, SIDE, 3), np.uint8)).tolist() == [[0, 0, 0]]


class SmallDevice(SpySession):
    """Runs out of memory with more than so many chips at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if len(inputs["image"]) > self.most:
            raise DeviceOutOfMemory("CUDA out of memory")
        return super().run(inputs)


def test_a_batch_that_is_too_much_for_the_device_is_halved_until_it_fits() -> None:
    config = CONFIG.model_copy(update={"dimension": 3})
    small, large = SmallDevice(most=2), SpySession()
    assert np.array_equal(Embedder(small, config).embed(CHIPS), Embedder(large, config).embed(CHIPS))
    assert [len(blob) for blob in small.blobs] == [2, 2, 1]


def test_a_device_too_small_for_one_face_gives_the_message_back() -> None:
    with pytest.raises(DeviceOutOfMemory):
        Embedder(SmallDevice(most=0), CONFIG.model_copy(update={"dimension": 3})).embed(CHIPS)
