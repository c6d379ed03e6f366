"""A fit as one screen of text, and as JSON types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from migrate.fit.cards import Card
from migrate.fit.memory import Fit, Model
from migrate.fit.nearest import Change
from migrate.fit.reserve import UNCERTAINTY
from migrate.fit.units import gib

_BAR = 64


def as_text(
    model: Model, result: Fit, changes: Sequence[Change], speeds: tuple[float, float] | None, card: Card | None
) -> str:
    """The verdict, a bar of where the memory of one card goes, its parts, and what would help."""
    cards = f"{result.setting.cards} x {card.name if card else gib(result.vram)}"
    verdict = ("TIGHT" if result.tight else "FITS") if result.fits else "DOES NOT FIT"
    lines = [f"{verdict}: {model.config.architecture}, {result.context:,} tokens of context, on {cards}", ""]
    lines += [f"  [{_bar(result)}]", *_parts(model, result), ""]
    lines += [f"  because {reason}" for reason in result.reasons]
    lines += [f"  it would fit with {change.what}" for change in changes]
    if not result.fits and not changes:
        lines.append("  no setting here makes it fit: a smaller model, or larger cards")
    lines += _notes(result)
    if speeds:
        lines.append(
            f"  one stream gets at most {speeds[0]:,.0f} tok/s at the start, {speeds[1]:,.0f} with a full context"
        )
    return "\n".join(lines)


def _parts(model: Model, result: Fit) -> list[str]:
    kind = model.config.dtype if result.weights.scheme == "none" else result.weights.scheme
    weights, tokens = result.weights, f"{result.tokens:,} tokens of {result.kv_each:,} bytes"
    outside, left = result.vram - result.share, f"{1 - result.setting.utilization:.0%}"
    return [
        f"  █ weights   {gib(result.weights_each):>11}  {weights.parameters / 1e9:.2f} billion parameters, {kind}, "
        f"from {weights.source}",
        f"  ▓ KV cache  {gib(max(0, result.room)):>11}  {tokens}: {result.sequences:.1f} sequences of full length",
        f"  ▒ reserve   {gib(result.reserve):>11}  activations, sampling, CUDA graphs; ± {gib(UNCERTAINTY)}",
        f"  ░ outside   {gib(outside):>11}  what the driver keeps, and the {left} that vLLM leaves",
    ]


def _bar(result: Fit) -> str:
    outside = result.vram - result.share
    parts = [(result.weights_each, "█"), (max(0, result.room), "▓"), (result.reserve, "▒"), (outside, "░")]
    total = sum(size for size, _ in parts)
    ends = [round(_BAR * sum(size for size, _ in parts[: n + 1]) / total) for n in range(len(parts))]
    return "".join(mark * (end - begin) for (_, mark), begin, end in zip(parts, [0, *ends[:-1]], ends, strict=True))


def _notes(result: Fit) -> list[str]:
    notes = []
    if result.fits:
        notes.append(f"  the longest context is {result.largest_context:,}; the model's own is {result.own_context:,}")
    if result.tight:
        notes.append("  tight: the reserve's uncertainty decides; try it, or leave more room")
    if result.kv.windowed:
        notes.append(
            f"  {result.kv.windowed} of {result.kv.layers} layers look back {result.kv.window:,} tokens: "
            "vLLM may need less cache than this"
        )
    if result.kv.stateful:
        notes.append(
            f"  {result.kv.stateful} of {result.kv.stateful + result.kv.layers} layers have no cache: the state that "
            "they keep for each sequence is not counted"
        )
    return notes


def as_json(
    result: Fit, changes: Sequence[Change], needed: int | None, speeds: tuple[float, float] | None
) -> dict[str, Any]:
    """The same as JSON types; sizes in bytes for one card."""
    return {
        "fits": result.fits,
        "tight": result.tight,
        "reasons": list(result.reasons),
        "nearest": [change.what for change in changes],
        "cards_needed": needed,
        "bytes": {
            "vram": result.vram,
            "share": result.share,
            "weights": result.weights_each,
            "kv_room": result.room,
            "kv_per_token": result.kv_each,
            "reserve": result.reserve,
            "reserve_uncertainty": UNCERTAINTY,
        },
        "weights": asdict(result.weights),
        "kv_tokens": result.tokens,
        "sequences": round(result.sequences, 2),
        "context": result.context,
        "model_context": result.own_context,
        "largest_context": result.largest_context,
        "setting": asdict(result.setting),
        "tokens_per_s_at_most": {"start": speeds[0], "full_context": speeds[1]} if speeds else None,
    }
