"""Which vLLM servers the models that move need: same weights, one server; servers on one card share its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate.errors import Refused
from migrate.translate.records import Translation

DEFAULT_UTILIZATION = 0.92
_SEQUENCES = "max-num-seqs"
_UTILIZATION = "gpu-memory-utilization"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Engine:
    """One vLLM server: the Triton models that it takes over, and its settings."""

    name: str
    models: tuple[str, ...]
    weights: str
    served_names: tuple[str, ...]
    flags: Mapping[str, Any]
    environment: Mapping[str, str]
    lora_modules: Mapping[str, str]
    notes: tuple[str, ...] = ()


def group(translations: Sequence[Translation], utilization: float = DEFAULT_UTILIZATION) -> tuple[Engine, ...]:
    """One engine for each set of models with the same weights and settings that do not contradict.

    `utilization` is the share of a card's memory that all engines on it may take together; they divide it by the
    bytes of their weights where these are known, else evenly. Raises Refused where two engines claim one served name,
    an adapter has its model's name, or engines ask for more
    of a card than there is.
    """
    families: list[list[Translation]] = []
    for translation in translations:
        if translation.moves:
            _place_in_family(families, translation)
    engines = [_engine(family) for family in families]
    _refuse_shared_names(engines)
    sizes = [max((member.weights_bytes or 0 for member in family), default=0) for family in families]
    return tuple(
        _with_share(engine, _share(engines, sizes, number, utilization)) for number, engine in enumerate(engines)
    )


def _place_in_family(families: list[list[Translation]], translation: Translation) -> None:
    for family in families:
        same = translation.weights and translation.weights == family[0].weights
        if same and all(_agree(member, translation) for member in family):
            family.append(translation)
            return
    families.append([translation])


def _agree(one: Translation, other: Translation) -> bool:
    shared = set(one.flags) & set(other.flags) - {_SEQUENCES}
    same_flags = all(one.flags[flag] == other.flags[flag] for flag in shared)
    same_cards = one.environment.get(_VISIBLE) == other.environment.get(_VISIBLE)
    adapters = set(one.lora_modules) & set(other.lora_modules)
    return same_flags and same_cards and all(one.lora_modules[name] == other.lora_modules[name] for name in adapters)


def _engine(family: Sequence[Translation]) -> Engine:
    flags: dict[str, Any] = {}
    for member in family:
        flags |= member.flags
    sequences = [member.flags[_SEQUENCES] for member in family if _SEQUENCES in member.flags]
    if sequences:
        flags[_SEQUENCES] = sum(sequences)
    return Engine(
        name=family[0].model,
        models=tuple(member.model for member in family),
        weights=family[0].weights,
        served_names=tuple(dict.fromkeys(name for member in family for name in member.served_names)),
        flags=flags,
        environment={key: value for member in family for key, value in member.environment.items()},
        lora_modules={name: path for member in family for name, path in member.lora_modules.items()},
    )


def _refuse_shared_names(engines: Sequence[Engine]) -> None:
    owners: dict[str, str] = {}
    for engine in engines:
        for name in set(engine.served_names) & set(engine.lora_modules):
            raise Refused(
                f"{name!r} is a name of {engine.name} and of one of its adapters: vLLM could not tell them apart",
                advice="correct served_model_name or multi_lora.json",
            )
        for name in (*engine.served_names, *engine.lora_modules):
            if owners.setdefault(name, engine.name) != engine.name:
                raise Refused(
                    f"{owners[name]} and {engine.name} both want to be served as {name!r}",
                    advice="correct served_model_name or multi_lora.json",
                )


def _share(engines: Sequence[Engine], sizes: Sequence[int], number: int, utilization: float) -> float:
    """The engine's share of the fullest of its cards, rounded down to a hundredth."""
    sharing = [other for other in range(len(engines)) if _overlap(engines[number], engines[other])]
    asked = {
        other: float(engines[other].flags[_UTILIZATION]) for other in sharing if _UTILIZATION in engines[other].flags
    }
    free = utilization - sum(asked.values())
    if number in asked and (free >= 0 or len(sharing) == 1):
        return asked[number]
    if number in asked:
        return _floor(asked[number] / sum(asked.values()) * utilization)
    rest = [other for other in sharing if other not in asked]
    if free <= 0:
        names = ", ".join(engines[other].name for other in asked)
        raise Refused(
            f"{engines[number].name}: {names} already claim {sum(asked.values()):.2f} of its card",
            advice="lower gpu_memory_utilization in model.json",
        )
    known = all(sizes[other] for other in rest)
    part = sizes[number] / sum(sizes[other] for other in rest) if known else 1 / len(rest)
    return _floor(free * part)


def _overlap(one: Engine, other: Engine) -> bool:
    mine, theirs = _cards(one), _cards(other)
    return mine is None or theirs is None or bool(mine & theirs)


def _cards(engine: Engine) -> frozenset[str] | None:
    shown = engine.environment.get(_VISIBLE)
    return frozenset(shown.split(",")) if shown else None


def _floor(share: float) -> float:
    return math.floor(share * 100 + 1e-9) / 100


def _with_share(engine: Engine, share: float) -> Engine:
    asked = engine.flags.get(_UTILIZATION)
    note = f"--gpu-memory-utilization {asked} lowered to {share}: the cards are shared"
    return Engine(
        engine.name,
        engine.models,
        engine.weights,
        engine.served_names,
        {**engine.flags, _UTILIZATION: share},
        engine.environment,
        engine.lora_modules,
        (note,) if asked is not None and asked != share else (),
    )
