"""Makes variants of a pack's networks, compares them with the originals, and keeps those that pass.

A part (the detector, the embedder) is measured as a whole, and then the pack with all variants that passed. A variant
must detect the same faces in the same places, give the same embeddings, and confuse no more people than the original.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.transformers.float16 import convert_float_to_float16

from app.core.arrays import Floats, Image
from app.core.errors import BadModelPack
from app.packs.store import InstalledPack, compute_sha256
from app.packs.variants import (
    DetectorParity,
    EmbedderParity,
    Variant,
    VariantPrecision,
    Verification,
    make_file_name,
    read_report,
    write_report,
)
from app.vision.face_pack import FacePack
from app.vision.sessions import free_batch_dimension
from workshop.networks import Inputs, WatchedPack, open_on_cpu
from workshop.parity import compare_detectors, compare_embedders, embed_people, verify
from workshop.quantise import DETECTOR_BUDGET, EMBEDDER_BUDGET, quantise
from workshop.rewrites import prepare
from workshop.samples import Samples, read_images

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bars:
    """The least that a variant must reach, or the most for `landmark_shift` and `accuracy_loss`. The records in
    variants.py define the measures."""

    matched_share: float
    median_iou: float
    landmark_shift: float
    median_cosine: float
    speed: float
    accuracy_loss: float = 0.002


BARS: Mapping[VariantPrecision, Bars] = {
    # A variant that is less exact and no faster is worth nothing.
    "int8": Bars(matched_share=0.98, median_iou=0.95, landmark_shift=0.01, median_cosine=0.99, speed=1.1),
    # The CPU on which this is measured computes float16 by float32, so its speed says nothing about a GPU's.
    "fp16": Bars(matched_share=0.99, median_iou=0.99, landmark_shift=0.005, median_cosine=0.999, speed=0),
    # The same arithmetic in another order. It saves time when the network is loaded, not when it runs.
    "optimised": Bars(matched_share=0.999, median_iou=0.999, landmark_shift=0.0005, median_cosine=0.9999, speed=0),
}


@dataclass(frozen=True)
class _Measured:
    parity: DetectorParity | EmbedderParity
    speed: float
    problem: str


@dataclass(frozen=True)
class Optimiser:
    """Makes variants of one pack in `folder`. `samples` are for calibration and measurement. `say` gets a line on each
    step."""

    installed: InstalledPack
    samples: Samples
    folder: Path
    say: Callable[[str], None] = log.info

    def make(self, precision: VariantPrecision) -> list[Variant]:
        """The pack's variants of one precision; refused ones have no file. The report is written anew.

        Raises BadModelPack for a network that can't be converted or run, and where the folder can't be written to.
        """
        self._check_writable()
        paths = {name: self._write_variant(name, precision) for part in self._parts.values() for name in sorted(part)}
        measured = {part: self._measure(part, precision, paths) for part in self._parts}
        passed = [name for part, names in self._parts.items() if not measured[part].problem for name in names]
        verification = self._verify({name: paths[name] for name in passed}) if passed else None
        made = [
            self._record(name, precision, paths[name], measured[part], verification)
            for part, names in self._parts.items()
            for name in sorted(names)
        ]
        self._keep_only(made)
        return made

    @cached_property
    def _parts(self) -> dict[str, frozenset[str]]:
        return self.installed.manifest.networks

    @cached_property
    def _original(self) -> WatchedPack:
        return self._open_pack_with({})

    @cached_property
    def _original_embeddings(self) -> dict[Path, Floats]:
        self.say(f"verification: the originals on {len(self.samples.pairs)} pairs")
        return embed_people(self._original, self.samples.pairs)

    def _check_writable(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise BadModelPack(
                f"Variants can't be written to {self.folder}: {error}. Name a writable folder with --output."
            ) from error

    def _open_pack_with(self, variants: Mapping[str, Path]) -> WatchedPack:
        """The pack with these variants (network → file), and the originals of the other networks."""
        names = [name for part in self._parts.values() for name in part]
        paths = {name: variants.get(name, self.installed.weights / name) for name in names}
        return WatchedPack(self.installed, {name: open_on_cpu(path) for name, path in paths.items()})

    def _write_variant(self, name: str, precision: VariantPrecision) -> Path:
        """Write a network in another precision. Returns the file, which is not measured yet."""
        source = self.installed.weights / name
        target = self.folder / make_file_name(name, self.installed.manifest.files[name], precision)
        self.say(f"{name}: making {precision}")
        if precision == "optimised":
            _write_optimised(source, target)
        elif precision == "fp16":
            onnx.save(convert_to_half(source), str(target))
        else:
            budget = DETECTOR_BUDGET if name in self._parts["detector"] else EMBEDDER_BUDGET
            onnx.save(quantise(prepare(source), lambda: self._record_inputs(name), budget), str(target))
        return target

    def _record_inputs(self, name: str) -> Iterator[Inputs]:
        """The inputs of one of the original networks for the calibration photos."""
        feed = _detect if name in self._parts["detector"] else _detect_and_embed
        steps = (
            partial(feed, image) for _, image in read_images(self.samples.calibration, self._original.pack.view_px)
        )
        return self._original.record_inputs(name, steps)

    def _measure(self, part: str, precision: VariantPrecision, paths: Mapping[str, Path]) -> _Measured:
        self.say(f"{part}: comparing {precision} with the original on {len(self.samples.parity)} photos")
        variant = self._open_pack_with({name: paths[name] for name in self._parts[part]})
        bars = BARS[precision]
        parity: DetectorParity | EmbedderParity
        if part == "detector":
            parity, speed = compare_detectors(self._original, variant, self.samples.parity)
            problems = [
                _explain_below("the share of faces found by both", parity.matched_share, bars.matched_share),
                _explain_below("the median IoU", parity.median_iou, bars.median_iou),
                _explain_above("the landmarks' median shift", parity.median_landmark_shift, bars.landmark_shift),
            ]
        else:
            parity, speed = compare_embedders(self._original, variant, self.samples.parity)
            problems = [_explain_below("the median cosine", parity.median_cosine, bars.median_cosine)]
        problems.append(_explain_below("its speed over the original's", speed, bars.speed))
        return _Measured(parity, speed, "; ".join(problem for problem in problems if problem))

    def _verify(self, variants: Mapping[str, Path]) -> Verification | None:
        if not self.samples.pairs:
            return None
        original = self._original_embeddings
        self.say(f"verification: the variants on {len(self.samples.pairs)} pairs")
        return verify(self.samples.pairs, original, embed_people(self._open_pack_with(variants), self.samples.pairs))

    def _record(
        self, name: str, precision: VariantPrecision, path: Path, measured: _Measured, verification: Verification | None
    ) -> Variant:
        problem = measured.problem or ("" if verification is None else _explain_loss(verification, BARS[precision]))
        return Variant(
            network=name,
            source_sha256=self.installed.manifest.files[name],
            runtime=ort.__version__,
            precision=precision,
            file="" if problem else path.name,
            sha256=compute_sha256(path),
            size_bytes=path.stat().st_size,
            source_size_bytes=(self.installed.weights / name).stat().st_size,
            parity=measured.parity,
            speed=measured.speed,
            verification=None if measured.problem else verification,
            refused=problem,
        )

    def _keep_only(self, made: Iterable[Variant]) -> None:
        """Record these, and delete the files of this pack's networks that are in no record."""
        report = read_report(self.folder).add_variants(tuple(made))
        write_report(self.folder, report)
        recorded = {variant.file for variant in report.variants}
        stems = {Path(variant.network).stem for variant in report.variants}
        for path in self.folder.glob("*-ort*.onnx"):
            if path.name not in recorded and any(path.name.startswith(f"{stem}-") for stem in stems):
                path.unlink()


