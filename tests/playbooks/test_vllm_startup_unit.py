"""The wait for vLLM where it is a systemd unit: its state is systemd's, its log the journal's."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

SHOWN = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "NRestarts": "0",
    "Result": "success",
    "ExecMainStartTimestamp": "@1795283000",
}


@pytest.fixture
def startup(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("vllm_startup")


class Systemd:
    """Answers `systemctl show` and `journalctl`; remembers what was asked."""

    def __init__(self, messages: list[Any] = [], **shown: str) -> None:  # noqa: B006 - never written to
        self.shown, self.messages, self.asked = SHOWN | shown, messages, list[list[str]]()

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.asked.append(argv)
        if argv[0] == "systemctl":
            return 0, "\n".join(f"{name}={value}" for name, value in self.shown.items()), ""
        at = 1795283000_000000
        lines = [
            {"__REALTIME_TIMESTAMP": str(at + number * 1_500_000), "MESSAGE": message}
            for number, message in enumerate(self.messages)
        ]
        return 0, "\n".join([*map(json.dumps, lines), "no JSON"]), ""


def waited(startup: ModuleType, systemd: Systemd, timeout_s: int = 30) -> dict[str, Any]:
    params = {"port": 1, "timeout_s": timeout_s, "failures": []}
    found: dict[str, Any] = startup.wait(params, startup.Unit("migrate-vllm.service", systemd))
    return found


def test_stages_come_from_the_journal(startup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "healthy", lambda port: True)
    systemd = Systemd(["Starting to load model", "Loading weights took 1 s", list(b"Application startup complete.")])
    found = waited(startup, systemd)
    assert found == {"stage": "serving", "seconds": {"start": 0.0, "weights": 1.5, "serving": 1.5}}
    assert "--since=@1795283000" in systemd.asked[-1]


def test_a_unit_that_starts_again_is_explained_at_once(startup: ModuleType) -> None:
    found = waited(startup, Systemd(["vllm: error: unrecognized arguments: --x"], SubState="auto-restart"))
    assert found["failed"]
    assert "unrecognized arguments" in found["cause"]
    assert found["advice"] == "read its log: journalctl --unit migrate-vllm.service"


def test_a_unit_killed_for_memory_is_told_from_others(startup: ModuleType) -> None:
    assert "OOMKilled" in waited(startup, Systemd(ActiveState="failed", Result="oom-kill"))["cause"]


def test_a_unit_that_is_unknown_or_late(startup: ModuleType) -> None:
    assert "no unit is named migrate-vllm.service" in waited(startup, Systemd(LoadState="not-found"))["msg"]
    late = waited(startup, Systemd(["Starting to load model"]), timeout_s=0)
    assert "not serving after 0 s, in stage weights" in late["msg"]
    assert "journalctl --unit" in late["advice"]


def test_what_systemd_says_is_explained_by_the_journal(startup: ModuleType) -> None:
    unit = startup.Unit("migrate-vllm.service", Systemd(["Error: invalid option type"], ActiveState="failed"))
    found = startup.explained("Job for migrate-vllm.service failed", [], unit)
    assert found["cause"] == "Error: invalid option type"
