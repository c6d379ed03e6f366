"""The commands that measure: witness."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from migrate import inventory as inventories
from migrate import report, session
from migrate.cli.app import STATE, HostOption, InventoryOption, JsonOption, StateOption, VaultOption, app
from migrate.cli.output import Output
from migrate.errors import GateFailed, MigrateError
from migrate.journal import gaps, read_cache, replace
from migrate.session import Target
from migrate.witness import Gap, WitnessConfig, WitnessRun, reconcile, summarise, watch

_GROUP = "Measure"
_FOREVER_S = 6 * 3600.0


@app.command(rich_help_panel=_GROUP)
def witness(
    host: HostOption,
    clients: Annotated[int, typer.Option(min=8, help="Connections that stay open; half POST, half stream.")] = 8,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
    until_stopped: Annotated[bool, typer.Option("--until-stopped", help="Until INT or TERM, at most 6 hours.")] = False,
    ca: Annotated[Path | None, typer.Option("--ca", help="CA certificate for an https:// public URL.")] = None,
    inventory: InventoryOption = None,
    state_dir: StateOption = STATE,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send requests without a pause or a retry, and compare every id with the host's access logs. Exit 5 on a failure.

    Example: migrate witness --host gpu01 --clients 8 --until-stopped
    """
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), state_dir, output.say) as target:
        state_dir.mkdir(parents=True, exist_ok=True)
        run = uuid.uuid4().hex[:8]
        config = WitnessConfig(
            base_url=target.settings.migrate.public_http_url,
            models={name: model.style for name, model in target.settings.triton.models.items()},
            run=run,
            record_file=state_dir / f"witness-{run}.jsonl",
            clients=clients,
            max_duration_s=_FOREVER_S if until_stopped else duration,
            ca_file=ca,
        )
        began = session.now().timestamp()
        output.say(f"witness {run}: {clients} clients against {config.base_url}")
        seen = asyncio.run(_watch(config))
        summary = {"id": run, **summarise(seen.records(), _gaps(state_dir, host)), **_reconciled(target, seen, run)}
    _keep(state_dir, host, began, summary)
    output.result("witness", summary, _text(summary))
    if summary["failed"] or summary["reconciled"] is False:
        raise GateFailed(f"the witness saw {summary['failed']} failed of {summary['sent']}; see {config.record_file}")


async def _watch(config: WitnessConfig) -> WitnessRun:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await watch(config, stop)


def _reconciled(target: Target, seen: WitnessRun, run: str) -> dict[str, Any]:
    """What the host's access logs say of the same ids; unknown where they cannot be read."""
    try:
        if not target.host.installed():
            return {"reconciled": None, "why": "hostctl is not on the host, so nobody read its access logs"}
        ids = target.host.call("ids", "--prefix", f"w-{run}-", timeout_s=120)
    except MigrateError as error:
        return {"reconciled": None, "why": str(error)}
    return reconcile(seen.records(), ids)


def _gaps(state: Path, host: str) -> list[Gap]:
    """The announced gaps of every run of this host, as its journals on this machine have them."""
    journals = state.glob(f"*-{host}-*/journal.jsonl")
    notes = [note for journal in journals for note in gaps(read_cache(journal))]
    return [(datetime.fromisoformat(note["began"]), datetime.fromisoformat(note["ended"])) for note in notes]


def _keep(state: Path, host: str, began: float, summary: Mapping[str, Any]) -> None:
    """Put the summary into the report of every run that was at work meanwhile."""
    for journal in state.glob(f"*-{host}-*/journal.jsonl"):
        if journal.stat().st_mtime >= began:
            replace(journal.with_name("witness.json"), json.dumps(summary, indent=2, sort_keys=True) + "\n")
            report.write(journal.parent)


def _announced(summary: Mapping[str, Any]) -> str:
    count = summary["failed_in_announced_gap"]
    return f"{count} in an announced gap, " if count else ""


def _text(summary: Mapping[str, Any]) -> str:
    whole = {
        True: "reconciled by id with the access logs",
        False: "NOT reconciled with the access logs",
        None: "not reconciled",
    }
    line = (
        f"witness: {summary['sent']} sent, {summary['answered']} answered, {summary['failed']} failed, "
        f"{_announced(summary)}longest gap {summary['longest_gap_ms']:.0f} ms; {whole[summary['reconciled']]}"
    )
    by = summary.get("by_upstream") or {}
    shares = ", ".join(f"{name} {count}" for name, count in sorted(by.items()))
    return f"{line}\nanswered by: {shares}" if shares else line
