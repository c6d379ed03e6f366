"""Applies the table of rules to every field that is set in a model's configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from migrate.secrecy import is_secret
from migrate.translate import backend
from migrate.translate.leaves import Leaf, leaves
from migrate.translate.placement import Placement, devices
from migrate.translate.records import Draft, Entry, Outcome, Sure
from migrate.translate.rules import Rule, rule_for
from migrate.translate.values import HIDDEN, NotReadable, check_argument, read


@dataclass(frozen=True, slots=True)
class Context:
    """What the fields of one configuration are judged by. `where` is the file, as the entries name it."""

    where: str
    kind: str
    style: str
    placement: Placement = Placement()


def add_fields(draft: Draft, config: Any, context: Context) -> None:
    """Adds one entry for each field that is set in `config`, and the settings that follow from them."""
    for leaf in leaves(config):
        draft.entries.append(_entry(draft, leaf, rule_for(leaf, context.kind), context))


def staying(config: Any, where: str, why: str) -> list[Entry]:
    """The entries of a model that stays on Triton: nothing of it is lost."""
    reason = f"stays on Triton: {why}"
    return [_plain(leaf, Rule("", Outcome.DROPPED, reason), where) for leaf in leaves(config)]


def _entry(draft: Draft, leaf: Leaf, rule: Rule, context: Context) -> Entry:
    if rule.outcome is not Outcome.MAPPED:
        return _plain(leaf, rule, context.where)
    if leaf.value in ({}, ""):
        return _plain(leaf, Rule(rule.path, Outcome.DROPPED, "it is empty"), context.where)
    try:
        if rule.compute:
            return _COMPUTED[rule.compute](draft, leaf, rule, context)
        return _set(draft, leaf, rule, context)
    except NotReadable as error:
        return _lossy(leaf, rule, context, f"{error}: look at what Triton makes of it")


def _set(draft: Draft, leaf: Leaf, rule: Rule, context: Context) -> Entry:
    value = rule.constant if rule.constant is not None else read(leaf.value, rule.reads or "text")
    if rule.reads == "int" and value < 1:
        raise NotReadable(f"{value} is no length")
    if rule.reads == "" and rule.constant is None:
        value = leaf.value
    check_argument(f"{context.where}: {leaf.path}", value)
    if rule.flag and draft.flags.setdefault(rule.flag, value) != value:
        return _lossy(leaf, rule, context, f"--{rule.flag} is already {draft.flags[rule.flag]!r} by another setting")
    if rule.target == "weights":
        draft.weights = draft.weights or str(value)
        if draft.weights != value:
            return _lossy(leaf, rule, context, f"the weights are already {draft.weights!r} by another setting")
    return _plain(leaf, rule, context.where, result=value)


def _tensor(draft: Draft, leaf: Leaf, rule: Rule, context: Context) -> Entry:
    side = "inputs" if leaf.tokens[0][0] == "input" else "outputs"
    if backend.knows_tensor(context.style, side, str(leaf.value)):
        return _plain(leaf, rule, context.where, result=leaf.value)
    if not context.style:
        draft.note("the gateway knows no style for this model's requests: clients have to change")
    does = "refuses it by name" if side == "inputs" else "does not answer with it"
    return _lossy(leaf, rule, context, f"the gateway {does}")


def _placement(draft: Draft, leaf: Leaf, rule: Rule, context: Context) -> Entry:
    copies, cards = context.placement.copies, context.placement.cards
    is_gpus = leaf.tokens[-1][0] == "gpus"
    if cards and is_gpus:
        draft.environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, cards))
    if copies > 1 and draft.flags.setdefault("data-parallel-size", copies) != copies:
        return _lossy(leaf, rule, context, "--data-parallel-size is already set by another setting")
    if not is_gpus and copies == 1:
        return _plain(leaf, Rule(rule.path, Outcome.DROPPED, "one copy on one card is one engine"), context.where)
    if not is_gpus:
        return _plain(leaf, rule, context.where, result=copies)
    target = "--data-parallel-size, env CUDA_VISIBLE_DEVICES" if copies > 1 else rule.target
    shown = draft.environment.get("CUDA_VISIBLE_DEVICES", "")
    return _plain(leaf, rule, context.where, target=target, result=f"{copies} on {shown}" if copies > 1 else shown)


def _devices(draft: Draft, leaf: Leaf, rule: Rule, context: Context) -> Entry:
    engines = devices(str(leaf.value))
    shown = ",".join(str(card) for engine in engines for card in engine)
    draft.environment["CUDA_VISIBLE_DEVICES"] = shown
    if context.kind == "tensorrtllm":
        sizes = {"tensor-parallel-size": len(engines[0]), "data-parallel-size": len(engines)}
        draft.flags |= {flag: size for flag, size in sizes.items() if size > 1}
    return _plain(leaf, rule, context.where, result=shown)


_COMPUTED: dict[str, Callable[[Draft, Leaf, Rule, Context], Entry]] = {
    "tensor": _tensor,
    "placement": _placement,
    "devices": _devices,
}


def _lossy(leaf: Leaf, rule: Rule, context: Context, reason: str) -> Entry:
    return _plain(leaf, Rule(rule.path, Outcome.LOSSY, reason, sure=Sure.REVIEW), context.where)


def _plain(leaf: Leaf, rule: Rule, where: str, *, target: str = "", result: Any = "") -> Entry:
    shown = HIDDEN if is_secret(leaf.key) else leaf.value
    goal = (target or rule.target) if rule.outcome is Outcome.MAPPED else ""
    kept = HIDDEN if is_secret(leaf.key) and result != "" else result
    return Entry(f"{where}:{leaf.path}", shown, rule.outcome, goal, kept, rule.reason, rule.sure)
