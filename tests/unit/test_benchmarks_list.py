"""The one list of benchmarks, and the names they had before they lay in folders."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_of_the_list_tells_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--json", "--help"])
    assert ended.value.code == 0
    assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_every_benchmark_of_the_make_file_is_in_the_list() -> None:
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    named = {line.split("-m benchmarks ")[1].split()[0] for line in lines if "-m benchmarks " in line}
    assert named
    assert named <= BENCHMARKS.keys()


def test_without_a_name_they_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)
    assert main(["nothing"]) == 2
    assert "'nothing'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_runs_by_the_name_it_had_before_there_were_folders() -> None:
    command = [sys.executable, "-m", "benchmarks.grouping", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--embeddings" in done.stdout
