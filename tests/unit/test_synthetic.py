from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info

from app.core.errors import BadModelPack
from app.packs.manifest import PackManifest
from app.packs.store import InstalledPack, PackStore
from app.vision.embedder import open_embedder
from app.vision.scrfd import ANCHORS, STRIDES, ScrfdDetector, open_scrfd
from benchmarks.speed.synthetic import IMAGE, build_pack, build_scrfd_10g, count_macs
from tests import photos

# A benchmark's own networks.
pytestmark = pytest.mark.slow

# Guo et al. (2021) and InsightFace's model list count at VGA; arcface_torch's list of backbones at 112 px.
SCRFD_10G_VGA, SCRFD_2_5G_VGA, IRESNET_50 = 9.98e9, 2.53e9, 6.3e9
SCRFD_10G_KPS_PARAMETERS = 4.23e6
WITHIN = 0.03


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> InstalledPack:
    """Built and read as any pack, every file equal to its hash."""
    folder = tmp_path_factory.mktemp("packs")
    return PackStore(folder / "models").install(str(build_pack("buffalo_l", folder / "buffalo_l")))


@pytest.fixture(scope="module")
def networks(pack: InstalledPack) -> dict[str, onnx.ModelProto]:
    return {part: onnx.load(str(pack.weights / f"{part}.onnx")) for part in ("detector", "embedder")}


@pytest.fixture(scope="module")
def detector(pack: InstalledPack) -> ScrfdDetector:
    return opened(pack.manifest, pack.weights)


def opened(manifest: PackManifest, weights: Path, **changes: object) -> ScrfdDetector:
    config = manifest.detector.model_copy(update=changes)
    assert config.kind == "scrfd"
    return open_scrfd(weights / config.file, config, "cpu", 1)


def test_the_networks_cost_what_the_published_ones_cost(networks: dict[str, onnx.ModelProto]) -> None:
    vga = count_macs(networks["detector"], 480, 640)
    assert vga == pytest.approx(SCRFD_10G_VGA, rel=WITHIN)
    assert 3 * count_macs(networks["detector"], 640, 640) == 4 * vga
    assert count_macs(networks["embedder"], 112, 112) == pytest.approx(IRESNET_50, rel=WITHIN)


def test_the_detector_has_as_many_weights_as_the_published_one(networks: dict[str, onnx.ModelProto]) -> None:
    weights = sum(int(np.prod(tensor.dims)) for tensor in networks["detector"].graph.initializer)
    assert weights == pytest.approx(SCRFD_10G_KPS_PARAMETERS, rel=0.01)


def test_the_counter_agrees_with_the_published_cost_of_an_export(shared_dir: Path) -> None:
    export = onnx.load(str(shared_dir / "models" / "scrfd_2.5g_bnkps.onnx"))
    assert count_macs(export, 480, 640) == pytest.approx(SCRFD_2_5G_VGA, rel=WITHIN)


def tiny(*nodes: onnx.NodeProto, **weights: tuple[int, ...]) -> onnx.ModelProto:
    constants = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    image, out = make_tensor_value_info("image", 1, [1, 3, "H", "W"]), make_tensor_value_info("out", 1, None)
    opset = onnx.helper.make_opsetid("", 17)
    return make_model(make_graph(nodes, "tiny", [image], [out], constants), opset_imports=[opset], ir_version=8)


def test_every_weight_counts_once_at_each_place_it_is_used() -> None:
    strided = make_node("Conv", ["image", "kernels"], ["map"], strides=[2, 2], pads=[1] * 4)
    grouped = make_node("Conv", ["map", "own"], ["own_map"], group=4)
    flat, dense = make_node("Flatten", ["own_map"], ["flat"]), make_node("Gemm", ["flat", "dense"], ["out"])
    model = tiny(strided, grouped, flat, dense, kernels=(4, 3, 3, 3), own=(4, 1, 2, 2), dense=(4 * 3 * 2, 5))
    assert count_macs(model, 8, 6) == 4 * 3 * (4 * 3 * 3 * 3) + 3 * 2 * (4 * 1 * 2 * 2) + (4 * 3 * 2) * 5


