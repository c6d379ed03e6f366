"""Computes a plan from the settings and the facts of one host. Pure: the same input gives the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from posixpath import dirname
from typing import Any

from migrate import __version__, plan, runtimes, sizing, steps, switch, weights
from migrate import engine as engines
from migrate import image as images
from migrate.census import as_dicts, census, notes
from migrate.errors import GateFailed, Refused
from migrate.facts import FREE, fact
from migrate.knowledge import Finding, Severity
from migrate.phases import NAMES, PHASES, Phase
from migrate.plan import Gap, PhasePlan, Plan, Predicate
from migrate.settings import Settings

_GIB = 1024**3
_IMAGES = 20 * _GIB
_OURS = "/var/lib/migrate"
_UTILIZATION = "gpu-memory-utilization"
_INSTALLING_S, _REBOOTING_S = 300, 900
Facts = Mapping[str, Any]

_OWNER = "compose"
_OWNERS = {"kubernetes": "out of scope: drain the node and migrate its deployment there, not this host"}

# What a plan relies on and no phase changes; `_changed` holds the rest.
_STEADY = (
    "os.id",
    "os.version_id",
    "gpus.names",
    "driver.version",
    "provision.changes",
    "provision.refused",
    "owner.kind",
    "triton.version",
    "triton.configs.digest",
    "triton.container.name",
    "triton.container.image_id",
    "triton.container.restart_policy",
    "triton.container.spec",
    "model_repository.digest",
    "weights.digest",
    "nginx.digest",
)
# What a new driver changes.
_DRIVER = ("gpus.names", "driver.version")


def make(host: str, settings: Settings, facts: Facts, playbooks: str, now: datetime) -> Plan:
    """Compute the plan. Raises Refused where the host cannot be migrated as it is."""
    refuse_unfit(settings, facts)
    settings = weights.pinned(images.chosen(settings, facts), facts)
    engine = engines.engine(settings, facts)
    settings = _started_with(settings, engine.flags, engine.environment)
    sized = sizing.size(settings, facts)
    if sized.utilization:
        settings = _started_with(settings, {_UTILIZATION: sized.utilization}, {})
    models = engines.sized(engine.models, list(settings.triton.models), sized.utilization, sized.reason)
    return plan.identified(
        Plan(
            schema=plan.SCHEMA,
            tool_version=__version__,
            host=host,
            created=plan.stamp(now),
            expires=plan.stamp(now + timedelta(hours=settings.migrate.plan_expiry_h)),
            strategy=sized.strategy,
            strategy_reason=sized.reason,
            gaps=_gaps(settings, facts),
            gap_there_s=sized.gap_there_s,
            gap_back_s=sized.gap_back_s,
            settings=settings.flat(),
            playbooks=playbooks,
            vllm_image_digest=images.planned_digest(settings, facts),
            read_set=_read_set(settings, facts, sized),
            phases=tuple(_phase(p, settings, facts) for p in PHASES if runtimes.goes_through(settings, p.name, NAMES)),
            routes_kept=tuple(kept_routes(settings, facts)),
            translation=tuple(engines.as_json(model) for model in models),
            engines=engines.possible(settings, models),
            findings=tuple(
                asdict(finding)
                for finding in (*engine.findings, *runtimes.findings(settings), *_taken_ports(settings, facts))
            ),
            memory=sized.memory,
            revivers=tuple((facts.get("owner") or {}).get("revivers") or ()),
            clients=tuple(as_dicts(census(facts, settings))),
            client_notes=tuple(notes(facts, settings)),
            expectations=sizing.judged(settings, facts),
            weights=weights.planned(facts),
        )
    )


def refuse_unfit(settings: Settings, facts: Facts) -> None:
    """Raise Refused, naming the setting, for what no phase could mend; GateFailed where the registry is silent."""
    _refuse_unread(facts)
    _refuse_triton(settings, facts)
    if not (facts.get("model_repository") or {}).get("exists"):
        folder = settings.triton.model_repository
        raise Refused(
            f"triton_model_repository: {folder} is not a directory on the host", advice=f"ls -ld {folder} there"
        )
    weights.refuse_unfit(settings, facts)
    runtimes.refuse_unfit(settings, facts)
    image = facts.get("vllm_image") or {}
    if runtimes.needs_image(settings) and not image.get("digest"):
        why = image.get("error") or "the registry gave none"
        setting, reference = images.asked(settings)
        raise GateFailed(
            f"{setting}: stage could not fetch {reference}: {why}; nothing was changed, Triton serves",
            advice="see that the host reaches the registry, then plan again",
        )


def _gaps(settings: Settings, facts: Facts) -> tuple[Gap, ...]:
    """The reboot of a driver change, where there is one."""
    if not steps.reboots(facts):
        return ()
    why = "the host reboots into the new driver; from its install on no new GPU container can be created"
    return (Gap("provision", float(settings.provision.gap_s), why),)


def _phase(phase: Phase, settings: Settings, facts: Facts) -> PhasePlan:
    estimate_s = _estimate_s(phase, settings, facts)
    done = steps.of(phase.name, settings, facts)
    return PhasePlan(phase.name, phase.does, phase.kind, estimate_s, phase.undo, done)


def _estimate_s(phase: Phase, settings: Settings, facts: Facts) -> int:
    """What a phase usually takes; one that only looks at a host takes less than one that changes it."""
    changes = (facts.get("provision") or {}).get("changes")
    if phase.name == "stage":
        return phase.estimate_s + images.seconds(settings)
    if phase.name != "provision" or not changes:
        return phase.estimate_s
    return _REBOOTING_S if steps.reboots(facts) else _INSTALLING_S


def _refuse_unread(facts: Facts) -> None:
    """Raise Refused for a part of the host that could not be read: a plan does not rest on what nobody saw."""
    if (facts.get("docker") or {}).get("server_ok") is False:
        reason = facts["docker"].get("reason")
        raise Refused(f"the Docker engine does not answer: {reason}", advice="on the host: systemctl status docker")
    if refused := (facts.get("provision") or {}).get("refused"):
        raise Refused(f"provision: {refused}", advice="then plan again; provision_manage: [] only looks")
    for part in ("nginx", "model_repository", "weights"):
        found = facts.get(part) or {"reason": "discovery says nothing of it"}
        if found.get("reason") and found.get("exists", True):
            raise Refused(
                f"{part} could not be read: {found['reason']}", advice="mend that on the host, then plan again"
            )


def _refuse_triton(settings: Settings, facts: Facts) -> None:
    triton, name = facts.get("triton") or {}, settings.triton.container
    owner = facts.get("owner") or {"kind": _OWNER}
    if not triton.get("container") and owner["kind"] in {_OWNER, "unknown"}:
        there = ", ".join(sorted(str(one["name"]) for one in facts.get("containers") or [])) or "no container"
        raise Refused(
            f"triton_container: there is no container {name!r} on the host", advice=f"set it to one of: {there}"
        )
    _refuse_owner(owner)
    if not triton.get("live"):
        raise Refused(
            f"triton_http_port: nothing answers as Triton on port {settings.triton.http_port}",
            advice=f"on the host: docker logs {name}; then triton_http_port",
        )
    ready = {model["name"] for model in triton.get("models") or [] if model.get("state") == "READY"}
    if missing := set(settings.triton.models) - ready:
        raise Refused(
            f"triton_models: Triton does not serve {', '.join(sorted(missing))}", advice=f"it serves {sorted(ready)}"
        )


def _refuse_owner(owner: Mapping[str, Any]) -> None:
    """Raise Refused where something else than a compose project owns the Triton process."""
    kind = owner["kind"]
    if kind == _OWNER:
        return
    evidence = "; ".join(owner.get("evidence") or [])
    raise Refused(
        f"Triton is owned by {kind} {owner.get('name') or ''} ({evidence}); what can be rebuilt is a compose project",
        advice=_OWNERS.get(kind, "put it into a compose project first, then plan again"),
    )


def switch_config(settings: Settings, facts: Facts) -> str:
    """The configuration of the switch, computed from the operator's nginx files."""
    nginx = facts["nginx"]
    return switch.render(nginx["files"], main=nginx.get("main") or settings.nginx.config_file, settings=settings)


