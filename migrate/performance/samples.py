"""Raw requests put together by side and block, and the figures of a side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from migrate.evidence import Record

OLD, NEW = "triton", "gateway"


@dataclass(frozen=True, slots=True)
class Block:
    """What one side did in one block. A failed request counts as an infinite latency, never as a missing one.

    `latencies_s` are from the intended send time to the last byte; `first_s` to the first text, streaming only. The
    wall clock runs from the first send to the last answer, so it includes the drain of a closed loop.
    """

    latencies_s: tuple[float, ...]
    first_s: tuple[float, ...]
    errors: int
    tokens: int | None
    characters: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Level:
    """All blocks of one concurrency; the pairs are neighbours in time, old side first."""

    concurrency: int
    pairs: tuple[tuple[Block, Block], ...]

    def side(self, index: int) -> list[Block]:
        """The blocks of the old (0) or the new (1) side."""
        return [pair[index] for pair in self.pairs]


def levels_of(records: Iterable[Record]) -> list[Level]:
    """The measured blocks by concurrency; a pair that lacks one side is left out."""
    blocks: dict[int, dict[int, dict[str, list[Record]]]] = {}
    for record in records:
        if record["phase"] == "measure":
            pair = blocks.setdefault(int(record["concurrency"]), {}).setdefault(int(record["pair"]), {})
            pair.setdefault(str(record["side"]), []).append(record)
    return [
        Level(
            concurrency,
            tuple((_block(sides[OLD]), _block(sides[NEW])) for _, sides in sorted(pairs.items()) if len(sides) > 1),
        )
        for concurrency, pairs in sorted(blocks.items())
    ]


def quantile(blocks: Sequence[Block], share: float) -> float:
    """The pooled latency quantile in seconds; infinite where failures reach that far."""
    pooled = np.concatenate([np.asarray(block.latencies_s) for block in blocks])
    return float(np.quantile(pooled, share, method="higher"))


def first_quantile(blocks: Sequence[Block], share: float) -> float | None:
    """The pooled quantile of the time to the first text in seconds, None without streaming."""
    pooled = np.concatenate([np.asarray(block.first_s) for block in blocks])
    return float(np.quantile(pooled, share, method="higher")) if len(pooled) else None


def throughput(blocks: Sequence[Block]) -> tuple[float, str]:
    """Output per second and its unit: tokens where the server counts them, else characters of the same tokenizer."""
    wall_s = sum(block.wall_s for block in blocks) or math.inf
    tokens = [block.tokens for block in blocks]
    if all(count is not None for count in tokens):
        return sum(count or 0 for count in tokens) / wall_s, "tok/s"
    return sum(block.characters for block in blocks) / wall_s, "char/s"


def _block(records: Sequence[Record]) -> Block:
    good = [record for record in records if record["error"] is None]
    counts = [record["tokens_out"] for record in good]
    return Block(
        latencies_s=tuple(_latency(record) for record in records),
        first_s=tuple(r["first_s"] - r["scheduled_s"] for r in good if r["stream"] and r["first_s"] is not None),
        errors=len(records) - len(good),
        tokens=sum(counts) if counts and None not in counts else None,
        characters=sum(record["characters_out"] for record in good),
        wall_s=max(record["last_s"] for record in records) - min(record["sent_s"] for record in records),
    )


def _latency(record: Record) -> float:
    return float("inf") if record["error"] is not None else float(record["last_s"] - record["scheduled_s"])
