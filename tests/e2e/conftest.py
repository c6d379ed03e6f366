"""The lab, brought up once, and ways to talk to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from migrate import bundled

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, result, progress."""

    code: int
    out: str
    err: str


def on_gpu01(script: str) -> str:
    """Run a shell script as root on gpu01."""
    command = ["docker", "exec", "migrate-lab-gpu01", "sh", "-ec", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@dataclass(frozen=True)
class Lab:
    """The lab's host, and the `migrate` command under test with an inventory of its own."""

    command: Path
    directory: Path

    def migrate(self, *arguments: str, timeout_s: int = 900) -> Ended:
        """Run `migrate` in the directory that holds nothing but the inventory."""
        began = time.monotonic()
        done = subprocess.run(
            [self.command, *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        took = time.monotonic() - began
        print(f"$ migrate {' '.join(arguments)} -> {done.returncode} ({took:.0f} s)\n{done.stdout}{done.stderr}")
        return Ended(done.returncode, done.stdout, done.stderr)

    def on_host(self, script: str) -> str:
        """Run a shell script as root on gpu01."""
        return on_gpu01(script)

    def set(self, **variables: Any) -> None:
        """Change variables of the inventory's copy; None takes one away."""
        path = self.directory / "inventory" / "group_vars" / "all" / "main.yml"
        before = yaml.safe_load(path.read_text(encoding="utf-8")) | variables
        path.write_text(yaml.safe_dump({k: v for k, v in before.items() if v is not None}), encoding="utf-8")

    def set_host(self, **variables: Any) -> None:
        """Set variables of gpu01 itself, which outrank those of its groups and of hosts.yml."""
        path = self.directory / "inventory" / "host_vars" / "gpu01.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(variables), encoding="utf-8")

    def reset(self) -> None:
        """Put the inventory back as the lab has it."""
        shutil.rmtree(self.directory / "inventory", ignore_errors=True)
        shutil.copytree(bundled.root() / "inventory" / "lab", self.directory / "inventory")

    def report(self) -> dict[str, Any]:
        """report.json of the latest run."""
        newest = sorted(self.directory.glob("runs/*-gpu01-*/report.json"))[-1]
        loaded: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
        return loaded


@pytest.fixture(scope="session")
def wheel_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`migrate` out of the wheel, in an environment that holds nothing of the clone."""
    place = tmp_path_factory.mktemp("wheel")
    python = place / "env" / "bin" / "python"
    run = subprocess.run
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place], cwd=REPOSITORY, check=True)
    run([sys.executable, "-m", "venv", place / "env"], check=True)
    pip = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", python]
    run([*pip, "--require-hashes", "-r", REPOSITORY / "requirements.lock"], check=True)
    run([*pip, "--no-deps", *place.glob("*.whl")], check=True)
    return place / "env" / "bin" / "migrate"


@pytest.fixture(scope="session")
def lab_up() -> None:
    """The lab, up; what an earlier test run left on the host is taken back."""
    subprocess.run([sys.executable, "-m", "migrate", "lab", "up"], cwd=REPOSITORY, check=True)


@pytest.fixture
def lab(lab_up: None, wheel_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The host, and an operator's directory that holds nothing but a copy of the inventory."""
    here = Lab(wheel_command, tmp_path_factory.mktemp("operator"))
    here.reset()
    return here


@pytest.fixture
def changed_lab(lab: Lab) -> Iterator[Lab]:
    """The same, taken back to before vLLM was deployed, whatever the test left behind."""
    yield lab
    lab.reset()
    if ": rolled back" not in lab.migrate("status", "--host", "gpu01").out:
        lab.migrate("rollback", "--host", "gpu01", "--to", "before-deploy")


@pytest.fixture
def engine() -> docker.DockerClient:
    """The outer Docker engine, which runs the lab."""
    return docker.from_env()
