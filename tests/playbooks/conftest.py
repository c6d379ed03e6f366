"""Imports the Ansible modules of `playbooks/` as Ansible lays them out on a host."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import ansible.module_utils
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
def utility() -> Callable[[str], ModuleType]:
    """Load a file of playbooks/module_utils under the name that modules import it by."""
    ours = str(PLAYBOOKS / "module_utils")
    if ours not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(ours)
    return lambda name: importlib.import_module(f"ansible.module_utils.{name}")


@pytest.fixture(scope="session")
def module_utils(utility: Callable[[str], ModuleType]) -> ModuleType:
    """playbooks/module_utils/migrate_host.py."""
    return utility("migrate_host")


@pytest.fixture(scope="session")
def library(utility: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    """Load a module of playbooks/library by its name."""

    return lambda name: _load(name, PLAYBOOKS / "library" / f"{name}.py")