def kept_routes(settings: Settings, facts: Facts) -> list[str]:
    """Names of the public routes that lead to Triton and that cutover does not move."""
    nginx = facts["nginx"]
    main = nginx.get("main") or settings.nginx.config_file
    return [route.name for route in switch.routes(nginx["files"], main=main, settings=settings) if not route.moved]


def _started_with(settings: Settings, flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """The settings with what vLLM is started with on top."""
    args, variables = {**settings.vllm.args, **flags}, {**settings.vllm.environment, **environment}
    vllm = settings.vllm.model_copy(update={"args": args, "environment": variables})
    return settings.model_copy(update={"vllm": vllm})


def _read_set(settings: Settings, facts: Facts, sized: sizing.Sizing) -> tuple[Predicate, ...]:
    # What provision would change is looked at before the phase alone.
    changed_by = dict.fromkeys(("provision.changes", "provision.refused"), "provision")
    changed_by |= dict.fromkeys(_DRIVER, "provision") if fact(facts, "provision.changes") else {}
    # A hub is asked, and a copy brought by hand is read, until `stage` has the weights, not after it.
    brought = settings.weights.repository or settings.weights.offline_copy
    changed_by |= {"weights.digest": "stage"} if brought else {}
    steady = [Predicate(key, "==", fact(facts, key), fact(facts, key), changed_by.get(key, "")) for key in _STEADY]
    known = [predicate for predicate in steady if predicate.value is not None]
    share = sized.memory["bytes"]["share"] if sized.memory and sized.strategy == "side-by-side" else 0
    keys = [f"gpus.{uuid}" for uuid in sized.cards if share]
    free = [Predicate(key, ">=", share, fact(facts, key), "deploy") for key in keys]
    found = (*known, *free, *_changed(settings, facts))
    if wrong := [predicate for predicate in found if not predicate.holds(predicate.seen)]:
        told = "; ".join(f"{p.key} is {'unknown' if p.seen is None else p.seen}, {p.value} is needed" for p in wrong)
        raise Refused(f"the host has too little room: {told}", advice="make room, then plan again")
    return found


def _taken_ports(settings: Settings, facts: Facts) -> list[Finding]:
    """What listens where vLLM, the gateway or the switch are to listen; preflight refuses it."""
    users = {port: fact(facts, f"ports.{port}") for port in sorted(_ports(settings))}
    return [
        Finding(f"port {port}", "port", f"used by {user}", "stop that, or choose another port", "host", Severity.ERROR)
        if user
        else Finding(f"port {port}", "port", "not known whether it is free", "ss -ltn", "host", Severity.REVIEW)
        for port, user in users.items()
        if user != FREE
    ]


def _ports(settings: Settings) -> dict[int, str]:
    """Every port of ours, and the phase that takes it."""
    ours = {settings.vllm.port: "deploy", settings.gateway.port: "deploy"}
    return ours | dict.fromkeys([settings.switch.rehearsal_port, *settings.switch.ports.values()], "rehearse")


def _changed(settings: Settings, facts: Facts) -> list[Predicate]:
    """What a phase changes itself: the staged image and its room, and the ports that were free."""
    digest = fact(facts, "vllm_image.digest")
    needed, more = disk_needed(settings, facts), images.room(settings)
    room = {f"disks.{folder}": size + more.get(folder, 0) for folder, size in needed.items()}
    ours = sorted(_ports(settings).items())
    free = [Predicate(f"ports.{port}", "==", FREE, FREE, changed_by) for port, changed_by in ours]
    image = [Predicate("vllm_image.digest", "==", digest, digest, "stage")] if runtimes.needs_image(settings) else []
    return [
        *image,
        *(Predicate(key, ">=", size, fact(facts, key), "stage") for key, size in room.items()),
        *(predicate for predicate in free if predicate.holds(fact(facts, predicate.key))),
    ]


def disk_needed(settings: Settings, facts: Facts) -> dict[str, int]:
    """Free bytes that the phases need, by folder: images where they are kept; archive, weights, spare room."""
    repository = int(fact(facts, "model_repository.bytes") or 0)
    room = {runtimes.storage(settings): _IMAGES, _OURS: 2 * repository + _GIB}
    folder = _OURS if settings.vllm.weights_path.startswith(f"{_OURS}/") else dirname(settings.vllm.weights_path)
    return room | {folder: room.get(folder, 0) + weights.needed(facts)}
