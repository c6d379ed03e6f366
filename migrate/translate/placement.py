"""On which cards a model computes, and in how many copies: instance groups and lists of devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from migrate.errors import Refused
from migrate.translate.values import NotReadable

_AUTO, _GPU = 0, 1
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size")


@dataclass(frozen=True, slots=True)
class Placement:
    """`copies`: engines that share the requests, one per card; `cards`: those that Triton names, empty for all."""

    copies: int = 1
    cards: tuple[int, ...] = ()


def place(model: str, config: Any, engine: Mapping[str, Any], gpus: int | None) -> Placement:
    """Reads the instance groups: a KIND_GPU group has copies on each card that it names, or on each of the host's.

    Raises Refused for cards that the host lacks, and for KIND_GPU around an engine that spans cards, which
    vllm_backend refuses too (`_validate_device_config` of its src/model.py).
    """
    groups = [group for group in config.instance_group if group.kind in {_AUTO, _GPU}]
    needed = cards_needed(model, engine)
    if needed > 1 and any(group.kind == _GPU for group in groups):
        raise Refused(
            f"{model}/config.pbtxt: instance_group has KIND_GPU, but model.json spreads the engine over {needed} cards",
            advice="KIND_MODEL is the kind for engines over several cards; correct it, and prove that Triton serves",
        )
    cards = tuple(sorted({card for group in groups for card in group.gpus if card >= 0}))
    _refuse_missing(f"{model}/config.pbtxt: instance_group", (*cards, needed - 1), gpus)
    if cards:
        return Placement(len(cards), cards)
    return Placement(gpus) if gpus and any(group.kind == _GPU for group in groups) else Placement()


def cards_needed(model: str, engine: Mapping[str, Any]) -> int:
    """Cards that one copy of the engine spans, by model.json. Raises Refused for sizes that are no numbers."""
    product = 1
    for name in _PARALLEL:
        size = engine.get(name) or 1
        if not isinstance(size, int | str) or not str(size).isdecimal() or int(size) < 1:
            raise Refused(f"{model}: model.json: {name} is {size!r}, expected a number from 1", advice="correct it")
        product *= int(size)
    return product


def devices(text: str) -> list[tuple[int, ...]]:
    """The cards of each engine in a list such as "0,1;2,3". Raises NotReadable for anything else."""
    try:
        engines = [tuple(int(card) for card in engine.split(",")) for engine in text.split(";")]
    except ValueError as error:
        raise NotReadable(f"{text!r} is no list of cards") from error
    cards = [card for engine in engines for card in engine]
    if min(cards) < 0 or len(set(cards)) < len(cards):
        raise NotReadable(f"{text!r} names a card below 0, or one twice")
    if len({len(engine) for engine in engines}) > 1:
        raise NotReadable(f"{text!r} gives the engines unequal numbers of cards")
    return engines


def _refuse_missing(where: str, cards: tuple[int, ...], gpus: int | None) -> None:
    if gpus and max(cards) >= gpus:
        raise Refused(
            f"{where}: needs card {max(cards)}, but the host has {gpus} (0 to {gpus - 1})",
            advice="correct the configuration, or migrate the host that it belongs to",
        )
