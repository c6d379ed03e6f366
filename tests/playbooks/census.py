"""What the tests of the census share: its modules, its cases, and when they were recorded."""

from __future__ import annotations

import calendar
import importlib
from pathlib import Path
from types import ModuleType

import ansible.module_utils

UTILS = Path(__file__).parents[2] / "playbooks" / "module_utils"
CASES = Path(__file__).parents[1] / "cases" / "census"
NOW = calendar.timegm((2026, 11, 21, 12, 0, 0))


def load(name: str) -> ModuleType:
    """A file of playbooks/module_utils under the name that modules import it by."""
    if str(UTILS) not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(str(UTILS))
    return importlib.import_module(f"ansible.module_utils.{name}")
