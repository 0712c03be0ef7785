"""The zip file of a Lambda function is a function of its source."""

import os
from pathlib import Path
from zipfile import ZipFile

import pytest

from infra.package_lambda import LAMBDAS, main, write_zip

SOURCE = LAMBDAS / "batch_submitter"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("b.py", "a.py", "__init__.py"):
        (folder / name).write_text(f"# {name}\n")
    return folder


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    for target in (first, second):
        assert main(["batch_submitter", str(target)]) == 0
    assert first.read_bytes() == second.read_bytes()


def test_dates_modes_and_compiled_files_make_no_difference(package: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before.zip", tmp_path / "after.zip"
    write_zip(package, before)
    os.utime(package / "a.py", (1, 1))
    (package / "b.py").chmod(0o600)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-312.pyc").write_bytes(b"compiled")
    write_zip(package, after)
    assert before.read_bytes() == after.read_bytes()


def test_another_source_gives_other_bytes(package: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before.zip", tmp_path / "after.zip"
    write_zip(package, before)
    (package / "a.py").write_text("# changed\n")
    write_zip(package, after)
    assert before.read_bytes() != after.read_bytes()


def test_lambda_finds_the_handler_and_may_read_it(tmp_path: Path) -> None:
    target = tmp_path / "function.zip"
    write_zip(SOURCE, target)
    with ZipFile(target) as archive:
        names = archive.namelist()
        modes = {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert {"batch_submitter/__init__.py", "batch_submitter/handler.py"} <= set(names)
    assert names == sorted(names)
    assert modes == {0o644}


def test_a_function_that_is_not_there_is_said_to_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such", str(tmp_path / "function.zip")]) == 1
    assert "There is no function no_such" in capsys.readouterr().err
