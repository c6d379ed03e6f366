"""The commands that migrate: apply, continue, rollback, retire."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from migrate import inventory as inventories
from migrate import plan as planning
from migrate import retire as retiring
from migrate import rollback as rolling_back
from migrate import run as running
from migrate import session, status
from migrate.cli.app import (
    STATE,
    HostOption,
    InventoryOption,
    JsonOption,
    StateOption,
    VaultOption,
    YesOption,
    app,
)
from migrate.cli.output import Output
from migrate.cli.planning import read_plan
from migrate.cli.planview import as_text
from migrate.cli.running import Going, forward, headline, opened, say_report
from migrate.errors import Declined, Held, Refused, UsageError
from migrate.facts import fact
from migrate.phases import NAMES, PHASES
from migrate.plan import Plan
from migrate.session import Migration, Target
from migrate.steps import reboots

_GROUP = "Migrate"
_BACK_TO = ("traffic", "before-deploy", "before-provision")
AcceptOption = Annotated[
    list[str] | None,
    typer.Option("--accept-drift", metavar="KEY", help="Take this fact as it is now; journaled. Repeatable."),
]


@app.command(rich_help_panel=_GROUP)
def apply(
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A saved plan; it is the approval.")] = None,
    host: Annotated[str, typer.Option("--host", "-H", help="Plan now, show it, ask, and apply.")] = "",
    inventory: InventoryOption = None,
    through: Annotated[str, typer.Option(help=f"Stop after this phase: {', '.join(NAMES)}.")] = NAMES[-1],
    yes: YesOption = False,
    accept_drift: AcceptOption = None,
    state_dir: StateOption = STATE,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Carry a plan out: every phase with its gate, traffic in watched steps, Triton kept.

    Example: migrate apply --host gpu01
    """
    output = Output(as_json=as_json)
    saved = read_plan(file) if file else None
    name = host or (saved.host if saved else "")
    if not name:
        raise UsageError("which host?", advice="migrate apply PLAN, or migrate apply --host HOST")
    if saved and saved.host != name:
        raise Refused(f"the plan is for {saved.host}, not for {name}", advice=f"migrate plan --host {name}")
    _refuse_through(through)
    if saved:
        _refuse_stale(saved)
    with session.target(name, inventories.find(inventory, vault), state_dir, output.say) as target:
        if _nothing_to_do(target, saved, output):
            return
        facts = session.discover(target)
        chosen = saved or session.make_plan(target, facts)
        planning.refuse_swap(chosen)
        accepted = _accepted(accept_drift, chosen, facts)
        if saved:
            _refuse_moved(saved, facts, accepted, f"migrate apply {file}")
        else:
            _approve(chosen, name, output, yes=yes)
        run = session.run_id(chosen)
        session.keep_facts(target, run, facts)
        forward(target, chosen, Going(run, through, "apply", accepted), output)


@app.command("continue", rich_help_panel=_GROUP)
def continue_(
    host: HostOption,
    inventory: InventoryOption = None,
    through: Annotated[str, typer.Option(help="Stop after this phase.")] = NAMES[-1],
    accept_drift: AcceptOption = None,
    state_dir: StateOption = STATE,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with an unfinished migration, after a failure, a crash or a hold.

    Example: migrate continue --host gpu01
    """
    output = Output(as_json=as_json)
    _refuse_through(through)
    with session.target(host, inventories.find(inventory, vault), state_dir, output.say) as target:
        migration = _latest(target)
        if migration is None or migration.result:
            raise Refused(f"{host} has no unfinished migration", advice=f"migrate plan --host {host}")
        _refuse_rehearsed(accept_drift, host)
        accepted = _accepted(accept_drift, migration.plan, session.discover(target)) if accept_drift else {}
        forward(target, migration.plan, Going(migration.run, through, "continue", accepted), output)


@app.command(rich_help_panel=_GROUP)
def rollback(
    host: HostOption,
    inventory: InventoryOption = None,
    to: Annotated[str, typer.Option(help=f"How far: {', '.join(_BACK_TO)}; each undoes more.")] = "traffic",
    yes: YesOption = False,
    state_dir: StateOption = STATE,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to Triton and prove it, from any point; after `retire`, from the archive.

    Example: migrate rollback --host gpu01
    """
    if to not in _BACK_TO:
        raise UsageError(f"--to {to}: it is {' or '.join(_BACK_TO)}")
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), state_dir, output.say) as target:
        migration = _latest(target)
        if migration is None:
            output.result(
                "rollback", {"result": "nothing to do"}, f"nothing was migrated on {host}: nothing to roll back"
            )
            return
        if to == _BACK_TO[-1]:
            undone = _undone(target, migration.plan)
            target.say(undone)
            if not yes:
                _ask(undone, host)
        with opened(target, migration.plan, migration.run, "rollback") as run:
            rolling_back.rollback(run, to)
        say_report(target, migration.run, output, "rollback")


