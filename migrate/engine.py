"""What vLLM is started with: Triton's own settings, translated, under those of the inventory. Pure.

Every name is held against what the chosen release knows; what the operator wrote wrongly is refused, what only the
translation wrote is left out and said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from migrate import image as images
from migrate import knowledge, profiles, translate, weights
from migrate.errors import Refused, SettingsError
from migrate.facts import driver_to_be
from migrate.knowledge import Finding, Severity
from migrate.settings import Settings
from migrate.translate import Entry, Outcome, Sure, Translation

Facts = Mapping[str, Any]
_UTILIZATION = "gpu-memory-utilization"
_NO_ADAPTER = "no adapter is staged"
_NOT_PASSED = {_UTILIZATION: "what is free beside Triton decides, unless vllm_args does"}


@dataclass(frozen=True, slots=True)
class Engine:
    """The one vLLM server: its flags and environment, the translation of every model, and what to look at."""

    flags: Mapping[str, Any]
    environment: Mapping[str, str]
    models: tuple[Translation, ...]
    findings: tuple[Finding, ...]


def engine(settings: Settings, facts: Facts) -> Engine:
    """Compute the engine. Raises Refused for a model that cannot move, SettingsError for a setting that cannot be."""
    models = translate.translate_all(_served(settings, facts))
    _refuse_staying(settings, models)
    translated = _one_engine(settings, models)
    decided = {**_scalars(translated.flags), **settings.vllm.args}
    profile = profiles.choose(settings, facts)
    profiled = profiles.flags(profile, decided)
    flags = {**profiled, **decided}
    environment = {**translated.environment, **settings.vllm.environment}
    findings = _findings(settings, facts, flags, environment)
    wrong = {finding.name: finding.problem for finding in findings if finding.severity is Severity.ERROR}
    flags = {name: value for name, value in flags.items() if name not in wrong}
    environment = {name: value for name, value in environment.items() if name not in wrong}
    moving = settings.triton.models
    return Engine(
        flags,
        environment,
        tuple(
            _with_profile(_effective(m, settings, flags, wrong), profile, [name for name in profiled if name in flags])
            if m.model in moving
            else m
            for m in models
        ),
        (*findings, *_lost_adapters(translated), *_metrics(settings)),
    )


def possible(settings: Settings, models: Sequence[Translation]) -> tuple[dict[str, Any], ...]:
    """The engines that it would take to move every model that can, each with its share of the card's memory.

    Empty where `triton_models` has them all: that is the plan itself.
    """
    chosen = settings.triton.models
    if all(model.model in chosen for model in models if model.moves):
        return ()
    sources = {name: weights.name(settings) for name in chosen}
    apart = [replace(model, weights=sources.get(model.model, model.weights or model.model)) for model in models]
    return tuple(
        {"models": list(found.models), "share": found.flags[_UTILIZATION], "planned": set(found.models) <= set(chosen)}
        for found in translate.group(apart)
    )


def as_json(model: Translation) -> dict[str, Any]:
    """A translation as JSON types."""
    return {**asdict(model), "served_names": list(model.served_names), "notes": list(model.notes)}


def sized(
    models: Sequence[Translation], moving: Sequence[str], utilization: float, why: str
) -> tuple[Translation, ...]:
    """The translations of the models that move, with the memory share that the host leaves as an entry of its own."""
    if not utilization:
        return tuple(models)
    entry = Entry("host: free memory", "", Outcome.MAPPED, f"--{_UTILIZATION}", utilization, why, Sure.DERIVED)
    return tuple(replace(m, entries=(*m.entries, entry)) if m.model in moving else m for m in models)


def _served(settings: Settings, facts: Facts) -> list[translate.Source]:
    """The sources of what Triton serves; what only lies in the repository is nobody's loss."""
    answered = (facts.get("triton") or {}).get("configs") or {}
    moving = list(settings.triton.models)
    return [source for source in translate.sources(facts, moving) if answered.get(source.name) or source.name in moving]


def _refuse_staying(settings: Settings, models: Sequence[Translation]) -> None:
    for model in models:
        if model.model in settings.triton.models and not model.moves:
            raise Refused(
                f"triton_models: {model.model} cannot move: {model.why_not}", advice=f"take {model.model} out of it"
            )


def _one_engine(settings: Settings, models: Sequence[Translation]) -> translate.Engine:
    """The engine of the models that move: they share their weights. Raises Refused where they contradict."""
    source = weights.name(settings)
    moving = [replace(model, weights=source) for model in models if model.model in settings.triton.models]
    engines = translate.group(moving)
    if not engines:
        return translate.Engine(settings.vllm.served_model_name, (), source, (), {}, {}, {})
    if len(engines) > 1:
        names = " and ".join("/".join(found.models) for found in engines)
        raise Refused(
            f"triton_models: {names} contradict each other and need an engine each; one engine is deployed",
            advice="leave the others out of triton_models: they stay on Triton",
        )
    # Triton's share of the card is no guide: what is free beside it decides, unless the inventory does.
    return replace(engines[0], flags={n: v for n, v in engines[0].flags.items() if n != _UTILIZATION})


