"""The commands that look and never write: status, report, lock status; and lock break."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from migrate import inventory as inventories
from migrate import report as reports
from migrate import session, status
from migrate.cli.app import STATE, HostOption, InventoryOption, JsonOption, StateOption, VaultOption, app
from migrate.cli.output import Output
from migrate.errors import UsageError

_GROUP = "Inspect"
locks = typer.Typer(help="Who holds a host's lock; break one whose owner is gone.", no_args_is_help=True)
app.add_typer(locks, name="lock", rich_help_panel=_GROUP)


@app.command("status", rich_help_panel=_GROUP)
def status_(
    host: HostOption,
    inventory: InventoryOption = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who serves, whether the way back is proven, what to type next, and every phase.

    Example: migrate status --host gpu01
    """
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), STATE, output.say) as target:
        migration = session.latest(target)
        answer = target.host.call("status") if target.host.installed() else None
    records = migration.records if migration else ()
    line = status.headline(host, answer, records, session.now())
    known = {name: str(state) for name, state in status.phases(records).items()}
    data = {"headline": line, "run": migration.run if migration else None, "phases": known, "host": answer}
    output.result("status", data, "\n".join([line, *_details(migration, known, answer)]))


@app.command(rich_help_panel=_GROUP)
def report(
    host: HostOption,
    state_dir: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Write the report of a host's latest run again, as HTML, Markdown, JSON and JUnit XML, and say where it is.

    Example: migrate report --host gpu01
    """
    directory = _latest_run(state_dir, host)
    written = reports.write(directory)
    data = {"run": directory.name, "files": {kind: str(path) for kind, path in written.items()}}
    text = (directory / "report.md").read_text(encoding="utf-8")
    Output(as_json=as_json).result("report", data, text + "\n" + "\n".join(str(path) for path in written.values()))


@locks.command("status")
def lock_status(
    host: HostOption, inventory: InventoryOption = None, vault: VaultOption = None, as_json: JsonOption = False
) -> None:
    """Show who holds the host's lock, since when, and why.

    Example: migrate lock status --host gpu01
    """
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), STATE, output.say) as target:
        held: dict[str, Any] = target.host.call("lock", "status") if target.host.installed() else {}
    lines = [f"{name}: {value}" for name, value in held.items()]
    output.result("lock", held, "\n".join(lines) or f"no lock on {host}")


@locks.command("break")
def lock_break(
    lock_id: Annotated[str, typer.Argument(metavar="ID", help="The lock's id, as `lock status` shows it.")],
    host: HostOption,
    force: Annotated[bool, typer.Option("--force", help="Even while its lease is live.")] = False,
    inventory: InventoryOption = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Break a lock whose owner is gone; refused while its lease is live.

    Example: migrate lock break 3f2a91 --host gpu01
    """
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), STATE, output.say) as target:
        extra = ["--force"] if force else []
        answer = target.host.call("lock", "break", "--id", lock_id, *extra)
    output.result("lock", answer, f"lock {lock_id} is broken")


def _details(migration: session.Migration | None, known: dict[str, str], answer: dict[str, Any] | None) -> list[str]:
    if migration is None:
        return ["nothing was migrated on this host"]
    lines = [f"run {migration.run}: {migration.result or 'unfinished'}"]
    lines += [f"  {name:12} {state}" for name, state in known.items()]
    fired = ((answer or {}).get("deadman") or {}).get("fired") or []
    return lines + [f"the dead-man switch went back: {event}" for event in fired]


def _latest_run(state_dir: Path, host: str) -> Path:
    runs = sorted(p for p in state_dir.glob(f"*-{host}-*") if (p / "journal.jsonl").exists())
    if not runs:
        raise UsageError(f"no run of {host} in {state_dir}", advice=f"migrate status --host {host}")
    return runs[-1]
