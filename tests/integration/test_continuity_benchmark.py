"""The continuity benchmark on a few people of each way, with real stores and networks."""

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.continuity import WAYS, main
from local.stack import ROOT

pytestmark = pytest.mark.slow
PACK = ROOT / "tests" / "packs" / "shared-insightface.toml"


def test_people_keep_names_whatever_happens_to_photos_or_model(
    shared_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shared_dir / "eval" / "lfw-dev"
    if not images.is_dir():
        pytest.skip(f"photos of known people are not here: {images} is missing")
    few = ["--people", "6", "--rounds", "2", "--pack", str(PACK), "--other-pack", "open"]
    code = main([*few, "--images", str(images), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    for way in WAYS:
        assert result[way]["people"] + result[way]["people_single"] >= 5
        assert (result[way]["least_kept"], result[way]["most_wrong_names"]) == (1.0, 0), way
