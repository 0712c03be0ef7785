"""The gate's own logic, with stand-ins for the tools: nothing that was not checked may look as if it had been."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from local.stack import ROOT

CHECK, GATE = "infra/check_terraform.sh", ".ci/run"
SHELL_TOOLS = ["awk", "bash", "cat", "dirname", "find", "grep", "id", "mkdir", "mktemp", "rm", "sed", "sort", "tail"]
SHELL_TOOLS += ["tee", "xargs"]
TERRAFORM = """#!/usr/bin/env bash
case " $* " in
    *" init "*) exit "${INIT_CODE:-0}" ;;
    *" test "*) echo "${TESTS_SAY:-Success! 3 passed, 0 failed.}" ;;
    *" validate "*) echo "Success! The configuration is valid." ;;
esac
"""
MAKE = r"""#!/usr/bin/env bash
[[ $2 != "${BROKEN:-}" ]] || { echo "it broke"; exit 3; }
case $2 in
    infra-check) echo -e "${TERRAFORM_SAYS-checkov: 3 passed\nterraform: 2 examples validated}" ;;
    test) echo -e "${PYTEST_SAYS-== 12 passed, 3 skipped, 2 deselected in 1s\n== 2 passed, 15 deselected in 1s}" ;;
esac
"""


def run(tmp_path: Path, script: str, tools: dict[str, str], **settings: str) -> subprocess.CompletedProcess[str]:
    """The script where PATH has the shell's own tools and these stand-ins alone."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in SHELL_TOOLS:
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, text in tools.items():
        (programs / name).write_text(text, "utf-8")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_PLUGIN_DIR")}
    return subprocess.run(
        [str(programs / "bash"), str(ROOT / script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**kept, "PATH": str(programs), **settings},
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.splitlines()[-1]


# --- infra/check_terraform.sh ---


@pytest.mark.parametrize(
    ("tools", "settings", "sentence"),
    [
        ({}, {}, "terraform is not installed. Install Terraform 1.11 or newer"),
        ({"terraform": TERRAFORM}, {"INIT_CODE": "1"}, "the AWS provider can't be had. Set TF_PLUGIN_DIR"),
    ],
    ids=["no terraform", "no provider"],
)
@pytest.mark.parametrize("ci", ["", "true"])
def test_without_terraform_or_its_provider_the_check_says_so_and_with_ci_fails(
    tmp_path: Path, tools: dict[str, str], settings: dict[str, str], sentence: str, ci: str
) -> None:
    done = run(tmp_path, CHECK, tools, CI=ci, **settings)
    if ci:
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "terraform: " not in done.stdout
    else:
        assert done.returncode == 0
        assert last_line(done).startswith(f"terraform: not run: {sentence}")


def test_the_check_ends_with_how_much_was_checked(tmp_path: Path) -> None:
    modules = {path.parent.parent for path in (ROOT / "infra" / "terraform").rglob("*.tftest.hcl")}
    done = run(tmp_path, CHECK, {"terraform": TERRAFORM}, CI="true")
    assert done.returncode == 0, done.stderr
    runs = f"{3 * len(modules)} test runs of {len(modules)} modules passed"
    assert last_line(done) == f"terraform: 2 examples validated, {runs}"


@pytest.mark.parametrize("said", ["Success! 0 passed, 0 failed.", "Failure! 2 passed, 1 failed."])
def test_a_module_whose_tests_did_not_all_pass_or_were_not_found_fails_the_check(tmp_path: Path, said: str) -> None:
    done = run(tmp_path, CHECK, {"terraform": TERRAFORM}, TESTS_SAY=said)
    assert done.returncode == 1
    assert "terraform test tested nothing in infra/terraform/" in done.stderr
    assert "test runs" not in done.stdout


# --- .ci/run ---


def test_the_gate_ends_with_the_count_of_each_step(tmp_path: Path) -> None:
    done = run(tmp_path, GATE, {"make": MAKE, "chromium": ""}, CI="true")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.partition("== summary\n")[2].splitlines()
    assert [line.rpartition(" (")[0] for line in summary] == [
        "setup: done",
        "lint: passed",
        "checkov: 3 passed",
        "terraform: 2 examples validated",
        "tests: 12 passed, 3 skipped; alone: 2 passed",
    ]


def test_a_step_that_was_not_run_stands_in_the_last_lines_with_its_reason(tmp_path: Path) -> None:
    done = run(tmp_path, GATE, {"make": MAKE}, TERRAFORM_SAYS="terraform: not run: because")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.partition("== summary\n")[2]
    assert "page tests: not run: chromium is not installed. Install" in summary
    assert "terraform: not run: because" in summary


def test_a_check_of_terraform_that_checked_nothing_fails_the_gate(tmp_path: Path) -> None:
    done = run(tmp_path, GATE, {"make": MAKE, "chromium": ""}, TERRAFORM_SAYS="")
    assert done.returncode == 1
    assert last_line(done) == "terraform: FAILED: nothing was checked"


def test_with_ci_a_missing_browser_fails_the_gate(tmp_path: Path) -> None:
    done = run(tmp_path, GATE, {"make": MAKE}, CI="true")
    assert done.returncode == 1
    assert last_line(done).startswith("page tests: FAILED: chromium is not installed. Install")


@pytest.mark.parametrize(("target", "name"), [("setup", "setup"), ("lint", "lint"), ("infra-check", "terraform")])
def test_a_step_that_fails_fails_the_gate_and_is_named(tmp_path: Path, target: str, name: str) -> None:
    done = run(tmp_path, GATE, {"make": MAKE, "chromium": ""}, BROKEN=target)
    assert done.returncode == 1
    assert "it broke" in done.stdout
    assert last_line(done).startswith(f"{name}: FAILED after ")


@pytest.mark.parametrize(
    "settings",
    [
        {"BROKEN": "test"},
        {"PYTEST_SAYS": "== 24 skipped in 1.20s =="},
        {"PYTEST_SAYS": "== 24 passed in 1.20s =="},
    ],
)
def test_tests_that_fail_or_of_which_none_ran_fail_the_gate(tmp_path: Path, settings: dict[str, str]) -> None:
    done = run(tmp_path, GATE, {"make": MAKE, "chromium": ""}, **settings)
    assert done.returncode == 1
    assert last_line(done).startswith("tests: FAILED")
