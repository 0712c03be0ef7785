"""Variants of a pack's networks: the record of each, and the search for one that may be used.

They lie with `report.json` in the folder `optimised` beside the weights, made by `python -m workshop optimise`.
A variant is used only as it was measured: made from these very weights, itself unchanged, by this version of
ONNX Runtime. An accepted variant keeps the pack's model id, because it keeps its vector space: it had to pass a bar on
the similarity of its embeddings to the original's, since workers of both kinds may serve one gallery.
"""

import logging
from pathlib import Path
from typing import Literal

import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, ValidationError

from app.packs.manifest import Sha256
from app.packs.store import compute_sha256

log = logging.getLogger(__name__)

VariantPrecision = Literal["int8", "fp16", "optimised"]
"""`int8` is for CPUs, `fp16` for GPUs, `optimised` is float32 with the CPU's graph optimisation done beforehand."""
VARIANT_PRECISIONS: tuple[VariantPrecision, ...] = ("int8", "fp16", "optimised")

FOLDER = "optimised"
REPORT = "report.json"


class _Record(BaseModel):
    # Later versions may add fields that this one need not know.
    model_config = ConfigDict(extra="ignore", frozen=True)


class DetectorParity(_Record):
    """`matched_share`: of all faces that the original or the variant detects, the share that both detect. The other
    figures are of these faces: IoU of their boxes, scores, and the mean distance of a face's landmarks from the
    original's, in distances between its eyes."""

    photos: int
    faces: int
    matched_share: float
    least_iou: float
    median_iou: float
    largest_score_difference: float
    median_landmark_shift: float


class EmbedderParity(_Record):
    """Cosines between the embeddings that original and variant make of one chip."""

    faces: int
    least_cosine: float
    median_cosine: float


class Verification(_Record):
    """Same person or not, of pairs of photos: accuracy in ten folds. `mixed` compares the original's embedding of one
    photo with the variant's of the other."""

    genuine_pairs: int
    impostor_pairs: int
    original: float
    variant: float
    mixed: float


class Variant(_Record):
    """One network in one precision. `file` is empty where it was refused.

    `speed`: the original's time in the part's networks (detector or embedder) over the variant's, on one CPU thread.
    """

    network: str
    source_sha256: Sha256
    runtime: str
    precision: VariantPrecision
    file: str
    sha256: Sha256
    size_bytes: int
    source_size_bytes: int
    parity: DetectorParity | EmbedderParity
    speed: float
    verification: Verification | None = None
    refused: str = ""


class Report(_Record):
    version: Literal[1] = 1
    variants: tuple[Variant, ...] = ()

    def add_variants(self, made: tuple[Variant, ...]) -> "Report":
        """A report with these too, in place of those of the same network and precision."""
        replaced = {(variant.network, variant.precision) for variant in made}
        kept = (variant for variant in self.variants if (variant.network, variant.precision) not in replaced)
        return Report(variants=(*kept, *made))


def read_report(folder: Path) -> Report:
    """What is recorded in a folder of variants; nothing where there is no report, or none that can be understood."""
    try:
        return Report.model_validate_json((folder / REPORT).read_bytes())
    except FileNotFoundError:
        return Report()
    except (OSError, ValidationError) as error:
        log.warning("the report of variants in %s can't be read, so none of them is used: %s", folder, error)
        return Report()


def write_report(folder: Path, report: Report) -> None:
    aside = folder / f"{REPORT}.new"
    aside.write_text(report.model_dump_json(indent=2) + "\n", "utf-8")
    aside.replace(folder / REPORT)


def make_file_name(network: str, source_sha256: str, precision: VariantPrecision) -> str:
    """Name of a variant's file: with the hash of its original and the version of ONNX Runtime, so that it is
    unambiguous."""
    return f"{Path(network).stem}-{source_sha256[:12]}-{precision}-ort{ort.__version__}.onnx"


def find_variant(folder: Path, network: str, source_sha256: str, precision: VariantPrecision) -> Path | None:
    """The accepted variant of a network whose original has this hash; None where there is none, with the reason
    logged."""
    recorded = {(variant.network, variant.precision): variant for variant in read_report(folder).variants}
    variant = recorded.get((network, precision))
    problem = f"none is recorded in {folder}" if variant is None else _find_problem(folder, variant, source_sha256)
    if variant is None or problem:
        log.warning("the original of %s is used instead of its %s variant: %s", network, precision, problem)
        return None
    return folder / variant.file


def _find_problem(folder: Path, variant: Variant, source_sha256: str) -> str:
    """Why a variant may not be used; empty where it may."""
    if variant.refused:
        return f"it was refused when it was made: {variant.refused}"
    if variant.source_sha256 != source_sha256:
        return f"it was made from weights with sha256 {variant.source_sha256}, not {source_sha256}"
    if variant.runtime != ort.__version__:
        return f"it was measured with ONNX Runtime {variant.runtime}, and this is {ort.__version__}"
    path = folder / variant.file
    if not path.is_file():
        return f"{path} is missing"
    actual = compute_sha256(path)
    return "" if actual == variant.sha256 else f"{path} has sha256 {actual}, not {variant.sha256} as recorded"