def test_a_graph_whose_shapes_depend_on_its_pixels_can_not_be_counted() -> None:
    found = make_node("NonZero", ["image"], ["found"])
    some = [make_node("Cast", ["found"], ["some"], to=1), make_node("Gemm", ["some", "dense"], ["out"], transA=1)]
    with pytest.raises(BadModelPack, match=r"The shapes of Gemm out can't be inferred"):
        count_macs(tiny(found, *some, dense=(4, 2)), 8, 8)


def test_the_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    first, again, other = build_scrfd_10g(1), build_scrfd_10g(1), build_scrfd_10g(2)
    assert first == again
    assert first != other


@pytest.mark.parametrize(("part", "side_px"), [("detector", 128), ("embedder", 112)])
def test_activations_neither_vanish_nor_explode(networks: dict[str, onnx.ModelProto], part: str, side_px: int) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(networks[part])
    layers = [node.output[0] for node in model.graph.node if node.op_type in ("Add", "Conv", "Gemm", "PRelu", "Relu")]
    named = {output.name for output in model.graph.output}
    model.graph.output.extend(make_tensor_value_info(name, 1, None) for name in layers if name not in named)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, side_px, side_px)).astype(np.float32)
    values = dict(zip([out.name for out in session.get_outputs()], session.run(None, {IMAGE: image}), strict=True))
    spreads = [float(values[name].std()) for name in layers]
    assert min(spreads) > 0.1
    assert max(spreads) < 30


def test_a_batch_of_photos_gives_what_single_photos_give(detector: ScrfdDetector) -> None:
    batch = [photos.noise(160, 128, seed) for seed in range(3)]
    assert detector._limit.now_px > 640 * 640
    for together, image in zip(detector.detect(batch), batch, strict=True):
        (alone,) = detector.detect([image])
        assert len(alone)
        assert np.allclose(together.boxes, alone.boxes, atol=1e-3)
        assert np.allclose(together.landmarks, alone.landmarks, atol=1e-3)


def test_a_batch_of_chips_gives_what_single_chips_give(pack: InstalledPack) -> None:
    config = pack.manifest.embedder
    embedder = open_embedder(pack.weights / config.file, config, "cpu", 1)
    chips = np.stack([photos.noise(112, 112, seed) for seed in range(2)])
    vectors = embedder.embed(chips)
    assert embedder._limit.now_px > 112 * 112
    assert vectors.shape == (2, 512)
    assert np.allclose(vectors, np.concatenate([embedder.embed(chips[:1]), embedder.embed(chips[1:])]), atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_every_anchor_gives_a_box_and_landmarks_that_a_face_may_have(pack: InstalledPack) -> None:
    all_anchors = opened(pack.manifest, pack.weights, score_threshold=0.0, nms_iou=1.0, input_sizes_px=(128,))
    (found,) = all_anchors.detect([photos.noise(128, 128)])
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    left_eye, right_eye, nose, left_corner, right_corner = found.landmarks.transpose(1, 0, 2)
    assert len(found) == sum((128 // stride) ** 2 for stride in STRIDES) * ANCHORS
    assert (np.abs(np.log(sides[:, 0] / sides[:, 1])) < np.log(1.5)).all()
    assert (found.landmarks > found.boxes[:, np.newaxis, :2]).all()
    assert (found.landmarks < found.boxes[:, np.newaxis, 2:]).all()
    assert (left_eye[:, 0] < right_eye[:, 0]).all()
    assert (left_corner[:, 0] < right_corner[:, 0]).all()
    assert (np.maximum(left_eye, right_eye)[:, 1] < nose[:, 1]).all()
    assert (nose[:, 1] < np.minimum(left_corner, right_corner)[:, 1]).all()


def test_photos_have_a_few_faces_each(detector: ScrfdDetector, shared_dir: Path) -> None:
    paths = sorted((shared_dir / "album").glob("*.jpg"))[::6]
    counts = [len(detector.detect([cv2.imread(str(path))[..., ::-1]])[0]) for path in paths]
    assert all(1 <= count <= 15 for count in counts)


def test_flat_colour_has_no_faces(detector: ScrfdDetector) -> None:
    flat = [np.full((128, 96, 3), colour, np.uint8) for colour in ((0, 0, 0), (255, 255, 255), (90, 160, 230))]
    assert [len(found) for found in detector.detect(flat)] == [0, 0, 0]
