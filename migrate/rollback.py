"""The way back: traffic first, by the file on the host that everything else uses too; then, if asked, the rest."""

from __future__ import annotations

import time
from typing import Any

from migrate import actions
from migrate.context import Run, changing
from migrate.errors import MigrateError, NotProven
from migrate.gate import Outcome, as_json
from migrate.journal import Kind, State, states
from migrate.phases import NAMES, PHASES, get
from migrate.retire import is_retired

CHECKS = ("snapshot_diff", "triton_goldens", "port_serves")
BY_HAND = "on the host: sudo /var/lib/migrate/back; sudo nft delete table inet migrate; systemctl status docker"


def rollback(run: Run, to: str) -> None:
    """Go back: traffic first and fast; with `to="before-PHASE"` that phase is undone too, and all after it."""
    with changing(run, "rollback"):
        _rollback(run, to)


def _rollback(run: Run, to: str) -> None:
    if is_retired(run):
        run.say("rollback: rebuilding Triton from the archive")
        rebuilt = run.playbooks.run("undo_retire", run.fenced(), run.say)
        if not rebuilt.ok:
            raise NotProven(f"Triton was not rebuilt: {rebuilt.failures[-1]}", advice=BY_HAND)
    back(run, "rollback by the operator")
    if to != "traffic":
        _undo(run, down_to=to.removeprefix("before-"))
    run.journal.append(Kind.FINISH, "", result="rolled back")


def back(run: Run, reason: str) -> None:
    """Take traffic back to Triton by the host's own way back and prove Triton. Raises NotProven."""
    run.journal.append(Kind.ROLLBACK, "cutover", step="intent", reason=reason)
    began = time.monotonic()
    moved: dict[str, Any] = {}
    if _may_have_moved(run):
        try:
            moved = actions.go_back(run, reason)
        except MigrateError as error:
            raise NotProven(f"the way back failed: {error}", advice=BY_HAND) from error
    proof = run.prove("prove_back", _checks(run))
    run.journal.append(
        Kind.ROLLBACK,
        "cutover",
        step="outcome",
        verdict=str(proof.outcome),
        verdicts=as_json(proof.verdicts),
        took_s=moved.get("took_s"),
        duration_s=round(time.monotonic() - began, 3),
        undone=proof.outcome is Outcome.PASS,
    )
    if proof.outcome is not Outcome.PASS:
        raise NotProven(f"Triton is not proven as it was: {proof.problem()}", advice=BY_HAND)


def _undo(run: Run, down_to: str) -> None:
    known = states(run.journal.records, NAMES)
    begun = [phase for phase in PHASES[NAMES.index(down_to) :] if known[phase.name] is not State.NOT_STARTED]
    undone: set[str] = set()
    for phase in reversed(begun):
        if not phase.undo or phase.undo in undone:
            continue
        undone.add(phase.undo)
        run.say(f"{phase.name}: undoing")
        run.journal.append(Kind.ROLLBACK, phase.name, step="intent")
        with run.outlasting_gap(phase.name):
            result = run.playbooks.run(phase.undo, run.fenced(), run.say)
        run.note_gap(phase.name, result.results)
        if not result.ok:
            raise NotProven(
                f"{phase.undo}: {result.failures[-1]}", advice=f"migrate rollback --host {run.plan.host} again"
            )
        run.journal.append(Kind.ROLLBACK, phase.name, step="outcome", verdict="pass", undone=True)
    proof = run.prove("prove_back", _checks(run))
    if proof.outcome is not Outcome.PASS:
        raise NotProven(f"after the undo: {proof.problem()}", advice=BY_HAND)


def _checks(run: Run) -> tuple[str, ...]:
    """Without a snapshot there is nothing to compare with: then only that the public port answers."""
    return CHECKS if states(run.journal.records, NAMES)["snapshot"] is State.PASSED else CHECKS[-1:]


def _may_have_moved(run: Run) -> bool:
    """By this run's journal, or by what the host shows: another run, or a hand, may have moved it."""
    if any(r.kind is Kind.INTENT and get(r.phase).moves_traffic for r in run.journal.records if r.phase in NAMES):
        return True
    switch = run.host.call("switch", "status")
    return bool(switch["redirect"]) or switch["percent"] > 0
