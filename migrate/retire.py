"""Tears the Triton stack down once nothing public leads to it any more; the archive stays."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from migrate import planner
from migrate.context import Run, changing
from migrate.errors import NotProven, Refused
from migrate.gate import Outcome, as_json
from migrate.journal import Kind
from migrate.status import all_on_vllm

NAME = "retire"
CHECKS = ("triton_gone", "vllm_api", "port_serves")


def retire(run: Run) -> Mapping[str, Any]:
    """Tear the Triton stack down and return what was removed and what is kept.

    Raises Refused while a public route still leads to Triton, NotProven where the outcome is not as meant.
    """
    today = run.clock()[:10]
    accepted = {name for name, a in run.settings.retire.lost_routes.items() if a.expires.isoformat() >= today}
    routes = planner.kept_routes(run.settings, run.playbooks.run("discover", run.variables, run.say).facts)
    lost = [name for name in routes if name not in accepted]
    if lost:
        raise Refused(
            f"these public routes still lead to Triton: {'; '.join(lost)}",
            advice="move their clients, or accept the loss of each by name under retire_lost_routes in the inventory",
        )
    switch, gateway = run.host.call("switch", "status"), run.host.call("probe", "--target", "gateway")
    if not (all_on_vllm(switch) and gateway["ok"]):
        raise Refused(
            f"not all traffic is on vLLM (redirect {switch['redirect']}, {switch['percent']} %, gateway "
            f"{gateway['error'] or 'answers'}); nothing was removed",
            advice=f"migrate status --host {run.plan.host}",
        )
    with changing(run, NAME):
        return _tear_down(run)


def _tear_down(run: Run) -> Mapping[str, Any]:
    run.journal.append(Kind.INTENT, NAME)
    began = time.monotonic()
    proof = run.prove(NAME, CHECKS)
    took_s = round(time.monotonic() - began, 3)
    verdicts = as_json(proof.verdicts)
    run.journal.append(Kind.OUTCOME, NAME, verdict=str(proof.outcome), verdicts=verdicts, duration_s=took_s)
    if proof.outcome is not Outcome.PASS:
        raise NotProven(f"retire: {proof.problem()}", advice=f"migrate rollback --host {run.plan.host}")
    run.journal.append(Kind.FINISH, "", result="retired")
    return dict(proof.results.get("retired") or {})


def is_retired(run: Run) -> bool:
    """Whether Triton was torn down, or may have been, and was not rebuilt since."""
    ends = [r for r in run.journal.records if r.phase == NAME or r.kind is Kind.FINISH]
    return any(r.phase == NAME for r in ends) and ends[-1].data.get("result") != "rolled back"
