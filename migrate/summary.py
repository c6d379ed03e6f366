"""What a person asks of a plan first: what changes, for how long, what clients notice, and the way back.

Pure; the text on the terminal and the HTML page are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.plan import Plan, Step

# The order in which kinds of things are shown, with their headings.
KINDS: Mapping[str, str] = {
    "package": "packages",
    "setting": "settings of the host",
    "image": "images",
    "container": "containers",
    "file": "files",
    "port": "ports",
    "route": "routes",
    "unit": "units",
}


def of(plan: Plan) -> dict[str, Any]:
    """JSON types: `changes` is a list of (heading, [(phase, step with its sign)])."""
    return {
        "estimate_s": sum(phase.estimate_s for phase in plan.phases),
        **_gap(plan),
        "no_return": "`migrate retire` is a command of its own, and shows what goes",
        "changes": changes(plan),
        "fates": {model["model"]: fate(model, plan) for model in plan.translation},
        "way_back": way_back(plan),
    }


def _gap(plan: Plan) -> dict[str, str]:
    if plan.gaps:
        told = "; ".join(f"{gap.phase}: {gap.why}" for gap in plan.gaps)
        return {"gap": f"at most {sum(gap.seconds for gap in plan.gaps):.0f} s", "gap_detail": told}
    if not plan.gap_there_s:
        return {"gap": "none", "gap_detail": "new connections move, open ones end by themselves"}
    there, back = f"about {plan.gap_there_s:.0f} s there", f"{plan.gap_back_s:.0f} s back"
    return {"gap": f"{there}, {back}", "gap_detail": "Triton stops before vLLM starts; nobody answers meanwhile"}


def changes(plan: Plan) -> list[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Every step, grouped by the kind of thing that it changes."""
    grouped: dict[str, list[tuple[str, dict[str, str]]]] = {heading: [] for heading in KINDS.values()}
    for phase in plan.phases:
        for step in phase.steps:
            grouped.setdefault(KINDS.get(step.kind, "other"), []).append((phase.phase, _shown(step)))
    return [(heading, steps) for heading, steps in grouped.items() if steps]


def way_back(plan: Plan) -> list[tuple[str, str]]:
    """The recipe, from the fastest to the most thorough."""
    command = f"migrate rollback --host {plan.host}"
    reboots = " (may reboot)" if plan.settings.get("provision_allow_reboot") else ""
    whole = [(f"weights, packages and driver too{reboots}", f"{command} --to before-provision")]
    return [
        ("traffic to Triton, seconds", command),
        ("vLLM, gateway and switch go too", f"{command} --to before-deploy"),
        *(whole if plan.settings.get("provision_manage") else []),
        ("without this tool, on the host", "sudo /var/lib/migrate/back"),
    ]


def fate(model: Mapping[str, Any], plan: Plan) -> str:
    """What becomes of a model that Triton serves: `moves`, or why it stays."""
    if not model["moves"]:
        return str(model["why_not"])
    return "moves" if model["model"] in plan.settings["triton_models"] else "it could move: it is not in triton_models"


def _shown(step: Step) -> dict[str, str]:
    return {
        "sign": "+" if step.before in {"absent", "not looked at"} else "=" if step.before == step.after else "~",
        "what": step.what,
        "before": step.before,
        "after": step.after,
        "why": step.why,
        "impact": step.impact,
    }
