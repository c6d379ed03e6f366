"""Collected performance records, made up block by block."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Latency = Callable[[str, random.Random], float]


def collected(
    latency: Latency = lambda side, chance: chance.uniform(0.09, 0.11),
    *,
    pairs: int = 6,
    requests: int = 20,
    spoil: Callable[[dict[str, Any]], None] = lambda record: None,
    stream: bool = False,
) -> list[dict[str, Any]]:
    """A complete collection at concurrency 1, each record handed to `spoil` first."""
    chance = random.Random(1)
    records: list[dict[str, Any]] = []
    now = 0.0
    for pair in range(pairs):
        for side in ("triton", "gateway"):
            for _ in range(requests):
                took = latency(side, chance)
                times = {"scheduled_s": now, "sent_s": now, "first_s": now + took / 4, "last_s": now + took}
                records.append(
                    {"side": side, "concurrency": 1, "phase": "measure", "round": pair // 2, "pair": pair}
                    | {"stream": stream, **times, "tokens_out": 8, "characters_out": 30, "error": None}
                )
                now += took
    for record in records:
        spoil(record)
    warm_up = [{"side": side, "concurrency": 1, "windows": 3, "stable": True} for side in ("triton", "gateway")]
    return [*records, {"complete": True, "records": len(records), "warm_up": warm_up}]
