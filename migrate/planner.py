"""Computes a plan from the settings and the facts of one host. Pure: the same input gives the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from migrate import __version__, plan, sizing, steps, switch
from migrate import engine as engines
from migrate.census import as_dicts, census, notes
from migrate.errors import GateFailed, Refused
from migrate.facts import FREE, fact
from migrate.phases import PHASES
from migrate.plan import PhasePlan, Plan, Predicate
from migrate.settings import Settings

_GIB = 1024**3
_UTILIZATION = "gpu-memory-utilization"
Facts = Mapping[str, Any]

_OWNER = "compose"
_OWNERS = {"kubernetes": "out of scope: drain the node and migrate its deployment there, not this host"}

# What a plan relies on and no phase changes; `_changed` holds the rest.
_STEADY = (
    "os.id",
    "os.version_id",
    "gpus.names",
    "driver.version",
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


def make(host: str, settings: Settings, facts: Facts, playbooks: str, now: datetime) -> Plan:
    """Compute the plan. Raises Refused where the host cannot be migrated as it is."""
    refuse_unfit(settings, facts)
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
            gap_there_s=sized.gap_there_s,
            gap_back_s=sized.gap_back_s,
            settings=settings.flat(),
            playbooks=playbooks,
            vllm_image_digest=str(facts["vllm_image"]["digest"]),
            read_set=_read_set(settings, facts, sized),
            phases=tuple(
                PhasePlan(p.name, p.does, p.kind, p.estimate_s, p.undo, steps.of(p.name, settings, facts))
                for p in PHASES
            ),
            routes_kept=tuple(kept_routes(settings, facts)),
            translation=tuple(engines.as_json(model) for model in models),
            engines=engines.possible(settings, models),
            findings=tuple(asdict(finding) for finding in engine.findings),
            memory=sized.memory,
            revivers=tuple((facts.get("owner") or {}).get("revivers") or ()),
            clients=tuple(as_dicts(census(facts, settings))),
            client_notes=tuple(notes(facts, settings)),
            expectations=sizing.judged(settings, facts),
        )
    )


def refuse_unfit(settings: Settings, facts: Facts) -> None:
    """Raise Refused, naming the setting, for what no phase could mend; GateFailed where the registry is silent."""
    triton = facts.get("triton") or {}
    owner = facts.get("owner") or {"kind": _OWNER}
    if not triton.get("container") and owner["kind"] in {_OWNER, "unknown"}:
        raise Refused(f"triton_container: there is no container {settings.triton.container!r} on the host")
    _refuse_owner(owner)
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
    steady = [Predicate(key, "==", fact(facts, key), fact(facts, key)) for key in _STEADY]
    known = [predicate for predicate in steady if predicate.value is not None]
    share = sized.memory["bytes"]["share"] if sized.memory and sized.strategy == "side-by-side" else 0
    free = [Predicate("gpus.free", ">=", share, fact(facts, "gpus.free"), "deploy")] if share else []
    return (*known, *free, *_changed(settings, facts))


def _changed(settings: Settings, facts: Facts) -> list[Predicate]:
    """What a phase changes itself: the staged image and its room, and the ports that were free."""
    digest, room = fact(facts, "vllm_image.digest"), fact(facts, "disks./.free")
    ours = {settings.vllm.port: "deploy", settings.gateway.port: "deploy"}
    ours |= dict.fromkeys([settings.switch.rehearsal_port, *settings.switch.ports.values()], "rehearse")
    free = [Predicate(f"ports.{port}", "==", FREE, FREE, changed_by) for port, changed_by in sorted(ours.items())]
    return [
        Predicate("vllm_image.digest", "==", digest, digest, "stage"),
        Predicate("disks./.free", ">=", _disk_needed(facts), room, "stage"),
        *(predicate for predicate in free if predicate.holds(fact(facts, predicate.key))),
    ]


def _disk_needed(facts: Facts) -> int:
    """Bytes: the model repository's archive, the copied weights, and a fifth on top, at least 1 GiB."""
    repository = int(fact(facts, "model_repository.bytes") or 0)
    weights = int(fact(facts, "weights.bytes") or 0)
    return max(_GIB, (repository + weights) * 6 // 5)
