"""Carries a plan out, phase by phase: guard, intent, playbook, checks, gate, outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from migrate import actions, variables
from migrate import plan as planning
from migrate.context import Run, changing
from migrate.errors import GateFailed, Held, HostUnreachable, Interrupted, MigrateError, NotProven, Refused, RolledBack
from migrate.gate import Outcome, Verdict, as_json, decide
from migrate.journal import Kind, Record, State, states
from migrate.phases import NAMES, PHASES, Class, Phase
from migrate.playbook import PlaybookResult
from migrate.rollback import BY_HAND, back
from migrate.status import all_on_vllm


def forward(run: Run, through: str = NAMES[-1]) -> None:
    """Run every phase that has not passed yet, up to and with `through`.

    Raises GateFailed, Held, RolledBack, NotProven, Interrupted, LockHeld or HostUnreachable; the journal knows.
    """
    moving = False
    for phase in PHASES[: NAMES.index(through) + 1]:
        if _is_done(run, phase):
            run.say(f"{phase.name}: passed before")
            continue
        if not moving:
            run.stop.at_safe_point(f"before {phase.name}")
        with changing(run, phase.name) if phase.moves_traffic else nullcontext():
            _phase(run, phase)
        moving = phase.moves_traffic
    if through == NAMES[-1]:
        run.journal.append(Kind.FINISH, "", result="migrated", peak_memory_mib=_peak_memory_mib())


def _is_done(run: Run, phase: Phase) -> bool:
    """Whether the journal says passed and, where traffic is concerned, the host has it still as the phase left it."""
    if states(run.journal.records, NAMES)[phase.name] is not State.PASSED:
        return False
    if not phase.moves_traffic:
        return True
    return all_on_vllm(run.host.call("switch", "status"))


def _peak_memory_mib() -> int:
    """The most memory that this program has held so far, in MiB: proc(5), VmHWM, in KiB.

    getrusage(2) would also count what the program that started this one held (Linux keeps it over execve).
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) // 1024


def _phase(run: Run, phase: Phase) -> None:
    run.lease.assert_held()
    if phase.rechecks_plan:
        _refuse_drift(run)
    run.say(f"{phase.name}: {phase.does}")
    run.journal.append(Kind.INTENT, phase.name)
    began = time.monotonic()
    with run.outlasting_gap(phase.name):
        verdicts, changed = _work(run, phase)
    outcome = decide(verdicts, wanted=phase.checks)
    accepted = run.settings.migrate.accept_inconclusive.get(phase.name) if outcome is Outcome.INCONCLUSIVE else None
    run.journal.append(
        Kind.OUTCOME,
        phase.name,
        verdict=str(outcome),
        verdicts=as_json(verdicts),
        duration_s=round(time.monotonic() - began, 3),
        changed=changed,
        accepted=accepted,
    )
    run.say(f"{phase.name}: {outcome}" + (f" (accepted: {accepted})" if accepted else ""))
    if outcome is not Outcome.PASS and not accepted:
        _fail(run, phase, outcome, verdicts)


def _work(run: Run, phase: Phase) -> tuple[list[Verdict], int]:
    """The playbook, then the controller's own part where the checks leave room for it; and how many tasks changed."""
    extra = variables.for_phase(phase.name, run.plan, run.settings, phase.checks)
    verdicts: list[Verdict] = []
    changed = 0
    try:
        result = run.playbooks.run(phase.name, run.fenced(**extra), run.say)
        changed = result.changed
        verdicts = (
            _startup(run, result)
            + _gap_kept(run, phase, result)
            + result.verdicts
            + [_broken(run, phase, failure) for failure in result.failures[-1:]]
        )
        if phase.action and all(v.verdict in {Outcome.PASS, Outcome.INCONCLUSIVE} for v in verdicts):
            verdicts += actions.ACTIONS[phase.action](run)
    except (HostUnreachable, Interrupted):
        raise
    except Exception as error:
        advice = error.advice if isinstance(error, MigrateError) else ""
        verdicts.append(Verdict(phase.name, Outcome.ERROR, "an answer", "an error", str(error), advice))
    return verdicts, changed


def _gap_kept(run: Run, phase: Phase, result: PlaybookResult) -> list[Verdict]:
    """Whether the host was silent no longer than announced; nothing where it did not reboot."""
    measured = run.note_gap(phase.name, result.results)
    if measured is None:
        return []
    announced = run.plan.gap_s(phase.name)
    told = f"{measured:.0f} s", f"at most {announced:.0f} s"
    if measured <= announced:
        return [Verdict("announced_gap", Outcome.PASS, told[1], told[0])]
    detail = f"nobody answered for {told[0]}, announced were {announced:.0f} s"
    advice = "the reboot is over and Triton serves: migrate continue; set provision_gap_s to what this host needs"
    return [Verdict("announced_gap", Outcome.FAIL, told[1], told[0], detail, advice)]


