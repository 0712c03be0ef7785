"""A variant is used as it was measured or not at all."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from app.packs.variants import EmbedderParity, Report, Variant, find_variant, make_file_name, read_report, write_report

SOURCE = hashlib.sha256(b"the original").hexdigest()
CONTENT = b"the variant"


def recorded(**changes: Any) -> Variant:
    fields = {
        "network": "embedder.onnx",
        "source_sha256": SOURCE,
        "runtime": ort.__version__,
        "precision": "int8",
        "file": make_file_name("embedder.onnx", SOURCE, "int8"),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "size_bytes": len(CONTENT),
        "source_size_bytes": 2 * len(CONTENT),
        "parity": EmbedderParity(faces=9, least_cosine=0.98, median_cosine=0.99),
        "speed": 1.5,
    }
    return Variant.model_validate({**fields, **changes})


def write(folder: Path, *variants: Variant) -> None:
    (folder / make_file_name("embedder.onnx", SOURCE, "int8")).write_bytes(CONTENT)
    write_report(folder, Report(variants=variants))


def test_a_variant_that_is_as_it_was_measured_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, recorded())
    path = find_variant(tmp_path, "embedder.onnx", SOURCE, "int8")
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"source_sha256": "0" * 64}, "it was made from weights with sha256 000"),
        ({"runtime": "1.2.3"}, "it was measured with ONNX Runtime 1.2.3, and this is"),
        ({"sha256": "0" * 64}, "not 000"),
        ({"file": "elsewhere.onnx"}, "elsewhere.onnx is missing"),
        ({"file": "", "refused": "the median cosine is 0.9"}, "refused when it was made: the median cosine is 0.9"),
        ({"precision": "fp16"}, "none is recorded"),
        ({"network": "detector.onnx"}, "none is recorded"),
    ],
)
def test_a_stale_changed_or_refused_variant_is_never_used_and_the_log_says_why(
    change: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, recorded(**change))
    assert find_variant(tmp_path, "embedder.onnx", SOURCE, "int8") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("the original of embedder.onnx is used instead of its int8 variant: ")
    assert why in record.getMessage()


def test_weights_that_were_replaced_leave_their_old_variant_behind(tmp_path: Path) -> None:
    write(tmp_path, recorded())
    assert find_variant(tmp_path, "embedder.onnx", hashlib.sha256(b"newer weights").hexdigest(), "int8") is None


def test_a_folder_without_a_report_has_no_variants(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_variant(tmp_path / "nowhere", "embedder.onnx", SOURCE, "int8") is None
    assert "none is recorded in" in caplog.text


@pytest.mark.parametrize("text", ["", "no json", '{"version": 2, "variants": []}', '{"version": 1, "variants": [{}]}'])
def test_a_report_that_cannot_be_understood_counts_as_none(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, recorded())
    (tmp_path / "report.json").write_text(text, "utf-8")
    assert find_variant(tmp_path, "embedder.onnx", SOURCE, "int8") is None
    assert "can't be read, so none of them is used" in caplog.text


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report(variants=(recorded(), recorded(network="detector.onnx", refused="too slow", file="")))
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_newer_variant_takes_the_place_of_that_of_its_network_and_precision() -> None:
    old, other, new = recorded(speed=1.1), recorded(precision="fp16"), recorded(speed=2)
    assert Report(variants=(old, other)).add_variants((new,)).variants == (other, new)


def test_a_file_is_named_by_what_it_was_made_from_and_by_what() -> None:
    assert make_file_name("embedder.onnx", SOURCE, "fp16") == f"embedder-{SOURCE[:12]}-fp16-ort{ort.__version__}.onnx"
