import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from migrate import actions, retire, rollback
from migrate import run as running
from migrate.context import Run
from migrate.errors import GateFailed, Held, Interrupted, LockHeld, MigrateError, NotProven, Refused, RolledBack
from migrate.gate import Outcome, Verdict
from migrate.journal import Kind, State, finished, states
from migrate.phases import NAMES, PHASES

from .fakes import FakeHost, FakePlaybooks, run


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges have tests of their own; here both say pass, and waiting takes no time."""
    passed = {
        name: lambda run, name=name: [Verdict(name, Outcome.PASS)] for name in ("judge_parity", "judge_performance")
    }
    monkeypatch.setattr(actions, "ACTIONS", {**actions.ACTIONS, **passed})
    monkeypatch.setattr(actions, "_POLL_S", 0.01)
    monkeypatch.setattr(actions, "_watch", lambda run, since, percent: run.host.call("window"))


def known(run: Run) -> dict[str, State]:
    return states(run.journal.records, NAMES)


def test_every_phase_passes_in_order(tmp_path: Path) -> None:
    playbooks = FakePlaybooks()
    going = run(tmp_path, FakeHost(), playbooks)
    running.forward(going)
    assert [name for name in playbooks.ran if name != "discover"] == list(NAMES)
    assert set(known(going).values()) == {State.PASSED}
    assert finished(going.journal.records) == "migrated"


@pytest.mark.parametrize("phase", [p.name for p in PHASES if not p.moves_traffic])
def test_a_failed_playbook_before_cutover_leaves_triton_serving(tmp_path: Path, phase: str) -> None:
    host = FakeHost()
    going = run(tmp_path, host, FakePlaybooks(failures={phase: "pull: registry is silent"}))
    with pytest.raises(GateFailed, match="registry is silent"):
        running.forward(going)
    assert known(going)[phase] is State.FAILED
    assert not host.asked("switch")


@pytest.mark.parametrize("phase", [p.name for p in PHASES if p.moves_traffic])
def test_a_failed_playbook_after_traffic_moved_goes_back_and_proves_triton(tmp_path: Path, phase: str) -> None:
    host, playbooks = FakeHost(), FakePlaybooks(failures={phase: "it broke"})
    going = run(tmp_path, host, playbooks)
    with pytest.raises(RolledBack, match="it broke"):
        running.forward(going)
    assert host.asked("back")
    assert playbooks.ran[-1] == "prove_back"
    assert finished(going.journal.records) == ""


def test_a_way_back_that_fails_needs_a_human(tmp_path: Path) -> None:
    host = FakeHost(back=NotProven("triton does not start"))
    going = run(tmp_path, host, FakePlaybooks(failures={"cutover": "it broke"}))
    with pytest.raises(NotProven, match="triton does not start"):
        running.forward(going)


def test_an_inconclusive_gate_holds_unless_it_is_accepted(tmp_path: Path) -> None:
    unsure = dict.fromkeys(("gpu_driver", "cuda_toolkit", "nccl_host"), Outcome.INCONCLUSIVE)
    going = run(tmp_path, FakeHost(), FakePlaybooks(verdicts=unsure))
    with pytest.raises(Held, match="provision"):
        running.forward(going)
    (tmp_path / "accepted").mkdir()
    accepted = {"migrate_accept_inconclusive": {"provision": "no GPU here"}}
    going = run(tmp_path / "accepted", FakeHost(), FakePlaybooks(verdicts=unsure), **accepted)
    running.forward(going)
    outcome = next(r for r in going.journal.records if r.kind is Kind.OUTCOME and r.phase == "provision")
    assert outcome.data["accepted"] == "no GPU here"


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR])
def test_acceptance_never_covers_a_failure(tmp_path: Path, outcome: Outcome) -> None:
    accepted = {"migrate_accept_inconclusive": {"provision": "no GPU here"}}
    going = run(
        tmp_path,
        FakeHost(),
        FakePlaybooks(verdicts={"gpu_driver": outcome, "cuda_toolkit": Outcome.INCONCLUSIVE}),
        **accepted,
    )
    with pytest.raises(GateFailed):
        running.forward(going)


def test_a_burning_step_goes_back(tmp_path: Path) -> None:
    side = {"requests": 100, "p95_s": 0.2, "refused": 0}
    burning = {"total": 200, "by_upstream": {"gateway": side | {"errors": 9}, "triton": side | {"errors": 0}}}
    host = FakeHost(window=burning)
    with pytest.raises(RolledBack, match="traffic at 5 %"):
        running.forward(run(tmp_path, host, FakePlaybooks()))
    assert host.percent == 0


def test_a_soak_that_went_back_is_rolled_back(tmp_path: Path) -> None:
    host = FakeHost(soak_status={"state": "went_back", "reason": "errors 4 %"})
    with pytest.raises(RolledBack, match="errors 4 %"):
        running.forward(run(tmp_path, host, FakePlaybooks()))
    assert not host.asked("switch", "commit")


def test_drift_before_cutover_is_refused_and_nothing_moves(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    playbooks.facts["model_repository"]["digest"] = "e" * 64
    with pytest.raises(Refused, match="model_repository.digest"):
        running.forward(run(tmp_path, host, playbooks))
    assert not host.asked("switch")
    assert "cutover" not in playbooks.ran


def test_drift_that_the_operator_accepted_is_journaled_and_the_run_goes_on(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    playbooks.facts["model_repository"]["digest"] = "e" * 64
    going = run(tmp_path, host, playbooks)
    running.accept_drift(going, {"model_repository.digest": "e" * 64})
    running.forward(going)
    assert running.accepted_drift(going.journal.records) == {"model_repository.digest": "e" * 64}
    assert host.percent == 100


def test_a_lost_lease_stops_before_the_next_phase(tmp_path: Path) -> None:
    going = run(tmp_path, FakeHost(), FakePlaybooks())
    going.lease.lost.set()
    with pytest.raises(LockHeld):
        running.forward(going)
    assert not going.journal.records


def test_an_interrupt_stops_at_the_next_phase_and_continue_goes_on_there(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    going = run(tmp_path, host, playbooks)
    running.forward(going, through="snapshot")
    going.stop.asked = 1
    with pytest.raises(Interrupted, match="before provision"):
        running.forward(going)
    resumed = run(tmp_path, host, playbooks)
    running.forward(resumed)
    assert playbooks.ran.count("snapshot") == 1
    assert finished(resumed.journal.records) == "migrated"


def test_a_crash_between_intent_and_outcome_is_unknown_and_done_again(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    going = run(tmp_path, host, playbooks)
    going.journal.append(Kind.INTENT, "preflight")
    assert known(going)["preflight"] is State.UNKNOWN
    running.forward(going, through="preflight")
    assert known(going)["preflight"] is State.PASSED


def test_a_missing_check_is_an_error_not_a_pass(tmp_path: Path) -> None:
    playbooks = FakePlaybooks()
    original = playbooks.run

    def forgetful(name, variables, say):  # type: ignore[no-untyped-def]
        result = original(name, variables, say)
        result.verdicts = result.verdicts[1:]
        return result

    playbooks.run = forgetful  # type: ignore[method-assign]
    with pytest.raises(GateFailed):
        running.forward(run(tmp_path, FakeHost(), playbooks))


def test_rollback_before_anything_moved_touches_no_traffic(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    going = run(tmp_path, host, playbooks)
    running.forward(going, through="deploy")
    rollback.rollback(going, "before-deploy")
    assert not host.asked("back")
    assert playbooks.ran[-2:] == ["undo_deploy", "prove_back"]
    assert finished(going.journal.records) == "rolled back"


def test_rollback_undoes_in_reverse_order(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    going = run(tmp_path, host, playbooks)
    running.forward(going)
    rollback.rollback(going, "before-deploy")
    undone = [name for name in playbooks.ran if name.startswith("undo_")]
    assert undone == ["undo_cutover", "undo_deploy"]


def test_rollback_that_finds_triton_changed_needs_a_human(tmp_path: Path) -> None:
    playbooks = FakePlaybooks()
    going = run(tmp_path, FakeHost(), playbooks)
    running.forward(going)
    playbooks.verdicts["snapshot_diff"] = Outcome.FAIL
    with pytest.raises(NotProven, match="snapshot_diff"):
        rollback.rollback(going, "traffic")
    assert finished(going.journal.records) == ""


def test_an_error_of_the_host_inside_a_phase_is_a_verdict(tmp_path: Path) -> None:
    host = FakeHost(rehearse=MigrateError("no listener"))
    with pytest.raises(GateFailed, match="no listener"):
        running.forward(run(tmp_path, host, FakePlaybooks()))


def test_peak_memory_is_this_programs_own_and_not_that_of_what_started_it() -> None:
    held = bytearray(b"x" * (400 << 20))
    told = "from migrate.run import _peak_memory_mib; held = b'x' * (100 << 20); print(_peak_memory_mib())"
    said = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    assert 100 < int(said) < 300 < len(held) >> 20


def test_a_step_without_a_baseline_decides_nothing(tmp_path: Path) -> None:
    side = {"requests": 100, "p95_s": 9.0, "errors": 0, "refused": 0}
    host = FakeHost(window={"total": 100, "by_upstream": {"gateway": side}})
    with pytest.raises(RolledBack, match="too few"):
        running.forward(run(tmp_path, host, FakePlaybooks(), switch_steps=[100]))


def test_refusals_that_triton_does_not_make_go_back(tmp_path: Path) -> None:
    side = {"requests": 100, "p95_s": 0.2, "errors": 0}
    strict = {"total": 200, "by_upstream": {"gateway": side | {"refused": 40}, "triton": side | {"refused": 0}}}
    with pytest.raises(RolledBack, match="traffic at 5 %"):
        running.forward(run(tmp_path, FakeHost(window=strict), FakePlaybooks()))


def test_a_failed_phase_does_not_say_that_triton_serves_when_it_does_not(tmp_path: Path) -> None:
    host = FakeHost(probe={"ok": False, "error": "connection refused"})
    with pytest.raises(NotProven, match="connection refused"):
        running.forward(run(tmp_path, host, FakePlaybooks(failures={"deploy": "out of memory"})))


def test_traffic_that_the_dead_man_took_back_is_moved_again(tmp_path: Path) -> None:
    host, playbooks = FakeHost(), FakePlaybooks()
    going = run(tmp_path, host, playbooks)
    running.forward(going, through="cutover")
    host.percent = 0
    running.forward(run(tmp_path, host, playbooks))
    assert playbooks.ran.count("cutover") == 2
    assert host.percent == 100


def test_a_bug_while_traffic_moves_goes_back(tmp_path: Path) -> None:
    host = FakeHost(soak_status=ValueError("damaged"))
    with pytest.raises(RolledBack, match="damaged"):
        running.forward(run(tmp_path, host, FakePlaybooks()))


def test_rollback_finds_traffic_that_another_run_moved(tmp_path: Path) -> None:
    host = FakeHost()
    host.percent = 100
    going = run(tmp_path, host, FakePlaybooks())
    running.forward(going, through="preflight")
    rollback.rollback(going, "traffic")
    assert host.asked("back")


def test_retire_refuses_while_traffic_is_on_triton(tmp_path: Path) -> None:
    accepted = {"reason": "none left", "owner": "ops", "expires": "2099-01-01"}
    playbooks = FakePlaybooks()
    going = run(tmp_path, FakeHost(), playbooks, retire_lost_routes={"80 /v2/": accepted})
    with pytest.raises(Refused, match="not all traffic is on vLLM"):
        retire.retire(going)
    assert "retire" not in playbooks.ran


def test_retire_names_the_routes_that_would_be_lost(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="80 /v2/"):
        retire.retire(run(tmp_path, FakeHost(), FakePlaybooks()))


@pytest.mark.parametrize(("stage", "passes"), [("serving", True), ("weights", False)])
def test_the_stages_of_the_start_are_shown_and_judged(tmp_path: Path, stage: str, passes: bool) -> None:
    playbooks, said = FakePlaybooks(), []
    playbooks.results["deploy"] = {"vllm_startup": {"stage": stage, "seconds": {"weights": 1.25, "kv_cache": 0.5}}}
    going = run(tmp_path, FakeHost(), playbooks)
    going.say = said.append
    with nullcontext() if passes else pytest.raises(GateFailed, match="vllm_startup"):
        running.forward(going, through="deploy")
    assert "vLLM: weights 1.2 s · kv cache 0.5 s" in said
