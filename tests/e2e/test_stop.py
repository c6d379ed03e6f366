"""Retiring gives a container the time to end what it works on, whatever shorter time Docker itself would give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from migrate import bundled

pytestmark = pytest.mark.e2e
NAME = "migrate-test-drain"
DRAIN_S = 2
# Docker's own time for this container is shorter than its drain, as 10 s are shorter than Triton's 30 s.
OWN_STOP_S = 1
DRAINS = f"trap 'sleep {DRAIN_S}; exit 0' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def draining(lab_up: None, engine: docker.DockerClient) -> Iterator[subprocess.Popen[str]]:
    """A container that needs its time to end; what it ends with is printed by the process."""
    image = engine.containers.get("migrate-lab-gpu01").image
    words = [
        "run",
        "-d",
        "--name",
        NAME,
        "--stop-timeout",
        str(OWN_STOP_S),
        "--entrypoint",
        "sh",
        image.id,
        "-c",
        DRAINS,
    ]
    subprocess.run(["docker", *words], check=True, capture_output=True)
    ended = subprocess.Popen(["docker", "wait", NAME], stdout=subprocess.PIPE, text=True)
    yield ended
    subprocess.run(["docker", "rm", "-f", NAME], check=False, capture_output=True)
    ended.wait(timeout=30)


def test_docker_by_itself_cuts_the_drain_off(draining: subprocess.Popen[str]) -> None:
    subprocess.run(["docker", "stop", NAME], check=True, capture_output=True)
    assert draining.communicate(timeout=30)[0] == "137\n"


def test_the_role_lets_it_drain(draining: subprocess.Popen[str], tmp_path: Path) -> None:
    role = bundled.root() / "playbooks" / "roles" / "retire"
    given = yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    tasks = yaml.safe_load((role / "tasks" / "present.yml").read_text(encoding="utf-8"))
    stop = [task for task in tasks if task["name"] == "Stop and remove the container"]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": stop}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    variables = given | {"triton_container": NAME, "ansible_python_interpreter": sys.executable}
    argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-e", json.dumps(variables)]
    subprocess.run([*argv, tmp_path / "play.yml"], check=True, capture_output=True, timeout=120)
    assert draining.communicate(timeout=30)[0] == "0\n"
