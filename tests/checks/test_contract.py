"""What all checks have in common: one verdict each, by hand, out of their folder and out of their archive."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shared.archive import archived

from migrate import bundled, image_source
from migrate.gate import Outcome, Verdict
from migrate.phases import PHASES
from tests.checks.conftest import CHECKS, NAMES, SmallHost

FILES = [CHECKS / f"{name}.py" for name in NAMES]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "checks.pyz"
    path.write_bytes(bundled.checks())
    return path


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

    def test_folder_and_archive_answer_as_the_file_does(self, path: Path, host: SmallHost, archive: Path) -> None:
        settings = {"os_release": str(host.folder / "none")}
        rc, found = host.check(path.stem, **settings)
        for place in (CHECKS, archive):
            other_rc, other = host.run([str(place), path.stem], settings)
            assert (other_rc, other | {"duration_s": 0}) == (rc, found | {"duration_s": 0})

    def test_it_can_be_run_by_hand(self, path: Path, host: SmallHost) -> None:
        assert os.access(path, os.X_OK)
        assert f"`{path.stem}`" in (CHECKS / "README.md").read_text()

    def test_it_needs_the_standard_library_alone(self, path: Path, host: SmallHost) -> None:
        assert _imported(path) <= {*sys.stdlib_module_names, "shared", *NAMES}


def _imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((CHECKS / "shared").glob("*.py")), ids=lambda path: path.stem)
def test_what_they_share_needs_the_standard_library_alone(path: Path) -> None:
    assert _imported(path) <= {*sys.stdlib_module_names, "shared"}


def test_what_a_wrong_check_advises_is_a_file(host: SmallHost, archive: Path) -> None:
    advice = host.run([str(archive), "clock"], {})[1]["advice"]
    assert advice == "run checks/clock.py by hand"


def test_the_archive_follows_from_the_files_alone(tmp_path: Path, archive: Path) -> None:
    copy = tmp_path / "checks"
    shutil.copytree(CHECKS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    assert archived(copy) == archived(archive) == archive.read_bytes()
    (copy / "clock.py").write_text("other")
    assert archived(copy) != archive.read_bytes()


@pytest.mark.parametrize("name", ["image_abi", "vllm_import"])
def test_the_checks_of_a_build_run_with_what_is_copied_for_it(tmp_path: Path, host: SmallHost, name: str) -> None:
    (tmp_path / "checks" / "shared").mkdir(parents=True)
    for file in image_source.CHECKS:
        shutil.copy(CHECKS / file, tmp_path / "checks" / file)
    assert host.run([str(tmp_path / "checks" / f"{name}.py")], {})[1]["verdict"] == "inconclusive"


def test_every_check_of_a_phase_is_a_file() -> None:
    assert {name for phase in PHASES for name in phase.checks} <= {path.stem for path in FILES}
