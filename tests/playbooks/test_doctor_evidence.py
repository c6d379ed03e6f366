"""What is read from the host: the last start only, states of containers and units, and bounded output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from migrate.knowledge import failures

TABLE = failures.load().for_host({"host": "gpu01", "vllm_memory_limit": "6g"})
NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
ASKED: dict[str, Any] = {"services": {}, "units": [], "gpus": True, "disks": [], "run": [], "failures": TABLE}


@pytest.fixture
def module(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("doctor_evidence")


class Host:
    """Answers by the beginning of a command line, and remembers what was asked."""

    def __init__(self, **answers: str) -> None:
        self.answers = {name.replace("_", " "): answer for name, answer in answers.items()}
        self.asked: list[list[str]] = []

    def __call__(self, argv: list[str]) -> tuple[int, str]:
        self.asked.append(argv)
        line = " ".join(argv)
        return next(
            ((0, told) for start, told in self.answers.items() if line.startswith(start)),
            (127, f"{argv[0]}: No such file"),
        )

    def line(self, *words: str) -> list[str]:
        return next(argv for argv in self.asked if argv[: len(words)] == list(words))


def inspected(
    status: str = "running", restarts: int = 0, started: str = "2026-11-21T17:58:00.123456789Z", **state: Any
) -> str:
    known = {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": "", "StartedAt": started}
    return json.dumps([{"State": known | state, "RestartCount": restarts}])


def one(module: ModuleType, host: Host, **changed: Any) -> dict[str, Any]:
    asked = ASKED | {"services": {"vllm": "vllm-vllm-1"}} | changed
    found: dict[str, Any] = module.evidence(asked, host, NOW)
    return found


def test_only_the_last_start_is_read(module: ModuleType) -> None:
    host = Host(docker_container=inspected("restarting", 3), docker_logs="")
    one(module, host)
    assert host.line("docker", "logs")[3:] == [
        "--tail",
        "4000",
        "--since",
        "2026-11-21T17:58:00.123456789Z",
        "vllm-vllm-1",
    ]


def test_a_young_start_after_another_is_explained_by_the_one_before(module: ModuleType) -> None:
    host = Host(docker_container=inspected(restarts=3), docker_logs="torch.OutOfMemoryError: CUDA out of memory")
    assert [match["name"] for match in one(module, host)["matches"]][:1] == ["no-driver"]
    assert "--since" not in host.line("docker", "logs")
    host = Host(docker_container=inspected(restarts=3, started="2026-11-20T17:58:00Z"), docker_logs="")
    one(module, host)
    assert "--since" in host.line("docker", "logs")


def test_a_container_that_never_started_has_no_start(module: ModuleType) -> None:
    host = Host(docker_container=inspected("created", started="0001-01-01T00:00:00Z"), docker_logs="")
    one(module, host)
    assert "--since" not in host.line("docker", "logs")


def test_a_service_that_runs_has_no_error(module: ModuleType) -> None:
    host = Host(docker_container=inspected(), docker_logs="KeyError: 'x'")
    assert one(module, host)["services"]["vllm"]["first_error"] == ""
    host = Host(docker_container=inspected("exited", ExitCode=1), docker_logs="KeyError: 'x'")
    assert one(module, host)["services"]["vllm"]["first_error"] == "KeyError: 'x'"


def test_what_is_not_there_is_said(module: ModuleType) -> None:
    assert one(module, Host())["services"] == {"vllm": {"name": "vllm-vllm-1", "exists": False}}


def test_a_unit_is_read_from_the_journal_of_its_last_start(module: ModuleType) -> None:
    shown = {"LoadState": "loaded", "ActiveState": "failed", "ExecMainCode": "2", "ExecMainStatus": "9"}
    shown |= {"NRestarts": "4", "Result": "oom-kill", "InvocationID": "ab12"}
    lines = "".join(f"{name}={value}\n" for name, value in shown.items())
    host = Host(systemctl_show=lines, **{"journalctl --unit": "CUDA out of memory"})
    found = one(module, host, services={"vllm": "migrate-vllm"}, units=["vllm"], gpus=False)
    service = found["services"]["vllm"]
    assert (service["status"], service["exit_code"], service["oom_killed"], service["restarts"]) == (
        "exited",
        137,
        True,
        4,
    )
    assert {"gpu-memory", "killed-for-memory"} <= {match["name"] for match in found["matches"]}
    assert host.line("journalctl", "--unit")[-1] == "_SYSTEMD_INVOCATION_ID=ab12"


def test_a_unit_that_systemd_does_not_know(module: ModuleType) -> None:
    found = one(module, Host(systemctl_show="LoadState=not-found\n"), services={"vllm": "x"}, units=["vllm"])
    assert found["services"]["vllm"]["exists"] is False


def test_without_gpus_nobody_asks_for_them(module: ModuleType) -> None:
    host = Host(docker_info=json.dumps({"Runtimes": {"runc": {}}}))
    assert one(module, host, gpus=False, services={})["matches"] == []
    assert ["nvidia-smi"] not in host.asked
    assert [match["name"] for match in one(module, host, services={})["matches"]] == ["no-driver", "toolkit-missing"]


def test_cards_by_cdi_are_enough(module: ModuleType) -> None:
    info = {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}
    found = one(module, Host(docker_info=json.dumps(info), **{"nvidia-smi": "well"}), services={})
    assert found["matches"] == []


def test_what_could_not_be_read_is_named(module: ModuleType) -> None:
    assert set(one(module, Host(docker_info="{}"))["unread"]) == {"the kernel's log", "systemctl"}


def test_files_of_a_reboot_that_was_not_finished(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, absent = tmp_path / "live_restore.json", tmp_path / "migrate-serving.service"
    assert {Path(path).name for path in module._OF_A_REBOOT} == {there.name, absent.name}
    there.touch()
    monkeypatch.setattr(module, "_OF_A_REBOOT", {str(there): "still off", str(absent): "still changed"})
    assert one(module, Host())["leftovers"] == [{"kind": "file", "name": str(there), "detail": "still off"}]


def test_only_containers_of_checks_are_leftovers(module: ModuleType) -> None:
    host = Host(docker_ps="migrate-torch-gpu-4711\tUp 3 hours\nmigrate-lab-gpu01\tUp 1 hour\nmy-migrate-x-1\tUp\n")
    assert one(module, host)["leftovers"] == [
        {"kind": "container", "name": "migrate-torch-gpu-4711", "detail": "Up 3 hours"}
    ]


@pytest.mark.parametrize(
    ("blocks", "free", "inodes", "full"),
    [
        (100 << 18, 50 << 18, 1000, False),
        (100 << 18, 1 << 17, 1000, True),
        (100 << 18, 50 << 18, 0, True),
        (64 << 8, 64 << 8, 1000, False),
        (64 << 8, 1 << 8, 1000, True),
    ],
)
def test_a_disk_is_full_by_its_size(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, inodes: int, full: bool
) -> None:
    room = SimpleNamespace(f_bavail=free, f_frsize=4096, f_favail=inodes, f_files=1000, f_blocks=blocks)
    monkeypatch.setattr(module.os, "statvfs", lambda path: room)
    assert bool(module.full("/var/lib")) is full


def test_a_folder_that_is_not_there_is_not_full(module: ModuleType) -> None:
    assert module.full("/no/such/folder") == ""


class TestBounded:
    def tool(self, folder: Path, text: str) -> None:
        path = folder / "tool"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def test_output_and_errors_come_as_they_were_written(self, module: ModuleType, tmp_path: Path) -> None:
        self.tool(tmp_path, "echo one; echo two >&2; echo three; exit 3")
        assert module.bounded(str(tmp_path))(["tool"]) == (3, "one\ntwo\nthree\n")

    def test_an_endless_output_ends(self, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LONGEST_OUTPUT", 1000)
        self.tool(tmp_path, "exec yes")
        rc, out = module.bounded(str(tmp_path))(["tool"])
        assert len(out) == 1000
        assert rc != 0

    def test_a_command_that_hangs_ends(
        self, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.2)
        self.tool(tmp_path, "exec sleep 60")
        assert module.bounded(str(tmp_path))(["tool"])[0] != 0

    def test_one_that_is_not_there_says_so(self, module: ModuleType, tmp_path: Path) -> None:
        assert module.bounded("")(["no-such-program"]) == (127, "no-such-program: No such file or directory")
        assert os.path.isdir(tmp_path)
