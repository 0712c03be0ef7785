"""Libraries that call their makers are told not to before anything imports them (docs/what_leaves.md)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app import SILENCED

ROOT = Path(__file__).parents[2]
TALKATIVE = re.compile(r"^\s*(?:import|from) (?:onnxruntime|ray|insightface)\b", re.MULTILINE)
SILENCES = re.compile(r"^import app\b", re.MULTILINE)
FOLDERS = ("benchmarks", "infra", "local", "tests", "workshop")


@pytest.mark.parametrize("module", ["app.bootstrap", "benchmarks.speed.arithmetic", "workshop.optimise", "tests.otlp"])
def test_whatever_is_imported_first_the_switches_win_over_the_environment(module: str) -> None:
    told = {name: "1" if value == "0" else "0" for name, value in SILENCED.items()}
    # onnxruntime and Ray stand for all that reads a switch when it is imported.
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "ray"):
            assert {{key: os.environ.get(key) for key in {list(SILENCED)}}} == {SILENCED}, name
sys.meta_path.insert(0, Watch())
import {module}
assert {{key: os.environ.get(key) for key in {list(SILENCED)}}} == {SILENCED}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_folder_with_a_talkative_import_goes_through_the_switches() -> None:
    talkative = {
        name
        for name in FOLDERS
        if any(TALKATIVE.search(path.read_text("utf-8")) for path in (ROOT / name).rglob("*.py"))
    }
    assert {"benchmarks", "tests", "workshop"} <= talkative
    loud = [name for name in talkative if not SILENCES.search((ROOT / name / "__init__.py").read_text("utf-8"))]
    assert loud == []


def test_the_image_has_the_same_switches() -> None:
    last_stage = (ROOT / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    variables = dict(re.findall(r"\b([A-Z_]+)=(\S+)", " ".join(re.findall(r"^ENV (.+)$", last_stage, re.MULTILINE))))
    assert {name: variables.get(name) for name in SILENCED} == SILENCED
