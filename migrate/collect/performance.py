"""Loads Triton and the gateway in turn, in short interleaved blocks, and writes one record per request.

Closed loop: each of C workers sends its next request when its last one is answered. Each round holds four blocks in
the order ABBA or BAAB, so that drift of the machine falls on both sides alike; only one side is loaded at a time.
Both sides see the same prompts in the same order, and no side sees one twice, so that no prefix cache answers for the
engine.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from migrate.collect.answers import from_triton, output_tokens
from migrate.collect.exchange import Exchange, client_session, post
from migrate.collect.records import Output, progress, required

SIDES = ("triton", "gateway")
_STABLE_WINDOWS = 3
_STABLE_WITHIN = 0.10
_PAUSE_AFTER_ERROR_S = 0.1


@dataclass(frozen=True, slots=True)
class Side:
    """A server that speaks Triton's generate extension."""

    name: str
    url: str
    model: str

    @classmethod
    def parse(cls, job: Mapping[str, Any], name: str) -> Side:
        """Read one side of the job. Raises ValueError that names the key which is missing or wrong."""
        side = required(job, name, dict)
        return cls(name, required(side, "url", str).rstrip("/"), required(side, "model", str))


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of load on one side.

    `pair` numbers the neighbours that are compared; `salt` makes its prompts unique.
    """

    side: Side
    concurrency: int
    phase: str
    round: int
    pair: int
    salt: str


@dataclass(frozen=True, slots=True)
class PerformanceJob:
    """`duration_s` is the measured time per side and concurrency, spread over 2 · `rounds` blocks a side.

    `parameters` go into every request of both sides, such as the one by which a model says how many tokens it made.
    """

    sides: tuple[Side, Side]
    concurrency: tuple[int, ...]
    duration_s: float
    max_tokens: int
    prompts: tuple[str, ...]
    rounds: int
    stream: bool
    seed: int
    timeout_s: float
    warm_up_limit_s: float
    parameters: Mapping[str, Any]

    @classmethod
    def parse(cls, job: Mapping[str, Any]) -> PerformanceJob:
        """Read the job's JSON object. Raises ValueError that names the key which is missing or wrong."""
        duration_s = float(required(job, "duration_s", (int, float)))
        return cls(
            sides=(Side.parse(job, SIDES[0]), Side.parse(job, SIDES[1])),
            concurrency=tuple(int(level) for level in required(job, "concurrency", list)),
            duration_s=duration_s,
            max_tokens=required(job, "max_tokens", int),
            prompts=tuple(required(job, "prompts", list)),
            rounds=int(job.get("rounds", 3)),
            stream=bool(job.get("stream", False)),
            seed=int(job.get("seed", 1)),
            timeout_s=float(job.get("timeout_s", 60.0)),
            warm_up_limit_s=float(job.get("warm_up_limit_s", min(duration_s, 20.0))),
            parameters=job.get("parameters") or {},
        )

    async def run(self, output: Output) -> dict[str, Any]:
        """Write one record per request, warm-up included. Returns the facts for the closing record."""
        order = random.Random(self.seed)  # noqa: S311 - an order that can be repeated, no secret
        warm_up = []
        async with client_session(self.timeout_s) as session:
            load = _Load(self, session, output)
            for concurrency in self.concurrency:
                for side in self.sides:
                    warm_up.append(await load.warm_up(side, concurrency))
                for number in range(self.rounds):
                    await self._round(load, number, concurrency, order)
        return {"rounds": self.rounds, "seed": self.seed, "stream": self.stream, "warm_up": warm_up}

    async def _round(self, load: _Load, number: int, concurrency: int, order: random.Random) -> None:
        first, second = order.sample(self.sides, k=2)
        for place, side in enumerate((first, second, second, first)):
            pair = 2 * number + place // 2
            block = Block(side, concurrency, "measure", number, pair, f"{concurrency}-{pair}")
            await load.block(block, self.duration_s / (2 * self.rounds))
        progress(f"performance: concurrency {concurrency}, round {number + 1} of {self.rounds}")


class _Load:
    """Drives the workers of one block after the other and writes what they saw."""

    def __init__(self, job: PerformanceJob, session: aiohttp.ClientSession, output: Output) -> None:
        self._job = job
        self._session = session
        self._output = output
        self._origin_s = time.monotonic()

    async def block(self, block: Block, seconds: float) -> None:
        """Load one side for `seconds`; requests under way are answered, not cut."""
        deadline = time.monotonic() + seconds
        await self._workers(block, lambda _number: time.monotonic() < deadline)

    async def warm_up(self, side: Side, concurrency: int) -> dict[str, Any]:
        """Load one side until three windows' medians agree within 10 % (perf_analyzer's rule), or the limit."""
        limit = time.monotonic() + self._job.warm_up_limit_s
        medians: list[float] = []
        while not _stable(medians) and time.monotonic() < limit:
            number = len(medians)
            block = Block(side, concurrency, "warmup", 0, number, f"w{concurrency}-{number}")
            latencies = await self._workers(block, lambda sent: sent < 2 * concurrency + 2)
            medians.append(statistics.median(latencies))
        return {"side": side.name, "concurrency": concurrency, "windows": len(medians), "stable": _stable(medians)}

    async def _workers(self, block: Block, go_on: Callable[[int], bool]) -> list[float]:
        latencies: list[float] = []
        sent = 0

        async def worker() -> None:
            nonlocal sent
            while go_on(sent):
                number, sent = sent, sent + 1
                latencies.append(await self._request(block, number))

        await asyncio.gather(*(worker() for _ in range(block.concurrency)))
        return latencies

    async def _request(self, block: Block, number: int) -> float:
        job, scheduled_s = self._job, time.monotonic()
        prompt = f"# {job.seed}-{block.salt}-{number}\n{job.prompts[number % len(job.prompts)]}"
        path = "generate_stream" if job.stream else "generate"
        url = f"{block.side.url}/v2/models/{block.side.model}/{path}"
        body = {"text_input": prompt, "max_tokens": job.max_tokens, **job.parameters}
        exchange = await post(self._session, url, body, stream=job.stream)
        self._output.write(self._record(block, scheduled_s, exchange))
        if exchange.error is not None:
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
        return exchange.last_s - scheduled_s

    def _record(self, block: Block, scheduled_s: float, exchange: Exchange) -> dict[str, Any]:
        text, error = _text(exchange)
        times: dict[str, Any] = {"scheduled_s": scheduled_s, "sent_s": exchange.sent_s}
        times |= {"first_s": exchange.first_s, "last_s": exchange.last_s}
        return {
            "side": block.side.name,
            "concurrency": block.concurrency,
            "phase": block.phase,
            "round": block.round,
            "pair": block.pair,
            "stream": self._job.stream,
            **self._relative(times),
            "tokens_out": output_tokens(exchange.payloads),
            "characters_out": len(text),
            "error": error,
        }

    def _relative(self, times: Mapping[str, Any]) -> dict[str, float | None]:
        return {key: None if value is None else round(value - self._origin_s, 6) for key, value in times.items()}


def _text(exchange: Exchange) -> tuple[str, str | None]:
    if exchange.error is not None:
        return "", exchange.error
    try:
        return from_triton(exchange.payloads).text or "", None
    except (ValueError, TypeError) as problem:
        return "", f"answer not understood: {problem}"


def _stable(medians: list[float]) -> bool:
    last = medians[-_STABLE_WINDOWS:]
    return len(last) == _STABLE_WINDOWS and max(last) - min(last) <= _STABLE_WITHIN * statistics.mean(last)
