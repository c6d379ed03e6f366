"""Every playbook parses, asks for its host, and begins and ends with the roles of the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from migrate.phases import PHASES
from tests.playbooks.conftest import PLAYBOOKS

FILES = sorted(PLAYBOOKS.glob("*.yml"))
READ_ONLY = {"discover", "doctor", "preflight", "preview"}
INSTALLS_THE_PROGRAM = {"hostctl"}
ENDS_WITH = {"discover": "discover", "offline": "offline", "preview": "provision"}


@pytest.fixture(scope="module")
def syntax() -> subprocess.CompletedProcess[str]:
    """One ansible-playbook over all files: its start costs more than reading them."""
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "--syntax-check", "-i", "localhost,"]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(PLAYBOOKS.parent / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(PLAYBOOKS / "roles"),
        "NO_COLOR": "1",
    }
    return subprocess.run([*argv, *map(str, FILES)], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEveryPlaybook:
    def test_it_parses(self, path: Path, syntax: subprocess.CompletedProcess[str]) -> None:
        assert syntax.returncode == 0, syntax.stderr
        assert f"playbook: {path}" in syntax.stdout

    def test_it_matches_no_host_unless_one_is_given(self, path: Path) -> None:
        for play in yaml.safe_load(path.read_text()):
            assert play["hosts"] == "{{ migrate_target | default('no_host_given') }}"
            assert play["become"] is True
            assert not {"tasks", "pre_tasks", "post_tasks"} & play.keys()

    def test_what_changes_a_host_asserts_the_token_first_and_checks_last(self, path: Path) -> None:
        roles = [entry["role"] for play in yaml.safe_load(path.read_text()) for entry in play["roles"]]
        if path.stem in INSTALLS_THE_PROGRAM:
            return
        assert roles[-1] == ENDS_WITH.get(path.stem, "check")
        assert (roles[0] == "token") is (path.stem not in READ_ONLY)


def test_every_phase_and_every_undo_is_a_playbook() -> None:
    names = {phase.name for phase in PHASES} | {phase.undo for phase in PHASES if phase.undo}
    assert names <= {path.stem for path in FILES}


@pytest.mark.parametrize("role", sorted(path.name for path in (PLAYBOOKS / "roles").iterdir()))
def test_every_role_is_documented(role: str) -> None:
    folder = PLAYBOOKS / "roles" / role
    options = yaml.safe_load((folder / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    readme = (folder / "README.md").read_text()
    defaults = yaml.safe_load((folder / "defaults" / "main.yml").read_text()) or {}
    assert [name for name in {*options, *defaults} if name not in readme and name != "check_common"] == []
    assert "Undo" in readme
    assert "heck mode" in readme
