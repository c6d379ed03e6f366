"""A plan as text for a human."""

from __future__ import annotations

from migrate.plan import PhasePlan, Plan

_RECIPE = "migrate rollback --host {host} (traffic, seconds) · --to before-deploy (vLLM, gateway and switch go too)"


def as_text(plan: Plan) -> str:
    """The whole plan: what changes, why, for how long, what clients notice, and the way back."""
    lines = [
        f"Plan {plan.id[:8]} for {plan.host}: Triton to vLLM, {plan.strategy} ({plan.strategy_reason})",
        f"made {plan.created}, expires {plan.expires}, about {_minutes(plan)}",
        "",
    ]
    for phase in plan.phases:
        lines += _phase(phase)
    lines += ["", "service gap: none", f"rollback: {_RECIPE.format(host=plan.host)}"]
    lines += ["point of no return: none; `migrate retire` is a command of its own"]
    if plan.routes_kept:
        lines += ["stays on Triton: " + "; ".join(plan.routes_kept)]
    lines += [f"relies on {len(plan.read_set)} facts of the host; apply reads them again, and once more before cutover"]
    return "\n".join(lines)


def _phase(phase: PhasePlan) -> list[str]:
    head = f"{phase.phase:12} {phase.kind:10} ~{phase.estimate_s:>3} s  {phase.does}"
    lines = [head]
    for step in phase.steps:
        notice = f"  (clients: {step.impact})" if step.impact != "none" else ""
        lines.append(
            f"  {'+' if step.before == 'absent' else '~'} {step.what}: {step.before} → {step.after}; {step.why}{notice}"
        )
    if phase.undo and phase.steps:
        lines.append(f"    undone by {phase.undo}")
    return lines


def _minutes(plan: Plan) -> str:
    return f"{max(1, round(sum(phase.estimate_s for phase in plan.phases) / 60))} min"
