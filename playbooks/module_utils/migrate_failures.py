"""Finds known failures in what programs wrote. The table (migrate/knowledge/failures.yaml) comes with the call.

Logs are written by others, and hold prompts and secrets: only lines that a row of the table finds leave the host,
without escape sequences and without what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Failure = dict[str, Any]
Text = dict[str, str]

_LONGEST_LINE = 2000
_SHOWN = 500
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\S+Z|\d{9,}\.\d+)(?: |$)")
_PROCESS = re.compile(r"^\([^)]*pid=\d+\) ")
_LOGGER = re.compile(r"^(?:ERROR|WARNING|INFO|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")
# How vLLM, uvicorn and Triton mark what is no error.
_HARMLESS = re.compile(r"^(?:(?:INFO|WARNING|DEBUG)(?: \d\d-\d\d |:\s)|[IW]\d{4} \d\d:)")
# A frame of a traceback and its source; pydantic indents what it says by two columns as well.
_SOURCE = re.compile(r'^ {4}|^ {1,3}File "')
_WRAPPERS = re.compile(
    r"Engine core initialization failed|EngineCore failed to start|EngineDeadError|Traceback|\d validation errors? for "
)
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b:|\berror: |\bERROR\b|^E\d{4} \d\d:|^\s*Value error, ")
_SECRET = re.compile(
    r"""(?ix) \b(?:hf|sk)[_-][A-Za-z0-9_-]{16,}
    | (?<=bearer\ )\S+
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)
    | (?: (?<=api_key) | (?<=api-key) | (?<=apikey) | (?<=token) | (?<=password) | (?<=secret) )
      (?P<between>['"]?\s*[:=]\s*\[?['"]?) (?![:=]) [^\s,'"\]}]{3,}"""
)
_SAFE = re.compile(r"[\w./:@=+,-]{1,200}")


def search(texts: list[Text], failures: list[Failure], now: float = 0.0) -> list[dict[str, Any]]:
    """Every row of the table that is found, the likeliest root cause first.

    A text is {"place", "where", "text"} and perhaps the "role" of the service that it is from; `now` is the host's
    clock, for lines with a time of the kernel. A match is the row's name, place, where and role, the first line with
    its time, how many lines there are, and what it means and to do.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for text in texts:
        rows = [row for row in enumerate(failures) if text["place"] in row[1]["in"]]
        for at, line, last in _lines(text["text"]):
            match = _match(rows, line, last, _age_h(at, now))
            if match is None:
                continue
            rank, told = match
            known = found.setdefault((told["name"], text["where"]), _found(rank, told, text, at, _plain(line)))
            known["count"] += 1
    return sorted(found.values(), key=lambda match: match["rank"])


def root_cause(text: str, failures: list[Failure]) -> tuple[str, str]:
    """The line that tells why vLLM did not start (without vLLM's prefixes), and what to change."""
    texts = [{"place": place, "where": "", "text": text} for place in ("vllm", "engine", "state")]
    causes = [match for match in search(texts, failures) if not (match["wrapper"] or match["notice"])]
    if causes:
        return causes[0]["line"], causes[0]["do"]
    return first_error(text), "read the container's log: docker logs"


def first_error(text: str) -> str:
    """The first line that reads as an error and does not only repeat one, else the first line."""
    lines = [_plain(line) for _, line, _ in _lines(text) if not _HARMLESS.search(_without_process(line))]
    lines = [shown(line) for line in lines if line.strip() and not _SOURCE.search(line)]
    told = [line for line in lines if _ERROR.search(line) and not _WRAPPERS.search(line)]
    return (told or lines or ["the log is empty"])[0]


def shown(line: str) -> str:
    """One line that may be shown: short, without control characters and secrets."""
    line = _SECRET.sub(lambda match: f"{match['between'] or ''}***", line)
    return _CONTROL.sub("?", line).strip()[:_SHOWN]


def _lines(text: str) -> Iterator[tuple[str, str, bool]]:
    """Time (or ""), line without it, and whether it is the last that says something."""
    lines = [_ESCAPE.sub("", line[:_LONGEST_LINE]).rstrip() for line in text.split("\n")]
    stamped = [(stamp[1] if (stamp := _STAMP.match(line)) else "", _STAMP.sub("", line)) for line in lines if line]
    for number, (at, line) in enumerate(stamped, start=1):
        yield at, line, number == len(stamped)


def _match(rows: list[tuple[int, Failure]], line: str, last: bool, age_h: float) -> tuple[int, dict[str, Any]] | None:
    """The first row that finds the line, its texts filled in; source lines of a traceback are passed over."""
    plain = _plain(line)
    if _SOURCE.search(plain):
        return None
    harmless = _HARMLESS.search(_without_process(line)) is not None
    for rank, row in rows:
        if (harmless and not row.get("quiet")) or (row.get("last_line") and not last):
            continue
        if age_h > row.get("max_age_h", age_h):
            continue
        match = re.search(row["pattern"], plain)
        if match:
            return rank, _told(row, match)
    return None


def _told(row: Failure, match: re.Match[str]) -> dict[str, Any]:
    groups = [_group(group) for group in match.groups()]
    told = {key: bool(row.get(key)) for key in ("notice", "wrapper")} | {"name": row["name"]}
    return told | {key: _filled(row[key], groups) for key in ("means", "do")}


def _group(text: str | None) -> str:
    """What a line gave, fit to stand in a command; anything else is only pointed at."""
    return text if text and _SAFE.fullmatch(text) else "what the line names"


def _filled(template: str, groups: list[str]) -> str:
    for number, group in enumerate(groups, start=1):
        template = template.replace(f"{{{number}}}", group)
    return template


def _found(rank: int, told: dict[str, Any], text: Text, at: str, line: str) -> dict[str, Any]:
    place = {"rank": rank, "place": text["place"], "where": text["where"], "role": text.get("role", "")}
    return told | place | {"at": at, "line": shown(line), "count": 0}


def _age_h(at: str, now: float) -> float:
    """Hours since a line of the kernel was written; 0 where its time is not known."""
    return (now - float(at)) / 3600 if now and re.fullmatch(r"\d+\.\d+", at) else 0.0


def _without_process(line: str) -> str:
    return _PROCESS.sub("", line)


def _plain(line: str) -> str:
    """The line without process and logger; the source lines of a traceback keep their indentation."""
    return _LOGGER.sub("", _without_process(line))
