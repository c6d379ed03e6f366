"""The plan: what will change on one host, why, for how long, and how it is undone. A value; nothing here does I/O.

A plan carries its *read set*: every fact of the host that it relied on, with the value seen. `apply` reads the
same facts again and refuses where one no longer holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from migrate import __version__, switch
from migrate.errors import GateFailed, Refused, SettingsError
from migrate.phases import PHASES
from migrate.settings import Settings

SCHEMA = 1
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Predicate:
    """A fact that the plan relies on: `key op value`, with `op` one of `==` and `>=`."""

    key: str
    op: str
    value: Any
    seen: Any

    def holds(self, now: Any) -> bool:
        """Whether the host's present value still satisfies the predicate; a missing value never does."""
        if now is None:
            return False
        return bool(now >= self.value) if self.op == ">=" else bool(now == self.value)


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what is there before and after, why, and what a client notices."""

    what: str
    before: str
    after: str
    why: str
    impact: str = "none"


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
    id: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON types only; `from_json` reads it back."""
        return asdict(self)

    def text(self) -> str:
        """Canonical JSON, as saved in a plan file."""
        return _canonical(self.as_json())


def make(host: str, settings: Settings, facts: Mapping[str, Any], playbooks: str, now: datetime) -> Plan:
    """Compute the plan from settings and facts. Raises Refused where the host cannot be migrated as it is."""
    refuse_unfit(settings, facts)
    flat = settings.flat()
    body = Plan(
        schema=SCHEMA,
        tool_version=__version__,
        host=host,
        created=_stamp(now),
        expires=_stamp(now + timedelta(hours=settings.migrate.plan_expiry_h)),
        strategy="side-by-side",
        strategy_reason=_strategy_reason(settings, facts),
        settings=flat,
        playbooks=playbooks,
        vllm_image_digest=str(facts["vllm_image"]["digest"]),
        read_set=_read_set(settings, facts),
        phases=tuple(
            PhasePlan(p.name, p.does, p.kind, p.estimate_s, p.undo, _steps(p.name, settings, facts)) for p in PHASES
        ),
        routes_kept=tuple(kept_routes(settings, facts)),
    )
    return _with_id(body)


def refuse_unfit(settings: Settings, facts: Mapping[str, Any]) -> None:
    """Raise Refused, naming the setting, for what no phase could mend; GateFailed where the registry is silent."""
    triton = facts.get("triton") or {}
    container = triton.get("container")
    if not container:
        raise Refused(f"triton_container: there is no container {settings.triton.container!r} on the host")
    if not triton.get("live"):
        raise Refused(f"triton_http_port: nothing answers as Triton on port {settings.triton.http_port}")
    if not (facts.get("model_repository") or {}).get("exists"):
        raise Refused(f"triton_model_repository: {settings.triton.model_repository} is not a directory on the host")
    if not (facts.get("weights") or {}).get("exists"):
        raise Refused(f"vllm_weights_source: {settings.vllm.weights_source} is not a directory on the host")
    image = facts.get("vllm_image") or {}
    if not image.get("digest"):
        why = image.get("error") or "the registry gave none"
        raise GateFailed(
            f"vllm_image: stage could not fetch {settings.vllm.image}: {why}; nothing was changed, Triton serves",
            advice="see that the host reaches the registry, then plan again",
        )
    missing = set(settings.triton.models) - {model["name"] for model in triton.get("models") or []}
    if missing:
        raise Refused(f"triton_models: Triton does not serve {', '.join(sorted(missing))}")


def from_json(data: Mapping[str, Any], *, any_version: bool = False) -> Plan:
    """Read a saved plan. Raises Refused for one that was edited or is of another tool version.

    With `any_version` a plan of another version is read too: the way back must survive an upgrade.
    """
    try:
        phases = tuple(PhasePlan(**{**p, "steps": tuple(Step(**s) for s in p["steps"])}) for p in data["phases"])
        read_set = tuple(Predicate(**p) for p in data["read_set"])
        plan = Plan(**{**data, "phases": phases, "read_set": read_set, "routes_kept": tuple(data["routes_kept"])})
    except (KeyError, TypeError) as error:
        raise Refused(f"not a plan of this tool: {error}", advice="make a new one: migrate plan --host HOST") from None
    if _with_id(plan).id != plan.id:
        raise Refused(
            "the plan file was edited: its id does not fit its content", advice="make a new one: migrate plan"
        )
    if not any_version and (plan.schema != SCHEMA or plan.tool_version != __version__):
        raise Refused(f"the plan is of version {plan.tool_version}, this is {__version__}", advice="migrate plan again")
    return plan


def refuse_expired(plan: Plan, now: datetime) -> None:
    """Raise Refused once the plan's time is over."""
    if _stamp(now) >= plan.expires:
        raise Refused(f"the plan expired at {plan.expires}", advice=f"make a new one: migrate plan --host {plan.host}")


def drift(plan: Plan, facts: Mapping[str, Any]) -> list[str]:
    """One line for each predicate of the read set that the host no longer satisfies.

    A registry that is silent now is no drift: preflight and stage find out whether it is needed.
    """
    return [
        f"{p.key}: planned on {p.op} {p.value!r}, the host now has {fact(facts, p.key)!r}"
        for p in plan.read_set
        if not p.holds(fact(facts, p.key)) and not (p.key == "vllm_image.digest" and fact(facts, p.key) is None)
    ]


