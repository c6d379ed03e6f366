"""The census as a table of plain text, and as JSON types."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from migrate.census.client import Client, Verdict

WIDTH = 120
_SHOWN = 40
_WIDTHS = (9, 36, 15, 22, 9, 5, 11, 4)
_HEADS = ("verdict", "who", "how", "asks", "requests", "5xx", "last", "")
_TO_THE_RIGHT = {4, 5, 7}


def as_text(rows: Sequence[Client], notes: Sequence[str] = ()) -> str:
    """Lines of at most 120 columns: the worst verdicts first, each numbered reason once below the table.

    Of many rows the first 40 are shown; no character in it means anything to a terminal.
    """
    if not rows:
        return "\n".join(["Clients of Triton: none was seen.", *_notes(notes)])
    reasons: dict[tuple[str, str], int] = {}
    lines = [_headline(rows), "", _line(_HEADS)]
    for row in rows[:_SHOWN]:
        number = reasons.setdefault((row.because, row.next), len(reasons) + 1)
        lines.append(_line(_cells(row, number)))
    if len(rows) > _SHOWN:
        lines.append(f"… and {len(rows) - _SHOWN} more, no worse than these: all of them are in --json")
    lines.append("")
    for (because, advice), number in reasons.items():
        lines += _wrapped(f"[{number}] ", because + (f" → {advice}" if advice else ""))
    return "\n".join([*lines, *_notes(notes)])


def as_dicts(rows: Sequence[Client]) -> list[dict[str, Any]]:
    """JSON types: the fields of `Client` and `bypasses_nginx`."""
    return [asdict(row) | {"bypasses_nginx": row.bypasses_nginx} for row in rows]


def _headline(rows: Sequence[Client]) -> str:
    counted = [(sum(row.verdict is verdict for row in rows), verdict) for verdict in Verdict]
    told = ", ".join(f"{number} {verdict}" for number, verdict in counted if number)
    past = sum(row.bypasses_nginx for row in rows if row.verdict is Verdict.FAILS)
    return f"Clients of Triton: {told}" + (f"; {past} past nginx" if past else "")


def _cells(row: Client, number: int) -> tuple[str, ...]:
    who = f"{row.who} {row.agent}" if row.agent not in ("", "-") else row.who
    amount = f"{row.requests:,}" if row.requests else f"{row.connections} open" if row.connections else ""
    last = row.last[5:16].replace("T", " ")
    return (row.verdict, who, row.how, row.asks, amount, f"{row.errors:,}" if row.requests else "", last, f"[{number}]")


def _line(cells: Sequence[str]) -> str:
    fitted = [
        _fit(cell, width, index in _TO_THE_RIGHT)
        for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    ]
    return " ".join(fitted).rstrip()


def _fit(cell: str, width: int, is_right: bool) -> str:
    text = _printable(cell)
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.rjust(width) if is_right else text.ljust(width)


def _notes(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in _wrapped("note: ", note)]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(head + _printable(text), WIDTH, subsequent_indent=" " * len(head), break_on_hyphens=False)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
