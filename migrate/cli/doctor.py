"""The command that says what is wrong with a host: doctor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from migrate import doctor as examining
from migrate import inventory as inventories
from migrate import session
from migrate.cli.app import STATE, HostOption, InventoryOption, JsonOption, VaultOption, app
from migrate.cli.output import Output
from migrate.doctor_judge import Finding, Leftover, Report
from migrate.errors import GateFailed, Held

_BEAT_S = 10.0
_LONGEST = 300
_LONGEST_ADVICE = 600
DeepOption = Annotated[bool, typer.Option("--deep", help="Also what runs in the image, on the GPUs, over all weights.")]


@app.command("doctor", rich_help_panel="Inspect")
def doctor(
    host: HostOption,
    deep: DeepOption = False,
    inventory: InventoryOption = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Say what is wrong with a host, why, where that is written, and what to type; changes nothing.

    Exit 0: nothing was found. 5: something is wrong. 8: something could not be told, or was left over.

    Example: migrate doctor --host gpu01
    """
    output = Output(as_json=as_json)
    with session.target(host, inventories.find(inventory, vault), STATE, output.say) as target, _beat(output.say):
        report = examining.examine(target, deep=deep)
    output.result("doctor", report.as_json(), as_text(report))
    if report.findings:
        return GateFailed.exit_code
    return Held.exit_code if report.undecided or report.leftovers else 0


@contextmanager
def _beat(say: Callable[[str], None]) -> Iterator[None]:
    """A line now and then, so that a slow check does not look like a dead command."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_BEAT_S):
            say("still looking")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def as_text(report: Report) -> str:
    """The report for a terminal: findings first, then what is fine in a line each."""
    return "\n".join(
        [
            f"{report.host}: {_summary(report)}",
            _short(report.headline),
            *(line for number, finding in enumerate(report.findings) for line in _finding(number, finding)),
            *_section("noticed", [_notice(notice) for notice in report.notices]),
            *_section("left over", [_leftover(one) for one in report.leftovers]),
            *_section("could not be told", _rows(report.undecided)),
            *_section("fine", _rows({**report.fine, **report.accepted, **_services(report)})),
            *_section("not asked", _rows(report.skipped)),
        ]
    )


def _summary(report: Report) -> str:
    count = len(report.findings)
    wrong = "nothing wrong was found" if not count else f"{count} finding{'s' if count > 1 else ''}"
    rest = {"left over": len(report.leftovers), "could not be told": len(report.undecided)}
    return ", ".join([wrong, f"{len(report.fine)} checks pass", *(f"{n} {what}" for what, n in rest.items() if n)])


def _finding(number: int, finding: Finding) -> list[str]:
    label = "most likely: " if number == 0 else ""
    where = _short(f"{finding.where}, {finding.at}" if finding.at else finding.where)
    return [
        "",
        f"{number + 1}. {label}{_short(finding.title)}: {_short(finding.cause)}",
        f"   seen   {_short(finding.seen)}",
        f"   where  {where}",
        f"   do     {_short(finding.do, _LONGEST_ADVICE)}",
        *(f"   shows  in {_short(check, 40)}: {_short(said, 120)}" for check, said in finding.shows_in.items()),
    ]


def _notice(notice: Finding) -> str:
    said = f"{_short(notice.title)}: {_short(notice.cause)}: {_short(notice.seen, 160)}"
    return f"{said}\n      do     {_short(notice.do, _LONGEST_ADVICE)}" if notice.do else said


def _leftover(leftover: Leftover) -> str:
    return f"{_short(leftover.what)}\n      do     {_short(leftover.do)}"


def _services(report: Report) -> dict[str, str]:
    """The services that run as they were started."""
    calm = {role: one for role, one in report.services.items() if one.get("exists") and not one.get("first_error")}
    return {f"{role} runs": str(one["name"]) for role, one in calm.items()}


def _rows(rows: Mapping[str, str]) -> list[str]:
    return [f"{name:20} {_short(said, 160)}" for name, said in rows.items()]


def _section(heading: str, lines: Sequence[str]) -> list[str]:
    return ["", heading, *(f"  {line}" for line in lines)] if lines else []


def _short(text: str, length: int = _LONGEST) -> str:
    """One line of at most that many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
