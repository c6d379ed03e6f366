"""Renders a report for people: Markdown, and one self-contained HTML page (no script, no external resource)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
NO_WITNESS = "no witness: nothing is known about the clients' requests"
NO_EXPECTATIONS = "none declared in the inventory"


def render_html(report: Mapping[str, Any]) -> str:
    """The report as one HTML page; every value in it is escaped."""
    return _page("report.html.j2", report=report, no_witness=NO_WITNESS, no_expectations=NO_EXPECTATIONS)


def render_plan(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A plan as one HTML page; `summary` is `migrate.summary.of` of the same plan."""
    return _page("plan.html.j2", plan=plan, summary=summary, no_expectations=NO_EXPECTATIONS)


def _page(template: str, **values: Any) -> str:
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(seconds=seconds, slug=_slug, value=_value, short=_short, moment=_moment)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", environment.get_template(template).render(values)) + "\n"


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown; text from hosts and servers cannot become markup."""
    blocks = [
        [f"# Migration report: {_text(report['host'])}", "", _text(report["status"])],
        _summary(report),
        ["## Phases", "", *_overview(report["phases"])],
        *(_phase(phase) for phase in report["phases"] if phase["checks"] or phase["started"]),
        ["## Witness", "", *_pairs(report["witness"] or {"missing": NO_WITNESS})],
        ["## Way back", "", *_pairs(report["rollback"])],
        ["## Expectations", "", *_expectations(report["expectations"])],
        ["## Environment", "", *_pairs(report["environment"])],
        ["## Evidence", "", *_evidence(report)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def seconds(value: float | None) -> str:
    """A duration for people; a dash where there is none."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def _summary(report: Mapping[str, Any]) -> list[str]:
    plan = report["plan"]
    return _pairs(
        {
            "run": report["run"],
            "outcome": report["outcome"]["state"],
            "strategy": f"{plan['strategy'] or 'missing'} ({plan['strategy_reason'] or 'no reason recorded'})",
            "plan": plan["id"] or "missing",
        }
        | {f"missing piece {number}": piece for number, piece in enumerate(report["missing"], start=1)}
    )


def _overview(phases: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [(_name(p), _verdict(p), _moment(p["started"]), seconds(p["duration_s"]), p["does"] or "") for p in phases]
    return _table(("phase", "verdict", "started", "took", "what it does"), rows)


def _phase(phase: Mapping[str, Any]) -> list[str]:
    rows = [
        (check["check"], check["verdict"], check["expected"], check["measured"], check["detail"], check["advice"])
        for check in phase["checks"]
    ]
    head = ("check", "verdict", "expected", "measured", "detail", "what to do")
    body = _table(head, rows) if rows else ["No check reported."]
    return [f"### {_text(_name(phase))}: {_text(_verdict(phase))}", "", *body]


def _expectations(expectations: Sequence[Mapping[str, Any]]) -> list[str]:
    if not expectations:
        return [NO_EXPECTATIONS]
    return [f"- {_text(_value(expectation))}" for expectation in expectations]


def _evidence(report: Mapping[str, Any]) -> list[str]:
    journal = report["journal"]
    rows = [(raw["file"], raw["bytes"], raw["sha256"]) for raw in report["raw"]]
    lines = [f"Journal: {journal['records']} records, chain {_text(journal['chain'])}.", ""]
    return lines + (_table(("file", "bytes", "sha256"), rows) if rows else ["No raw file was collected."])


def _name(phase: Mapping[str, Any]) -> str:
    return str(phase["phase"]) if phase["direction"] == "forward" else f"{phase['phase']} (back)"


def _verdict(phase: Mapping[str, Any]) -> str:
    return f"{phase['verdict']}, accepted: {phase['accepted']}" if phase["accepted"] else str(phase["verdict"])


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"- {_text(key)}: {_text(_value(value))}" for key, value in values.items()]


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    return lines + [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]


def _text(value: Any) -> str:
    line = " ".join(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)).split())
    return _MARKDOWN_SPECIAL.sub(r"\\\1", line)


def _value(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _moment(stamp: str | None) -> str:
    """A UTC stamp to the second; a dash where there is none."""
    return f"{stamp[:10]} {stamp[11:19]} UTC" if stamp else "–"


def _slug(value: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(value).lower())


def _short(value: Any) -> str:
    """A digest short enough for a line; the whole one is in report.json."""
    text = str(value)
    return f"{text[:16]}…" if len(text) > 24 else text