def _scalars(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Values as `vllm_args` takes them; adapters are left out, since none is staged."""
    kept = {name: value for name, value in flags.items() if "lora" not in name and value is not None}
    return {name: value if _is_plain(value) else json.dumps(value, sort_keys=True) for name, value in kept.items()}


def _is_plain(value: Any) -> bool:
    """Whether a value is one argument, or a list of which each item is one; anything else is passed as JSON."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, str | int | float | bool) for item in items)


def _findings(
    settings: Settings, facts: Facts, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Finding, ...]:
    """What to look at. Raises SettingsError for an error that the inventory holds, with the replacement."""
    version = knowledge.version_of(settings.vllm.image)
    found = knowledge.check(
        version,
        flags,
        environment,
        variant=knowledge.variant_of(settings.vllm.image),
        architecture=_architecture(facts),
        driver=driver_to_be(facts),
    )
    found += images.findings(settings, facts)
    for finding in found:
        where = _where(finding, settings)
        if finding.severity is Severity.ERROR and where:
            raise SettingsError(f"{where}: {finding.name}: {finding.problem}", advice=finding.replacement)
    return tuple(found)


def _where(finding: Finding, settings: Settings) -> str:
    """The inventory's variable that a finding is about, "" where only the translation wrote it."""
    if finding.name in settings.vllm.args:
        return "vllm_args"
    if finding.name in settings.vllm.environment:
        return "vllm_environment"
    if finding.kind == "image":
        return images.asked(settings)[0]
    return "vllm_image" if finding.kind == "model" else ""


def _architecture(facts: Facts) -> str | None:
    text = ((facts.get("weights") or {}).get("texts") or {}).get("config.json")
    try:
        named = json.loads(text).get("architectures") if text else None
    except (ValueError, AttributeError):
        return None
    return str(named[0]) if named else None


def _effective(
    model: Translation, settings: Settings, flags: Mapping[str, Any], wrong: Mapping[str, str]
) -> Translation:
    """The translation with what vLLM is really started with: no entry names a flag that is not passed so.

    What the inventory decides has lines of its own at the end.
    """
    entries = [_passed(entry, settings, flags, wrong) for entry in model.entries]
    ours = [_decided(model, name, value) for name, value in settings.vllm.args.items()]
    return replace(model, entries=(*entries, *ours))


def _passed(entry: Entry, settings: Settings, flags: Mapping[str, Any], wrong: Mapping[str, str]) -> Entry:
    name = entry.target.removeprefix("--")
    if not entry.target.startswith("--"):
        return entry
    if name == "served-model-name":
        reason = f"the gateway maps it to {settings.vllm.served_model_name}: {entry.reason}"
        return replace(entry, target="gateway model", reason=reason)
    if name in settings.vllm.args:
        return replace(entry, outcome=Outcome.DROPPED, target="", result=None, reason=f"vllm_args.{name} decides")
    if name in flags:
        return replace(entry, result=flags[name])
    reason = wrong.get(name) or _NOT_PASSED.get(name, _NO_ADAPTER)
    return replace(entry, outcome=Outcome.LOSSY, target="", result=None, reason=reason, sure=Sure.REVIEW)


def _decided(model: Translation, name: str, value: Any) -> Entry:
    """The line of a setting of the inventory, and whether Triton's own settings say the same."""
    if name not in model.flags:
        reason = "the inventory asks for it"
    elif model.flags[name] == value:
        reason = "the inventory says so too"
    else:
        reason = f"the inventory decides, not {model.flags[name]!r}"
    return Entry(f"vllm_args.{name}", value, Outcome.MAPPED, f"--{name}", value, reason, Sure.EXACT)


def _with_profile(model: Translation, profile: profiles.Chosen, names: Sequence[str]) -> Translation:
    """The translation with a line for each flag of the profile that nobody else decided."""
    lines = []
    for name in names:
        value, why = profile.flags[name]
        told = f"{profile.because}: {why}"
        lines.append(Entry(f"vllm_profile: {profile.name}", "", Outcome.MAPPED, f"--{name}", value, told, Sure.DERIVED))
    return replace(model, entries=(*model.entries, *lines))


def _metrics(settings: Settings) -> list[Finding]:
    """The metrics of the operator's dashboards that the release does not serve."""
    return knowledge.check_metrics(knowledge.version_of(settings.vllm.image), settings.migrate.metrics_used)


def _lost_adapters(translated: translate.Engine) -> list[Finding]:
    if not translated.lora_modules:
        return []
    names = ", ".join(sorted(translated.lora_modules))
    problem = f"the adapters {names} are not staged: vLLM serves the base model alone"
    return [
        Finding(
            "multi_lora.json", "model", problem, "keep these clients on Triton", "migrate/engine.py", Severity.REVIEW
        )
    ]
