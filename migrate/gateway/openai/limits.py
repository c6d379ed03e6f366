"""What one API key may do: requests a second, with bursts, and requests at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from migrate.gateway.config import OpenAiConfig, RateConfig
from migrate.gateway.observe import metrics
from migrate.gateway.web.refusals import OpenAiError


class TokenBucket:
    """Holds up to `burst` requests and gains `rate` a second; `clock` counts seconds."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self) -> float:
        """0 when a request was in the bucket, else the seconds until one will be."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class _Usage:
    def __init__(self, rate: RateConfig, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.bucket = TokenBucket(rate.requests_per_s, rate.burst, clock) if rate.requests_per_s else None
        self.running = 0


class Limits:
    """Counts what each key does in this process, which gets its part of what all `workers` may do together."""

    def __init__(self, config: OpenAiConfig, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._workers = workers
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    @contextmanager
    def admitted(self, key: str) -> Iterator[None]:
        """One request of a key, until the block ends. Raises OpenAiError 429 when it has no right to one."""
        usage = self._usage.get(key) or self._usage.setdefault(key, _Usage(self._share(key), self._clock))
        if usage.rate.concurrent and usage.running >= usage.rate.concurrent:
            metrics.refused("concurrency")
            text = f"too many requests at once: this key may have {self._whole(key).concurrent}"
            raise OpenAiError(429, text, "concurrency_limit_exceeded", retry_after_s=1.0)
        if usage.bucket is not None and (wait_s := usage.bucket.take()):
            metrics.refused("rate")
            text = f"too many requests: this key may send {self._whole(key).requests_per_s:g} a second"
            raise OpenAiError(429, text, "rate_limit_exceeded", retry_after_s=wait_s)
        usage.running += 1
        try:
            yield
        finally:
            usage.running -= 1

    def _whole(self, key: str) -> RateConfig:
        return self._config.rates.get(key, self._config.rate)

    def _share(self, key: str) -> RateConfig:
        whole = self._whole(key)
        return RateConfig(
            requests_per_s=whole.requests_per_s / self._workers,
            burst=max(1, whole.burst // self._workers),
            concurrent=-(-whole.concurrent // self._workers),
        )
