"""Whether `status` says that the way back would work now."""

import json
from pathlib import Path

import pytest

from .machine import Machine

IMAGE = "migrate-keep/triton:1"


@pytest.fixture
def ready(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.configure("http://127.0.0.1:1", "http://127.0.0.1:1")
    (machine.state / "back").write_text("#!/bin/sh\n")
    snapshot = machine.state / "snapshot"
    snapshot.mkdir(exist_ok=True)
    (snapshot / "models.tar").write_text("x")
    (snapshot / "snapshot.json").write_text(json.dumps({"files": {"models.tar": "0"}, "triton": {"keep_tag": IMAGE}}))
    docker(machine, "sha256:1")
    return machine


def docker(machine: Machine, answer: str) -> None:
    """A stand-in for docker that knows one image, or none."""
    program = machine.bin / "docker"
    program.write_text(f"#!/bin/sh\n[ -n '{answer}' ] || exit 1\necho {answer}\n")
    program.chmod(0o755)


def degraded(machine: Machine) -> str:
    return str(machine.ok("status")["back"]["degraded"])


def test_a_host_that_has_everything_is_ready(ready: Machine) -> None:
    assert degraded(ready) == ""


def test_a_missing_script_is_named(ready: Machine) -> None:
    (ready.state / "back").unlink()
    assert "back is not there" in degraded(ready)


def test_a_pruned_image_is_named(ready: Machine) -> None:
    docker(ready, "")
    assert IMAGE in degraded(ready)


def test_a_lost_file_of_the_snapshot_is_named(ready: Machine) -> None:
    (ready.state / "snapshot" / "models.tar").unlink()
    assert "models.tar" in degraded(ready)


def test_a_failed_last_run_is_named_until_one_works(ready: Machine) -> None:
    history = ready.state / "back.jsonl"
    history.write_text(json.dumps({"scope": "live", "ok": False, "error": "Triton does not answer"}) + "\n")
    assert "Triton does not answer" in degraded(ready)
    history.write_text(history.read_text() + json.dumps({"scope": "live", "ok": True}) + "\n")
    assert degraded(ready) == ""
