"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate import census, summary
from migrate.census import Client
from migrate.plan import Plan
from migrate.report import seconds


def as_text(plan: Plan) -> str:
    """The whole plan: what changes and why, for how long, what clients notice, and the way back."""
    seen = summary.of(plan)
    return "\n".join(
        [
            f"Plan {plan.id[:8]} for {plan.host}: Triton to vLLM, {plan.strategy} ({plan.strategy_reason})",
            f"made {plan.created}, expires {plan.expires}, about {seconds(seen['estimate_s'])}",
            *_changes(seen["changes"]),
            *_phases(plan),
            *_translation(plan),
            *_section("settings to look at", [_finding(finding) for finding in plan.findings]),
            *_section("memory", str((plan.memory or {}).get("text", "")).splitlines()),
            *_section("clients", _clients(plan)),
            *_section("expectations", [_expectation(one) for one in plan.expectations]),
            "",
            f"service gap:        {seen['gap']}: {seen['gap_detail']}",
            f"point of no return: none; {seen['no_return']}",
            *_section("what would bring Triton back after retire", [_reviver(one) for one in plan.revivers]),
            *_section("way back", [f"{command:55} {what}" for what, command in seen["way_back"]]),
            *_section("stays on Triton", plan.routes_kept),
            "",
            f"relies on {len(plan.read_set)} facts of the host; apply reads them again, and once more before cutover",
        ]
    )


def _changes(changes: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, str]]]]]) -> list[str]:
    lines = []
    for heading, steps in changes:
        lines += ["", heading]
        for phase, step in steps:
            notice = f"; clients: {step['impact']}" if step["impact"] != "none" else ""
            change = step["after"] if step["sign"] == "+" else f"{step['before']} → {step['after']}"
            change = "kept" if step["sign"] == "=" else change
            lines.append(f"  {step['sign']} {step['what']}: {change}  [{phase}: {step['why']}{notice}]")
    return lines


def _phases(plan: Plan) -> list[str]:
    rows = [
        f"  {phase.phase:12} {phase.kind:10} ~{phase.estimate_s:>3} s  {phase.does}"
        + (f" (undone by {phase.undo})" if phase.undo and phase.steps else "")
        for phase in plan.phases
    ]
    return ["", "phases", *rows]


def _translation(plan: Plan) -> list[str]:
    """A block for each model that moves, a line for each that stays; what changes nothing is only counted."""
    moving = [model for model in plan.translation if summary.fate(model, plan) == "moves"]
    lines = []
    for model in moving:
        shown = [entry for entry in model["entries"] if _is_telling(entry)]
        lines += ["", f"Triton's settings of {model['model']} ({model['backend']} backend)", *map(_entry, shown)]
        lines += [f"    note: {_short(note, 200)}" for note in model["notes"]]
        rest = len(model["entries"]) - len(shown)
        lines += [f"    and {rest} fields that change nothing here; --html and --json have the reason of each"]
    stay = [
        f"{model['model']} ({model['backend']}): {summary.fate(model, plan)}"
        for model in plan.translation
        if model not in moving
    ]
    lines += _section("models that stay on Triton", stay)
    return lines + _section("to move every language model takes an engine each", [_engine(one) for one in plan.engines])


def _engine(engine: Mapping[str, Any]) -> str:
    note = "this plan" if engine["planned"] else "not in this plan: one engine is deployed"
    return f"{', '.join(engine['models'])}: {engine['share']} of the card's memory ({note})"


def _is_telling(entry: Mapping[str, Any]) -> bool:
    """Whether an entry says something of vLLM's start, or is a loss."""
    return bool(entry["outcome"] == "lossy" or entry["target"].startswith(("--", "env ")))


def _entry(entry: Mapping[str, Any]) -> str:
    becomes = f"{entry['target']} {_short(entry['result'])}".strip() if entry["target"] else entry["outcome"]
    mark = {"exact": " ", "derived": "~", "review": "?"}.get(entry["sure"], " ")
    return f"  {mark} {becomes}  [{entry['source']} = {_short(entry['value'])}: {entry['reason']}]"


def _finding(finding: Mapping[str, Any]) -> str:
    return f"! {finding['name']}: {finding['problem']}" + (
        f"; instead: {finding['replacement']}" if finding["replacement"] else ""
    )


def _reviver(reviver: Mapping[str, Any]) -> str:
    return f"{reviver['kind']}: {_short(reviver['what'], 80)} ({_short(reviver['where'], 80)})"


def _clients(plan: Plan) -> list[str]:
    names = Client.__dataclass_fields__
    rows = [Client(**{name: row[name] for name in names}) for row in plan.clients]
    return census.as_text(rows, plan.client_notes).splitlines()


def _expectation(expectation: Mapping[str, Any]) -> str:
    promised = f"{expectation['promised']:g} {expectation['promise']} ({expectation['by']})"
    return f"{promised}: {expectation['verdict']}: {expectation['because']}"


def _section(heading: str, lines: Sequence[str]) -> list[str]:
    return ["", heading, *(f"  {line}" for line in lines)] if lines else []


def _short(value: Any, width: int = 60) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"
