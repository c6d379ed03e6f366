"""The library that only knows its version: loaded by this machine's own loader."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest

from migrate.lab.elf import version_library


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the library is for AMD64")
@pytest.mark.parametrize(("function", "version"), [("ncclGetVersion", 22605), ("f", -1), ("a_longer_name", 0)])
def test_it_loads_and_tells_its_version(tmp_path: Path, function: str, version: int) -> None:
    path = tmp_path / "libstand-in.so.2"
    path.write_bytes(version_library(path.name, function, version))
    found = ctypes.c_int(7)
    assert getattr(ctypes.CDLL(str(path)), function)(ctypes.byref(found)) == 0
    assert found.value == version
