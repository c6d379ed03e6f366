"""Does vLLM fit the host's cards beside Triton, and what of the promises is possible there. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import loads
from typing import Any

from migrate import fit, runtimes
from migrate.errors import Refused, SettingsError
from migrate.fit import cards, view
from migrate.fit.headers import from_facts
from migrate.fit.memory import UTILIZATION
from migrate.settings import Expectation, Settings

Facts = Mapping[str, Any]
Flags = Mapping[str, Any]
_SHARE = "gpu-memory-utilization"
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")
_SUFFIXES = {"": 1, "k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}
_BATCH = fit.Batch()


@dataclass(frozen=True, slots=True)
class Sizing:
    """Strategy, why, gaps in seconds, `--gpu-memory-utilization` (0: no card), where the memory goes, UUIDs."""

    strategy: str
    reason: str
    utilization: float = 0.0
    gap_there_s: float = 0.0
    gap_back_s: float = 0.0
    memory: Mapping[str, Any] | None = None
    cards: tuple[str, ...] = ()


def size(settings: Settings, facts: Facts) -> Sizing:
    """How vLLM fits beside Triton, started with `vllm_args`. Raises Refused, with the nearest setting, where not."""
    flags: Flags = settings.vllm.args
    gpus = _measured(facts)
    if settings.vllm.gpus == "none":
        return Sizing("side-by-side", f"vllm_gpus is none: vLLM gets {settings.vllm.memory_limit} of the host's memory")
    if not gpus:
        why = (facts.get("driver") or {}).get("reason") or "nvidia-smi shows no card with its memory (MIG shows none)"
        raise Refused(
            f"vllm_gpus: all, but no GPU can be seen: {why}", advice="nvidia-smi on the host, or vllm_gpus: none"
        )
    model, used = _model(facts, flags), _visible(gpus, settings)[: _cards(flags)]
    _refuse_our_own(used)
    if len(used) < _cards(flags):
        raise Refused(
            f"vllm_args: {_cards(flags)} GPUs are asked for, the host has {len(_visible(gpus, settings))} for it",
            advice="lower tensor-parallel-size, or name the cards in CUDA_VISIBLE_DEVICES",
        )
    chosen, seen, changes = _fitted(model, used, flags, facts)
    if chosen.name == "refuse" or not seen.fits:
        raise Refused(f"vLLM does not fit: {chosen.reason}; {'; '.join(seen.reasons)}", advice=_advice(changes))
    utilization = seen.setting.utilization
    if _SHARE in flags and utilization > chosen.utilization:
        raise Refused(
            f"vllm_args: {_SHARE} {utilization} is more than is free: {chosen.reason}",
            advice=f"set it to {chosen.utilization}, or leave it out: the plan computes it",
        )
    name, uuids = str(used[0]["name"]), tuple(str(gpu["uuid"]) for gpu in used)
    text = view.as_text(model, seen, changes, None, cards.find(name, seen.vram))
    memory = view.as_json(seen, changes, None, None) | {"text": text, "card": name}
    return Sizing(chosen.name, chosen.reason, utilization, chosen.gap_there_s, chosen.gap_back_s, memory, uuids)


def _fitted(
    model: fit.Model, used: Sequence[Mapping[str, Any]], flags: Flags, facts: Facts
) -> tuple[fit.Strategy, fit.Fit, tuple[fit.Change, ...]]:
    """Strategy, fit and what would help, on the smallest and the fullest of the cards."""
    smallest = min(used, key=lambda gpu: int(gpu["memory_total"]))
    total, free = int(smallest["memory_total"]), min(int(gpu["memory_free"]) for gpu in used)
    wanted = fit.fit(model, total, _setting(flags, _number(flags, _SHARE, UTILIZATION)))
    chosen = fit.strategy(free, total, _triton_used(used, facts), wanted.needed, wanted.weights.bytes)
    utilization = _utilization(flags, chosen.utilization)
    seen = fit.fit(model, total, _setting(flags, utilization)) if utilization else wanted
    return chosen, seen, fit.nearest(model, total, seen.setting, cards.find(str(smallest["name"]), total))


def judged(settings: Settings, facts: Facts) -> tuple[dict[str, Any], ...]:
    """Every promise of `migrate_expectations` with a verdict (possible, unlikely, impossible, unknown) and why."""
    gpus = _visible(_measured(facts), settings)
    card = cards.find(str(gpus[0]["name"]), int(gpus[0]["memory_total"])) if gpus else None
    promises = settings.migrate.expectations
    return tuple(line for promise in promises for line in _judged(promise, card, settings.vllm.args, facts))


def _judged(promise: Expectation, card: cards.Card | None, flags: Flags, facts: Facts) -> list[dict[str, Any]]:
    wanted = promise.model_dump(exclude={"by"})
    if card is None:
        named = [name for name in ("tokens_per_s", "ttft_s", "joules_per_token") if wanted[name] is not None]
        because = "the card is not known: no GPU, or one that migrate/fit/cards.yaml does not list"
        return [_line(promise.by, name, wanted[name], None, "unknown", because) for name in named]
    setting = _setting(flags, _number(flags, _SHARE, UTILIZATION))
    found = fit.judge(_model(facts, flags), card, setting, fit.Expectations(**wanted))
    return [_line(promise.by, j.promise, j.promised, j.bound, str(j.verdict), j.because) for j in found]


def _line(by: str, promise: str, promised: float, bound: float | None, verdict: str, because: str) -> dict[str, Any]:
    return {"by": by, "promise": promise, "promised": promised, "bound": bound, "verdict": verdict, "because": because}


def _model(facts: Facts, flags: Flags) -> fit.Model:
    """The model as it is loaded: with the quantisation that the flags ask for."""
    weights = facts.get("weights") or {}
    text = (weights.get("texts") or {}).get("config.json")
    if text is None:
        raise Refused(f"the weights: {weights.get('path')} holds no config.json")
    try:
        model = fit.of(loads(text), from_facts(weights.get("safetensors") or {}))
        return fit.quantised(model, str(flags.get("quantization", "")))
    except ValueError as error:
        raise Refused(f"the weights: {weights.get('path')}/config.json is no JSON: {error}") from None


def _setting(flags: Flags, utilization: float) -> fit.Setting:
    return fit.Setting(
        context=_tokens(flags.get("max-model-len", 0)),
        utilization=utilization,
        tensor_parallel=_count(flags, "tensor-parallel-size"),
        kv_dtype=str(flags.get("kv-cache-dtype", "auto")),
        batch=fit.Batch(
            _count(flags, "max-num-seqs") if "max-num-seqs" in flags else _BATCH.sequences,
            _tokens(flags.get("max-num-batched-tokens", _BATCH.tokens)),
        ),
        pipeline_parallel=_count(flags, "pipeline-parallel-size"),
    )


def _cards(flags: Flags) -> int:
    names = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
    return math.prod(_count(flags, name) for name in names)


def _count(flags: Flags, name: str) -> int:
    found = _number(flags, name)
    if found < 1 or found != int(found):
        raise SettingsError(f"vllm_args: {name}: {flags[name]!r} is no whole number above 0", advice=f"{name}: 1")
    return int(found)


def _number(flags: Flags, name: str, default: float = 1) -> float:
    try:
        return float(flags.get(name, default))
    except (TypeError, ValueError):
        raise SettingsError(f"vllm_args: {name}: {flags[name]!r} is no number", advice=f"{name}: {default}") from None


def _tokens(value: Any) -> int:
    """Tokens as `--max-model-len` takes them: 4096, 4k (thousands), 4K (of 1,024), auto and -1 (the model's own)."""
    text = str(value).strip()
    if text in {"auto", "-1"}:
        return 0
    found = _TOKENS.fullmatch(text)
    if not found:
        raise SettingsError(f"vllm_args: max-model-len: {value!r} is no number of tokens", advice="such as 8192 or 32k")
    tokens = float(found[1]) * _SUFFIXES[found[2]]
    if tokens != int(tokens):
        raise SettingsError(f"vllm_args: {value!r} is no whole number of tokens", advice="such as 8192 or 32k")
    return int(tokens)


def _measured(facts: Facts) -> list[Mapping[str, Any]]:
    """The cards whose memory nvidia-smi shows; with MIG it may show none."""
    return [gpu for gpu in facts.get("gpus") or [] if gpu.get("memory_total") and gpu.get("memory_free") is not None]


def _visible(gpus: Sequence[Mapping[str, Any]], settings: Settings) -> list[Mapping[str, Any]]:
    """The cards that vLLM may see, in its order; all of them unless CUDA_VISIBLE_DEVICES names some."""
    named = settings.vllm.environment.get("CUDA_VISIBLE_DEVICES", "")
    by_name = {str(gpu["index"]): gpu for gpu in gpus} | {str(gpu["uuid"]): gpu for gpu in gpus}
    return [by_name[n.strip()] for n in named.split(",") if n.strip() in by_name] if named else list(gpus)


def _utilization(flags: Flags, free: float) -> float:
    return _number(flags, _SHARE) if _SHARE in flags else min(UTILIZATION, free)


def _refuse_our_own(gpus: Sequence[Mapping[str, Any]]) -> None:
    """Raise Refused where a vLLM of an earlier run still holds a card: its memory is not another's."""
    found = [str(process.get("container")) for gpu in gpus for process in gpu.get("processes") or []]
    if ours := [name for name in found if runtimes.is_ours(name)]:
        raise Refused(
            f"the container {ours[0]} of an earlier run still holds a card",
            advice="migrate rollback --host HOST --to before-deploy, then plan again",
        )


def _triton_used(gpus: Sequence[Mapping[str, Any]], facts: Facts) -> int:
    """Bytes that Triton holds on the fullest of these cards, by its container's name."""
    name = ((facts.get("triton") or {}).get("container") or {}).get("name")
    held = [
        sum(int(process["memory"] or 0) for process in gpu.get("processes") or [] if process.get("container") == name)
        for gpu in gpus
    ]
    return max(held, default=0)


def _advice(changes: Sequence[fit.Change]) -> str:
    if not changes:
        return "a smaller or quantised model, or larger cards: migrate fit MODEL_DIR --vram SIZE"
    return "it would fit with " + ", or ".join(change.what for change in changes)