def fact(facts: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key (`triton.container.image_id`), None where any part is missing."""
    if key == "nginx.digest":
        return nginx_digest(facts)
    value: Any = facts
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def nginx_digest(facts: Mapping[str, Any]) -> str | None:
    """sha256 over the operator's nginx files, None where there are none."""
    files = (facts.get("nginx") or {}).get("files")
    return hashlib.sha256(_canonical(files).encode()).hexdigest() if files else None


def switch_config(settings: Settings, facts: Mapping[str, Any]) -> str:
    """The configuration of the switch, computed from the operator's nginx files."""
    nginx = facts["nginx"]
    return switch.render(nginx["files"], main=nginx.get("main") or settings.nginx.config_file, settings=settings)


def kept_routes(settings: Settings, facts: Mapping[str, Any]) -> list[str]:
    """Names of the public routes that lead to Triton and that cutover does not move."""
    nginx = facts["nginx"]
    main = nginx.get("main") or settings.nginx.config_file
    return [route.name for route in switch.routes(nginx["files"], main=main, settings=settings) if not route.moved]


def _read_set(settings: Settings, facts: Mapping[str, Any]) -> tuple[Predicate, ...]:
    keys = (
        "os.id",
        "os.version_id",
        "triton.container.name",
        "triton.container.image_id",
        "triton.container.restart_policy",
        "model_repository.digest",
        "weights.digest",
        "nginx.digest",
        "vllm_image.digest",
    )
    exact = [Predicate(key, "==", fact(facts, key), fact(facts, key)) for key in keys]
    needed = _disk_needed(facts)
    free = fact(facts, "disks./.free")
    return (*exact, Predicate("disks./.free", ">=", needed, free))


def _disk_needed(facts: Mapping[str, Any]) -> int:
    """Bytes: the model repository's archive, the copied weights, and a fifth on top, at least 1 GiB."""
    repository = int(fact(facts, "model_repository.bytes") or 0)
    weights = int(fact(facts, "weights.bytes") or 0)
    return max(_GIB, (repository + weights) * 6 // 5)


def _strategy_reason(settings: Settings, facts: Mapping[str, Any]) -> str:
    gpus = facts.get("gpus") or []
    if not gpus:
        return f"no GPU: both run on the CPU, vLLM within {settings.vllm.memory_limit} of memory"
    return f"{len(gpus)} GPU(s): vLLM starts beside Triton within the memory that is left"


def _steps(phase: str, settings: Settings, facts: Mapping[str, Any]) -> tuple[Step, ...]:
    return tuple(_STEPS[phase](settings, facts)) if phase in _STEPS else ()


def _snapshot(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    size = int(fact(facts, "model_repository.bytes") or 0)
    return [
        Step(
            "/usr/local/lib/migrate, /var/lib/migrate", "absent", "lock, journal, way back", "the host keeps the truth"
        ),
        Step("/var/lib/migrate/snapshot", "absent", f"Triton's records and {size:,} bytes of models", "to rebuild it"),
    ]


def _provision(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    docker = fact(facts, "docker.version") or "absent"
    return [Step("Docker engine", str(docker), str(docker), "the engine that serves is kept")]


def _stage(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    weights = int(fact(facts, "weights.bytes") or 0)
    return [
        Step("image", "absent", f"{settings.vllm.image} ({facts['vllm_image']['digest'][:19]})", "pulled by digest"),
        Step("image", "absent", "gateway, built on it", "speaks Triton's protocol in front of vLLM"),
        Step(settings.vllm.weights_path, "absent", f"{weights:,} bytes copied and verified", "outlives Triton's files"),
    ]


def _deploy(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    shared = "shares the host's capacity with Triton"
    return [
        Step("container vllm", "absent", f"127.0.0.1:{settings.vllm.port}", "the new engine", shared),
        Step("container gateway", "absent", f"127.0.0.1:{settings.gateway.port}", "Triton's clients keep working"),
    ]


def _rehearse(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    port = settings.switch.rehearsal_port
    return [Step("migrate-switch.service", "absent", f"also on 127.0.0.1:{port}", "the same path, without clients")]


def _cutover(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    ports = ", ".join(f"{public} → {own}" for public, own in settings.switch.ports.items())
    steps = " → ".join(f"{percent} %" for percent in settings.switch.steps)
    return [
        Step(
            "nft table inet migrate", "absent", ports, "new connections reach the switch; open ones end by themselves"
        ),
        Step("traffic", "triton 100 %", f"vllm {steps}", f"each step watched for {settings.switch.step_s} s"),
        Step("migrate-deadman.timer", "absent", f"{settings.deadman.timeout_s} s", "goes back if the controller dies"),
    ]


def _soak(settings: Settings, facts: Mapping[str, Any]) -> list[Step]:
    return [
        Step("migrate-soak.service", "absent", f"watches {settings.soak.duration_s} s", "goes back by itself"),
        Step("/etc/migrate/committed", "absent", "present", "after a reboot vLLM serves"),
    ]


_STEPS = {
    "snapshot": _snapshot,
    "provision": _provision,
    "stage": _stage,
    "deploy": _deploy,
    "rehearse": _rehearse,
    "cutover": _cutover,
    "soak": _soak,
}


def _with_id(plan: Plan) -> Plan:
    body = {key: value for key, value in plan.as_json().items() if key != "id"}
    digest = hashlib.sha256(_canonical(body).encode()).hexdigest()
    fields = {name: getattr(plan, name) for name in plan.__slots__ if name != "id"}
    return Plan(**fields, id=digest)


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise SettingsError(f"a value cannot be written into a plan: {error}") from None


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
