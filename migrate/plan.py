"""The plan: what will change on one host, why, for how long, and how it is undone. A value; nothing here does I/O.

A plan carries its *read set*: every fact of the host that it relied on, with the value seen. `apply` reads the
same facts again, and once more before cutover, and refuses where one no longer holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from migrate import __version__
from migrate.errors import Refused, SettingsError
from migrate.facts import fact

SCHEMA = 3
CARRIED = {"vllm_image.digest"}
"""Facts that the plan carries out itself: accepting another value would change nothing."""
REHEARSED = {"nginx.digest"}
"""Facts that a run works on from its start: accepting another value needs a new plan."""


@dataclass(frozen=True, slots=True)
class Predicate:
    """A fact that the plan relies on: `key op value`, with `op` one of `==` and `>=`.

    Where a phase changes the fact itself, `changed_by` names it; from then on `after` is expected, or nothing (None).
    """

    key: str
    op: str
    value: Any
    seen: Any
    changed_by: str = ""
    after: Any = None

    def holds(self, now: Any, passed: Collection[str] = ()) -> bool:
        """Whether the host's present value still satisfies the predicate; a missing value never does.

        `passed` names the phases of this run that are over.
        """
        is_changed = self.changed_by in passed
        expected = self.after if is_changed else self.value
        if is_changed and expected is None:
            return True
        if now is None:
            return False
        return bool(now >= expected) if self.op == ">=" else bool(now == expected)


@dataclass(frozen=True, slots=True)
class Drift:
    """A fact that is no longer as planned."""

    key: str
    op: str
    planned: Any
    now: Any

    def __str__(self) -> str:
        sign = "" if self.op == "==" else f"{self.op} "
        return f"{self.key}\n    - {sign}{_shown(self.planned)}\n    + {_shown(self.now)}"


@dataclass(frozen=True, slots=True)
class Step:
    """One change: `kind` of thing (package, setting, image, container, file, port, route, unit), what is there before
    and after, why, and what a client notices."""

    kind: str
    what: str
    before: str
    after: str
    why: str
    impact: str = "none"


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nobody answers: in which phase, at most how long, and why."""

    phase: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """What one phase will do. `undo` is empty where there is nothing to take back."""

    phase: str
    does: str
    kind: str
    estimate_s: int
    undo: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan; `id` is the sha256 of its canonical JSON without the id itself."""

    schema: int
    tool_version: str
    host: str
    created: str
    expires: str
    strategy: str
    strategy_reason: str
    settings: Mapping[str, Any]
    playbooks: str
    vllm_image_digest: str
    read_set: tuple[Predicate, ...]
    phases: tuple[PhasePlan, ...]
    routes_kept: tuple[str, ...]
    translation: tuple[Mapping[str, Any], ...] = ()
    engines: tuple[Mapping[str, Any], ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()
    memory: Mapping[str, Any] | None = None
    revivers: tuple[Mapping[str, Any], ...] = ()
    clients: tuple[Mapping[str, Any], ...] = ()
    client_notes: tuple[str, ...] = ()
    expectations: tuple[Mapping[str, Any], ...] = ()
    gaps: tuple[Gap, ...] = ()
    weights: Mapping[str, Any] | None = None
    gap_there_s: float = 0.0
    gap_back_s: float = 0.0
    id: str = ""

    def gap_s(self, phase: str) -> float:
        """Seconds in which nobody answers during a phase, at most."""
        return sum(gap.seconds for gap in self.gaps if gap.phase == phase)

    def as_json(self) -> dict[str, Any]:
        """JSON types only; `from_json` reads it back."""
        return asdict(self)

    def is_expired(self, now: datetime) -> bool:
        """Whether the plan's time is over."""
        return stamp(now) >= self.expires

    def text(self) -> str:
        """Canonical JSON, as saved in a plan file."""
        return canonical(self.as_json())


def identified(plan: Plan) -> Plan:
    """The plan with its id. Raises SettingsError for a value that JSON has no word for."""
    return replace(plan, id=_id(plan.as_json()))


