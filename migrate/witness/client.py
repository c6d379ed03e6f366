"""The clients: each has one connection that stays open and sends the next request as soon as the last one has ended."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import aiohttp

from migrate.witness.answers import Answer, read_events, read_single
from migrate.witness.config import WitnessConfig
from migrate.witness.records import Record, WitnessRun, iso, write

GENERATE, STREAM = "generate", "generate_stream"


async def watch(config: WitnessConfig, stop: asyncio.Event) -> WitnessRun:
    """Ask until `stop` is set or a limit of the configuration is reached; requests on their way are awaited.

    Every request is in the record file as soon as it ends. Raises OSError when that file cannot be written or the
    file of the authority cannot be read.
    """
    clock = _Clock()
    trust: ssl.SSLContext | bool = True
    if config.ca_file is not None:
        trust = ssl.create_default_context(cafile=str(config.ca_file))
    with config.record_file.open("a", encoding="utf-8") as file:
        tally = _Tally(config, stop, file, clock)
        async with asyncio.TaskGroup() as group:
            for number in range(config.clients):
                group.create_task(_Client(config, number, tally, trust).run())
    return WitnessRun(config.run, config.record_file, clock.at(0.0), clock.at(clock.now()), tally.sent, tally.failed)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Wall time that never jumps: the time of the start plus what the monotonic clock counted since."""

    wall: datetime = field(default_factory=lambda: datetime.now(UTC))
    monotonic: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        return time.monotonic() - self.monotonic

    def at(self, seconds: float) -> str:
        return iso(self.wall + timedelta(seconds=seconds))


@dataclass(slots=True)
class _Tally:
    """What the clients share: the limits, the file and the counts."""

    config: WitnessConfig
    stop: asyncio.Event
    file: TextIO
    clock: _Clock
    sent: int = 0
    failed: int = 0

    def may_send(self) -> bool:
        config = self.config
        if self.stop.is_set() or self.sent >= config.max_requests or self.clock.now() >= config.max_duration_s:
            return False
        self.sent += 1
        return True

    async def keep(self, record: Record) -> None:
        """Write the record; after a failure wait a moment, or a refused connection is asked thousands of times."""
        write(record, self.file)
        if not record.is_answered:
            self.failed += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self.config.pause_after_failure_s)


@dataclass(frozen=True, slots=True)
class _Client:
    config: WitnessConfig
    number: int
    tally: _Tally
    trust: ssl.SSLContext | bool

    async def run(self) -> None:
        # aiohttp repeats idempotent methods by itself on a connection that was dropped; POST is none of them.
        connector = aiohttp.TCPConnector(limit=1, ssl=self.trust)
        timeout = aiohttp.ClientTimeout(total=self.config.request_timeout_s)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:
            count = 0
            while self.tally.may_send():
                count += 1
                await self.tally.keep(await self._ask(session, count))

    async def _ask(self, session: aiohttp.ClientSession, count: int) -> Record:
        kind = STREAM if self.number % 2 else GENERATE
        model = self._model(kind)
        request_id = f"{self.config.id_prefix}{self.number}-{count}"
        headers = {"Referer": f"http://witness.invalid/{request_id}", "Content-Type": "application/json"}
        url = f"{self.config.base_url.rstrip('/')}/v2/models/{model}/{kind}"
        body = json.dumps(self._body(kind, model, count))
        answer, began = Answer(), self.tally.clock.now()
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                await (read_events if kind == STREAM else read_single)(response, answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            answer.error = f"{type(error).__name__}: {error}".rstrip(": ")
        latency_s = round(self.tally.clock.now() - began, 6)
        sent_at = self.tally.clock.at(began)
        return Record(
            request_id, kind, model, sent_at, latency_s, answer.status, answer.error, answer.bytes, answer.chunks
        )

    def _model(self, kind: str) -> str:
        """Streams go to models that stream, where there is one; the clients of a kind share the models out."""
        names = sorted(self.config.models)
        if kind == STREAM:
            names = [name for name in names if self.config.models[name] == "vllm"] or names
        return names[self.number // 2 % len(names)]

    def _body(self, kind: str, model: str, count: int) -> dict[str, Any]:
        prompt = self.config.prompts[(self.number + count) % len(self.config.prompts)]
        sampling = {"max_tokens": self.config.max_tokens, "temperature": 0}
        if self.config.models[model] == "python":
            return {"text_input": prompt, **sampling}
        return {"text_input": prompt, "stream": kind == STREAM, "sampling_parameters": json.dumps(sampling)}
