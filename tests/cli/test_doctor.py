"""`migrate doctor` from the command line: exit codes, the same in JSON, and hosts that write nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from migrate.cli import main
from migrate.doctor_judge import Finding, Leftover, Report
from migrate.errors import HostUnreachable

FINE = Report("gpu01", "SERVING triton 100 %", (), (), (), {}, {}, {"clock": "+0.1 s"}, {"vllm_api": "not yet"}, {})
FINDING = Finding(
    "kv-cache-too-small",
    "out of memory",
    "one request does not fit",
    "ValueError: To serve at least one request",
    "docker logs vllm-vllm-1",
    "2026-11-21T18:00:09Z",
    "`vllm_args: {max-model-len: 17200}`",
    {"vllm_api": "refused"},
)
HOSTILE = "\x1b[2J\x1b]0;x\x07[bold]b[/bold] {{ 7 * 7 }} \u202eevil\r\n2. most likely: fake\x00" + "A" * 100_000


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    known: dict[str, Any] = {"report": FINE}

    @contextmanager
    def target(name: str, inventory: Any, state: Any, say: Any) -> Iterator[Any]:
        yield type("Target", (), {"name": name})

    def examine(target: Any, *, deep: bool) -> Report:
        known["deep"] = deep
        if isinstance(known["report"], Exception):
            raise known["report"]
        return known["report"]  # type: ignore[no-any-return]

    monkeypatch.setattr("migrate.session.target", target)
    monkeypatch.setattr("migrate.inventory.find", lambda *given: None)
    monkeypatch.setattr("migrate.doctor.examine", examine)
    return known


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--host", "gpu01", *arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, 0),
        ({"notices": (FINDING,)}, 0),
        ({"accepted": {"gpu_driver": "none (accepted: lab)"}}, 0),
        ({"findings": (FINDING,)}, 5),
        ({"undecided": {"clock": "gave no verdict"}}, 8),
        ({"leftovers": (Leftover("the lock of ann", "migrate lock break 1"),)}, 8),
        ({"findings": (FINDING,), "undecided": {"clock": "x"}}, 5),
    ],
)
def test_the_exit_code_says_what_was_found(examined: dict[str, Any], changed: dict[str, Any], code: int) -> None:
    examined["report"] = replace(FINE, **changed)
    assert run() == code
    assert run("--json") == code


def test_a_host_out_of_reach_is_9(examined: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    examined["report"] = HostUnreachable("gpu01: timed out", advice="try: ansible -m ping gpu01")
    assert run() == 9
    assert "gpu01: timed out" in capsys.readouterr().err


def test_cause_evidence_and_command_come_first(examined: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    examined["report"] = replace(
        FINE, findings=(FINDING,), notices=(FINDING,), leftovers=(Leftover("a lock", "break it"),)
    )
    run()
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "gpu01: 1 finding, 1 checks pass, 1 left over"
    assert out[3:8] == [
        "1. most likely: out of memory: one request does not fit",
        "   seen   ValueError: To serve at least one request",
        "   where  docker logs vllm-vllm-1, 2026-11-21T18:00:09Z",
        "   do     `vllm_args: {max-model-len: 17200}`",
        "   shows  in vllm_api: refused",
    ]
    assert [line for line in out if line in {"noticed", "left over", "fine", "not asked"}] == [
        "noticed",
        "left over",
        "fine",
        "not asked",
    ]


def test_json_has_the_same(examined: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    examined["report"] = replace(FINE, findings=(FINDING,))
    run("--json")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["type"] == "doctor"
    assert told["findings"][0]["do"] == "`vllm_args: {max-model-len: 17200}`"
    assert told["findings"][0]["shows_in"] == {"vllm_api": "refused"}
    assert told["skipped"] == {"vllm_api": "not yet"}


def test_what_a_host_writes_is_shown_and_not_obeyed(
    examined: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = replace(
        FINDING, seen=HOSTILE, cause=HOSTILE, where=HOSTILE, at=HOSTILE, do=HOSTILE, shows_in={HOSTILE: HOSTILE}
    )
    services = {"vllm": {"exists": True, "first_error": "", "name": HOSTILE}}
    examined["report"] = replace(
        FINE,
        findings=(bad,),
        notices=(bad,),
        leftovers=(Leftover(HOSTILE, HOSTILE),),
        fine={"x": HOSTILE},
        services=services,
    )
    assert run() == 5
    out = capsys.readouterr().out
    assert not any(ord(c) < 32 and c != "\n" for c in out)
    assert "\u202e" not in out
    assert "[bold]b[/bold] {{ 7 * 7 }}" in out
    assert not any(line.startswith("2. most likely") for line in out.splitlines())
    assert max(map(len, out.splitlines())) < 1000


def test_deep_is_asked_for(examined: dict[str, Any]) -> None:
    run()
    assert examined["deep"] is False
    run("--deep")
    assert examined["deep"] is True


def test_without_a_host_it_is_64() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 64
