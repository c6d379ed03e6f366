"""The Typer application: the commands of each group, and the options they share."""

from __future__ import annotations

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

from migrate.cli import fit, inspecting, lab, measuring, migrating, planning  # noqa: E402, F401 - they register their commands