@app.command(rich_help_panel=_GROUP)
def retire(
    host: HostOption,
    inventory: InventoryOption = None,
    yes: YesOption = False,
    state_dir: StateOption = STATE,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tear the Triton stack down and list what went and what is kept; `rollback` still works, from the archive.

    Example: migrate retire --host gpu01
    """
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), state_dir, output.say) as target:
        migration = _latest(target)
        if migration is None or migration.result != "migrated":
            raise Refused(f"{host} is not migrated", advice=f"migrate status --host {host}")
        if not yes:
            _ask(f"Triton's container, its entry in {target.settings.triton.compose_file} and its model files go", host)
        with opened(target, migration.plan, migration.run, "retire") as run:
            removed = retiring.retire(run)
        output.result("retire", removed, _retired_text(removed))
        say_report(target, migration.run, output, "retire")


def _undone(target: Target, plan: Plan) -> str:
    """What the whole way back changes, and costs: a driver is taken back by another reboot. Raises Refused."""
    found = {"provision": session.preview(target, plan.settings, undo=True)}
    if refused := found["provision"]["refused"]:
        raise Refused(
            f"provision cannot be undone: {refused}", advice="mend that; migrate rollback goes to Triton alone"
        )
    for line in fact(found, "provision.changes"):
        target.say(f"undo: {line}")
    gap_s = plan.settings["provision_gap_s"]
    gap = (
        f"the host reboots into the driver before, nobody answers for up to {gap_s} s"
        if reboots(found)
        else "no reboot"
    )
    return f"driver, CUDA, NCCL and Docker's settings go back to what they were ({gap}); vLLM and its weights go"


def _nothing_to_do(target: Target, saved: Plan | None, output: Output) -> bool:
    """Whether the host is migrated already; raises where an unfinished or rolled-back run forbids a new start."""
    migration = _latest(target)
    if migration is None:
        return False
    if migration.result in {"migrated", "retired"}:
        if not status.all_on_vllm(target.host.call("switch", "status")):
            raise Held(
                f"{target.name} is {migration.result} by its journal, but its traffic is on Triton",
                advice=f"migrate rollback --host {target.name}, then migrate plan --host {target.name}",
            )
        with opened(target, migration.plan, migration.run, "apply") as run:
            running.note_nothing_to_do(run)
        text = f"{headline(target)}\nnothing to do: {target.name} is {migration.result} (run {migration.run})"
        output.result("apply", {"result": "nothing to do", "run": migration.run}, text)
        return True
    if migration.result == "":
        raise Held(
            f"{target.name} has an unfinished migration, {migration.run}",
            advice=f"migrate continue --host {target.name}, or migrate rollback --host {target.name}",
        )
    if saved and (used := session.used_by(target, saved)):
        raise Refused(
            f"this plan was used, by run {used}, and rolled back",
            advice=f"make a new one: migrate plan --host {target.name}",
        )
    return False


def _refuse_through(through: str) -> None:
    """Raise UsageError for a phase that is none, or after which nobody would watch the traffic."""
    if through not in NAMES:
        raise UsageError(f"--through {through}: no such phase; they are {', '.join(NAMES)}")
    if (
        through != NAMES[-1]
        and PHASES[NAMES.index(through) + 1].moves_traffic
        and PHASES[NAMES.index(through)].moves_traffic
    ):
        raise UsageError(
            f"--through {through}: traffic that has moved must be watched", advice=f"--through {NAMES[-1]}"
        )


def _accepted(keys: Sequence[str] | None, plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The present value of every accepted key. Raises UsageError for one that the plan does not rely on."""
    relied_on = [predicate.key for predicate in plan.read_set]
    for key in keys or ():
        if key in planning.CARRIED:
            raise UsageError(f"--accept-drift {key}: the plan carries it", advice="make a new plan: migrate plan")
        if key not in relied_on:
            near = difflib.get_close_matches(key, relied_on, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--accept-drift {key}: the plan does not rely on it{hint}", advice="migrate show PLAN")
    return {key: fact(facts, key) for key in keys or ()}


def _refuse_rehearsed(keys: Sequence[str] | None, host: str) -> None:
    """Raise UsageError for a fact that the run has worked on: what it rehearsed is the one of its start."""
    if worked_on := planning.REHEARSED & set(keys or ()):
        raise UsageError(
            f"--accept-drift {', '.join(worked_on)}: this run rehearsed what was there when it began",
            advice=f"migrate rollback --host {host} --to before-deploy, then migrate plan --host {host}",
        )


def _refuse_moved(saved: Plan, facts: Mapping[str, Any], accepted: Mapping[str, Any], command: str) -> None:
    moved = planning.drift(saved, facts, accepted=accepted)
    planning.refuse_drift(moved, saved.host, command, otherwise=f"plan again: migrate plan --host {saved.host}")


def _refuse_stale(saved: Plan) -> None:
    """Raise Refused for a plan that no host has to be asked about."""
    planning.refuse_expired(saved, session.now())
    if saved.playbooks != session.playbooks_digest():
        raise Refused(
            "the plan was made with other playbooks", advice=f"make a new one: migrate plan --host {saved.host}"
        )


def _approve(chosen: Plan, name: str, output: Output, *, yes: bool) -> None:
    if not output.as_json:
        print(as_text(chosen), file=sys.stderr)
    if not yes:
        _ask("this is the plan", name)


def _ask(what: str, host: str) -> None:
    if not sys.stdin.isatty():
        raise Declined(f"{what}: no terminal to ask on", advice="add --yes, or apply a saved plan")
    if input(f"{what}; type the host's name to go on: ").strip() != host:
        raise Declined("not confirmed; nothing was changed")


def _latest(target: Target) -> Migration | None:
    target.say(f"asking {target.name} what was done before")
    return session.latest(target)


def _retired_text(removed: Mapping[str, object]) -> str:
    return "\n".join(f"{what}: {value}" for what, value in removed.items())
