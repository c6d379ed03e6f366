"""`apply` and `continue` from the command line, on a host that is a table: what they refuse before any change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from migrate import plan as planning
from migrate import planner, session
from migrate.cli import main, running
from migrate.plan import Plan

from ..core.fakes import FakeHost, facts, settings
from ..core.test_plan import NOW, changed


class Host(FakeHost):
    """A host on which hostctl is installed and that knows these runs."""

    def __init__(self, *runs: str) -> None:
        super().__init__(journal_list={"runs": [{"run": run} for run in runs]})

    def installed(self) -> bool:
        return True


class Bench:
    """The commands under test, with a host's facts in place of the host."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.facts, self.host = place, facts(), Host()
        self.latest: session.Migration | None = None
        self.went: list[running.Going] = []
        monkeypatch.setattr(session, "target", self._target)
        monkeypatch.setattr(session, "latest", lambda target: self.latest)
        monkeypatch.setattr(session, "discover", lambda target: self.facts)
        monkeypatch.setattr(session, "keep_facts", lambda target, run, found: None)
        monkeypatch.setattr(session, "now", lambda: NOW)
        monkeypatch.setattr("migrate.cli.migrating.forward", lambda t, plan, going, out: self.went.append(going))
        monkeypatch.setattr("migrate.cli.migrating.inventories.find", lambda *a: None)

    @contextmanager
    def _target(self, name: str, inventory: Any, state: Path, say: Any) -> Iterator[Any]:
        yield type("Target", (), {"name": name, "settings": settings(), "host": self.host, "say": say, "state": state})

    def saved(self, plan: Plan | None = None) -> str:
        made = plan or planner.make("gpu01", settings(), facts(), session.playbooks_digest(), NOW)
        path = self.place / "gpu01.plan.json"
        path.write_text(made.text(), encoding="utf-8")
        return str(path)

    def run(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_saved_plan_is_the_approval(bench: Bench) -> None:
    assert bench.run("apply", bench.saved()) == 0
    assert bench.went[0].accepted == {}


def test_drift_is_refused_with_the_line_to_paste(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.facts = changed("model_repository.digest", "0" * 64)
    file = bench.saved()
    assert bench.run("apply", file) == 3
    told = capsys.readouterr().err
    assert "nothing was touched" in told
    assert f"migrate apply {file} --accept-drift model_repository.digest" in told
    assert not bench.went


def test_accepted_drift_goes_on_with_the_value_of_now(bench: Bench) -> None:
    bench.facts = changed("model_repository.digest", "0" * 64)
    assert bench.run("apply", bench.saved(), "--accept-drift", "model_repository.digest") == 0
    assert bench.went[0].accepted == {"model_repository.digest": "0" * 64}


@pytest.mark.parametrize(
    ("key", "told"), [("model_repository.diges", "did you mean"), ("vllm_image.digest", "the plan carries it")]
)
def test_what_cannot_be_accepted_is_64(bench: Bench, capsys: pytest.CaptureFixture[str], key: str, told: str) -> None:
    assert bench.run("apply", bench.saved(), "--accept-drift", key) == 64
    assert told in capsys.readouterr().err


def test_continue_does_not_take_another_nginx_than_was_rehearsed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    made = planner.make("gpu01", settings(), facts(), "t", NOW)
    bench.latest = type("Unfinished", (), {"run": "r", "result": "", "plan": made})()
    assert bench.run("continue", "--host", "gpu01", "--accept-drift", "nginx.digest") == 64
    assert "--to before-deploy" in capsys.readouterr().err
    assert bench.run("continue", "--host", "gpu01", "--accept-drift", "weights.digest") == 0


def test_a_plan_is_used_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    file = bench.saved()
    used = json.loads(Path(file).read_text())["id"][:8]
    bench.host = Host(f"20260101T000000Z-gpu01-{used}", "20260102T000000Z-gpu01-ffffffff")
    bench.latest = type("RolledBack", (), {"run": "r", "result": "rolled back", "plan": None})()
    assert bench.run("apply", file) == 3
    assert "used" in capsys.readouterr().err
    bench.host = Host("20260102T000000Z-gpu01-ffffffff")
    assert bench.run("apply", file) == 0


def test_an_expired_plan_is_3(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.saved()
    monkeypatch.setattr(session, "now", lambda: NOW + timedelta(hours=72))
    assert bench.run("apply", file) == 3


def test_a_plan_of_other_playbooks_is_3(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("apply", bench.saved(planner.make("gpu01", settings(), facts(), "t", NOW))) == 3
    assert "other playbooks" in capsys.readouterr().err


def test_a_stale_plan_is_refused_before_the_host_is_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.saved()
    monkeypatch.setattr(session, "now", lambda: NOW + timedelta(hours=72))
    monkeypatch.setattr(session, "target", lambda *a: pytest.fail("the host was asked"))
    assert bench.run("apply", file) == 3


@pytest.mark.parametrize("part", ["clients", "findings", "memory", "settings", "expires", "translation"])
def test_a_plan_with_a_part_of_another_type_is_3(bench: Bench, part: str) -> None:
    file = Path(bench.saved())
    data = json.loads(file.read_text()) | {part: [5]}
    del data["id"]
    data["id"] = hashlib.sha256(planning.canonical(data).encode()).hexdigest()
    file.write_text(json.dumps(data))
    assert bench.run("apply", str(file)) == 3
    assert bench.run("show", str(file)) == 3


def test_an_unfinished_migration_is_8_with_both_commands(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.latest = type("Unfinished", (), {"run": "r", "result": "", "plan": None})()
    assert bench.run("apply", bench.saved()) == 8
    told = capsys.readouterr().err
    assert "migrate continue" in told
    assert "migrate rollback" in told


def test_without_a_saved_plan_and_a_terminal_apply_wants_yes(bench: Bench) -> None:
    assert bench.run("apply", "--host", "gpu01") == 10
    assert bench.run("apply", "--host", "gpu01", "--yes") == 0
