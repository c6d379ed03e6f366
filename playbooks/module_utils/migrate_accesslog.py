"""Reads nginx access logs from their end: who asked for which route and how often, never what was asked.

Lines are what strangers make a server write: whatever is in them, reading ends, in bounded time and memory, and no
text that comes back holds a character that a terminal would act on.
"""

from __future__ import annotations

import calendar
import ipaddress
import os
import posixpath
import re
import stat
import time
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

MAX_BYTES = 8 << 20
MAX_LINES = 50_000
MAX_LINE = 16_384
MAX_PEERS = 1_000
MAX_KINDS = 40
OTHERS = "*"
# So many lines in a row that are too old end the reading: workers with log buffers write a little out of order.
_OLD_ENOUGH = 1_000
_FUTURE_S = 86_400
_HINTS = ("v2", "GRPC", "grpc", "metrics", "%")
_MONTHS = {name: number for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}

# ngx_http_log_module's `combined`; a quoted field holds no bare quote, for nginx writes \x22. More may follow.
_LINE = re.compile(
    r"(?P<peer>\S{1,64}) - [^\"]{0,512}? ?\[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r"\"(?P<request>(?:[^\"\\]|\\.)*)\" (?P<status>\d{3}) (?:\d+|-)"
    r"(?: \"(?P<referer>(?:[^\"\\]|\\.)*)\" \"(?P<agent>(?:[^\"\\]|\\.)*)\")?",
    re.ASCII,
)
_TIME = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)", re.ASCII)
_OF_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/([a-z_]+))?")
_OF_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
_OF_GRPC = re.compile(r"/(?:inference\.GRPCInferenceService|grpc\.health\.v1\.Health)/([A-Za-z]{1,40})")
_QUERY = re.compile(r"[?#]")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_MODEL_VERBS = {"generate", "generate_stream", "infer", "ready", "config", "stats"}
_SERVER_VERBS = {
    "/v2": "server metadata",
    "/v2/health/live": "health live",
    "/v2/health/ready": "health ready",
    "/v2/repository/index": "repository index",
    "/v2/models/stats": "stats",
    "/v2/trace/setting": "trace setting",
    "/v2/logging": "logging",
}
# What an inference is asked by, in Triton's HTTP and gRPC protocols.
_INFERENCES = {"generate", "generate_stream", "infer", "ModelInfer"}


class Route(NamedTuple):
    """What is asked for: `protocol` http, grpc or metrics; model and version are empty where the path names none."""

    protocol: str
    verb: str
    model: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """`phi2 generate`, `phi2/2 generate`, `health ready`, `grpc ModelInfer`."""
        model = self.model + ("/" + self.version if self.version else "")
        return " ".join(part for part in ("grpc" if self.protocol == "grpc" else "", model, self.verb) if part)


class Entry(NamedTuple):
    """One request; `moment` is seconds since the epoch."""

    peer: str
    moment: int
    method: str
    route: Route | None
    status: int
    agent: str
    is_witness: bool


def read_logs(paths: list[str], since: float, until: float, started: float | None) -> dict[str, Any]:
    """The requests for Triton's routes in the logs (each with its rotated `.1`) between two moments (epoch seconds).

    `log` holds the aggregated rows, `logs` how much of each file was read, `logged_inferences` the answers of 2xx to
    inferences since `started`, when Triton started.
    """
    tally = _Tally(started)
    logs = [_read_log(path, since, until, tally) for path in dict.fromkeys(paths)]
    return {"log": tally.as_rows(), "logs": logs, "logged_inferences": tally.inferences}


def parse(line: str) -> Entry | None:
    """One line of the form `combined`; None for any other. Raises nothing."""
    found = _LINE.match(line) if len(line) <= MAX_LINE else None
    moment = _moment(found["time"]) if found else None
    if found is None or moment is None:
        return None
    method, _, rest = found["request"].partition(" ")
    target = rest.rpartition(" ")[0] if " HTTP/" in rest else rest
    return Entry(
        peer=shown(_address(found["peer"]), 45),
        moment=moment,
        method=method if method in _METHODS else "?",
        route=route(_QUERY.split(target[:2048], maxsplit=1)[0]),
        status=int(found["status"]),
        agent=shown(found["agent"] or "-", 100),
        is_witness=(found["referer"] or "").startswith("http://witness.invalid/"),
    )


@lru_cache(maxsize=4096)
def route(target: str) -> Route | None:
    """The route that a request target (without its query) leads to, None for one that Triton does not have.

    The path is decoded, and its slashes and dots resolved, as nginx does before it looks for a location.
    """
    path = _path(target)
    model, grpc = _OF_MODEL.fullmatch(path), _OF_GRPC.fullmatch(path)
    if path in _SERVER_VERBS:
        return Route("http", _SERVER_VERBS[path])
    if grpc:
        return Route("grpc", grpc[1])
    if path == "/metrics":
        return Route("metrics", "metrics")
    if model and (model[3] or "metadata") in _MODEL_VERBS | {"metadata"}:
        return Route("http", model[3] or "metadata", shown(model[1], 60), shown(model[2] or "", 20))
    loading = _OF_REPOSITORY.fullmatch(path)
    if loading:
        return Route("http", loading[2], shown(loading[1], 60))
    if path.startswith(("/v2/systemsharedmemory", "/v2/cudasharedmemory")):
        return Route("http", "shared memory")
    return Route("http", "another path of /v2") if path.startswith("/v2/") else None


