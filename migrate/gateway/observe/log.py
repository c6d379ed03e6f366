"""Structured logs: one JSON object a line on standard output, with the id of the request that it belongs to.

Prompts and answers are in no line; `tracking.prompt` adds the prompt where the configuration asks for it.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from migrate.gateway.config import LoggingConfig

REQUEST_ID_HEADER = "x-request-id"
# The id of the request that this task works for; "" outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")
_prompts = logging.getLogger("migrate.gateway.prompts")
_prompts.setLevel(logging.CRITICAL)
# Where requests go, if anywhere: `logging` takes four times as long as the line itself, once a request.
_requests: list[Callable[[str], object]] = []
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)


def accept(given: str | None) -> str:
    """The id of this task's request from here on: the client's where it is 1 to 128 plain signs, else a new one."""
    chosen = given if given and _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
    request_id.set(chosen)
    return chosen


def answered(fields: Mapping[str, Any]) -> None:
    """The line of one request: protocol, operation, model, version, status, seconds and what else is known."""
    for write in _requests:
        line = {"time": _time(time.time()), "level": "info", "logger": "migrate.gateway", "message": "request"}
        with suppress(OSError, ValueError):
            write(_encode({**line, "request_id": request_id.get(), **fields}) + "\n")


def keeps_prompts() -> bool:
    """Whether prompts belong into the lines of requests."""
    return _prompts.isEnabledFor(logging.INFO)


def set_up(config: LoggingConfig, stream: TextIO | None = None) -> None:
    """Send every logger of the process to one stream as JSON lines."""
    chosen = stream or sys.stdout
    if isinstance(chosen, io.TextIOWrapper):
        chosen.reconfigure(line_buffering=True, errors="backslashreplace")
    handler = logging.StreamHandler(chosen)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    _requests[:] = [chosen.write] if config.requests else []
    _prompts.setLevel(logging.INFO if config.prompts else logging.CRITICAL)


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON; a line break in a message cannot start another record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _time(record.created), "level": record.levelname.lower()}
        line |= {"logger": record.name, "message": record.getMessage()}
        if request_id.get():
            line["request_id"] = request_id.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
