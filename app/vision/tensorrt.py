"""Builds a pack's TensorRT engines beforehand: without them in its cache, a worker builds them itself, for minutes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from app.core.errors import BadConfiguration
from app.packs.manifest import PackManifest
from app.packs.store import InstalledPack
from app.vision import embedder, mtcnn, one_stage
from app.vision.sessions import TENSORRT, GpuOptions, ShapeProfile, free_batch_dimension, open_session

FOLDER = "tensorrt"
"""Below the folder of variants."""


def choose_profile(manifest: PackManifest, network: str) -> ShapeProfile:
    """The input shapes (N,3,h,w) of a network of this pack. A worker must open its session with the same profile.

    Raises BadConfiguration for a detector that no engine can be built for.
    """
    if network == manifest.embedder.file:
        side_px = manifest.embedder.input_size_px
        return _make_square_profile(side_px, usual=8, most=embedder.MAX_BATCH)
    config = manifest.detector
    if config.kind == "yunet":
        raise BadConfiguration("no engine can be built for a YuNet detector; it runs on CUDA as it is.")
    if config.kind != "mtcnn":
        usual_px = max(config.input_sizes_px)
        most_px = max(usual_px, config.closer_look_px)
        # Most cameras' photos are 3:2.
        usual = (4, 3, -(-usual_px * 2 // 3 // one_stage.GRID_PX) * one_stage.GRID_PX, usual_px)
        least, most = (1, 3, one_stage.GRID_PX, one_stage.GRID_PX), (one_stage.MAX_BATCH, 3, most_px, most_px)
        return ShapeProfile(least, usual, most)
    if network == config.pnet:
        least_px, most_px = mtcnn.PNET_WINDOW_PX, config.max_side_px
        return ShapeProfile((1, 3, least_px, least_px), (1, 3, most_px // 3, most_px // 2), (1, 3, most_px, most_px))
    side_px = mtcnn.RNET_INPUT_PX if network == config.rnet else mtcnn.ONET_INPUT_PX
    return _make_square_profile(side_px, usual=32, most=mtcnn.PATCHES_PER_RUN)


def build_engines(installed: InstalledPack, folder: Path, say: Callable[[str], None]) -> None:
    """Fill `folder` with the engines of all networks, by running each at the least and the usual shape.

    They are not run at the largest shape: it has the most photos of the largest size, and a worker limits the pixels of
    a run, so it never runs that shape.

    Raises BadConfiguration where ONNX Runtime has no TensorRT here, DeviceLost and BadModelPack where it fails.
    """
    if TENSORRT not in ort.get_available_providers():
        raise BadConfiguration(
            "this build of ONNX Runtime has no TensorRT; build the engines on the GPU host itself, "
            "with the `gpu` extra and NVIDIA's TensorRT libraries installed."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for network in sorted(name for part in installed.manifest.networks.values() for name in part):
        say(f"{network}: building its TensorRT engine")
        model, profile = free_batch_dimension(installed.weights / network), choose_profile(installed.manifest, network)
        name = onnx.load_from_string(model).graph.input[0].name
        session = open_session(model, "tensorrt", gpu=GpuOptions(engine_cache=folder, profiles={name: profile}))
        for shape in (profile.least, profile.usual):
            session.run({name: np.zeros(shape, np.float32)})


def _make_square_profile(side_px: int, usual: int, most: int) -> ShapeProfile:
    return ShapeProfile((1, 3, side_px, side_px), (usual, 3, side_px, side_px), (most, 3, side_px, side_px))
