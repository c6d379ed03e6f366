"""Provision in the plan: what would change is shown, a reboot is announced, and nothing else is allowed later."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrate import actions, planner, rollback, summary, variables
from migrate import lock as locks
from migrate import plan as planning
from migrate import run as running
from migrate.cli.planview import as_text
from migrate.context import Run
from migrate.errors import GateFailed, HostUnreachable, Refused, SettingsError
from migrate.gate import Outcome, Verdict
from migrate.journal import Kind, finished, gaps
from migrate.lock import Lease
from migrate.phases import NAMES
from migrate.plan import Plan

from .fakes import FakeHost, FakePlaybooks, facts, run, settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANAGED = {"provision_manage": ["driver"], "provision_allow_reboot": True, "provision_gap_s": 60}
PACKAGES = {
    "role": "gpu_driver",
    "task": "Install the packages",
    "packages": [
        {"name": "nvidia-open-580", "before": None, "after": "580.178.04-0ubuntu1"},
        {"name": "nvidia-open-570", "before": "570.172.08-0ubuntu1", "after": None},
    ],
}
NOUVEAU = {"role": "gpu_driver", "task": "Keep nouveau away from the cards", "packages": []}
REBOOT = {"role": "gpu_driver", "task": "Reboot", "packages": []}


def previewed(*changes: dict[str, Any], refused: str = "") -> dict[str, Any]:
    return facts() | {"provision": {"changes": list(changes), "refused": refused}}


def made(*changes: dict[str, Any]) -> Plan:
    return planner.make("gpu01", settings(**MANAGED), previewed(*changes), "t", NOW)


def rebooting(place: Path, host: FakeHost, playbooks: FakePlaybooks) -> Run:
    going = run(place, host, playbooks, **MANAGED)
    going.plan = made(PACKAGES, REBOOT)
    return going


def test_every_package_is_a_step_and_the_reboot_is_announced() -> None:
    plan = made(PACKAGES, NOUVEAU, REBOOT)
    steps = {step.what: (step.before, step.after) for phase in plan.phases for step in phase.steps}
    assert steps["nvidia-open-580"] == ("absent", "580.178.04-0ubuntu1")
    assert steps["nvidia-open-570"] == ("570.172.08-0ubuntu1", "removed")
    assert steps["the host"] == ("running", "rebooted")
    assert steps["gpu_driver"] == ("not looked at", "keep nouveau away from the cards")
    assert summary.of(plan)["gap"] == "at most 60 s"
    assert "no new GPU container can be created" in as_text(plan)
    assert planning.from_json(plan.as_json()) == plan


@pytest.mark.parametrize(
    ("asked", "changes", "steps"),
    [
        ("auto", [PACKAGES], [("auto", "ubuntu", "Secure Boot is on")]),
        ("auto", [NOUVEAU], []),
        ("ubuntu", [PACKAGES], []),
    ],
)
def test_where_the_driver_comes_from_is_a_step_where_the_host_decided_it(
    asked: str, changes: list[dict[str, Any]], steps: list[tuple[str, ...]]
) -> None:
    found = previewed(*changes)
    found["provision"]["driver_source"] = {"source": "ubuntu", "reason": "Secure Boot is on"}
    wanted = settings(**MANAGED, provision_driver_source=asked)
    plan = planner.make("gpu01", wanted, found, "t", NOW)
    told = [step for phase in plan.phases for step in phase.steps if step.what == "provision_driver_source"]
    assert [(step.before, step.after, step.why) for step in told] == steps
    assert ("Secure Boot is on" in as_text(plan)) == bool(steps)


def test_without_a_reboot_there_is_no_gap_and_none_is_allowed() -> None:
    plan = made(PACKAGES)
    assert (plan.gaps, summary.of(plan)["gap"]) == ((), "none")
    assert variables.for_phase("provision", plan, settings(**MANAGED), ())["provision_allow_reboot"] is False
    announced = variables.for_phase("provision", made(REBOOT), settings(**MANAGED), ())
    assert "provision_allow_reboot" not in announced


def test_what_the_roles_refuse_the_plan_refuses() -> None:
    with pytest.raises(Refused, match="on hold: libnccl2"):
        planner.make("gpu01", settings(**MANAGED), previewed(refused="on hold: libnccl2"), "t", NOW)


@pytest.mark.parametrize(
    ("now", "moved"),
    [
        (previewed(PACKAGES, REBOOT), []),
        (previewed(REBOOT), ["provision.changes"]),
        (previewed(PACKAGES, REBOOT, refused="dpkg was interrupted"), ["provision.refused"]),
        (facts(), ["provision.changes", "provision.refused"]),
    ],
)
def test_what_would_change_is_part_of_what_the_plan_relies_on(now: dict[str, Any], moved: list[str]) -> None:
    assert [drift.key for drift in planning.drift(made(PACKAGES, REBOOT), now)] == moved


def test_nothing_to_change_is_relied_on_too() -> None:
    assert [d.key for d in planning.drift(made(), previewed(NOUVEAU))] == ["provision.changes"]


def test_after_the_phase_the_driver_is_another_and_nobody_looks_again() -> None:
    found = previewed(PACKAGES, REBOOT) | {"driver": {"version": "570.172.08"}}
    plan = planner.make("gpu01", settings(**MANAGED), found, "t", NOW)
    now = facts() | {"driver": {"version": "580.178.04"}}
    assert not planning.drift(plan, now, passed=set(NAMES[: NAMES.index("provision") + 1]))
    assert {d.key for d in planning.drift(plan, now)} == {"driver.version", "provision.changes", "provision.refused"}


def test_a_managed_host_gets_through_the_cutover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = {name: lambda run: [Verdict("judged", Outcome.PASS)] for name in ("judge_parity", "judge_performance")}
    monkeypatch.setattr(actions, "ACTIONS", {**actions.ACTIONS, **judged})
    monkeypatch.setattr(actions, "_POLL_S", 0.01)
    monkeypatch.setattr(actions, "_watch", lambda run, since, percent: run.host.call("window"))
    going = rebooting(tmp_path, FakeHost(), FakePlaybooks())
    running.forward(going)
    assert finished(going.journal.records) == "migrated"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"provision_manage": ["drivers"]}, "provision_manage"),
        ({"provision_driver_branch": "5800"}, "provision_driver_branch"),
        ({"provision_driver_version": "570.1.2"}, "is not of driver_branch 580"),
        ({"provision_driver_flavour": "proprietary"}, "provision_driver_flavour"),
        ({"provision_nccl_version": "2.26.5; reboot"}, "provision_nccl_version"),
        ({"provision_cuda_repository_url": "file:///x"}, "provision_cuda_repository_url"),
        ({"provision_allow_reboots": True}, "did you mean provision_allow_reboot"),
    ],
)
def test_a_bad_setting_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**changed)


@pytest.mark.parametrize(("ended", "outcome"), [("00:00:59", Outcome.PASS), ("00:01:01", Outcome.FAIL)])
def test_the_gap_is_held_against_what_was_announced(tmp_path: Path, ended: str, outcome: Outcome) -> None:
    playbooks = FakePlaybooks()
    gap = {"began": "2026-01-01T00:00:00.0Z", "ended": f"2026-01-01T{ended}.5Z"}
    playbooks.results["provision"] = {"gap": gap}
    going = rebooting(tmp_path, FakeHost(), playbooks)
    if outcome is Outcome.PASS:
        running.forward(going, through="provision")
    else:
        with pytest.raises(GateFailed, match="announced were 60 s"):
            running.forward(going, through="provision")
    assert gaps(going.journal.records) == [gap]
    told = next(r for r in going.journal.records if r.kind is Kind.OUTCOME and r.phase == "provision")
    assert {v["check"]: v["verdict"] for v in told.data["verdicts"]}["announced_gap"] == str(outcome)


def test_the_lock_outlasts_an_announced_reboot_and_is_short_again(tmp_path: Path) -> None:
    host = FakeHost()
    going = rebooting(tmp_path, host, FakePlaybooks())
    running.forward(going, through="provision")
    leases = [call[call.index("--lease-s") + 1] for call in host.calls if call[:2] == ("lock", "renew")]
    assert leases == ["1860", "60"]


def test_a_host_that_is_silent_within_an_announced_gap_keeps_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_RENEW_EVERY_S", 0.01)
    monkeypatch.setattr(locks, "LEASE_S", 0.05)

    class Silent:
        def call(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
            raise HostUnreachable("rebooting")

    for length_s, is_lost in ((30.0, False), (0.05, True)):
        lease, done = Lease("l", 1, length_s), threading.Event()
        thread = threading.Thread(target=locks._renew, args=(Silent(), lease, done))
        thread.start()
        assert lease.lost.wait(0.5) is is_lost
        done.set()
        thread.join()


def test_before_provision_undoes_everything_after_it_too(tmp_path: Path) -> None:
    playbooks = FakePlaybooks()
    going = rebooting(tmp_path, FakeHost(), playbooks)
    running.forward(going, through="deploy")
    rollback.rollback(going, "before-provision")
    undone = [name for name in playbooks.ran if name.startswith("undo_")]
    assert undone == ["undo_deploy", "undo_stage", "undo_provision"]
