"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate import summary
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
            *_translation(plan.translation),
            *_section("settings to look at", [_finding(finding) for finding in plan.findings]),
            *_section("memory", str((plan.memory or {}).get("text", "")).splitlines()),
            *_section("clients", [_client(client) for client in plan.clients]),
            *_section("expectations", [_expectation(one) for one in plan.expectations]),
            "",
            f"service gap:        {seen['gap']}: {seen['gap_detail']}",
            f"point of no return: none; {seen['no_return']}",
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


def _translation(models: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for model in models:
        head = "moves" if model["moves"] else f"stays on Triton: {model['why_not']}"
        lines += ["", f"Triton's settings of {model['model']} ({model['backend']}): {head}"]
        entries = model["entries"] if model["moves"] else ()
        lines += [_entry(entry) for entry in entries if entry["outcome"] != "dropped"]
        dropped = sum(entry["outcome"] == "dropped" for entry in entries)
        lines += (
            [f"  and {dropped} without a counterpart; --json and --html give the reason of each"] if dropped else []
        )
    return lines


def _entry(entry: Mapping[str, Any]) -> str:
    becomes = f"{entry['target']} {_short(entry['result'])}".strip() if entry["target"] else entry["outcome"]
    mark = {"exact": " ", "derived": "~", "review": "?"}.get(entry["sure"], " ")
    return f"  {mark} {becomes}  [{entry['source']} = {_short(entry['value'])}: {entry['reason']}]"


def _finding(finding: Mapping[str, Any]) -> str:
    return f"! {finding['name']}: {finding['problem']}" + (
        f"; instead: {finding['replacement']}" if finding["replacement"] else ""
    )


def _client(client: Mapping[str, Any]) -> str:
    return " · ".join(f"{value}" for value in client.values() if value not in (None, ""))


def _expectation(expectation: Mapping[str, Any]) -> str:
    return " · ".join(f"{value}" for value in expectation.values() if value not in (None, ""))


def _section(heading: str, lines: Sequence[str]) -> list[str]:
    return ["", heading, *(f"  {line}" for line in lines)] if lines else []


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
