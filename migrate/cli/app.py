"""The Typer application: the commands of each group, and the options they share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

EXIT_CODES = """Exit codes: 0 done or nothing to do · 1 internal error · 2 changes pending (--detailed-exitcode) ·
3 refused · 4 lock held · 5 a gate failed, Triton serves · 6 rolled back, verified · 7 a human is needed · 8 held ·
9 host unreachable · 10 declined · 64 usage · 130 stopped at a safe point"""

app = typer.Typer(
    name="migrate",
    help="Move GPU hosts from Triton Inference Server to vLLM, with evidence, and back.\n\n"
    "Example: migrate plan --host gpu01",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HostOption = Annotated[str, typer.Option("--host", "-H", help="Host of the inventory.")]
InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory", "-i", envvar="MIGRATE_INVENTORY", help="Inventory; default ./inventory or ./inventory/lab."
    ),
]
VaultOption = Annotated[Path | None, typer.Option("--vault-password-file", help="Opens the inventory's vault.")]
StateOption = Annotated[Path, typer.Option("--state-dir", envvar="MIGRATE_STATE_DIR", help="Where runs are kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Versioned NDJSON on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

STATE = Path("runs")

# The module of each command: only that of the command that was typed is loaded, since some need half a second.
MODULES = {
    "plan": "planning",
    "show": "planning",
    "apply": "migrating",
    "continue": "migrating",
    "rollback": "migrating",
    "retire": "migrating",
    "status": "inspecting",
    "report": "inspecting",
    "lock": "inspecting",
    "doctor": "doctor",
    "fit": "fit",
    "witness": "measuring",
    "offline-generate": "offline",
    "lab": "lab",
}


@app.callback()
def _group() -> None:
    """Without it, Typer takes the only command of a module for the program itself."""


def load(arguments: Sequence[str]) -> None:
    """Register the command that is asked for; all of them for help and for what is no command."""
    named = next((argument for argument in arguments if not argument.startswith("-")), "")
    for module in dict.fromkeys([MODULES[named]] if named in MODULES else MODULES.values()):
        import_module(f"migrate.cli.{module}")
