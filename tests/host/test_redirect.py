from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root"),
    pytest.mark.skipif(not (shutil.which("nft") and shutil.which("unshare")), reason="needs nft and unshare"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = str(Path(__file__).with_name("namespace.py"))
    root = str(tmp_path_factory.mktemp("redirect") / "root")
    command = ["unshare", "-n", sys.executable, script, root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_new_connections_move_on_every_address(seen: dict[str, Any]) -> None:
    everywhere = {"ipv4", "ipv6", "own"}
    assert seen["before"] == dict.fromkeys(everywhere, "old")
    assert seen["redirected"] == dict.fromkeys(everywhere, "switch")
    assert seen["after"] == dict.fromkeys(everywhere, "old")


def test_open_connections_stay_and_none_fails(seen: dict[str, Any]) -> None:
    assert seen["stayed"] == {"failed": [], "by": ["old"], "enough": True}


def test_a_connection_that_tracking_never_saw_stays_too(seen: dict[str, Any]) -> None:
    assert seen["silent"] == "old"
    assert (seen["on"]["known"], seen["on"]["unknown"]) == (12, 1)
    assert seen["on"]["tracking"] == "/proc/net/nf_conntrack"


def test_turning_off_keeps_what_is_open_on_the_switch(seen: dict[str, Any]) -> None:
    assert seen["off"]["still_open"] == 12
    assert seen["ended"] == {"failed": [], "by": ["switch"], "enough": True}


def test_nothing_is_left_behind(seen: dict[str, Any]) -> None:
    assert seen["last"]["still_open"] == 0
    assert seen["tables"] == ""
