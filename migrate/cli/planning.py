"""The commands that look ahead: plan and show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from migrate import inventory as inventories
from migrate import plan as planning
from migrate import session, summary
from migrate.cli.app import STATE, HostOption, InventoryOption, JsonOption, VaultOption, app
from migrate.cli.output import Output
from migrate.cli.planview import as_text
from migrate.errors import Refused, UsageError
from migrate.journal import replace
from migrate.plan import Plan
from migrate.report import render_plan

_GROUP = "Migrate"
_PENDING = 2
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the plan as a page to this file.")]


@app.command(rich_help_panel=_GROUP)
def plan(
    host: HostOption,
    inventory: InventoryOption = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Save the plan to this file.")] = None,
    html: HtmlOption = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when changes are pending.")
    ] = False,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show what would change on a host, why, for how long, and how it is undone. Writes nothing on the host.

    Example: migrate plan --host gpu01 -o gpu01.plan.json
    """
    output = Output(as_json=as_json)
    output.say(f"reading the facts of {host}")
    found = inventories.find(inventory, vault)
    with session.surveyed(host, found, STATE, output.say) as (target, facts):
        run, result = session.before(target, facts) or ("", "none")
        if result in {"migrated", "retired"}:
            text = f"nothing to do: {host} is {result} (run {run})"
            output.result("plan", {"plan": None, "result": "nothing to do", "run": run}, text)
            return 0
        made = session.make_plan(target, facts)
    saved = [f"saved: {path}" for path in _written(made, out, html)]
    notes = [f"note: run {run} is unfinished; apply waits for it"] if not result else []
    output.result("plan", {"plan": made.as_json()}, "\n".join([as_text(made), *notes, *saved]))
    return _PENDING if detailed_exitcode else 0


@app.command(rich_help_panel=_GROUP)
def show(
    file: Annotated[Path, typer.Argument(help="A saved plan.")], html: HtmlOption = None, as_json: JsonOption = False
) -> None:
    """Show a saved plan, also one that is expired or used.

    Example: migrate show gpu01.plan.json
    """
    output = Output(as_json=as_json)
    saved = read_plan(file)
    written = [f"saved: {path}" for path in _written(saved, None, html)]
    expired = [f"note: it expired at {saved.expires}; apply refuses it"] if saved.is_expired(session.now()) else []
    output.result("plan", {"plan": saved.as_json()}, "\n".join([as_text(saved), *expired, *written]))


def read_plan(file: Path) -> Plan:
    """A saved plan. Raises UsageError for what is no JSON file, Refused for one that was edited."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{file} is not a plan: {error}", advice="make one: migrate plan --host HOST -o FILE"
        ) from None
    saved = planning.from_json(data)
    try:
        as_text(saved), saved.is_expired(session.now())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"{file} is not a plan of this tool: {error!r}", advice="make a new one: migrate plan --host HOST"
        ) from None
    return saved


def _written(plan: Plan, out: Path | None, html: Path | None) -> list[Path]:
    texts = {out: lambda: plan.text() + "\n", html: lambda: render_plan(plan.as_json(), summary.of(plan))}
    paths = [path for path in (out, html) if path]
    for path in paths:
        try:
            replace(path, texts[path]())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}", advice="choose another file") from None
    return paths
