"""The lab's commands: a throwaway host with a real Triton, a real vLLM, Docker, systemd, sshd and nginx."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from typing import Annotated

import typer

from migrate import bundled
from migrate import lab as labs
from migrate.cli.app import JsonOption, app
from migrate.cli.output import Output

lab = typer.Typer(help="A throwaway host to try everything on.", no_args_is_help=True)
app.add_typer(lab, name="lab", rich_help_panel="Lab")


@lab.command()
def up(as_json: JsonOption = False) -> None:
    """Build and start the lab; a second time it is a no-op.

    Example: migrate lab up
    """
    output = Output(as_json=as_json)
    _show(output, labs.up(bundled.root(), output.say))


@lab.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove the cache of built parts too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the lab and leave nothing behind.

    Example: migrate lab down
    """
    output = Output(as_json=as_json)
    labs.down(bundled.root(), output.say, purge=purge)
    output.result("lab", {"up": False}, "the lab is down")


@lab.command("status")
def status_(as_json: JsonOption = False) -> None:
    """Show which parts of the lab are up, and their addresses.

    Example: migrate lab status
    """
    _show(Output(as_json=as_json), labs.status(bundled.root()))


@lab.command()
def shell() -> int:
    """Open a root shell on the lab's host gpu01.

    Example: migrate lab shell
    """
    return subprocess.run(labs.shell_command(bundled.root()), check=False).returncode  # noqa: S603 - a fixed command of the lab


def _show(output: Output, status: labs.LabStatus) -> None:
    lines = [f"{'up  ' if part.is_up else 'down'} {part.name}: {part.detail}" for part in status.parts]
    lines += [f"     {name}: {url}" for name, url in status.urls.items()]
    output.result("lab", {"up": status.is_up, **asdict(status)}, "\n".join(lines))
