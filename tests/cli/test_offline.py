"""`offline-generate` from file to file, with playbooks that play the host."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from migrate.cli import offline as command
from migrate.cli.app import app
from migrate.errors import GateFailed, Refused, UsageError
from migrate.journal import Kind, Record
from migrate.playbook import PlaybookResult
from tests.core.fakes import settings


class Host:
    """Answers each state of playbooks/offline.yml; `dies` after so many answers."""

    def __init__(self, dies: int = 1000, **changed: Any) -> None:
        self.settings, self.name, self.dies = settings(vllm_mode="offline", **changed), "gpu01", dies
        self.states, self.asked, self.say = list[str](), 0, lambda text: None
        self.host = SimpleNamespace()

    def playbooks(self) -> Host:
        return self

    def with_target(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return dict(extra)

    def run(self, name: str, extra: Mapping[str, Any], say: Callable[[str], None]) -> PlaybookResult:
        assert (name, extra["migrate_token"]) == ("offline", 7)
        self.states.append(extra["offline_state"])
        result = PlaybookResult("successful")
        if extra["offline_state"] == "started":
            self.requests = [json.loads(line) for line in Path(extra["offline_requests_file"]).read_text().splitlines()]
            self.asked += len(self.requests)
        if extra["offline_state"] == "waited":
            state = "failed" if self.dies < len(self.requests) else "finished"
            told = {"state": state, "running": False, "done": 1, "total": 1, "error": "dead", "last": ""}
            result.results["offline"] = told
        if extra["offline_state"] == "fetched":
            answers = [{"key": one["key"], "text": one["prompt"].upper()} for one in self.requests[: self.dies]]
            Path(extra["offline_answers_file"]).write_text("".join(json.dumps(one) + "\n" for one in answers))
        return result


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host, str], None]:
    def play(host: Host, verdict: str = "pass") -> None:
        @contextmanager
        def target(*given: Any) -> Iterator[Host]:
            yield host

        @contextmanager
        def hold(*given: Any) -> Iterator[Any]:
            yield SimpleNamespace(token=7, assert_held=lambda: None)

        records = (
            Record(1, "2026-11-21T00:00:00Z", Kind.INTENT, "deploy", {}, "", 7),
            Record(2, "2026-11-21T00:00:00Z", Kind.OUTCOME, "deploy", {"verdict": verdict}, "", 7),
        )
        found = SimpleNamespace(records=records, plan=SimpleNamespace(settings=host.settings.flat()))
        monkeypatch.setattr(command.session, "target", target)
        monkeypatch.setattr(command.session, "latest", lambda target: found)
        monkeypatch.setattr(command.locks, "hold", hold)
        monkeypatch.setattr(command.inventories, "find", lambda *given: None)

    return play


def generate(source: Path, target: Path) -> Any:
    argv = ["offline-generate", "--host", "gpu01", "--input", str(source), "--output", str(target), "--json"]
    return CliRunner().invoke(app, argv, standalone_mode=False)


def test_answers_come_in_order_and_are_not_made_again(played: Any, tmp_path: Path) -> None:
    source, target, host = tmp_path / "in", tmp_path / "out", Host()
    played(host)
    source.write_text('{"prompt": "a"}\n{"prompt": "b", "id": "x"}\n')
    assert generate(source, target).exception is None
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(line["id"], line["text"]) for line in lines] == [(1, "A"), ("x", "B")]
    assert host.states == ["started", "waited", "fetched"]
    with source.open("a") as file:
        file.write('{"prompt": "c"}\n')
    generate(source, target)
    assert host.asked == 3
    generate(source, target)
    assert host.asked == 3


def test_a_host_that_dies_keeps_what_it_answered(played: Any, tmp_path: Path) -> None:
    source, target, host = tmp_path / "in", tmp_path / "out", Host(dies=1)
    played(host)
    source.write_text('{"prompt": "a"}\nno JSON\n{"prompt": "b"}\n')
    done = generate(source, target)
    assert isinstance(done.exception, GateFailed)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert ["text" in line for line in lines] == [True, False, False]
    host.dies = 1000
    generate(source, target)
    assert host.asked == 3


@pytest.mark.parametrize(("verdict", "mode", "why"), [("fail", "offline", "not passed"), ("pass", "server", "server")])
def test_it_wants_a_host_that_idles_for_it(played: Any, tmp_path: Path, verdict: str, mode: str, why: str) -> None:
    host = Host()
    host.settings = settings(vllm_mode=mode)
    played(host, verdict)
    (tmp_path / "in").write_text('{"prompt": "a"}\n')
    done = generate(tmp_path / "in", tmp_path / "out")
    assert isinstance(done.exception, Refused)
    assert why in str(done.exception)
    assert "--through deploy" in done.exception.advice
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be(played: Any, tmp_path: Path) -> None:
    played(Host())
    (tmp_path / "in").write_text('{"prompt": "a"}\n')
    for source, target in (("in", "in"), ("none", "out"), ("in", "no/out")):
        assert isinstance(generate(tmp_path / source, tmp_path / target).exception, UsageError)
