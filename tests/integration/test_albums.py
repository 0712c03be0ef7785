"""The albums benchmark on a few pages, in one process and through the services."""

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.album import read_labels
from benchmarks.accuracy.albums import main
from local.stack import ROOT

pytestmark = pytest.mark.slow
PACK = ROOT / "tests" / "packs" / "shared-insightface.toml"
FEW = ["--pack", str(PACK), "--people", "12", "--pages", "4", "--json"]


@pytest.fixture
def people(shared_dir: Path) -> Path:
    folder = shared_dir / "eval" / "lfw-dev"
    if not folder.is_dir():
        pytest.skip(f"photos of known people are not here: {folder} is missing")
    return folder


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*FEW, *arguments]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_few_pages_are_composed_looked_at_and_scored(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = measured(capsys, "--images", str(people), "--keep", str(tmp_path), "--baselines", "ente")
    assert len(list(tmp_path.glob("page_*.jpg"))) == result["pages"] == 4
    assert len(read_labels(tmp_path / "labels.csv")) == result["faces_true"]
    assert result["faces_found"] + result["faces_missed"] == result["faces_true"]
    assert result["recall_of_faces"]["clean"] == 1
    assert 0.9 <= result["pairwise_precision"] <= 1
    assert result["above_best_baseline"] == round(result["bcubed_f"] - result["baselines"]["ente"]["bcubed_f"], 4)


def test_the_services_find_the_same_people(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone, services = (
        measured(capsys, "--images", str(people), "--baselines", "none", *more) for more in ([], ["--services"])
    )
    for result in (alone, services):
        del result["seconds"]
    assert alone == services