@lru_cache(maxsize=4096)
def shown(text: str, longest: int) -> str:
    """The text without control, format and other characters that a terminal may act on, cut to a length."""
    plain = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def stamp(moment: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


class _Tally:
    """Counts requests by who asked and for what. The number of rows is bounded, however many names strangers use."""

    def __init__(self, started: float | None) -> None:
        self._rows: dict[tuple[Any, ...], list[int]] = {}
        self._kinds: dict[str, int] = {}
        self._started = started
        self.inferences = 0

    def add(self, entry: Entry, asked: Route, listener: str) -> None:
        """Count one request for a route of Triton's."""
        key = self._key(entry, listener)
        row = self._rows.setdefault(key, [0, 0, 0])
        row[0] += 1
        row[1] += entry.status >= 500
        row[2] = max(row[2], entry.moment)
        is_answer = asked.verb in _INFERENCES and 200 <= entry.status < 300
        self.inferences += is_answer and (self._started is None or entry.moment >= self._started)

    def as_rows(self) -> list[dict[str, Any]]:
        """The busiest first."""
        ordered = sorted(self._rows.items(), key=lambda item: (-item[1][0], item[0]))
        return [_row(key, counts) for key, counts in ordered]

    def _key(self, entry: Entry, listener: str) -> tuple[Any, ...]:
        key = (entry.peer, listener, entry.method, entry.route, entry.agent, entry.is_witness)
        if key in self._rows:
            return key
        peer = entry.peer if entry.peer in self._kinds or len(self._kinds) < MAX_PEERS else OTHERS
        kinds = self._kinds[peer] = self._kinds.get(peer, 0) + 1
        if peer == OTHERS or kinds > MAX_KINDS:
            return (peer, listener, OTHERS, Route("http", "various"), OTHERS, False)
        return key


def _row(key: tuple[Any, ...], counts: list[int]) -> dict[str, Any]:
    peer, listener, method, asked, agent, is_witness = key
    return {
        "peer": peer,
        "listener": listener,
        "method": method,
        "route": asked.name,
        "protocol": asked.protocol,
        "model": asked.model,
        "version": asked.version,
        "verb": asked.verb,
        "user_agent": agent,
        "witness": is_witness,
        "count": counts[0],
        "status_5xx": counts[1],
        "last": stamp(counts[2]),
    }


def _read_log(path: str, since: float, until: float, tally: _Tally) -> dict[str, Any]:
    state = {"path": path, "bytes": 0, "lines": 0, "unparsed": 0, "oldest": None, "truncated": False, "reason": None}
    for part in (path, path + ".1"):
        try:
            text, is_cut = _tail(part, MAX_BYTES - state["bytes"])
        except OSError as error:
            if part == path:
                state["reason"] = f"{path}: {error.strerror or error}"
            continue
        state["bytes"] += len(text)
        state["truncated"] |= is_cut
        lines = text.decode("utf-8", errors="replace").split("\n")
        if _read_lines(lines, since, until, tally, state) or state["truncated"]:
            break
    state["oldest"] = stamp(state["oldest"]) if state["oldest"] is not None else None
    return state


def _read_lines(lines: list[str], since: float, until: float, tally: _Tally, state: dict[str, Any]) -> bool:
    """Count the lines, the newest first; True once the window's beginning is reached."""
    old = 0
    for line in reversed(lines):
        if state["lines"] >= MAX_LINES:
            state["truncated"] = True
            return True
        state["lines"] += bool(line)
        entry = parse(line) if line else None
        if entry is None:
            state["unparsed"] += bool(line) and any(hint in line for hint in _HINTS)
            continue
        if entry.moment < since or entry.moment > until + _FUTURE_S:
            old += 1
            if old >= _OLD_ENOUGH:
                return True
            continue
        old = 0
        state["oldest"] = entry.moment if state["oldest"] is None else min(entry.moment, state["oldest"])
        if entry.route is not None:
            tally.add(entry, entry.route, state["path"])
    return old > 0


def _tail(path: str, limit: int) -> tuple[bytes, bool]:
    """The end of a regular file from a whole line on, and whether something before it was left out."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "not a regular file")
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - limit))
        text = stream.read(limit)
    if size <= limit:
        return text, False
    return text.partition(b"\n")[2], True


@lru_cache(maxsize=4096)
def _moment(text: str) -> int | None:
    """`21/Nov/2026:11:00:00 +0000` as seconds since the epoch, in no locale but nginx's own."""
    found = _TIME.fullmatch(text)
    if found is None or found[2] not in _MONTHS or not 1970 <= int(found[3]) <= 9000:
        return None
    day, year, hour, minute, second = (int(found[n]) for n in (1, 3, 4, 5, 6))
    offset = (int(found[8]) * 60 + int(found[9])) * 60
    at = calendar.timegm((year, _MONTHS[found[2]], day, hour, minute, second))
    return at - offset if found[7] == "+" else at + offset


@lru_cache(maxsize=4096)
def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def _path(target: str) -> str:
    path = target if target.startswith("/") else re.sub(r"\A[A-Za-z]+://[^/]*", "", target)
    path = re.sub(r"/{2,}", "/", unquote(path, errors="replace"))
    if "/." in path:
        path = posixpath.normpath(path) + ("/" if path.endswith("/") else "")
    return path
