"""The tables of docs/troubleshooting.md, which `python -m migrate.knowledge.failures_page PAGE` writes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from migrate.knowledge.failures import Failure, Failures, load

MARK = (
    "<!-- Generated from migrate/knowledge/failures.yaml; "
    "python -m migrate.knowledge.failures_page docs/troubleshooting.md -->\n"
)
_LONGEST = 110
_LOGGER = re.compile(r"^(?:ERROR|WARNING|INFO) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ")
_NOW = re.compile(r" \(now \{\w+\}\)")


def render(table: Failures) -> str:
    """Markdown: one table for each heading; what only repeats another failure comes last in its table."""
    return MARK + "\n".join(_section(title, [r for r in table.rows if r.title == key]) for key, title in _titles(table))


def write(path: Path) -> None:
    """Replace what follows the mark in a page. Raises ValueError for a page without the mark."""
    page = path.read_text(encoding="utf-8")
    if MARK not in page:
        raise ValueError(f"{path} has no line {MARK.strip()}")
    path.write_text(page.partition(MARK)[0] + render(load()), encoding="utf-8")


def _titles(table: Failures) -> list[tuple[str, str]]:
    return list(table.titles.items())


def _section(title: str, rows: list[Failure]) -> str:
    head = ["| it says | it means | do | seen by |", "|---|---|---|---|"]
    body = [_line(row) for row in sorted(rows, key=lambda row: row.wrapper)]
    heading = title if title.startswith("vLLM") else f"{title[0].upper()}{title[1:]}"
    return f"## {heading}\n\n" + "".join(f"{line}\n" for line in (*head, *body))


def _line(row: Failure) -> str:
    says = _LOGGER.sub("", row.says)
    says = says if len(says) <= _LONGEST else f"{says[:_LONGEST]}…"
    cells = (_code(says), _words(row.means), _words(row.do), row.source)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _words(text: str) -> str:
    """What a host would fill in: its name and settings in capitals, a part of the line as an ellipsis."""
    text = re.sub(r"\{\d\}", "…", _NOW.sub("", text))
    return re.sub(r"(?<!\{)\{([a-z][a-z0-9_]*)\}(?!\})", lambda match: match[1].upper(), text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
