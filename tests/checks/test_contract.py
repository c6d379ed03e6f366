"""What all checks have in common: one file each, one verdict each, runnable by hand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from migrate.gate import Outcome, Verdict
from migrate.phases import PHASES
from tests.checks.conftest import CHECKS, SmallHost

FILES = sorted(CHECKS.glob("*.py"))


def _main(path: Path) -> str:
    return path.read_text().partition("\ndef main(")[2]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEveryCheck:
    def test_without_its_settings_and_on_an_empty_host_it_never_passes(self, path: Path, host: SmallHost) -> None:
        rc, found = host.check(path.stem, os_release=str(host.folder / "none"))
        verdict = Verdict.parse(found)
        assert verdict.check == path.stem
        assert rc == (1 if verdict.verdict is Outcome.FAIL else 2)
        assert verdict.advice

    def test_input_that_is_no_json_is_an_error(self, path: Path, host: SmallHost) -> None:
        done = subprocess.run([sys.executable, str(path), "{"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, json.loads(done.stdout)["verdict"]) == (2, "error")

    def test_it_ends_with_the_same_main_as_the_others(self, path: Path, host: SmallHost) -> None:
        assert _main(path) == _main(FILES[0])

    def test_it_can_be_run_by_hand(self, path: Path, host: SmallHost) -> None:
        assert os.access(path, os.X_OK)
        assert f"`{path.stem}`" in (CHECKS / "README.md").read_text()

    def test_it_needs_the_standard_library_alone(self, path: Path, host: SmallHost) -> None:
        tree = ast.parse(path.read_text())
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_every_check_of_a_phase_is_a_file() -> None:
    assert {name for phase in PHASES for name in phase.checks} <= {path.stem for path in FILES}