def _startup(run: Run, result: PlaybookResult) -> list[Verdict]:
    """How long each stage of an engine's start took, as its own log tells it; nothing where none was started."""
    startup = result.results.get("vllm_startup")
    if not startup:
        return []
    stages = " · ".join(f"{name.replace('_', ' ')} {seconds:.1f} s" for name, seconds in startup["seconds"].items())
    run.say(f"vLLM: {stages}")
    serves = startup["stage"] == "serving"
    outcome = Outcome.PASS if serves else Outcome.FAIL
    return [Verdict("vllm_startup", outcome, "every stage, up to serving", stages or startup["stage"])]


def _broken(run: Run, phase: Phase, failure: str) -> Verdict:
    host = run.plan.host
    advice = (
        f"mend the host, then migrate continue --host {host}; a setting: migrate rollback --host {host}, change it, "
        f"migrate plan --host {host}; the whole output is in {run.directory / 'ansible'}"
    )
    return Verdict(f"playbook {phase.name}", Outcome.FAIL, "every task runs to its end", failure, "", advice)


def _fail(run: Run, phase: Phase, outcome: Outcome, verdicts: Sequence[Verdict]) -> None:
    """Raise what the failed gate means: before traffic moved the old stack serves, after it the way back is taken."""
    worst = next((v for v in verdicts if v.verdict is outcome), None) or next(
        (v for v in verdicts if v.verdict is not Outcome.PASS), None
    )
    reason = f"{phase.name}: {_problem(phase, worst, verdicts)}"
    advice = worst.advice if worst else ""
    if phase.moves_traffic:
        back(run, f"{phase.name} {outcome}")
        raise RolledBack(f"{reason}; traffic is back on Triton, verified", advice=advice)
    if phase.kind is not Class.READ_ONLY:
        _make_sure_that_triton_serves(run, reason)
    if outcome is Outcome.INCONCLUSIVE:
        raise Held(
            f"{reason}; held before {phase.name} is decided",
            advice=f"accept it under migrate_accept_inconclusive: {{{phase.name}: reason}}, or more data; "
            f"then migrate continue --host {run.plan.host}",
        )
    raise GateFailed(f"{reason}; Triton serves", advice=advice)


def _make_sure_that_triton_serves(run: Run, reason: str) -> None:
    """Raise NotProven where the public port does not answer, so that nobody is told that Triton serves."""
    try:
        seen = run.host.call("probe", "--target", "public")
    except MigrateError as error:
        seen = {"ok": False, "error": str(error)}
    if not seen["ok"]:
        raise NotProven(f"{reason}; and the public port does not answer: {seen['error']}", advice=BY_HAND)


def _problem(phase: Phase, worst: Verdict | None, verdicts: Sequence[Verdict]) -> str:
    if worst:
        return worst.problem()
    silent = set(phase.checks) - {verdict.check for verdict in verdicts}
    return f"no verdict from {', '.join(sorted(silent)) or 'its gate'}"


def _refuse_drift(run: Run) -> None:
    """Read the plan's read set once more, with what this run's own phases changed. Raises Refused."""
    found = run.playbooks.run("discover", run.variables, run.say)
    if not found.facts:
        raise Refused(f"the facts could not be read again: {'; '.join(found.failures)}", advice="migrate continue")
    passed = [name for name, state in states(run.journal.records, NAMES).items() if state is State.PASSED]
    moved = planning.drift(run.plan, found.facts, passed=passed, accepted=accepted_drift(run.journal.records))
    host = run.plan.host
    planning.refuse_drift(
        moved,
        host,
        f"migrate continue --host {host}",
        otherwise=f"migrate rollback --host {host} --to before-deploy, and plan again",
        has_begun=True,
    )


def accepted_drift(records: Sequence[Record]) -> dict[str, Any]:
    """Key and value of every drift that the operator said yes to, as the journal has it."""
    notes = [
        record.data for record in records if record.kind is Kind.NOTE and record.data.get("what") == "drift accepted"
    ]
    return {key: value for note in notes for key, value in note["values"].items()}


def accept_drift(run: Run, values: Mapping[str, Any]) -> None:
    """Journal that the operator accepts these facts, each with its present value, in place of the plan's."""
    if values:
        run.journal.append(Kind.NOTE, "", what="drift accepted", values=dict(values))
        run.say(f"drift accepted, and journaled: {', '.join(values)}")


def note_nothing_to_do(run: Run) -> None:
    """Leave a line in the journal that `apply` found everything done."""
    run.journal.append(Kind.NOTE, "", what="apply: nothing to do")
