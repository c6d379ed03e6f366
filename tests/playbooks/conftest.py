"""Imports the Ansible modules of `playbooks/` as Ansible lays them out on a host."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def module_utils() -> ModuleType:
    """playbooks/module_utils/migrate_host.py under the name that modules import it by."""
    return _load("ansible.module_utils.migrate_host", PLAYBOOKS / "module_utils" / "migrate_host.py")


@pytest.fixture(scope="session")
def library(module_utils: ModuleType) -> Callable[[str], ModuleType]:
    """Load a module of playbooks/library by its name."""
    return lambda name: _load(name, PLAYBOOKS / "library" / f"{name}.py")
