"""Deleting the task that prevents a trap turns that trap's test red, and no other."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbooks import test_provision_traps as traps

DELETED = [
    ("gpu_driver/tasks/install.yml", "Pin the branch before anything of the driver is installed", "test_3_"),
    ("gpu_driver/tasks/install.yml", "Require modules of the right flavour, for this kernel, that fit", "test_4_"),
    ("container_toolkit/tasks/present.yml", "Add the repository and read its index", "test_5_the_container"),
    ("gpu_driver/tasks/present.yml", "Refuse modules that Secure Boot would not load", "test_7_"),
    ("cuda_toolkit/tasks/present.yml", "Install the toolkit", "test_8_"),
    ("docker_engine/tasks/present.yml", "Let containers outlive the daemon", "test_16_daemon_json"),
    ("gpu_driver/tasks/reboot.yml", "Let Docker stop its containers when the host goes down", "test_16_a_reboot"),
]
TESTS = {
    name: test
    for name, test in vars(traps).items()
    if name.startswith("test_") and name[5].isdigit() and not inspect.signature(test).parameters
}


def without(tasks: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """The tasks but those whose name begins so, in blocks too."""
    for task in tasks:
        if not task["name"].startswith(name):
            yield task | {
                part: list(without(task[part], name)) for part in ("block", "rescue", "always") if part in task
            }


def red(roles: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the trap tests that fail on these roles."""
    monkeypatch.setattr(traps, "ROLES", roles)
    return {name for name, test in TESTS.items() if not _passes(test)}


def _passes(test: Any) -> bool:
    try:
        test()
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("file", "task", "trap"), DELETED, ids=[f"{trap}{file}" for file, _, trap in DELETED])
def test_its_test_turns_red_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, task: str, trap: str
) -> None:
    roles = Path(shutil.copytree(traps.ROLES, tmp_path / "roles"))
    assert red(roles, monkeypatch) == set()
    text = yaml.safe_load((roles / file).read_text())
    left = list(without(text, task))
    assert left != text
    (roles / file).write_text(yaml.safe_dump(left))
    found = red(roles, monkeypatch)
    assert found
    assert all(name.startswith(trap) for name in found), found