def _detect(image: Image, pack: FacePack) -> None:
    pack.detect([image])


def _detect_and_embed(image: Image, pack: FacePack) -> None:
    pack.embed([pack.cut_chips(image, pack.detect([image])[0].landmarks)])


def convert_to_half(model: Path) -> onnx.ModelProto:
    """The graph in float16 between float32 inputs and outputs, its batch dimension free."""
    graph = onnx.load_from_string(free_batch_dimension(model))
    try:
        half: onnx.ModelProto = convert_float_to_float16(graph, keep_io_types=True)
    except Exception as error:
        raise BadModelPack(f"{model.name} can't be converted to float16: {error}") from error
    return half


def _write_optimised(source: Path, target: Path) -> None:
    """Write the graph as ONNX Runtime rewrites it for any CPU. Its last level depends on the CPU, so it is left to the
    worker's start."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    try:
        ort.InferenceSession(free_batch_dimension(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadModelPack(f"{source.name} can't be optimised by ONNX Runtime: {error}") from error


def _explain_below(what: str, value: float, least: float) -> str:
    return f"{what} is {value:.4f}, less than {least:.4g}" if value < least else ""


def _explain_above(what: str, value: float, most: float) -> str:
    return f"{what} is {value:.4f}, more than {most:.4g}" if value > most else ""


def _explain_loss(verification: Verification, bars: Bars) -> str:
    """Why the pack may not take these variants; empty where it may."""
    least = verification.original - bars.accuracy_loss
    return "; ".join(
        problem
        for problem in (
            _explain_below("verification accuracy", verification.variant, least),
            _explain_below(
                "verification accuracy between its embeddings and the original's", verification.mixed, least
            ),
        )
        if problem
    )