def from_json(data: Mapping[str, Any], *, any_version: bool = False) -> Plan:
    """Read a saved plan. Raises Refused for one that was edited or is of another tool version.

    With `any_version` a plan of another version is read too: the way back must survive an upgrade.
    """
    try:
        if _id(data) != data["id"]:
            raise Refused(
                "the plan file was edited: its id does not fit its content",
                advice=f"make a new one: migrate plan --host {data.get('host', 'HOST')}",
            )
        if not any_version and (data["schema"] != SCHEMA or data["tool_version"] != __version__):
            raise Refused(
                f"the plan is of version {data['tool_version']} (schema {data['schema']}), this is {__version__} "
                f"(schema {SCHEMA})",
                advice=f"make a new one: migrate plan --host {data['host']}",
            )
        return _parsed(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(f"not a plan of this tool: {error}", advice="make a new one: migrate plan --host HOST") from None


def refuse_expired(plan: Plan, now: datetime) -> None:
    """Raise Refused once the plan's time is over."""
    if plan.is_expired(now):
        raise Refused(f"the plan expired at {plan.expires}", advice=f"make a new one: migrate plan --host {plan.host}")


def refuse_swap(plan: Plan) -> None:
    """Raise Refused for a plan in which Triton has to stop before vLLM starts: only `side-by-side` is carried out."""
    if plan.strategy != "side-by-side":
        raise Refused(
            f"strategy {plan.strategy}: {plan.strategy_reason}; a gap in the service is never taken by apply",
            advice="make room beside Triton: a smaller max-model-len or kv-cache-dtype fp8 in vllm_args; plan again",
        )


def drift(
    plan: Plan, facts: Mapping[str, Any], *, passed: Collection[str] = (), accepted: Mapping[str, Any] | None = None
) -> list[Drift]:
    """What the host no longer satisfies of the read set, after the phases `passed`.

    `accepted` holds, by key, the values that the operator said yes to; exactly those are no drift. A registry that
    is silent now is none either: preflight and stage find out whether it is needed.
    """
    found = []
    for p in plan.read_set:
        now = fact(facts, p.key)
        is_silent = p.key == "vllm_image.digest" and now is None
        if not (p.holds(now, passed) or is_silent or (p.key in (accepted or {}) and (accepted or {})[p.key] == now)):
            found.append(Drift(p.key, p.op, p.after if p.changed_by in passed else p.value, now))
    return found


def refuse_drift(moved: Sequence[Drift], host: str, command: str, *, otherwise: str, has_begun: bool = False) -> None:
    """Raise Refused with what moved and the line to paste to accept it, where anything moved."""
    if not moved:
        return
    fixed = CARRIED | REHEARSED if has_begun else CARRIED
    so_far = "no traffic has moved" if has_begun else "nothing was touched"
    accept = " ".join(f"--accept-drift {drift.key}" for drift in moved if drift.key not in fixed)
    lines = "".join(f"\n  {drift}" for drift in moved)
    taken = f", or take it as it is: {command} {accept}" if accept else ""
    raise Refused(
        f"{host} is no longer as planned (- planned, + now); {so_far}:{lines}", advice=f"look; then {otherwise}{taken}"
    )


def canonical(value: Any) -> str:
    """JSON text that is the same for the same value. Raises SettingsError for a value that JSON has no word for."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise SettingsError(f"a value cannot be written into a plan: {error}") from None


def stamp(moment: datetime) -> str:
    """A moment as UTC ISO-8601 to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _id(data: Mapping[str, Any]) -> str:
    body = {key: value for key, value in data.items() if key != "id"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _parsed(data: Mapping[str, Any]) -> Plan:
    phases = tuple(PhasePlan(**{**p, "steps": tuple(_step(s) for s in p["steps"])}) for p in data["phases"])
    lists = ("routes_kept", "translation", "engines", "findings", "revivers", "clients", "client_notes", "expectations")
    tuples = {name: tuple(data[name]) for name in lists if name in data}
    gaps = tuple(Gap(**gap) for gap in data.get("gaps", ()))
    read_set = tuple(Predicate(**p) for p in data["read_set"])
    return Plan(**{**data, **tuples, "phases": phases, "gaps": gaps, "read_set": read_set})


def _step(data: Mapping[str, Any]) -> Step:
    return Step(**{"kind": "", **data})


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:99]}…"
