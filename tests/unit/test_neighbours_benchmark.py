"""The benchmark of the search for neighbours counts what is really found."""

import json
from pathlib import Path

import numpy as np
import pytest

from app.clustering.neighbours import EXACT, Neighbours
from benchmarks.speed.neighbours import main, measure_recall


def unit_rows(count: int, dimension: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, dimension), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_recall_is_the_share_of_the_right_neighbours() -> None:
    rows = unit_rows(300, 16)
    found = EXACT.find_neighbours(rows, 10)
    assert measure_recall(rows, found, 10, threshold=0.5) == (1.0, 1.0)
    # The last four are forgotten; those above the highest cosine of the best are found all the same.
    fewer = Neighbours(np.where(np.arange(10) < 6, found.indices, -1), found.similarities)
    assert measure_recall(rows, fewer, 10, threshold=float(found.similarities[:, 6].max())) == (0.6, 1.0)


def test_the_command_line_prints_one_line_of_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faces.npz"
    np.savez(file, mobilefacenet_128=unit_rows(80, 128), label=np.repeat(np.arange(20), 4))
    arguments = ["--embeddings", str(file), "--faces", "400", "--dimension", "128", "-k", "5", "--json"]
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {name: figures[name] for name in ("faces", "queries", "k", "exact", "recall")} == {
        "faces": 400,
        "queries": 400,
        "k": 5,
        "exact": True,
        "recall": 1.0,
    }


def test_a_file_that_is_not_there_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--embeddings", str(tmp_path / "none.npz")]) == 1
    assert "can't be read" in capsys.readouterr().err
