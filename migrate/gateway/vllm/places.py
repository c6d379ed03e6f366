"""A bounded queue: so many requests at once, so many more that wait in order of arrival, and a refusal for the rest."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from migrate.gateway.config import QueueConfig
from migrate.gateway.errors import Code, ModelError
from migrate.gateway.observe import metrics


class Places:
    """The places at vLLM for one of its models; use it as `async with places:`."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    async def __aenter__(self) -> None:
        """Raises ModelError UNAVAILABLE, with the time after which to try again, when there is no room to wait."""
        if self._taken < self._config.max_in_flight:
            self._taken += 1
            return
        if len(self._waiting) >= self._config.max_waiting:
            raise self._refusal("is full")
        await self._wait()

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._leave()
            else:
                with suppress(ValueError):
                    self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._refusal("has had no free place in time") from None
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _refusal(self, what: str) -> ModelError:
        metrics.refused("queue")
        return ModelError(Code.UNAVAILABLE, f"the queue of the gateway {what}, try again", self._config.retry_after_s)
